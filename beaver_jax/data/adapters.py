"""From a row to a record: a function for each format, and the table of data sets.

An adapter takes what it finds, as `rows.Field`s; `records.serve` checks what a use
needs. Only what must be put together, such as a dialogue, is looked at here.
"""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any, NamedTuple

from beaver_jax.data import dialogues
from beaver_jax.data import records
from beaver_jax.data import rows

Adapter = Callable[[rows.Row], records.AnyRecord | None]
Comparison, Demonstration, Prompt = (
    records.Comparison,
    records.Demonstration,
    records.Prompt,
)
_PROMPT = ('prompt', 'instruction', 'question', 'text')


# ---- One answer ---------------------------------------------------------------------


def demonstration(row: rows.Row) -> records.AnyRecord:
    """`prompt` and `response`; or Alpaca's `instruction`, `input` and `output`."""
    return Demonstration(_prompt(row), rows.field(row, 'response', 'output'))


def alpaca(row: rows.Row) -> records.AnyRecord:
    """`instruction`, a space and `input` if there is one → `output`."""
    return Demonstration(_question(row, row), rows.field(row, 'output'))


def seed_task(row: rows.Row) -> records.AnyRecord:
    """Self-instruct: `instruction`, `input` of the first of `instances` → `output`."""
    instances = row.get('instances')
    if not isinstance(instances, list) or not instances:
        found = rows.show(instances)
        problem = f"field 'instances' is {found}; it must be a list of some."
        raise rows.FieldError('bad_field', problem)
    first = instances[0]
    if not isinstance(first, dict):
        problem = f"field 'instances[0]' is {rows.show(first)}; it must be an object."
        raise rows.FieldError('bad_field', problem)
    return Demonstration(_question(row, first), rows.field(first, 'output'))


def firefly(row: rows.Row) -> records.AnyRecord:
    """`input` → `target`; or `conversation`, a list of `{human, assistant}`."""
    if 'conversation' not in row:
        return Demonstration(rows.field(row, 'input'), rows.field(row, 'target'))
    turns = []
    found = row['conversation']
    if not isinstance(found, list) or not found:
        shown = rows.show(found)
        raise dialogues.bad('conversation', f'is {shown}; it must be a list of some.')
    for i, pair in enumerate(found):
        if not isinstance(pair, dict):
            problem = f'has {rows.show(pair)} as turn {i}; it must be an object.'
            raise dialogues.bad('conversation', problem)
        for role in ('human', 'assistant'):
            value = rows.value_of(rows.field(pair, role))
            turns.append(rows.Field(f'conversation[{i}].{role}', value))
    return _dialogue(tuple(turns))


def moss_002(row: rows.Row) -> records.AnyRecord:
    """`plain_text`, a dialogue of [Human]: … <eoh> [MOSS]: … <eoa>."""
    text = rows.check_text(rows.field(row, 'plain_text'))
    return _dialogue(dialogues.moss_002(text))


def moss_003(row: rows.Row) -> records.AnyRecord:
    """`chat`: {turn_1: {Human, Inner Thoughts, Commands, Tool Responses, MOSS}, …}."""
    chat = rows.field(row, 'chat')
    rows.require(chat)
    return _dialogue(dialogues.moss_003(chat.value))


def messages(row: rows.Row) -> records.AnyRecord:
    """`messages` or `conversations`, of roles and texts; the last may be a question."""
    return _dialogue(dialogues.messages(rows.field(row, 'messages', 'conversations')))


def beavertails(row: rows.Row) -> records.AnyRecord:
    """`prompt` and `response`, which is learnt only where `is_safe`."""
    return Demonstration(
        _prompt(row), rows.field(row, 'response'), safe=rows.field(row, 'is_safe')
    )


def prompt(row: rows.Row) -> records.AnyRecord:
    """A `prompt`, `instruction` (with `input`), `question` or `text`."""
    return Prompt(_prompt(row))


# ---- Two answers --------------------------------------------------------------------


def pku_saferlhf(row: rows.Row) -> records.AnyRecord:
    """PKU-SafeRLHF of every release: what a release lacks is unknown.

    The mixed release has no `better_response_id`; harm categories and severity levels
    came with v1.0. Other pairs in its columns (HelpSteer's) have fewer still.
    """
    return Comparison(
        prompt=_prompt(row),
        responses=(rows.field(row, 'response_0'), rows.field(row, 'response_1')),
        better=rows.field(row, 'better_response_id'),
        safer=rows.field(row, 'safer_response_id'),
        safe=(
            rows.field(row, 'is_response_0_safe'),
            rows.field(row, 'is_response_1_safe'),
        ),
        harms=_harms(*(row.get(f'response_{i}_harm_category') for i in (0, 1))),
        severity=_severity(*(row.get(f'response_{i}_severity_level') for i in (0, 1))),
    )


