"""What a stage is to the training loop."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import pathlib
from typing import Any

import grain
import jax
from jax.sharding import Mesh
import ml_collections
import optax

from beaver_jax import compilation
from beaver_jax import layout
from beaver_jax import optim
from beaver_jax import sharding
from beaver_jax import watch
from beaver_jax.models import transformer
from beaver_jax.stages import inputs
from beaver_jax.stages import learning

Metrics = dict[str, Any]
Compiled = dict[str, compilation.Ahead]  # by program


class Feed:
    """Global batches from one or more data sets, and the position in them."""

    def __init__(self, mesh: Mesh, datasets: Mapping[str, grain.MapDataset]):
        """Starts at the beginning of each (endless) data set."""
        self._mesh = mesh
        # Rows are tokenized already: one thread and a short buffer keep up.
        options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
        self._iterators = {
            name: iter(dataset.to_iter_dataset(options))
            for name, dataset in datasets.items()
        }

    def __next__(self) -> dict[str, Any]:
        """One batch of each, by name, spread over the mesh."""
        batches = {name: next(it) for name, it in self._iterators.items()}
        return sharding.put_batch(self._mesh, batches)

    def position(self) -> dict[str, Any]:
        """Where the next batch comes from; JSON-like."""
        return {name: it.get_state() for name, it in self._iterators.items()}

    def seek(self, position: Mapping[str, Any]) -> None:
        """Goes to a position given by `position`."""
        for name, iterator in self._iterators.items():
            iterator.set_state(position[name])


@dataclasses.dataclass
class Stage:
    """All that the training loop needs of one stage.

    Attributes:
      state: The state before the first step, sharded.
      step: (state, batch, key) to (state, metrics, phases); donates the state. Nothing
        waits for the device. Phases are arrays by name, of which each is there when a
        phase has ended, in their order.
      feed: Batches.
      steps: How many steps the stage takes.
      evaluate: State to held-out metrics; may be empty.
      export: Writes the trained model as a Hugging Face directory.
      rates: Learning rates by metric name, as functions of the step; logged.
      headline: Metrics worth a place beside the progress bar.
      data: Counts of what became of the rows, logged and stored.
      card: Describes the rows (`card.describe`); stored.
      summarize: Rows of metrics.jsonl to what the stage's summary says beside its
        held-out metrics.
      compile: The same arguments to what the step's programs took to compile, which
        they are thereafter.
      pace: (metrics, seconds by phase and of the step) to more of the latter's kind.
      bases: Fingerprints, by config key, of the models that adapters stand on.
      bounds: Beyond which a policy is said to diverge; None where nobody looks.
    """

    state: Any
    step: Callable[[Any, Any, jax.Array], tuple[Any, Metrics, Mapping[str, Any]]]
    feed: Feed
    steps: int
    evaluate: Callable[[Any], dict[str, float]]
    export: Callable[[Any, pathlib.Path], None]
    rates: Mapping[str, Callable[[int], Any]]
    headline: tuple[str, ...]
    data: Mapping[str, int]
    card: Callable[[], Mapping[str, Any]]
    summarize: Callable[[list[dict[str, float]]], dict[str, Any]] = lambda rows: {}
    compile: Callable[[Any, Any, jax.Array], Compiled] = lambda *unused: {}
    pace: Callable[[Mapping[str, float], Mapping[str, float]], dict[str, float]] = (
        lambda metrics, seconds: {}
    )
    bases: Mapping[str, str] = dataclasses.field(default_factory=dict)
    bounds: watch.Bounds | None = None

    def glance(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """The headline metrics that there are, or else each of a metric's parts."""
        return layout.glance(self.headline, metrics)

    def shardings(self) -> Any:
        """Of the state."""
        return jax.tree.map(lambda x: x.sharding, self.state)


def born_sharded(mesh: Mesh, init: Callable[..., Any], *args: Any) -> Any:
    """Makes a state in its shardings: no device ever holds more than its part."""
    shapes = jax.eval_shape(init, *args)
    shardings = sharding.state_shardings(mesh, shapes, transformer.RULES)
    # Arguments are donated: parameters become a part of the state, not a copy.
    return jax.jit(init, out_shardings=shardings, donate_argnums=range(len(args)))(
        *args
    )


