"""Two processes, as on two hosts, read the batches of one."""

import collections
import os
import pickle
import socket
import subprocess
import sys

import jax
import numpy as np

from tests import micro
from tests import streams
from tests import vocabularies

# What each process runs: a feed of each stream, from the start and from each step.
PROGRAM = """
import pathlib, pickle, sys
import jax
import numpy as np
port, index, directory = sys.argv[1:]
jax.distributed.initialize('localhost:' + port, 2, int(index))
from beaver_jax import distributed
from beaver_jax import sharding
from beaver_jax.data import tokenizer as tokenizer_lib
from beaver_jax.stages import inputs
from beaver_jax.stages import stage
from tests import streams

def local(batch):
    return jax.tree.map(lambda x: x.addressable_data(0), batch)

tokenizer = tokenizer_lib.load(directory)
mesh = sharding.make_mesh()
assert inputs.process_shard(mesh) == (int(index), 2)
found = {}
for kind in streams.KINDS:
    stream = streams.make(kind, tokenizer, shard=inputs.process_shard(mesh))
    feed = stage.Feed(mesh, {kind: stream.batches})
    found[kind], steps = [], []
    for _ in range(stream.size + 1):
        position, batch = feed.position(), next(feed)[kind]
        steps.append((position, local(batch)))
        found[kind].append(sharding.to_host(batch))
    for position, mine in steps:
        feed.seek(position)
        again = local(next(feed)[kind])
        jax.tree.map(np.testing.assert_array_equal, again, mine)
# Of one matmul both processes need the same rows.
mesh = sharding.make_mesh(data=1, tensor=2)
stream = streams.make('sft', tokenizer, shard=inputs.process_shard(mesh))
batch = next(stage.Feed(mesh, {'sft': stream.batches}))['sft']
jax.tree.map(np.testing.assert_array_equal, local(batch), found['sft'][0])
# Processes whose devices the mesh takes in another order.
turned = jax.sharding.Mesh(mesh.devices.reshape(2, 1, 1)[::-1], sharding.AXES)
mine = sharding.process_rows(turned, 4)
np.testing.assert_array_equal(mine, [2, 3] if index == '0' else [0, 1])
rows = sharding.to_host(sharding.put_batch(turned, mine))
np.testing.assert_array_equal(rows, range(4))
# What one process does, says, or wishes.
called = []
def act(number, *, fails):
    called.append(number)
    if fails:
        raise ValueError(f'{number} is wrong')
    return {'twice': 2 * number}
assert distributed.by_first(act, 4, fails=False) == {'twice': 8}
try:
    distributed.by_first(act, 5, fails=True)
except ValueError as error:
    assert str(error) == '5 is wrong'
assert called == ([4, 5] if index == '0' else [])
assert distributed.said('') == ''
assert distributed.said('é' + index) == 'é0; é1'
assert distributed.said('both') == 'both'
for late in (False, True):
    votes = distributed.Votes(turned, late=late)
    cast = [votes.cast(index == '1', step == 1, False) for step in range(3)]
    now = [(True, step == 1, False) for step in range(3)]
    assert cast == ([(False,) * 3, *now[:2]] if late else now)
# What was wished for while it was being done is not done again.
votes = distributed.Votes(turned, late=True)
cast = []
for wishes in [(False, True), (True, True), (False, False), (False, False)]:
    cast.append(votes.cast(*wishes))
    if cast[-1][1]:
        votes.granted(1)
assert cast == [(False, False), (False, True), (True, False), (False, False)]
distributed.barrier('done')
if index == '0':
    (pathlib.Path(directory) / 'found').write_bytes(pickle.dumps(found))
"""


def test_global_batches_are_those_of_one_process(tmp_path):
    tokenizer = vocabularies.characters(tmp_path)
    with socket.socket() as free:
        free.bind(('localhost', 0))
        port = str(free.getsockname()[1])
    running = [
        subprocess.Popen(
            [sys.executable, '-c', PROGRAM, port, str(index), str(tmp_path)],
            cwd=micro.ROOT,
            env=os.environ | {'XLA_FLAGS': '', 'PYTHONPATH': str(micro.ROOT)},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for index in range(2)
    ]
    for one in running:
        micro.finished(one)
    found = pickle.loads((tmp_path / 'found').read_bytes())
    assert set(found) == set(streams.KINDS)
    for kind, batches in found.items():
        alone = streams.make(kind, tokenizer)
        for index, batch in enumerate(batches):
            jax.tree.map(np.testing.assert_array_equal, batch, alone.batches[index])
        rows = [row for batch in batches[: alone.size] for row in streams.rows(batch)]
        assert collections.Counter(rows) == dict.fromkeys(rows, alone.epochs), kind
        assert len(set(rows)) == len(streams.ROWS), kind
