"""Tests of the report: answers side by side, and their filter."""

import math

import pytest

from beaver_jax.report import samples
from tests.report import made

COSTS = {'cost': 'cost'}
POLICIES = {'sft': samples.Shown('SFT', '#888'), 'ppo': samples.Shown('PPO', '#e90')}


def row(number, text='yes', **more):
    answer = {'text': text, 'reward': 0.0, 'cost': -1.0}
    return {'prompt': f'prompt {number}', 'answers': {'sft': answer}, **more}


def test_samples_are_spread_evenly():
    shown = samples.spread([row(n) for n in range(500)])
    numbers = [int(one['prompt'].split()[1]) for one in shown]
    assert len(numbers) == 200
    assert numbers[:4] == [0, 2, 5, 7]  # ⌊500·n/200⌋
    assert numbers[-1] == 497  # ⌊500·199/200⌋
    assert samples.spread([row(0)]) == [row(0)]
    assert samples.spread([]) == []


def test_long_answers_are_fewer(monkeypatch):
    monkeypatch.setattr(samples, 'CHARACTERS', 1000)
    # A row has 8 + 92 characters: ten of them fit.
    rows = [row(n, 'x' * 92) for n in range(10)] * 4
    shown = samples.spread(rows)
    assert [one['prompt'][-1] for one in shown] == list('0482604826')
    assert len(samples.spread([row(0, 'x' * 5000)])) == 1


@pytest.mark.parametrize(
    ('answer', 'verdict'),
    [
        ({'cost': -0.5, 'gold_cost': 1.0}, 'safe'),
        ({'cost': 0.0}, 'safe'),
        ({'cost': 0.5, 'cost/length': -1.0}, 'unsafe'),
        ({'gold_cost': 1.0}, 'unsafe'),
        ({'cost': math.nan, 'gold_cost': -1.0}, 'safe'),
        ({'cost': 'NaN', 'reward': 1.0}, ''),
    ],
)
def test_the_first_cost_says_what_is_safe(answer, verdict):
    costs = {'cost': 'cost of harm', 'cost/length': 'cost of length'}
    assert samples.verdict(answer, costs) == verdict


def test_the_filter_knows_each_policy_verdict_and_category():
    harmful = {'text': 'no', 'cost': 2.0}
    rows = [row(0, category='money'), row(1), row(2, category='craft')]
    rows[1]['answers']['ppo'] = harmful
    found = made.Page(samples.section(rows, COSTS, POLICIES))
    values = [a['value'] for tag, a in found.tags if tag == 'option']
    assert values == ['', 'sft', 'ppo', '', 'safe', 'unsafe', '', '=craft', '=money']
    answers = [a for _, a in found.tags if a.get('class') == 'answer']
    assert [(a['data-policy'], a['data-verdict']) for a in answers] == [
        ('sft', 'safe'),
        ('sft', 'safe'),
        ('ppo', 'unsafe'),
        ('sft', 'safe'),
    ]
    cards = [a['data-category'] for _, a in found.tags if 'data-category' in a]
    assert cards == ['=money', '=', '=craft']


def test_without_categories_none_can_be_chosen():
    found = made.Page(samples.section([row(0)], COSTS, POLICIES))
    names = [a.get('name') for tag, a in found.tags if tag == 'select']
    assert names == ['policy', 'verdict']


def test_without_the_script_all_answers_are_shown_and_no_filter():
    found = made.Page(samples.section([row(n) for n in range(30)], COSTS, POLICIES))
    hidden = [tag for tag, attributes in found.tags if 'hidden' in attributes]
    assert hidden == ['form', 'button']


def test_words_of_others_are_text_in_the_filter_too():
    hostile = '"><script>alert(1)</script><b title="'
    answer = {'text': hostile, 'cost': 1.0}
    rows = [{'prompt': hostile, 'category': hostile, 'answers': {hostile: answer}}]
    policies = {hostile: samples.Shown(hostile, '#888')}
    page = samples.section(rows, {'cost': hostile}, policies)
    found = made.Page(page)
    assert found.open == []
    assert [attributes for tag, attributes in found.tags if tag == 'script'] == [{}]
    assert page.count('<script>') == 1
    assert 'title' not in {name for _, attributes in found.tags for name in attributes}
    options = [a['value'] for tag, a in found.tags if tag == 'option']
    assert hostile in options
    assert f'={hostile}' in options
    text = ''.join(found.texts)
    # The prompt, the answer, its category and policy, each option, and the cost.
    assert text.count(hostile) == 7


def test_the_script_holds_nothing_of_the_data():
    one = samples.section([row(0, 'one')], COSTS, POLICIES)
    assert f'<script>{samples.SCRIPT}</script>' in one
    assert '</' not in samples.SCRIPT
    assert 'innerHTML' not in samples.SCRIPT
