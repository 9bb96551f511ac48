"""How far policies are from the one that they are compared with."""

from collections.abc import Callable
import functools
import logging

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import ml_collections

from beaver_jax import scoring
from beaver_jax import types
from beaver_jax.data import tokenizer as tokenizer_lib
from beaver_jax.stages import inputs
from beaver_jax.stages import loading

log = logging.getLogger(__name__)


class Baseline:
    """The policy that KL is measured to."""

    def __init__(self, config: ml_collections.ConfigDict, mesh: Mesh, path: str):
        """Loads it, to compute as every policy does."""
        self._tokenizer = inputs.load_tokenizer('baseline', path, config.data.template)
        section = ml_collections.ConfigDict(config.policy.to_dict() | {'init': path})
        self.model, self.params = loading.causal_lm(
            mesh, section, 'baseline', frozen=True
        )
        self._kl = jax.jit(
            functools.partial(
                _log_ratios,
                model=self.model,
                response_length=config.max_response_length,
                temperature=config.sampler.temperature,
            )
        )

    def kl_of(
        self, tokenizer: inputs.Tokenizer, name: str
    ) -> Callable[[types.Samples], jax.Array] | None:
        """Measures how far a policy is; None, and says so, of one with other ids.

        Args:
          tokenizer: Of the policy.
          name: Of the policy, for messages.

        Returns:
          Samples of the policy to log π(y|x) - log π_baseline(y|x) of each response,
          [B] nats, both at the temperature of sampling. Their mean is KL(π ‖ baseline).
        """
        if not tokenizer_lib.gives_same_ids(tokenizer, self._tokenizer):
            log.info('evaluate: no KL of %s: the baseline has another tokenizer', name)
            return None
        return functools.partial(self._kl, self.params)


def _log_ratios(params, samples, *, model, response_length, temperature):
    logps, _ = scoring.response_logps(
        model,
        params,
        samples.tokens,
        samples.mask,
        response_length=response_length,
        temperature=temperature,
    )
    ratios = jnp.where(samples.response_mask, samples.logps - logps, 0.0)
    return jnp.sum(ratios, axis=1)
