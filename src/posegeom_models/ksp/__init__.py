"""Kinematic-structure-preserved representation for unsupervised 3D human pose estimation (paper 002)."""
