"""Where a run is: read from its files alone, while it goes on or afterwards.

Nothing is written, and nothing that trains is imported.
"""

from collections.abc import Mapping, Sequence
import contextlib
import dataclasses
import json
import pathlib
import statistics
from typing import Any

from beaver_jax import heartbeats
from beaver_jax import layout
from beaver_jax import metrics

DONE, RUNNING, STARTING, UNKNOWN = 'done', 'running', 'starting', 'unknown'
STOPPED, FAILED, SILENT = 'stopped', 'failed', 'silent'
WRONG = (STOPPED, FAILED, SILENT)
EVALUATION = 'evaluate'
# Seconds that a stage may build, before its first sign of life.
BUILDS = 3600
# Rows of timings.jsonl that a rate is of.
RECENT = 20


@dataclasses.dataclass(frozen=True)
class Stage:
    """What is known of a stage.

    Attributes:
      name: Such as 'ppo_lag'.
      state: 'done'; 'running'; 'starting', before its first sign of life; 'stopped'
        before its end, as by Ctrl-C; 'failed'; 'silent', as after a kill; 'unknown'
        where no signs of life are kept.
      since: Unix time of the newest of its files, or of its signs of life.
      step: Steps done.
      steps: Of the stage; None where nobody has said so yet.
      seconds_per_step: The median of the last steps that were timed; None of none.
      tokens_per_second: Likewise.
      seconds_left: At that rate, of a stage that runs.
      metrics: The headline metrics of the last row.
      checkpoints: The whole ones, by step.
      processes: Last signs of life.
      concerns: What is wrong, in a sentence each, by kind.
    """

    name: str
    state: str
    since: float
    step: int
    steps: int | None
    seconds_per_step: float | None
    tokens_per_second: float | None
    seconds_left: float | None
    metrics: Mapping[str, float]
    checkpoints: Sequence[layout.Saved]
    processes: Sequence[heartbeats.Beat]
    concerns: Mapping[str, str]

    @property
    def healthy(self) -> bool:
        """Nothing is wrong; that a process is the slowest of several is not."""
        return self.state not in WRONG and not set(self.concerns) - {'slowest'}


def read(path: pathlib.Path, now: float) -> list[Stage]:
    """The stages of a run, in the order in which they are told.

    Args:
      path: Of a run, or of one of its stages.
      now: Unix time.

    Raises:
      FileNotFoundError: There is no such directory.
      ValueError: It holds no stage, or a file is damaged.
    """
    if not path.is_dir():
        raise FileNotFoundError(f'no run at {path}{layout.neighbours(path)}')
    if _config(path):
        return [stage(path, now)]
    known = (*layout.STAGES, EVALUATION)
    found = [path / name for name in known if _config(path / name)]
    if not found:
        raise ValueError(
            f'{path} is no run: no stage in it has a {layout.CONFIG}; name the '
            'directory of config.run, such as runs/tiny.'
        )
    return [stage(one, now) for one in found]


def _config(directory: pathlib.Path) -> dict[str, Any]:
    """The values with which a stage was begun; {} where there is none."""
    file = directory / layout.CONFIG
    if not file.is_file():
        return {}
    try:
        values = json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f'{file} is not JSON ({error}).') from error
    # A model's config.json is of another kind.
    return values if isinstance(values, dict) and 'stage' in values else {}


