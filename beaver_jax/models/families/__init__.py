"""Hugging Face families: a config translation and a name table each."""

from beaver_jax.models.families import llama

# By model_type of config.json.
FAMILIES = {'llama': llama}
