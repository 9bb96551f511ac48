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


def test_a_request_waits_in_the_queue():
    waits = ['ACCEPTED', 'WAITING_FOR_RESOURCES', 'PROVISIONING', 'ACTIVE']
    there = cloud.Cloud(
        queued_describe=[None, *waits], describe=[None, None, 'CREATING', 'READY']
    )
    assert pod(there, '--queued').ensure() == 2
    assert there.changes == ['queued_create']


@pytest.mark.parametrize('state', ['ACCEPTED', 'WAITING_FOR_RESOURCES', 'PROVISIONING'])
def test_a_request_that_waits_is_picked_up(state):
    there = cloud.Cloud(queued_describe=[state, state, 'ACTIVE'], describe=['READY'])
    assert pod(there, '--queued').ensure() == 2
    assert there.changes == []


@pytest.mark.parametrize(
    'states', [['FAILED'], ['SUSPENDED'], ['SUSPENDING', 'SUSPENDED']]
)
def test_a_request_that_has_ended_is_made_anew(states):
    there = cloud.Cloud(
        queued_describe=[*states, 'ACCEPTED', 'ACTIVE'], describe=['READY']
    )
    assert pod(there, '--queued').ensure() == 2
    assert there.changes == ['queued_delete', 'queued_create']


def test_a_preempted_slice_goes_with_its_request():
    there = cloud.Cloud(queued_describe=['ACTIVE'], describe=['PREEMPTED', 'READY'])
    assert pod(there, '--queued').ensure() == 2
    assert there.changes == ['queued_delete', 'queued_create']


def test_a_request_that_cannot_be_served_is_told():
    there = cloud.Cloud(queued_describe=[None, 'ACCEPTED', 'FAILED'])
    with pytest.raises(tpu_slice.PodError, match='ask for another zone or type'):
        pod(there, '--queued').ensure()
    assert there.changes == ['queued_create']


def test_a_slice_without_a_request_is_deleted_without_one():
    there = cloud.Cloud(
        queued_describe=[None, 'ACTIVE'], describe=['TERMINATED', 'READY']
    )
    assert pod(there, '--queued').ensure() == 2
    assert there.changes == ['delete', 'queued_create']


def test_a_few_readings_may_fail_while_a_slice_is_waited_for(capsys):
    timeout = cloud.failed('timeout.')
    few, many = [timeout] * tpu_slice.PATIENCE, [timeout] * (tpu_slice.PATIENCE + 1)
    there = cloud.Cloud(describe=['CREATING', *few, 'CREATING', *few, 'READY'])
    assert pod(there).ensure() == 2
    assert 'timeout. It is asked again.' in capsys.readouterr().out
    there = cloud.Cloud(describe=['CREATING', *many, 'READY'])
    with pytest.raises(tpu_slice.PodError, match='timeout'):
        pod(there).ensure()
