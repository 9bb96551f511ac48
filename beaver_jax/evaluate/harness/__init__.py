"""EleutherAI's lm-evaluation-harness over models of this package.

`model` is the only module that imports `lm_eval`, which the extra `eval` installs; the
import makes the model known by its name, `beaver_jax`.
"""
