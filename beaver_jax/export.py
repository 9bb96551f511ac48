"""Writes the model of a run's checkpoint as a Hugging Face directory.

    python -m beaver_jax.export runs/tiny/ppo_lag --out DIRECTORY
    python -m beaver_jax.export runs/mine/sft --out DIRECTORY --dtype bfloat16
    python -m beaver_jax.export runs/mine/ppo_lag --out DIRECTORY --adapter

The run may be unfinished or going on; its data are not needed. What it started from is:
of its config and tokenizer, and for merging adapters of its weights. A model card,
README.md, says how the model was trained.
"""

import argparse
from collections.abc import Sequence
import dataclasses
import logging
import pathlib
import re
import sys

import jax

from beaver_jax import checkpoint
from beaver_jax import distributed
from beaver_jax import terminal
from beaver_jax.stages import card
from beaver_jax.stages import inputs
from beaver_jax.stages import outputs
from beaver_jax.stages import saved

log = logging.getLogger('beaver_jax.export')  # also when it is __main__

UNITS = {'': 1, 'KB': 10**3, 'MB': 10**6, 'GB': 10**9}
UNITS |= {'KIB': 2**10, 'MIB': 2**20, 'GIB': 2**30}
# What a directory with a model, which may be replaced by another, has and has not.
MODELS = ('*.safetensors', 'adapter_config.json')
STAGES = ('summary.json', 'results.json', 'metrics.jsonl', 'checkpoints')


def main(argv: Sequence[str] | None = None) -> None:
    """Exports what the command line asks for; one line tells of an error."""
    parser = argparse.ArgumentParser(
        prog='python -m beaver_jax.export',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('stage', type=pathlib.Path, help='directory, <run>/<stage>')
    parser.add_argument('--out', type=pathlib.Path, required=True, help='directory')
    parser.add_argument('--step', type=int, help='of the checkpoint; else the newest')
    parser.add_argument('--dtype', default='float32', choices=outputs.DTYPES)
    parser.add_argument(
        '--max_shard_size', default='4GiB', help='of one file, such as 500MB or 4GiB'
    )
    parser.add_argument(
        '--adapter', action='store_true', help='the adapter for peft, not the model'
    )
    parser.add_argument(
        '--overwrite', action='store_true', help='replace a model that is there'
    )
    place, argv = distributed.options(sys.argv[1:] if argv is None else argv)
    arguments = parser.parse_args(argv)
    terminal.show_log()
    with (
        distributed.joined(place),
        terminal.errors_in_a_line(ValueError, OSError, checkpoint.CheckpointError),
    ):
        terminal.show_log(jax.process_index())
        run(
            arguments.stage,
            arguments.out,
            outputs.Form(arguments.dtype, size(arguments.max_shard_size)),
            step=arguments.step,
            adapter=arguments.adapter,
            overwrite=arguments.overwrite,
        )


def run(
    stage: pathlib.Path,
    out: pathlib.Path,
    form: outputs.Form,
    *,
    step: int | None = None,
    adapter: bool = False,
    overwrite: bool = False,
) -> None:
    """Exports a checkpoint's model with its card; all processes call it alike.

    Args:
      stage: Directory of a stage, <run>/<stage>.
      out: Complete afterwards, or as it was.
      form: How it is written; the card is added.
      step: Of the checkpoint; None for the newest.
      adapter: Writes the adapter alone.
      overwrite: Replaces a model that is there.

    Raises:
      InputError: A directory that exists, an adapter of a run without one; see
        `saved.load`.
      CheckpointError: See `saved.load`.
    """
    distributed.by_first(check_free, out, overwrite=overwrite)
    if adapter:
        saved.check_adapter(saved.read_config(stage))
    found = saved.load(stage, step)
    text = card.text(
        stage, found.config, section=found.section, step=found.step, adapter=adapter
    )
    form = dataclasses.replace(form, card=text)
    (found.export_adapter if adapter else found.export)(out, form)
    distributed.barrier('export is done')
    what = 'adapter' if adapter else 'model'
    log.info('%s: the %s of %s, step %d', out, what, stage, found.step)


def check_free(out: pathlib.Path, *, overwrite: bool) -> None:
    """Refuses to write over what is there, unless it is a model and may be replaced.

    Raises:
      InputError: Something is there.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    is_model = out.is_dir() and any(any(out.glob(name)) for name in MODELS)
    if not is_model or any((out / name).exists() for name in STAGES):
        raise inputs.InputError(
            f'--out={out} exists and holds no model; name another directory.'
        )
    if not overwrite:
        raise inputs.InputError(
            f'--out={out} holds a model; name another directory, or replace it with '
            '--overwrite.'
        )


def size(text: str) -> int:
    """Bytes of '500MB', '4GiB' or '1000000'.

    Raises:
      ValueError: It is no size above 0.
    """
    match = re.fullmatch(r'(\d+(?:\.\d+)?)\s*([A-Za-z]*)', text.strip())
    unit = UNITS.get(match[2].upper()) if match else None
    if match is None or unit is None or float(match[1]) * unit < 1:
        raise ValueError(f'--max_shard_size={text}; use a size such as 500MB or 4GiB.')
    return int(float(match[1]) * unit)


if __name__ == '__main__':
    main()
