"""The state of a run, how it starts, and the step that advances it: read this first.

    loss = total / weight, where both add over examples, microbatches and hosts,

so the gradient of the total is accumulated and divided once, which is exact with examples of uneven
length.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from lm_research import mesh, metrics, tree
from lm_research.hub.names import abstract
from lm_research.models.initial import initial
from lm_research.train import ordered
from lm_research.train.divergence import guarded
from lm_research.train.experiment import Experiment
from lm_research.weights.lora import begun

Array = jax.Array
Tree = Any


@struct.dataclass
class State:
    """What a checkpoint holds, besides the position in the data."""

    step: Array  # []
    trained: Tree
    held: Tree
    optimizer: Tree
    recent: Array | None = None  # losses, for `Divergence`; no leaf of a checkpoint


@dataclasses.dataclass(frozen=True)
class Trainer:
    """An experiment with its optimizer built: what `init` and the step close over."""

    experiment: Experiment
    optimizer: optax.GradientTransformation

    @classmethod
    def of(cls, experiment: Experiment) -> "Trainer":
        """The trainer of an experiment."""
        return cls(experiment, experiment.optimizer.build(experiment.steps))

    def params(self, key: Array) -> Tree:
        """Initial parameters, boxed with the names of their axes."""
        return initial(self.experiment.model, key)

    def abstract(self) -> State:
        """Shapes and shardings of the state on the current mesh: nothing is computed.

        Raises:
          UserError: an axis does not divide over the mesh.
        """
        split = jax.eval_shape(
            self.experiment.weights.split, abstract(self.experiment.model), jax.random.key(0)
        )
        trained, held = mesh.placed_shapes(split)
        state = jax.eval_shape(self._state, trained, held)
        everywhere = jax.sharding.NamedSharding(jax.sharding.get_mesh(), jax.P())
        place = lambda leaf, sharding: leaf.update(sharding=sharding)
        return State(
            place(state.step, everywhere),
            trained,
            held,
            jax.tree.map(place, state.optimizer, _like(trained, state.optimizer, everywhere)),
        )

    def init(self, params: Tree | None = None, arrays: Mapping[str, Any] | None = None) -> State:
        """The first state, made in place on the mesh: no host ever holds it whole.

        Args:
          params: plain parameters to start from, laid out on the mesh; None in the place of one,
            or of them all, draws it.
          arrays: of what is trained, those to start from, by name.
        """
        shardings = jax.tree.map(lambda leaf: leaf.sharding, self.abstract())
        key = jax.random.key(self.experiment.seed)

        def make(key, params, arrays):
            boxed = self.params(key)
            if params is not None:
                given = lambda box, value: box if value is None else box.replace(value=value)
                boxed = jax.tree.map(given, boxed, params, is_leaf=tree.boxed)
            trained, held = tree.unboxed(self.experiment.weights.split(boxed, key))
            return self._state(begun(trained, arrays), held)

        return jax.jit(make, out_shardings=shardings)(key, params, arrays or {})

    def _state(self, trained: Tree, held: Tree) -> State:
        return State(jnp.zeros((), jnp.int32), trained, held, self.optimizer.init(trained))


def train_steps(trainer: Trainer, state: State, batches: dict[str, Array]) -> tuple[State, dict]:
    """One update for each of the batches [steps, B, ...]; numbers come back as [steps]."""
    if jax.tree.leaves(batches)[0].shape[0] == 1:  # a loop of one would only cost compile time
        state, numbers = train_step(trainer, state, jax.tree.map(lambda a: a[0], batches))
        return state, jax.tree.map(lambda a: a[None], numbers)
    return jax.lax.scan(lambda state, batch: train_step(trainer, state, batch), state, batches)


def train_step(trainer: Trainer, state: State, batch: dict[str, Array]) -> tuple[State, dict]:
    """One update from one batch [B, ...], and numbers [] that describe it."""
    x = trainer.experiment
    key = jax.random.fold_in(jax.random.key(x.seed), state.step)
    if x.reductions == "ordered":

        def step(state, rows):
            measure = functools.partial(accumulated, x, state)
            return updated(trainer, state, *ordered.sums(measure, rows, key, x.batch.shards))

        return ordered.everywhere(step)(state, batch)
    return updated(trainer, state, *accumulated(x, state, batch, key))


def updated(
    trainer: Trainer, state: State, gradients: Tree, measured: dict[str, metrics.Mean]
) -> tuple[State, dict]:
    """The state after the gradient of a total loss, and numbers [] that describe the step."""
    x = trainer.experiment
    weight = jnp.maximum(measured["loss"].weight, 1e-9)
    gradients = jax.tree.map(lambda g: g / weight, gradients)
    updates, optimizer = trainer.optimizer.update(gradients, state.optimizer, state.trained)
    trained = optax.apply_updates(state.trained, updates)
    numbers = {name: mean.value() for name, mean in measured.items()}
    numbers |= {
        "gradient_norm": optax.tree.norm(gradients),
        "parameter_norm": optax.tree.norm(state.trained),
        "learning_rate": jnp.asarray(x.optimizer.learning_rate(x.steps)(state.step), jnp.float32),
        "targets": measured["loss"].weight,
    }
    after = State(state.step + 1, trained, state.held, optimizer)
    return guarded(x.divergence, state, after, numbers)


def accumulated(
    x: Experiment, state: State, batch: dict[str, Array], key: Array
) -> tuple[Tree, dict[str, metrics.Mean]]:
    """Gradient of the total loss, and means, summed over microbatches."""

    def total(trained, piece, key):
        params = x.weights.join(trained, state.held)
        measured = x.objective.measure(x.model, params, piece, {"dropout": key})
        return measured["loss"].total, measured

    gradient = jax.grad(total, has_aux=True)
    count = x.batch.microbatches
    if count == 1:
        return gradient(state.trained, batch, key)

    def step(sums, piece):
        index, rows = piece
        gradients, measured = gradient(state.trained, rows, jax.random.fold_in(key, index))
        return (jax.tree.map(jnp.add, sums[0], gradients), metrics.add(sums[1], measured)), None

    # Row i goes to microbatch i mod count, so that each device cuts up its own rows.
    cut = lambda rows: jnp.moveaxis(rows.reshape(-1, count, *rows.shape[1:]), 1, 0)
    pieces = jnp.arange(count), jax.tree.map(cut, batch)
    first = jax.tree.map(lambda a: a[0], pieces)
    shapes = jax.eval_shape(lambda *a: gradient(*a), state.trained, first[1], key)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return jax.lax.scan(step, zeros, pieces)[0]


def _like(trained: Tree, optimizer: Tree, otherwise: Any) -> Tree:
    """Shardings of an optimizer's state: what mirrors a parameter lies as the parameter does."""
    parameters = tree.named_leaves(trained)

    def place(name: str, leaf: Any):
        for own, parameter in parameters.items():
            if (name == own or name.endswith("/" + own)) and leaf.shape == parameter.shape:
                return parameter.sharding
        return otherwise

    return tree.map_named(place, optimizer)
