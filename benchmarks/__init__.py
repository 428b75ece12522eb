"""Benchmarks; see maps.py."""
