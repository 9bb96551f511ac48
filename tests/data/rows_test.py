"""The checks of fields. More in the folder sources."""

import pytest

from beaver_jax.data import rows


def test_labels_that_are_not_required_may_be_anything():
    row = {'a': 1, 'b': 'b', 'c': False}
    assert rows.check_index(rows.field(row, 'a'), required=False) == 1
    assert rows.check_index(rows.field(row, 'b'), required=False) is None
    assert rows.check_flag(rows.field(row, 'c'), required=False) is False
    assert rows.check_flag(rows.field(row, 'd'), required=False) is None
    assert rows.check_flag(None, required=False) is None


def test_labels_of_no_field_are_meant():
    # What an adapter has made up itself is wrong, where a field may be unknown.
    with pytest.raises(rows.FieldError, match="field 'better' is 2; it must be 0 or 1"):
        rows.check_index(2, 'better', required=False)
    with pytest.raises(rows.FieldError, match="field 'safe' is 1; it must be true or"):
        rows.check_flag(1, 'safe', required=False)


def test_the_first_of_several_fields():
    assert rows.field({'b': 1, 'a': 2}, 'a', 'b') == rows.Field('a', 2)
    with pytest.raises(rows.FieldError) as info:
        rows.check_text(rows.field({'c': 1}, 'a', 'b'))
    assert info.value.problem == "there is no field 'a' or 'b'; the row has 'c'."
    assert info.value.reason == 'bad_field'


def test_many_and_long_names_of_fields_are_shown_short():
    row = {f'{i}' * 100: i for i in range(100)}
    with pytest.raises(rows.FieldError) as info:
        rows.check_text(rows.field(row, 'a'))
    assert len(str(info.value)) < 700
    with pytest.raises(rows.FieldError, match=r"the row has '\\ud800'\."):
        rows.check_text(rows.field({'\ud800': 1}, 'a'))


def test_cells_spell_labels_and_stay_text():
    spelt = {' 1': 1, 'True': True, 'false': False, '-2.5': -2.5, 'yes': 'yes', '': ''}
    assert {cell: rows.plain(rows.Cell(cell)) for cell in spelt} == spelt
    assert rows.plain('1') == '1'
    text = rows.check_text(rows.Cell('1'))
    assert (type(text), text) == (str, '1')
    assert rows.show(rows.Cell('1')) == "'1'"


def test_values_are_shown_short_and_in_ascii():
    assert rows.show('é\x1b') == r"'\xe9\x1b'"
    shown = rows.show('x' * 100)
    # 60 characters: a quote, 56 letters and the dots.
    assert shown == "'" + 'x' * 56 + '...'
