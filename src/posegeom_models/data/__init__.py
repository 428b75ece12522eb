"""Motion and image sources."""
