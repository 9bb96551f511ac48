"""Tests of the report: the page of a run."""

from beaver_jax import report
from beaver_jax.report import page
from tests.report import made


def test_the_same_run_gives_the_same_files(run):
    report.write(run)
    first = {path.name: path.read_bytes() for path in (run / 'report').iterdir()}
    report.write(run)
    second = {path.name: path.read_bytes() for path in (run / 'report').iterdir()}
    assert first == second


def test_the_page_needs_nothing_beside_it(reported):
    found = made.read_page(reported / 'report')
    assert {'svg', 'table', 'details', 'style'} <= {tag for tag, _ in found.tags}
    made.needs_nothing(found)


def test_the_page_shows_models_words_as_text(reported):
    found = made.read_page(reported / 'report')
    text = ''.join(found.texts)
    assert text.count(f'ppo_lag says {made.HOSTILE}') == 50
    assert '"note": "<script>' in text  # the config


def test_the_page_counts_wins_by_safety(reported):
    texts = made.read_page(reported / 'report').texts
    at = texts.index('SFT safe')
    assert texts[at + 1 : at + 3] == ['3 (67% won)', '0']
    at = texts.index('SFT unsafe')
    assert texts[at + 1 : at + 3] == ['1 (100% won)', '0']


def test_bars_begin_at_zero():
    bars = made.Page(page._bars({'a': 1.0, 'b': -3.0}, False, {})).tags
    styles = [attributes['style'] for tag, attributes in bars if tag == 'i'][1::2]
    # From -3 to 1: zero is at 3/4 of the width.
    assert styles[0].startswith('margin-left:75.00%;width:25.00%')
    assert styles[1].startswith('margin-left:0.00%;width:75.00%')


def test_intervals_and_elo_stand_on_the_page(run):
    made.add_intervals(run)
    report.write(run)
    found = made.read_page(run / 'report')
    assert found.open == []
    assert '12.5–37.5%' in found.texts
    at = found.texts.index('3 (67% won)')
    assert found.texts[at + 1] == '50.0–100.0%'
    whiskers = [attributes['style'] for tag, attributes in found.tags if tag == 'u']
    assert whiskers == ['left:12.50%;width:25.00%']
    assert (run / 'report' / 'elo.png').exists()
