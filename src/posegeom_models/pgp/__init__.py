"""Self-supervised 3D human pose estimation via part guided novel image synthesis (papers 000 and 004)."""
