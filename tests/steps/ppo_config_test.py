"""Numbers of the update that are out of range."""

import pytest

from beaver_jax.steps import ppo_config


@pytest.mark.parametrize(
    'fields, message',
    [
        ({'kl_coeff': -0.1}, 'kl_coeff=-0.1; must not be negative'),
        ({'ptx_coeff': float('nan')}, 'ptx_coeff=nan; must not be negative'),
        ({'clip_ratio': 0.0}, 'clip_ratio=0.0; must be above 0'),
        ({'temperature': 0.0}, 'temperature=0.0; must be above 0'),
        ({'gamma': 1.5}, r'gamma=1.5; must be in \[0, 1\]'),
        ({'epochs': 0}, 'epochs=0; must be at least 1'),
        ({'truncation': 'drop'}, "truncation='drop'; known: .*'bootstrap'"),
    ],
)
def test_values_out_of_range_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        ppo_config.PPOConfig(**fields)
