"""Sampling, compiled generation, and experience for an update."""
