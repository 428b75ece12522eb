"""Speed and memory of posegeom's operators; `make bench` runs run.py."""
