"""A stand-in of gcloud: TPU slices whose hosts are processes of this machine.

In place of Google's metadata it tells each host its place by the variables of
`beaver_jax.distributed`. What it knows is in the directory STAND_IN: the slice's state
in slice.json, what asked for it in request.json, a home directory by host, and in
calls.txt every command line.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys

HERE = pathlib.Path(os.environ['STAND_IN'])
SLICE = HERE / 'slice.json'
REQUEST = HERE / 'request.json'
HOSTS = 4


def main(argv):
    with (HERE / 'calls.txt').open('a') as calls:
        calls.write(json.dumps(argv) + '\n')
    assert argv[:2] == ['compute', 'tpus'], argv
    kind, verb, *rest = argv[2:]
    flags = dict(x[2:].partition('=')[::2] for x in rest if x.startswith('--'))
    named = [x for x in rest if not x.startswith('--')]
    assert flags.pop('zone') == 'nowhere-1'
    verbs = {'tpu-vm': SLICES, 'queued-resources': REQUESTS}[kind]
    return verbs[verb](named, flags)


def create(named, flags):
    if SLICE.exists():
        sys.exit('ERROR: (gcloud) ALREADY_EXISTS')
    for host in range(HOSTS):
        shutil.rmtree(HERE / f'host-{host}', ignore_errors=True)
        (HERE / f'host-{host}').mkdir()
    SLICE.write_text(json.dumps({'state': 'READY', 'type': flags['accelerator-type']}))
    return 0


def describe(named, flags):
    assert flags['format'] == 'json'
    if not SLICE.exists():
        sys.exit('ERROR: (gcloud) NOT_FOUND: no such node')
    endpoints = [{'ipAddress': '127.0.0.1'} for _ in range(HOSTS)]
    print(json.dumps(json.loads(SLICE.read_text()) | {'networkEndpoints': endpoints}))
    return 0


def ready():
    return SLICE.exists() and json.loads(SLICE.read_text())['state'] == 'READY'


def scp(named, flags):
    source, target = named
    assert flags['worker'] == 'all'
    for host in range(HOSTS):
        shutil.copy(source, HERE / f'host-{host}' / target.partition(':')[2])
    return 0


def ssh(named, flags):
    if not ready():
        return 255
    hosts = range(HOSTS) if flags['worker'] == 'all' else [int(flags['worker'])]
    children = [
        subprocess.Popen(
            ['bash', '-c', flags['command']],
            cwd=HERE / f'host-{host}',
            env=os.environ
            | {
                'HOME': str(HERE / f'host-{host}'),
                'BEAVER_JAX_COORDINATOR': f'localhost:{os.environ["STAND_IN_PORT"]}',
                'BEAVER_JAX_PROCESSES': str(HOSTS),
                'BEAVER_JAX_PROCESS': str(host),
            },
        )
        for host in hosts
    ]
    codes = [child.wait() for child in children]
    # A host that is gone takes its ssh with it.
    return max((code if code >= 0 else 255) for code in codes) if ready() else 255


def delete(named, flags):
    assert 'quiet' in flags
    SLICE.unlink()
    return 0


def request(named, flags):
    """A queue in which nobody else stands."""
    if REQUEST.exists():
        sys.exit('ERROR: (gcloud) ALREADY_EXISTS')
    assert flags['node-id'] == named[0]
    REQUEST.write_text(json.dumps({'state': {'state': 'ACTIVE'}}))
    return create(named, flags)


def describe_request(named, flags):
    assert flags['format'] == 'json'
    if not REQUEST.exists():
        sys.exit('ERROR: (gcloud) NOT_FOUND: no such request')
    print(REQUEST.read_text())
    return 0


def delete_request(named, flags):
    assert {'quiet', 'force'} <= set(flags)
    REQUEST.unlink()
    SLICE.unlink(missing_ok=True)
    return 0


SLICES = {
    'create': create,
    'describe': describe,
    'scp': scp,
    'ssh': ssh,
    'delete': delete,
}
REQUESTS = {
    'create': request,
    'describe': describe_request,
    'delete': delete_request,
}


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
