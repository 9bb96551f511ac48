"""What becomes of a slice of TPUs by the state that it is in."""

import pytest

from launch import tpu_pod
from launch import tpu_slice
from tests.launch import cloud

OPTIONS = ('--name=beaver', '--zone=z', '--type=t', '--version=v', '--poll=0')


def pod(there, *options):
    return tpu_slice.Slice(tpu_pod.parser().parse_args([*OPTIONS, *options]), there)


def test_a_slice_is_made_where_there_is_none():
    there = cloud.Cloud(describe=[None, None, 'CREATING', 'READY'])
    assert pod(there).ensure() == 2
    assert there.changes == ['create']


@pytest.mark.parametrize('state', ['PREEMPTED', 'TERMINATED'])
def test_a_lost_slice_is_made_anew(state, capsys):
    there = cloud.Cloud(describe=[state, 'READY'])
    assert pod(there).ensure() == 2
    assert there.changes == ['delete', 'create']
    assert f'beaver is {state}: it is made anew' in capsys.readouterr().out


@pytest.mark.parametrize(
    'state', ['CREATING', 'STARTING', 'REPAIRING', 'RESTARTING', 'REIMAGING']
)
def test_a_slice_that_is_on_its_way_is_waited_for(state):
    there = cloud.Cloud(describe=[state, state, 'READY'])
    assert pod(there).ensure() == 2
    assert there.changes == []


def test_a_slice_that_somebody_deletes_is_made_when_it_is_gone():
    there = cloud.Cloud(describe=['DELETING', None, 'READY'])
    assert pod(there).ensure() == 2
    assert there.changes == ['create']


@pytest.mark.parametrize('state', ['STOPPED', 'STOPPING', 'HIDDEN', 'UNKNOWN'])
def test_a_slice_with_disks_is_left_alone(state):
    there = cloud.Cloud(describe=[state])
    told = (
        f'beaver is {state}.* gcloud compute tpus tpu-vm delete beaver --quiet --zone=z'
    )
    with pytest.raises(tpu_slice.PodError, match=told):
        pod(there).ensure()
    assert there.changes == []