def stage(directory: pathlib.Path, now: float) -> Stage:
    """What is known of the stage in a directory; see `read`."""
    config = _config(directory)
    begun = (directory / layout.CONFIG).stat().st_mtime  # written by every start
    beats = heartbeats.read(directory, since=begun)
    rows, timings = (_rows(directory / n) for n in (metrics.METRICS, metrics.TIMINGS))
    done = layout.is_done(directory) and not _again(directory, beats)
    step = max([int(row['step']) for row in rows[-1:]] + [b.step for b in beats] + [0])
    steps = beats[0].steps if beats else (step if done and step else None)
    pace = _median(timings, 'time/step')
    concerns: dict[str, str]
    if done:
        state, concerns = DONE, {}
    elif not config.get('log.heartbeat') and not beats:
        state, concerns = UNKNOWN, {}
    else:
        state, concerns = _state(beats, now - begun, now)
    left = None
    if state == RUNNING and steps is not None and pace is not None:
        left = pace * (steps - step)
    return Stage(
        name=config['stage'],
        state=state,
        since=max([begun, *_times(directory), *(beat.time for beat in beats)]),
        step=step,
        steps=steps,
        seconds_per_step=pace,
        tokens_per_second=_median(timings, 'tokens_per_second'),
        seconds_left=left,
        metrics=layout.glance(
            layout.HEADLINES.get(config['stage'], ()), rows[-1] if rows else {}
        ),
        checkpoints=layout.checkpoints(directory),
        processes=beats,
        concerns=concerns,
    )


def _again(directory: pathlib.Path, beats: Sequence[heartbeats.Beat]) -> bool:
    """Whether an evaluation is made anew, beside what the last one has left."""
    results = directory / layout.RESULTS
    over = (heartbeats.ENDED, heartbeats.FAILED)
    return results.is_file() and any(
        beat.since > results.stat().st_mtime and beat.doing not in over
        for beat in beats
    )


def _state(
    beats: Sequence[heartbeats.Beat], age: float, now: float
) -> tuple[str, dict[str, str]]:
    """The state of a stage that gives signs of life, and what is wrong.

    Args:
      beats: Since its last start.
      age: Seconds since then.
      now: Unix time.
    """
    doing = [beat.doing for beat in beats]
    if not beats:
        if age <= BUILDS:
            return STARTING, {}
        return SILENT, {
            'silent': f'nothing has been heard of since the start {age:.0f} s ago'
        }
    if heartbeats.FAILED in doing:
        failed = [beat for beat in beats if beat.doing == heartbeats.FAILED]
        names = ', '.join(beat.name for beat in failed)
        return FAILED, {'failed': f'{names} ended with an error: {failed[0].error}'}
    concerns = heartbeats.concerns(beats, now)
    if any(beat.silent(now) for beat in beats):
        return SILENT, concerns
    if set(doing) == {heartbeats.ENDED} and not _just_ended(beats, now):
        return STOPPED, {
            'stopped': 'stopped before its end, as by Ctrl-C; the same command goes on'
        }
    return RUNNING, concerns


def _just_ended(beats: Sequence[heartbeats.Beat], now: float) -> bool:
    """All steps are done, and the summary may yet come."""
    return all(beat.step == beat.steps and now - beat.time < 60 for beat in beats)


def _rows(path: pathlib.Path) -> list[dict[str, float]]:
    with contextlib.suppress(FileNotFoundError):
        return metrics.read(path)
    return []


def _times(directory: pathlib.Path) -> list[float]:
    found = []
    for name in (metrics.METRICS, layout.SUMMARY, layout.RESULTS):
        with contextlib.suppress(FileNotFoundError):
            found.append((directory / name).stat().st_mtime)
    return found


def _median(rows: Sequence[Mapping[str, float]], name: str) -> float | None:
    values = [row[name] for row in rows[-RECENT:] if name in row]
    return statistics.median(values) if values else None


def as_json(path: pathlib.Path, stages: Sequence[Stage], now: float) -> Any:
    """The same for machines; numbers that JSON does not have are texts."""
    found = [
        dataclasses.asdict(one)
        | {
            'healthy': one.healthy,
            'checkpoints': [saved._asdict() for saved in one.checkpoints],
        }
        for one in stages
    ]
    healthy = all(one.healthy for one in stages)
    return metrics.jsonable(
        {'run': str(path), 'time': now, 'healthy': healthy, 'stages': found}
    )
