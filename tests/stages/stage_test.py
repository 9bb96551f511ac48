"""What a stage is to the loop: batches and their position, sharded states, means."""

import grain
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest

from beaver_jax import sharding
from beaver_jax.models import transformer
from beaver_jax.stages import inputs
from beaver_jax.stages import stage as stage_lib
from beaver_jax.steps import sft
from beaver_jax.steps import state as state_lib
from tests import tiny


@pytest.fixture
def mesh():
    return sharding.make_mesh(data=2, fsdp=2, tensor=2)


def numbers(count, seed):
    rows = grain.MapDataset.source(np.arange(count)).shuffle(seed).repeat()
    return rows.batch(4, batch_fn=np.stack)


def feed(mesh):
    datasets = {'few': numbers(6, seed=1), 'many': numbers(40, seed=2)}
    return stage_lib.Feed(mesh, datasets)


def drawn(feed, count):
    batches = [next(feed) for _ in range(count)]
    return [{name: x.tolist() for name, x in batch.items()} for batch in batches]


def test_a_feed_gives_a_batch_of_each_spread_over_the_mesh(mesh):
    batch = next(feed(mesh))
    assert set(batch) == {'few', 'many'}
    assert batch['few'].sharding == sharding.batch_sharding(mesh)
    assert batch['few'].addressable_shards[0].data.shape == (1,)


@pytest.mark.parametrize('taken', [0, 1, 5])
def test_a_feed_goes_on_from_a_position(mesh, taken):
    whole = drawn(feed(mesh), 8)
    first = feed(mesh)
    drawn(first, taken)
    position = first.position()
    assert drawn(first, 2) == whole[taken : taken + 2]
    second = feed(mesh)
    second.seek(position)
    assert drawn(second, 3) == whole[taken : taken + 3]


def test_a_state_is_born_in_its_shards(mesh):
    _, params = tiny.causal_lm(vocab_size=12, num_heads=4, head_dim=4)
    before = jax.tree.map(np.asarray, params)
    optimizer = optax.adam(1e-3)
    state = stage_lib.born_sharded(
        mesh, lambda params: sft.init(params, optimizer), params
    )
    jax.tree.map(np.testing.assert_array_equal, state.model.params, before)
    cut = sharding.param_shardings(mesh, transformer.RULES, state.model.params)
    assert jax.tree.map(lambda x: x.sharding, state.model.params) == cut
    assert jax.tree.map(lambda x: x.sharding, state.model.opt_state[0].nu) == cut


def test_a_compiled_step_keeps_the_shards_and_donates(mesh):
    place = jax.NamedSharding(mesh, jax.P('fsdp'))
    state = jax.device_put(jnp.arange(8.0), place)

    def step(state, batch_and_base, key):
        del key
        batch, base = batch_and_base
        return state + batch, {'train/sum': base * jnp.sum(state)}

    compiled = stage_lib.Supervised(stage_lib.compile_step(mesh, step, state), 3.0)
    after, metrics, phases = compiled(state, jnp.ones(8), jax.random.key(0))
    assert state.is_deleted()
    assert after.sharding == place
    assert (float(metrics['train/sum']), phases) == (84.0, {})  # 3·(0 + … + 7)


def test_means_over_a_data_set_weigh_batches_by_their_counts(mesh):
    rows = np.array([[1, 1], [2, 1], [3, 1], [4, 1], [5, 1], [0, 0], [0, 0], [0, 0]])
    dataset = grain.MapDataset.source(rows).batch(4, batch_fn=np.stack)

    state = sft.SftState(jnp.int32(0), state_lib.Learner(jnp.float32(2), ()))

    def sums(factor, base, batch):
        return {'value': (factor * base * batch[:, 0].sum(), batch[:, 1].sum())}

    found = stage_lib.dataset_means(sums, 0.5, mesh, dataset)(state)
    # 2·0.5·(1 + 2 + 3 + 4 + 5) / 5; the second batch has one row that counts.
    assert found == {'eval/value': 3.0}


def test_the_glance_of_a_stage():
    stage = stage_lib.Stage(
        state=None,
        step=lambda *_: (None, {}, {}),
        feed=None,  # type: ignore[arg-type]
        steps=1,
        evaluate=lambda _: {},
        export=lambda *_: None,
        rates={},
        headline=('train/loss', 'train/accuracy'),
        data={},
        card=dict,
    )
    assert stage.glance({'train/loss': 1.0, 'train/lr': 2.0}) == {'loss': 1.0}
    # Of several costs none has the plain name.
    parts = {'train/loss/a': 1.0, 'train/losses': 2.0, 'train/loss/b': 3.0}
    assert stage.glance(parts) == {'loss/a': 1.0, 'loss/b': 3.0}


def test_an_optimizer_of_a_section_is_named_in_its_complaint():
    config = ml_collections.ConfigDict({'critic_optimizer': {'learning_rate': 0.0}})
    with pytest.raises(
        inputs.InputError, match=r'^config\.critic_optimizer\.learning_'
    ):
        stage_lib.optimizer(config, 'critic_optimizer', 10)
