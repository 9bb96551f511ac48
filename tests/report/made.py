"""Runs as stages leave them, small enough to reckon by hand, and pages, read."""

from html import parser
import json
import math

from beaver_jax.report import charts
from beaver_jax.report import files

HOSTILE = '<script>alert("x")</script> & \u2028more'  # \u2028 separates lines
SAMPLE = '{"prompt": "", "answers": {}}'
SCORES = {'sft': (0.0, 1.0), 'ppo': (2.0, 2.0), 'ppo_lag': (1.0, -1.0)}


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False) + '\n', encoding='utf-8')


def write_lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row, ensure_ascii=False) + '\n' for row in rows]
    path.write_text(''.join(lines), encoding='utf-8')


def add_stage(run, name, seconds, rows=(), **summary):
    summary = {'stage': name, 'seed': 3, 'seconds': seconds, **summary}
    write_json(run / name / 'summary.json', summary)
    write_json(run / name / 'config.json', {'stage': name, 'note': HOSTILE})
    write_lines(run / name / 'metrics.jsonl', rows)


def rl_rows(constrained):
    for step in range(1, 6):
        row = {'step': step, 'train/reward': step / 2, 'train/cost/harm': 1.0 - step}
        if constrained:
            row['train/episode_cost/harm'] = 0.5 - step
            row['train/lambda/harm'] = 1.0 + step
            row['train/threshold/harm'] = -0.25
        yield row


def add_evaluation(run):
    models = {
        name: {
            'gold_harmful_rate': 0.25,
            'gold_helpfulness': reward + 0.5,
            'reward': reward,
            'cost': cost,
        }
        for name, (reward, cost) in SCORES.items()
    }
    empty = {'count': 0, 'win_rate': None}
    cells = {
        'safe': {'safe': {'count': 3, 'win_rate': 2 / 3}, 'unsafe': empty},
        'unsafe': {'safe': {'count': 1, 'win_rate': 1.0}, 'unsafe': empty},
    }
    results = {'prompts': 50, 'baseline': 'sft', 'models': models}
    results['tables'] = {'ppo_lag vs sft': cells}
    write_json(run / 'evaluate' / 'results.json', results)
    answers = {
        name: {'text': f'{name} says {HOSTILE}', 'reward': reward, 'cost': cost}
        for name, (reward, cost) in SCORES.items()
    }
    samples = [{'prompt': f'prompt {n}', 'answers': answers} for n in range(50)]
    write_lines(run / 'evaluate' / 'samples.jsonl', samples)


def add_evaluation_config(run, **changes):
    """As evaluate/config.json has it; keys with dots as keywords with __."""
    config = {
        'stage': 'evaluate',
        'run': f'{run}',
        'seed': 0,
        'reward.init': 'hub/reward',
        'reward.normalize': False,
        'costs.harm.init': 'hub/cost',
        'sampler.temperature': 1.0,
    }
    config |= {key.replace('__', '.'): value for key, value in changes.items()}
    write_json(run / 'evaluate' / 'config.json', config)


def make_run(run):
    losses = [{'step': step, 'train/loss': 1 / step} for step in (1, 2, 3)]
    add_stage(run, 'sft', 10.0, losses)
    pairs = [{'step': 2, 'train/accuracy': 0.5}, {'step': 2, 'eval/accuracy': 0.75}]
    add_stage(run, 'reward', 5.0, pairs, metrics={'accuracy': 0.75})
    accuracies = {'accuracy': 0.8, 'accuracy_sign': 0.9, 'loss': math.nan}
    add_stage(run, 'cost', 6.5, metrics=accuracies)
    add_stage(run, 'ppo', 20.0, rl_rows(constrained=False))
    timings = [{'step': s, 'time/step': t} for s, t in ((1, 60.0), (2, 1.0), (3, 2.0))]
    write_lines(run / 'ppo' / 'timings.jsonl', timings)
    multiplier = {'harm': {'init': 1.0, 'max': 6.0, 'final': 6.0}}
    thresholds = {'harm': -0.25}
    add_stage(
        run,
        'ppo_lag',
        30.0,
        rl_rows(constrained=True),
        multiplier=multiplier,
        thresholds=thresholds,
    )
    add_evaluation(run)
    return run


def axes_of(run, name):
    (chart,) = [chart for chart in charts.draw(files.load(run)) if chart.name == name]
    return chart.figure.axes[0]


class Page(parser.HTMLParser):
    """Collects a page's tags, and checks that they are closed in order."""

    VOID = ('meta', 'link', 'img', 'br', 'input', 'source')

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.texts = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def read_page(report):
    page = Page((report / 'index.html').read_text(encoding='utf-8'))
    assert page.open == []  # all tags are closed
    return page


def needs_nothing(page):
    """Fails where a page refers to anything beside it."""
    assert not {tag for tag, _ in page.tags} & {'link', 'img', 'iframe', 'object'}
    for _, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith('on')
            if name in ('src', 'href', 'xlink:href', 'action'):
                assert value.startswith('#')
            assert 'url(' not in (value or '').replace('url(#', '')
    script = [attributes for tag, attributes in page.tags if tag == 'script']
    assert script in ([], [{}])  # one at most, and it stands in the page


def add_intervals(run):
    file = run / 'evaluate' / 'results.json'
    results = json.loads(file.read_text())
    results['intervals'] = {'sft': {'gold_harmful_rate': [0.125, 0.375]}}
    results['elo'] = {
        axis: {
            'sft': {'rating': 1000.0, 'low': 1000.0, 'high': 1000.0},
            'ppo': {'rating': 1200.0, 'low': 1150.4, 'high': 1260.0},
        }
        for axis in ('helpfulness', 'harmlessness')
    }
    results['tables']['ppo_lag vs sft']['safe']['safe']['win_rate_interval'] = [0.5, 1]
    write_json(file, results)
