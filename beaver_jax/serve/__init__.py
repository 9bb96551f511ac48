"""Serving: an HTTP API for language models, and for reward and cost models."""
