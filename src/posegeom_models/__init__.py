"""Four papers on self-supervised 3D human pose, built on posegeom."""
