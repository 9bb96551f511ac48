"""Rows of text in, batches of fixed shape out."""
