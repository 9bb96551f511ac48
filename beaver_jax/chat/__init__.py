"""Talking with models in the terminal."""
