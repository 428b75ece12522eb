"""3D poses from given 2D poses: the lifting part of paper 001 alone, and the work that it extends."""