def compile_step(
    mesh: Mesh, step: Callable[..., Any], state: Any
) -> jax.stages.Wrapped:
    """jit of (state, batch, key) with donation and the state's shardings kept."""
    shardings = jax.tree.map(lambda x: x.sharding, state)
    return jax.jit(
        step,
        donate_argnums=0,
        out_shardings=(shardings, sharding.replicated(mesh)),
    )


def optimizer(
    config: ml_collections.ConfigDict, name: str, steps: int
) -> tuple[optax.GradientTransformation, Callable[[int], Any]]:
    """The optimizer of the section config.<name>, and its learning rate by step."""
    settings = inputs.settings(optim.OptimizerConfig, name, config[name])
    return optim.make_optimizer(settings, steps), optim.schedule(settings, steps)


def check_supervised(config: ml_collections.ConfigDict, mesh: Mesh) -> None:
    """Refuses settings of SFT, reward or cost that do not fit together."""
    sharding.check_batch(mesh, 'config.batch_size', config.batch_size)
    inputs.check_parts('parts', config.batch_size, config.parts, mesh)
    inputs.check_counts(config, 'max_length')
    inputs.compute(config.model, 'model')
    lora = learning.settings(config.model, 'model')
    inputs.check_quantize(config.model, 'model', learns=not lora.rank)
    if config.model.resize_vocabulary and lora.rank:
        raise inputs.InputError(
            'config.model.resize_vocabulary=True gives the model new embeddings, which '
            f'adapters (config.model.lora.rank={lora.rank}) leave as they are; give '
            'them in a run that learns in full.'
        )
    optimizer(config, 'optimizer', inputs.count_steps(config, rows=1))


class Supervised:
    """A step as the loop calls it: the base goes in, and there are no phases."""

    def __init__(
        self,
        step: jax.stages.Wrapped,
        base: Any,
        shapes: Callable[[Any], Sequence[Any]] = lambda batch: (batch,),
    ):
        """Compiles nothing yet.

        Args:
          step: Of `compile_step`.
          base: Goes in with every batch.
          shapes: A batch to all that may come, as shapes with shardings.
        """
        self._base, self._shapes = base, shapes
        self._program = compilation.Program(step)

    def compile(self, state: Any, batch: Any, key: jax.Array) -> Compiled:
        """Compiles for every shape of batches; `Stage.compile`."""
        found: Compiled = {}
        for one in self._shapes(batch):
            ahead, _ = self._program.ahead(state, (one, self._base), key)
            found[numbered('step', found)] = ahead
        return found

    def __call__(self, state: Any, batch: Any, key: jax.Array) -> Any:
        """(state, metrics, {}); the first call compiles where `compile` did not."""
        if not self._program.compiled:
            self.compile(state, batch, key)
        state, metrics = self._program(state, (batch, self._base), key)
        return state, metrics, {}


def numbered(name: str, found: Compiled) -> str:
    """Names one more program of a kind: 'step', then 'step 2', and so on."""
    count = sum(known.split()[0] == name for known in found)
    return f'{name} {count + 1}' if count else name


def dataset_means(
    sums: Callable[[Any, Any, Any], Mapping[str, tuple[jax.Array, jax.Array]]],
    base: Any,
    mesh: Mesh,
    dataset: grain.MapDataset,
) -> Callable[[Any], dict[str, float]]:
    """An evaluator over a finite data set.

    Args:
      sums: (params, base, batch) to {name: (sum, count)}; is compiled here.
      base: Frozen parameters under those that learn; may be empty.
      mesh: Where batches go.
      dataset: Batches, once.

    Returns:
      State to {'eval/<name>': mean}.
    """
    compiled = jax.jit(sums)

    def evaluate(state):
        totals: dict[str, Any] = {}
        for batch in dataset:
            rows = sharding.put_batch(mesh, batch)
            found = compiled(state.model.params, base, rows)
            for name, (total, count) in jax.tree.map(float, dict(found)).items():
                before = totals.get(name, (0.0, 0.0))
                totals[name] = (before[0] + total, before[1] + count)
        # Of nothing there is no mean, and 0 would be one.
        return {f'eval/{name}': total / n for name, (total, n) in totals.items() if n}

    return evaluate
