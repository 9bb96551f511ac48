"""Tests of digests: what is the same has the same one, and nothing else has."""

import dataclasses
import os

from beaver_jax.data import sources
from beaver_jax.evaluate import provenance


def test_a_directory_is_known_by_the_names_and_bytes_of_its_files(tmp_path):
    one, other = tmp_path / 'one', tmp_path / 'other'
    for path, names in ((one, 'ab'), (other, 'ba')):
        path.mkdir()
        for name in names:
            (path / name).write_text(f'of {name}')
    os.utime(other / 'a', (0, 0))
    (other / 'nested').mkdir()
    expected = provenance.of_files(one)
    assert provenance.of_files(other) == expected
    found = {expected}
    for name, text in (('a', 'of A'), ('c', '')):
        (other / name).write_text(text)
        found.add(provenance.of_files(other))
    (other / 'c').rename(other / 'd')
    found.add(provenance.of_files(other))
    # The bytes of one file are not those of the next.
    (one / 'a').write_text('of aof b')
    (one / 'b').write_text('')
    found.add(provenance.of_files(one))
    assert len(found) == 5


def test_records_are_known_by_what_they_say_and_their_order():
    one = sources.Prompt(('Why?',), where='a.jsonl, line 1', category='x')
    other = sources.Prompt(('How?',))
    expected = provenance.of_records([one, other])
    moved = dataclasses.replace(one, where='b.jsonl, line 9')
    assert provenance.of_records([moved, other]) == expected
    changed = dataclasses.replace(one, category='y')
    pair = sources.Comparison(('Why?',), ('a', 'b'), better=0)
    others = ([other, one], [one], [changed, other], [pair])
    worse = dataclasses.replace(pair, better=1)
    found = {provenance.of_records(some) for some in (*others, [worse])}
    assert len(found | {expected}) == 6
