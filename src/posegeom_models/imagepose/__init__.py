"""Self-supervised 3D human pose estimation from a single image, by way of 2D (paper 001)."""
