r"""What is in the rows of a stage, before anything is trained on them.

    python -m beaver_jax.data --config=configs/cost.py:local --config.base=DIRECTORY \
        --config.data.cost_pairs=pairs.jsonl

Reads the rows once, as the stage would, and prints what became of them, their lengths
in tokens and their labels. --out=DIRECTORY, by default <run>/<stage>/data, gets the
same as data_card.json and the lengths as histograms. docs/data.md says more.
"""

from collections.abc import Mapping, Sequence
import pathlib
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
import ml_collections
import numpy as np

from beaver_jax import config as config_lib
from beaver_jax import metrics as metrics_lib
from beaver_jax import stages
from beaver_jax import terminal
from beaver_jax.data import examples
from beaver_jax.data import rows
from beaver_jax.report import style
from beaver_jax.stages import directories
from beaver_jax.stages import inputs
from beaver_jax.stages import preference
from beaver_jax.stages import records
from beaver_jax.stages import sft

BINS = 60  # of a histogram


def main(argv: Sequence[str] | None = None) -> None:
    """Describes what the command line asks for; one line tells of an error."""
    parser = config_lib.parser('beaver_jax.data', __doc__)
    parser.add_argument('--out', type=pathlib.Path, help='directory of what is written')
    ours, argv = parser.parse_known_args(argv)
    terminal.show_log()
    config = config_lib.from_argv(argv)
    with terminal.errors_in_a_line(ValueError, OSError):
        found = read(config, config_lib.folder(argv))
        out = ours.out or directories.directory(config) / 'data'
        out.mkdir(parents=True, exist_ok=True)
        card = found.card()
        metrics_lib.write_json(out / directories.CARD, card)
        for name, lengths in (every := found.lengths.all()).items():
            # The limit is that of the last one: of the prompt and its response.
            limit = limit_of(config) if name == list(every)[-1] else None
            path = out / f'{name.replace(" ", "_")}_lengths.png'
            histogram(path, name, lengths, limit)
        show(config.stage, card)
        print(f'{out}: {directories.CARD} and histograms')


def read(config: ml_collections.ConfigDict, folder: str) -> records.Found:
    """Reads and tokenizes all rows of a stage.

    Args:
      config: Of the stage.
      folder: Where the configs of its inputs are.

    Raises:
      ValueError: A setting, a file, a row or a tokenizer cannot be used.
    """
    stages.check_trains(config)
    inputs.check_loop(config)
    records.prepare_world(config)
    tokenizer = tokenizer_of(config, folder)
    found = stages.ROWS[config.stage](config)
    if config.stage == 'sft':
        examples.encode_demonstrations(
            found.train,
            tokenizer,
            max_length=config.max_length,
            workers=config.data.workers,
            **found.noted(),
        )
    elif config.stage in preference.KINDS:
        preference.tokenized(config, tokenizer, found)
    else:
        found = found[0]
        examples.encode_prompts(
            found.train,
            tokenizer,
            max_prompt_length=config.max_prompt_length,
            workers=config.data.workers,
            **found.noted(),
        )
    return found


def tokenizer_of(config: ml_collections.ConfigDict, folder: str) -> inputs.Tokenizer:
    """The tokenizer that the stage will have, also before its inputs are trained."""
    if config.stage == 'sft':
        sft.check_base(config)
        return sft.tokenizer_of(config)
    name = 'actor.init' if config.stage in stages.REINFORCED else 'model.init'
    init = config_lib.flatten(config)[name]
    made_here = pathlib.Path(init) == pathlib.Path(config.run) / 'sft'
    if made_here and inputs.find_model(init) is None:
        return tokenizer_of(stages.sibling(config, folder, 'sft'), folder)
    return inputs.load_tokenizer(name, init, config.data.template)


def limit_of(config: ml_collections.ConfigDict) -> int:
    """The most tokens of a row, or of a prompt that is to be answered."""
    reinforced = config.stage in stages.REINFORCED
    return config.max_prompt_length if reinforced else config.max_length


def show(stage: str, card: Mapping[str, Any]) -> None:
    """Prints a card as tables."""
    terminal.table(
        f'{stage}: rows',
        ('', 'rows'),
        [
            (told, card['counts'][name])
            for name, told in rows.COUNTED.items()
            if name in card['counts'] and name != 'longest'
        ],
    )
    for name, problem in card['problems'].items():
        print(f'{rows.COUNTED[name]}, the first: {problem}')
    sides = card['train'], card['test']
    terminal.table(
        f'{stage}: what is in them',
        ('', 'not held out', 'held out'),
        [
            *(
                (told, *(side[key] for side in sides))
                for told, key in (
                    ('rows', 'rows'),
                    ('different prompts', 'prompts'),
                    ('duplicates of others', 'duplicates'),
                )
            ),
            ('prompts on both sides', *[card['shared_prompts']] * 2),
            *_counted('turns in the prompt', [side['turns'] for side in sides]),
            *(
                row
                for name in {n: None for side in sides for n in side['labels']}
                for row in _counted(
                    name,
                    [side['labels'].get(name, {}) for side in sides],
                    # A response may do several harms, or none.
                    [2 * s['rows'] for s in sides] if name == 'harm' else None,
                )
            ),
        ],
    )
    terminal.table(
        f'{stage}: tokens, before anything is cut',
        ('', *next(iter(card['tokens'].values()))),
        [(name, *found.values()) for name, found in card['tokens'].items()],
    )


def _counted(
    name: str,
    sides: Sequence[Mapping[str, int]],
    totals: Sequence[int] | None = None,
) -> list[tuple[str, str, str]]:
    """Rows of a table: a label's values with their counts and shares of all."""
    totals = totals or [sum(side.values()) for side in sides]

    def cell(i, value):
        count = sides[i].get(value, 0)
        return f'{count:,} ({count / max(totals[i], 1):.1%})'

    values = {value: None for side in sides for value in side}
    return [(f'{name}: {value}', cell(0, value), cell(1, value)) for value in values]


def histogram(
    path: pathlib.Path, name: str, lengths: np.ndarray, limit: int | None
) -> None:
    """Draws how long prompts or responses are, and the limit where there is one."""
    with mpl.rc_context(style.MATPLOTLIB):
        figure = Figure(layout='constrained')
        axes = figure.subplots()
        bins = np.linspace(0, max(lengths.max(), limit or 0) + 1, BINS + 1)
        axes.hist(lengths, bins=bins.tolist(), color=style.LOOKS['ppo_lag'][0])
        axes.set_xlabel('tokens')
        if limit is not None:
            axes.axvline(limit, color=style.LOOKS['cost'][0], linestyle='--')
            axes.set_xlabel(f'tokens (dashed: the limit, {limit:,})')
        axes.set_title(f'Tokens of a {name}')
        axes.set_ylabel('number')
        figure.savefig(path, facecolor='white', metadata={'Software': None})


if __name__ == '__main__':
    main()
