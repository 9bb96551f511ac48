"""One decoder for every family, score heads on it, and Hugging Face directories."""
