"""Losses: pages of a textbook. Each takes a mask; none knows a model."""