def helpsteer2(row: rows.Row) -> records.AnyRecord:
    """`response_1`, `response_2`, `preference_strength`: below 0 for the first."""
    strength = rows.field(row, 'preference_strength')
    value: Any = rows.plain(strength.value)
    better: Any = strength
    if isinstance(value, int | float) and not isinstance(value, bool):
        better = records.TIE if value == 0 else int(value > 0)
    return Comparison(
        prompt=dialogues.helpsteer(_prompt(row)),
        responses=(rows.field(row, 'response_1'), rows.field(row, 'response_2')),
        better=better,
    )


def hh_rlhf(row: rows.Row) -> records.AnyRecord:
    """`chosen` and `rejected`, texts of one dialogue up to the last answer."""
    names = ('chosen', 'rejected')
    one, other = (dialogues.hh(row, name) for name in names)
    shared, answers = dialogues.split_pair(one, other, names)
    return Comparison(shared, _chosen(answers), better=0)


def processed_hh_rlhf(row: rows.Row) -> records.AnyRecord:
    """`context`, a list of `{role, text}`; `chosen` and `rejected`, one of it each."""
    answers = [_text_of(row, name) for name in ('chosen', 'rejected')]
    context = dialogues.messages(rows.field(row, 'context'))
    return Comparison(context, _chosen(answers), better=0)


def chosen_rejected(row: rows.Row) -> records.AnyRecord:
    """`chosen` and `rejected`: lists of messages (UltraFeedback), or texts.

    With equal `score_chosen` and `score_rejected` it is a tie.
    """
    names = ('chosen', 'rejected')
    parts = [rows.field(row, name) for name in names]
    scores = [rows.plain(row.get(f'score_{name}')) for name in names]
    better = records.TIE if scores[0] is not None and scores[0] == scores[1] else 0
    if not any(isinstance(part.value, list) for part in parts):
        return Comparison(_prompt(row), _chosen(parts), better=better)
    before = row.get('prompt')
    first = before if isinstance(before, list) else []
    both = [_joined(first, part) for part in parts]
    shared, answers = dialogues.split_pair(both[0], both[1], names)
    return Comparison(shared, _chosen(answers), better=better)


# ---- Any columns --------------------------------------------------------------------


class Columns(NamedTuple):
    """An adapter of rows whose columns are named in `config.data.columns`."""

    names: Mapping[str, str]  # of the columns, by part of a record

    def __call__(self, row: rows.Row) -> records.AnyRecord:
        """A pair where `response_0` is named and there, else what else is."""
        question = self._field(row, 'prompt')
        if {'response_0', 'response_1'} <= set(self.names) and (
            self.names['response_0'] in row or 'response' not in self.names
        ):
            return self._pair(row, question)
        if 'response' in self.names:
            safe = self._field(row, 'safe') if 'safe' in self.names else None
            return Demonstration(question, self._field(row, 'response'), safe=safe)
        return Prompt(question)

    def _field(self, row: rows.Row, part: str) -> Any:
        return rows.field(row, self.names[part]) if part in self.names else None

    def _pair(self, row: rows.Row, question: Any) -> records.Comparison:
        def both(part: str) -> tuple[Any, Any]:
            return self._field(row, f'{part}_0'), self._field(row, f'{part}_1')

        def harm(part: str) -> Any:
            return tuple(rows.check_flag(x, part, required=True) for x in both(part))

        harms = sorted({name[:-2] for name in self.names if name.startswith('harm.')})
        return Comparison(
            prompt=question,
            responses=both('response'),
            better=self._field(row, 'better'),
            safer=self._field(row, 'safer'),
            safe=both('safe'),
            harms={part.removeprefix('harm.'): harm(part) for part in harms},
            severity=_severity(*map(rows.value_of, both('severity'))),
        )


# ---- By columns, by name ------------------------------------------------------------


def detect(row: rows.Row) -> Adapter:
    """The adapter of a row by its columns; that of plain prompts if none is known."""
    if 'preference_strength' in row and 'response_2' in row:
        return helpsteer2
    if 'response_0' in row or 'response_1' in row:
        return pku_saferlhf
    asks, answers = 'prompt' in row or 'instruction' in row, 'response' in row
    if answers and 'is_safe' in row:
        return beavertails
    if asks and (answers or 'output' in row):
        return demonstration
    if 'chosen' in row or 'rejected' in row:
        return _preferred(row)
    for column, adapter in _BY_COLUMN.items():
        if column in row:
            return adapter
    return demonstration if answers or 'output' in row else prompt


_BY_COLUMN: dict[str, Adapter] = {
    'messages': messages,
    'conversations': messages,
    'conversation': firefly,
    'chat': moss_003,
    'plain_text': moss_002,
    'instances': seed_task,
    'target': firefly,
}


def _preferred(row: rows.Row) -> Adapter:
    if 'context' in row:
        return processed_hh_rlhf
    if any(isinstance(row.get(name), list) for name in ('chosen', 'rejected')):
        return chosen_rejected
    return chosen_rejected if any(name in row for name in _PROMPT) else hh_rlhf


@dataclasses.dataclass(frozen=True)
class OfSplit:
    """An adapter of one split, where a column names the split of each row."""

    adapter: Adapter
    column: str
    split: str

    def __call__(self, row: rows.Row) -> records.AnyRecord | None:
        """The adapter's record; a row without the column is of any split."""
        found = row.get(self.column, self.split)
        if found != self.split:
            problem = f'field {self.column!r} is {rows.show(found)}: another split.'
            raise rows.FieldError('other_split', problem)
        return self.adapter(row)


