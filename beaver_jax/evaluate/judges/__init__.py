"""Judges: another model compares the answers, over an OpenAI-compatible endpoint.

Every comparison is asked in both orders, and counts as a tie where the preference
flips. Questions that stay without an answer are marked as failed.
"""

from collections.abc import Iterator, Mapping, Sequence
import concurrent.futures
import itertools
import logging
import pathlib
from typing import Any, NamedTuple

from beaver_jax import terminal
from beaver_jax.evaluate import comparisons as comparisons_lib
from beaver_jax.evaluate.judges import endpoint as endpoint_lib
from beaver_jax.evaluate.judges import ledger as ledger_lib
from beaver_jax.evaluate.judges import prompts as prompts_lib
from beaver_jax.evaluate.judges import settings as settings_lib

log = logging.getLogger(__name__)
Settings = settings_lib.Settings
check = endpoint_lib.check
LEDGER = 'judge.sqlite'  # in the directory of the run


class Item(NamedTuple):
    """A prompt, and the answers to it."""

    turns: tuple[str, ...]
    category: str
    answers: Mapping[str, str]  # by model


class Judged(NamedTuple):
    """What a judge said, and what that took."""

    comparisons: list[comparisons_lib.Comparison]
    totals: ledger_lib.Totals  # of the ledger, earlier runs included


class _Pair(NamedTuple):
    model_a: str
    model_b: str
    prompt: int
    dimension: str

    def questions(self, item: Item) -> list[list[prompts_lib.Message]]:
        """What is asked: in both orders, or nothing about answers that are equal."""
        one, other = (item.answers[name] for name in (self.model_a, self.model_b))
        if one == other:
            return []
        return [
            prompts_lib.messages(self.dimension, item.turns, *order)
            for order in ((one, other), (other, one))
        ]


class _Told(NamedTuple):
    verdict: prompts_lib.Verdict | None  # None: failed
    reason: str = ''


def compare(
    settings: Settings,
    items: Sequence[Item],
    baseline: str,
    ledger: pathlib.Path,
) -> Judged:
    """Has a judge compare answers.

    Args:
      settings: Of the judge, which is on.
      items: Prompts with their answers, of the same models.
      baseline: The model that others are compared with.
      ledger: The file where calls are written down, and found again.

    Raises:
      EndpointError: The endpoint answers nothing; what it had answered is kept.
      OSError: The ledger cannot be written.
    """
    pairs = list(_pairs(settings, items, baseline))
    asked = [pair.questions(items[pair.prompt]) for pair in pairs]
    budget = {
        'max_calls': settings.max_calls,
        'max_total_tokens': settings.max_total_tokens,
    }
    with (
        ledger_lib.Ledger(ledger, **budget) as book,
        endpoint_lib.Endpoint(settings, book) as endpoint,
    ):
        told = _ask_all(settings, endpoint, list(itertools.chain(*asked)))
        totals = book.totals()
    left = iter(told)
    found = [
        _comparison(pair, items[pair.prompt], [next(left) for _ in questions])
        for pair, questions in zip(pairs, asked, strict=True)
    ]
    _log(found, totals)
    return Judged(found, totals)


def summarize(settings: Settings, judged: Judged, baseline: str) -> dict[str, Any]:
    """What results.json holds of a judge."""
    spent = {'model': settings.model, **judged.totals._asdict()}
    return spent | comparisons_lib.summarize(judged.comparisons, baseline)


def _pairs(settings: Settings, items: Sequence[Item], baseline: str) -> Iterator[_Pair]:
    for prompt, item in enumerate(items):
        for one, other in itertools.combinations(item.answers, 2):
            if settings.pairs == 'all' or baseline in (one, other):
                for dimension in settings.axes:
                    yield _Pair(one, other, prompt, dimension)


def _ask_all(
    settings: Settings,
    endpoint: endpoint_lib.Endpoint,
    questions: Sequence[list[prompts_lib.Message]],
) -> list[_Told]:
    """What is told of each question; of equal ones only one is asked."""
    told: dict[str, _Told] = {}
    keys = [repr(question) for question in questions]
    different = dict(zip(keys, questions, strict=True))
    pool = concurrent.futures.ThreadPoolExecutor(settings.concurrency)
    try:
        futures = {
            pool.submit(_ask, endpoint, question): key
            for key, question in different.items()
        }
        failed = 0
        with terminal.Progress('judge', len(futures)) as progress:
            for future in concurrent.futures.as_completed(futures):
                one = told[futures[future]] = future.result()
                failed += one.verdict is None
                progress.update(len(told), {'failed': failed})
    finally:
        endpoint.stop()
        pool.shutdown(cancel_futures=True)
    return [told[key] for key in keys]


def _ask(endpoint: endpoint_lib.Endpoint, question: list[prompts_lib.Message]) -> _Told:
    try:
        return _Told(endpoint.ask(question))
    except endpoint_lib.NoAnswer as error:
        return _Told(None, str(error))


def _comparison(
    pair: _Pair, item: Item, told: Sequence[_Told]
) -> comparisons_lib.Comparison:
    def outcome(one: _Told, first: str, second: str) -> Any:
        by_verdict = {'A': first, 'B': second, 'TIE': 'tie', None: 'failed'}
        return by_verdict[one.verdict]

    orders: Any = ('tie', 'tie')
    if told:
        orders = outcome(told[0], 'a', 'b'), outcome(told[1], 'b', 'a')
    reasons = dict.fromkeys(one.reason for one in told if one.reason)
    return comparisons_lib.Comparison(
        model_a=pair.model_a,
        model_b=pair.model_b,
        prompt=pair.prompt,
        category=item.category,
        dimension=pair.dimension,
        orders=orders,
        reason='; '.join(reasons),
    )


def _log(
    found: Sequence[comparisons_lib.Comparison], totals: ledger_lib.Totals
) -> None:
    log.info(
        'judge: %d comparisons; %d calls and at most %d tokens so far',
        *(len(found), *totals),
    )
    failed = [one for one in found if one.outcome == 'failed']
    if failed:
        log.warning(
            'judge: %d comparisons have failed, the first: %s. The same command asks '
            'again for what is missing.',
            *(len(failed), failed[0].reason),
        )
