"""Two minutes of faults; `make soak MINUTES=60` is the long form."""

from tests.system import soak


def test_faults_change_no_bit(tmp_path):
    summary = soak.soak(tmp_path / 'soak', seed=1, minutes=2)
    assert summary['faults_tried'] > 0
    assert summary['faults_survived'] == summary['faults_tried'], summary['faults']
    assert summary['bitwise_equal']
