"""Runs that start from the chain, for tests of what they refuse."""

import pytest

from tests import micro


@pytest.fixture
def started(chain, few_rows, tmp_path) -> dict[str, str]:
    """Overrides of a policy that starts from the chain, into a fresh run."""
    models = micro.models(chain, 'sft', 'reward', 'cost')
    return {**models, **few_rows, 'run': str(tmp_path / 'run')}


@pytest.fixture
def supervised(chain, few_rows, tmp_path) -> dict[str, str]:
    """Overrides of a reward or cost model that starts from the chain."""
    return {
        'model.init': str(chain / 'sft'),
        **few_rows,
        'run': str(tmp_path / 'run'),
    }
