"""Train steps: pure functions (state, batch, key, *, …) -> (state, metrics)."""
