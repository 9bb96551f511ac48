"""Settings of a judge: ranges, keys, and none at all."""

import dataclasses

import pytest

from beaver_jax import fragments
from beaver_jax.evaluate import judges
from tests import judge_stub


@pytest.mark.parametrize(
    'changes, expected',
    [
        ({'model': ''}, "model='' but the judge's other half is given"),
        ({'url': ''}, "url='' but the judge's other half is given"),
        ({'url': 'example.org/v1'}, "url='example.org/v1' is no base URL"),
        ({'url': 'http://x:port/v1'}, 'is no URL'),
        ({'url': 'https://me:pw@example.org/v1'}, 'url=… has a user, a password'),
        ({'url': 'https://example.org/v1?key=1'}, 'url=… has a user, a password'),
        ({'dimensions': 'kindness'}, "dimensions='kindness'; name one or more of help"),
        ({'dimensions': ','}, "dimensions=','; name one or more of help"),
        ({'pairs': 'some'}, "pairs='some'; known: baseline, all."),
        ({'attempts': 0}, 'attempts=0; must be at least 1 and at most 100.'),
        ({'max_calls': 0}, 'max_calls=0; must be at least 1.'),
        ({'timeout': 0.0}, 'timeout=0.0; must be at least 0.001.'),
        ({'requests_per_minute': float('nan')}, 'requests_per_minute=nan; must be at'),
        ({'temperature': float('inf')}, 'temperature=inf; must be a number.'),
    ],
)
def test_settings_out_of_range(changes, expected):
    with pytest.raises(ValueError) as raised:
        judge_stub.settings(**{'url': 'http://localhost/v1'} | changes)
    assert expected in str(raised.value)


def test_a_key_that_is_not_there(monkeypatch):
    monkeypatch.delenv('NO_KEY', raising=False)
    with pytest.raises(ValueError, match="key_variable='NO_KEY' is not set in the env"):
        judges.check(judge_stub.settings(key_variable='NO_KEY'))
    monkeypatch.setenv('NO_KEY', 'ключ')
    with pytest.raises(ValueError, match="key_variable='NO_KEY' holds no key"):
        judges.check(judge_stub.settings(key_variable='NO_KEY'))


def test_without_url_and_model_there_is_no_judge():
    plain = judges.Settings(**fragments.judge().to_dict())
    assert not plain.on
    assert dataclasses.replace(plain, url='http://x/v1', model='y').on
