"""slurm.sbatch is sound bash, gke_jobset.yaml a JobSet."""

import pathlib
import subprocess
import sys

import jsonschema
import pytest
import yaml

ROOT = pathlib.Path(__file__).parents[2]
LAUNCH = ROOT / 'launch'


def test_the_batch_script_passes_shellcheck():
    shellcheck = pathlib.Path(sys.executable).with_name('shellcheck')
    checked = subprocess.run(
        [shellcheck, LAUNCH / 'slurm.sbatch'], capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stdout


# As srun does, it ends its task hard when it is told to end.
SRUN = """#!/usr/bin/env bash
trap 'kill -KILL $task; echo killed >> asked; exit 137' TERM
bash -c 'trap "sleep 0.3; echo saved >> asked; exit 143" TERM
sleep 0.5 & wait $!
exit "${CODE:-0}"' &
task=$!
echo $task > task
echo "$@" >> asked
wait $task
"""
# It signals tasks, and not the script.
SCANCEL = """#!/usr/bin/env bash
echo "scancel $*" >> asked
kill -"${1#--signal=}" "$(cat task)"
"""


@pytest.fixture
def batch(tmp_path):
    """Starts the script with stand-ins of Slurm's commands."""
    for name, text in (
        ('srun', SRUN),
        ('scancel', SCANCEL),
        ('scontrol', '#!/usr/bin/env bash\necho "scontrol $*" >> asked\n'),
    ):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)

    def start(*argv, **environ):
        return subprocess.Popen(
            ['bash', LAUNCH / 'slurm.sbatch', *argv],
            cwd=tmp_path,
            env={'PATH': f'{tmp_path}:/usr/bin:/bin', 'SLURM_JOB_ID': '7', **environ},
            text=True,
            stderr=subprocess.PIPE,
        )

    return start


def test_every_task_runs_the_command(batch, tmp_path):
    running = batch('--config=configs/sft.py', PYTHON='python3.11')
    assert running.wait(30) == 0
    assert (tmp_path / 'asked').read_text().splitlines() == [
        '--kill-on-bad-exit=1 --label python3.11 -u -m beaver_jax.train '
        '--config=configs/sft.py'
    ]
    assert batch('--config=configs/sft.py', CODE='3').wait(30) == 3
    running = batch()
    assert 'nothing to run' in running.communicate(timeout=30)[1]
    assert running.returncode == 2


def test_before_the_limit_the_tasks_are_stopped_and_the_job_queued_again(
    batch, tmp_path
):
    running = batch('--config=configs/sft.py')
    while not (tmp_path / 'asked').exists():
        assert running.poll() is None
    running.terminate()
    assert running.wait(30) == 143
    asked = (tmp_path / 'asked').read_text().splitlines()
    assert asked[1:] == ['scancel --signal=TERM 7', 'saved', 'scontrol requeue 7']


@pytest.mark.parametrize(
    'first, later',
    [
        ('--config.if_exists=overwrite', '--config.if_exists=refuse'),
        ('--config.if_exists overwrite', '--config.if_exists refuse'),
        ('--config.if_exists=resume', '--config.if_exists=resume'),
        ('--config.run overwrite', '--config.run overwrite'),
    ],
)
def test_only_the_first_start_of_a_job_overwrites(batch, tmp_path, first, later):
    for count, expected in (('0', first), ('1', later)):
        argv = (*first.split(), '--config.models=a b')
        assert batch(*argv, SLURM_RESTART_COUNT=count).wait(30) == 0
        asked = (tmp_path / 'asked').read_text().splitlines()
        assert asked[-1].endswith(f'beaver_jax.train {expected} --config.models=a b')


def group(required='', **properties):
    """A mapping with these keys and no others."""
    return {
        'type': 'object',
        'properties': properties,
        'required': required.split(),
        'additionalProperties': False,
    }


def several(items):
    return {'type': 'array', 'items': items, 'minItems': 1}


TEXT, COUNT = {'type': 'string', 'minLength': 1}, {'type': 'integer', 'minimum': 1}
ANY = {'type': 'object'}
CONTAINER = group(
    'name image command args resources',
    name=TEXT,
    image=TEXT,
    command=several(TEXT),
    args=several(TEXT),
    env=several(group('name', name=TEXT, value=TEXT, valueFrom=ANY)),
    ports=several(group('containerPort', containerPort=COUNT)),
    resources=group('limits', limits=ANY, requests=ANY),
    volumeMounts=several(group('name mountPath', name=TEXT, mountPath=TEXT)),
)
POD = group(
    # The last: without it Python is process 1, which SIGTERM does not end.
    'restartPolicy containers shareProcessNamespace',
    restartPolicy={'enum': ['Never', 'OnFailure']},
    terminationGracePeriodSeconds=COUNT,
    shareProcessNamespace={'const': True},
    serviceAccountName=TEXT,
    nodeSelector={'type': 'object', 'additionalProperties': TEXT},
    containers=several(CONTAINER),
    volumes=several(group('name csi', name=TEXT, csi=ANY)),
)
NAMED = group(name=TEXT, labels=ANY, annotations=ANY)
JOB = group(
    'parallelism completions completionMode template',
    parallelism=COUNT,
    completions=COUNT,
    completionMode={'const': 'Indexed'},
    backoffLimit={'type': 'integer', 'minimum': 0},
    template=group('spec', metadata=NAMED, spec=POD),
)
# The part of jobset.x-k8s.io/v1alpha2, batch/v1 and v1 that the manifest uses.
JOBSET = group(
    'apiVersion kind metadata spec',
    apiVersion={'const': 'jobset.x-k8s.io/v1alpha2'},
    kind={'const': 'JobSet'},
    metadata=NAMED,
    spec=group(
        'replicatedJobs',
        failurePolicy=group(maxRestarts=COUNT),
        network=group(
            enableDNSHostnames={'type': 'boolean'},
            publishNotReadyAddresses={'type': 'boolean'},
            subdomain=TEXT,
        ),
        replicatedJobs=several(
            group(
                'name template',
                name=TEXT,
                replicas=COUNT,
                template=group('spec', metadata=NAMED, spec=JOB),
            )
        ),
    ),
)


@pytest.fixture
def manifest():
    return yaml.safe_load((LAUNCH / 'gke_jobset.yaml').read_text())


def test_the_manifest_is_a_jobset(manifest):
    jsonschema.validate(manifest, JOBSET)
    (jobs,) = manifest['spec']['replicatedJobs']
    job = jobs['template']['spec']
    # All pods at once: they are one program.
    assert job['parallelism'] == job['completions']
    pod = job['template']['spec']
    (container,) = pod['containers']
    volumes = {volume['name'] for volume in pod['volumes']}
    assert {mount['name'] for mount in container['volumeMounts']} == volumes
    (run,) = [x for x in container['args'] if x.startswith('--config.run=')]
    mounted = container['volumeMounts'][0]['mountPath']
    assert run.startswith(f'--config.run={mounted}/')
    # The topology has the chips of all its hosts: 4x4 are 4 hosts of 4.
    topology = pod['nodeSelector']['cloud.google.com/gke-tpu-topology']
    width, height = map(int, topology.split('x'))
    chips = container['resources']['limits']['google.com/tpu']
    assert width * height == job['parallelism'] * chips


def test_the_schema_finds_what_is_misspelled(manifest):
    manifest['spec']['replicatedJobs'][0]['template']['spec']['paralelism'] = 4
    with pytest.raises(jsonschema.ValidationError, match='paralelism'):
        jsonschema.validate(manifest, JOBSET)
