"""Hugging Face families: a config translation and a name table each."""

from beaver_jax.models.families import bloom
from beaver_jax.models.families import gemma
from beaver_jax.models.families import gemma2
from beaver_jax.models.families import gpt2
from beaver_jax.models.families import gpt_neo
from beaver_jax.models.families import gpt_neox
from beaver_jax.models.families import gptj
from beaver_jax.models.families import llama
from beaver_jax.models.families import mistral
from beaver_jax.models.families import opt
from beaver_jax.models.families import phi
from beaver_jax.models.families import qwen2
from beaver_jax.models.families import qwen3

_MODULES = (
    llama,
    mistral,
    qwen2,
    qwen3,
    gemma,
    gemma2,
    phi,
    opt,
    gpt2,
    gpt_neo,
    gpt_neox,
    gptj,
    bloom,
)
# By model_type of config.json.
FAMILIES = {module.FAMILY.model_type: module.FAMILY for module in _MODULES}
