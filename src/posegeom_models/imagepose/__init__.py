"""001: *Self-supervised 3D Human Pose Estimation from a Single Image*, and its lifting part alone."""