class Source(NamedTuple):
    """A data set by name."""

    adapter: Adapter
    hub: str = ''  # its name on the hub; without one it needs a path
    splits: tuple[str, ...] = ('train',)  # `name/split` names one; `name` the first
    folder: str = ''  # on the hub
    # That says of each row of what split it is; then all files are of the first one.
    column: str = ''


_HH = 'PKU-Alignment/processed-hh-rlhf'
_BOTH = ('train', 'test')
_PARTS = {'': '', '-harmless': 'harmless-base', '-helpful': 'helpful-base'}
ADAPTERS: dict[str, Source] = {
    # Those of safe-rlhf.
    'alpaca': Source(alpaca, 'tatsu-lab/alpaca'),
    'stanford-alpaca': Source(alpaca, 'tatsu-lab/alpaca'),
    'firefly': Source(firefly, 'YeungNLP/firefly-train-1.1M'),
    'moss-002-sft': Source(moss_002),
    'moss-003-sft': Source(moss_003),
    'PKU-SafeRLHF': Source(pku_saferlhf, 'PKU-Alignment/PKU-SafeRLHF', _BOTH),
    'PKU-SafeRLHF-30K': Source(pku_saferlhf, 'PKU-Alignment/PKU-SafeRLHF-30K', _BOTH),
    'PKU-SafeRLHF-10K': Source(pku_saferlhf, 'PKU-Alignment/PKU-SafeRLHF-10K'),
    **{
        f'{hh}{part}-{kind}': Source(processed_hh_rlhf, _HH, _BOTH, folder)
        for hh in ('hh-rlhf', 'hh')
        for part, folder in _PARTS.items()
        for kind in ('dialogue', 'preference')
    },
    # Others.
    'hh-rlhf': Source(hh_rlhf, 'Anthropic/hh-rlhf', _BOTH),
    'BeaverTails': Source(
        beavertails,
        'PKU-Alignment/BeaverTails',
        ('330k_train', '330k_test', '30k_train', '30k_test'),
    ),
    'ultrafeedback': Source(
        chosen_rejected,
        'HuggingFaceH4/ultrafeedback_binarized',
        ('train_prefs', 'test_prefs'),
    ),
    'HelpSteer': Source(pku_saferlhf),
    'HelpSteer2': Source(
        helpsteer2,
        'nvidia/HelpSteer2',
        ('train', 'validation'),
        folder='preference',
        column='split',
    ),
    'self-instruct': Source(seed_task),
    'messages': Source(messages),
    'demonstrations': Source(demonstration),
    'prompts': Source(prompt),
}


# ---- Parts --------------------------------------------------------------------------


def _prompt(row: rows.Row) -> Any:
    found = rows.field(row, *_PROMPT)
    if isinstance(found.value, list) and any(isinstance(x, dict) for x in found.value):
        return dialogues.messages(found)
    return _question(row, row) if found.name == 'instruction' else found


def _question(row: rows.Row, extra: rows.Row) -> Any:
    """`instruction`, a space and `input` if there is one."""
    question, more = rows.field(row, 'instruction'), rows.field(extra, 'input')
    if isinstance(more.value, rows.Missing) or more.value in (None, ''):
        return question
    return f'{rows.check_text(question)} {rows.check_text(more)}'


def _dialogue(turns: tuple[Any, ...]) -> records.AnyRecord:
    if len(turns) % 2:
        return Prompt(turns)
    return Demonstration(turns[:-1], turns[-1])


def _chosen(answers: Any) -> Any:
    """The two answers, called `chosen` and `rejected`."""
    first, second = answers
    return (
        rows.Field('chosen', rows.value_of(first)),
        rows.Field('rejected', rows.value_of(second)),
    )


def _text_of(row: rows.Row, name: str) -> Any:
    found = rows.field(row, name)
    rows.require(found)
    if not isinstance(found.value, dict):
        shown = rows.show(found.value)
        raise dialogues.bad(name, f'is {shown}; it must be an object with a text.')
    return rows.field(found.value, 'text', 'content')


def _joined(before: list[Any], part: Any) -> tuple[Any, ...]:
    rows.require(part)
    if isinstance(part.value, list):
        return dialogues.messages(rows.Field(part.name, [*before, *part.value]))
    raise dialogues.bad(part.name, f'is {rows.show(part.value)}; it must be a list.')


def _harms(one: Any, other: Any) -> dict[str, tuple[bool, bool]]:
    """By category; empty where it is not known of both responses."""
    if not isinstance(one, dict) or not isinstance(other, dict):
        return {}
    both = {name: (one[name], other[name]) for name in one if name in other}
    known = all(type(x) is bool for pair in both.values() for x in pair)
    return both if known and len(both) == len(one) == len(other) else {}


def _severity(*levels: Any) -> tuple[int, int] | None:
    one, other = map(rows.plain, levels)
    return (one, other) if type(one) is type(other) is int else None
