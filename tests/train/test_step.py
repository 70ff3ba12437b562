"""The training step: microbatches, dispatches and meshes change nothing."""

import dataclasses
import functools
import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from variants import tried

from lm_research import log, mesh, tree
from lm_research.errors import UserError
from lm_research.models import GPT2, Llama
from lm_research.objectives import Causal
from lm_research.optimizers import Adafactor, AdamW, Averaged, Lion, Muon
from lm_research.train import ordered
from lm_research.train.experiment import Batch, Experiment
from lm_research.train.step import Trainer, train_steps
from lm_research.weights import LoRA, Part

B, T, V = 8, 16, 64
MODELS = {
    "gpt2": GPT2(V, 32, 2, 4, context=T),
    "llama": Llama(V, 32, 2, 4, 2, hidden=48, head_norms=True),
}


def experiment(**changes):
    fields = dict(
        model=MODELS["llama"],
        objective=Causal(T),
        optimizer=AdamW(1e-2, shape="constant"),
        batch=Batch(B),
        steps=100,
    )
    return Experiment(**{**fields, **changes})


def batches(steps=5):
    """Uneven: every example has its own number of targets."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, V, (steps, B, T + 1), np.int32)
    weights = (np.arange(T) < rng.integers(1, T + 1, (steps, B, 1))).astype(np.float32)
    return {"tokens": tokens[..., :-1], "targets": tokens[..., 1:], "weights": weights}


def run(x, sizes=types.MappingProxyType({}), steps=5, dispatch=1):
    """Losses of each step, and the trained weights at the end."""
    with mesh.Mesh(**sizes).activate(jax.devices()[: math.prod(sizes.values())]):
        trainer = Trainer.of(x)
        state, losses = trainer.init(), []
        step = jax.jit(functools.partial(train_steps, trainer), donate_argnums=0)
        for i in range(0, steps, dispatch):
            piece = {name: rows[i : i + dispatch] for name, rows in batches(steps).items()}
            state, numbers = step(state, mesh.place(piece, leading=1))
            losses += numbers["loss"].tolist()
        return losses, jax.device_get(x.weights.join(state.trained, state.held))


@functools.cache
def expected(name="llama"):
    """Of a run on one device."""
    return run(experiment(model=MODELS[name]))


def close(left, right, tolerance):
    for (name, a), b in zip(tree.named_leaves(left).items(), jax.tree.leaves(right)):
        assert np.abs(a - b).max() <= tolerance, name


@pytest.mark.parametrize("count", [2, 4])
def test_microbatches_are_exact_with_uneven_lengths(count):
    want_losses, want = expected()
    losses, got = run(experiment(batch=Batch(B, microbatches=count)))
    np.testing.assert_allclose(losses, want_losses, rtol=1e-5)
    close(got, want, 2e-4)


def test_several_steps_a_dispatch_are_the_same_steps():
    # Adam makes a whole step of a gradient that is all but zero, and so of how it was rounded.
    adam = AdamW(1e-2, shape="constant", epsilon=1e-6)
    x = experiment(optimizer=adam)
    want_losses, want = run(x, steps=6)
    losses, got = run(x, steps=6, dispatch=3)
    np.testing.assert_allclose(losses, want_losses, rtol=1e-6)
    close(got, want, 1e-5)


MESHES = [
    dict(data=8),
    dict(fsdp=8),
    dict(data=2, fsdp=2, tensor=2),
    dict(sequence=4),
    dict(data=2, sequence=2, tensor=2),
    dict(fsdp=2, pipeline=2),
]


@pytest.mark.parametrize(
    "name, sizes",
    tried(
        [(name, sizes) for name in MODELS for sizes in MESHES],
        [("gpt2", MESHES[-1]), *(("llama", MESHES[i]) for i in (0, 4))],
    ),
    ids=str,
)
def test_eight_devices_equal_one(name, sizes):
    want, _ = expected(name)
    got, _ = run(experiment(model=MODELS[name]), sizes)
    np.testing.assert_allclose(got, want, rtol=1e-5)


CHOICES = {
    "lora": dict(weights=LoRA(rank=2)),
    "part": dict(weights=Part("mlp")),
    "muon": dict(optimizer=Muon(1e-2)),
    "averaged lion": dict(optimizer=Averaged(Lion(1e-3))),
    "adafactor": dict(optimizer=Adafactor(1e-2)),
}


@pytest.mark.parametrize("name", tried(CHOICES, ["lora", "muon"]))
def test_choices_train_on_a_mesh_as_on_one_device(name):
    changes = CHOICES[name]
    want, _ = run(experiment(**changes))
    got, _ = run(experiment(**changes), dict(data=2, fsdp=2, tensor=2))
    assert want[-1] < want[0] or "weights" in changes
    np.testing.assert_allclose(got, want, rtol=2e-5)


def test_ordered_sums_have_the_same_bits_on_all_meshes_of_rows(optimized):
    """Also where devices hold parts of parameters; and the sums are what others are.

    Where XLA does not optimize, it rounds an update by how its array was laid out before.
    """
    x = experiment(model=GPT2(V, 16, 1, 2, context=T), reductions="ordered")
    want, weights = run(x, steps=3)
    losses, got = run(x, dict(data=2, fsdp=4), steps=3)
    assert losses == want
    close(got, weights, 0)
    usual, _ = run(experiment(model=x.model), steps=3)
    np.testing.assert_allclose(want, usual, rtol=1e-5)


def test_sums_that_cannot_be_ordered_are_refused():
    with mesh.Mesh(4, 1, 2).activate(), pytest.raises(UserError, match="mesh has tensor=2"):
        ordered.check(8)
    with mesh.Mesh(8).activate(), pytest.raises(UserError, match="multiple of 8"):
        ordered.check(12)


def test_slices_are_blocks_of_data():
    placed = mesh.Mesh(data=4, tensor=2, slices=2)
    with placed.activate() as made:
        first, second = np.split(np.vectorize(lambda d: d.id)(made.devices), 2)
        assert sorted(first.ravel()) == [0, 1, 2, 3] and sorted(second.ravel()) == [4, 5, 6, 7]
    with pytest.raises(UserError, match=r"slices is 3; it takes a divisor of mesh\.data"):
        mesh.Mesh(data=4, tensor=2, slices=3).sizes(8)


def test_tpus_in_several_slices_are_not_taken_for_one():
    device = dataclasses.make_dataclass("Device", ["slice_index", ("platform", str, "tpu")])
    made = mesh.Mesh(data=4).activate([device(0), device(0), device(1), device(1)])
    with pytest.raises(UserError, match=r"in 2 slices .* give --config\.mesh\.slices=2"), made:
        pass


def test_a_vocabulary_that_does_not_divide_is_whole_and_told():
    """As GPT-2's of 50257 is."""
    x = experiment(model=GPT2(V + 1, 16, 1, 2, context=T))
    want, weights = run(x, steps=2)
    log.forget()
    losses, got = run(x, dict(fsdp=4, tensor=2), steps=2)
    np.testing.assert_allclose(losses, want, rtol=1e-5)
    close(got, weights, 1e-4)
    (told,) = log.facts()["fallbacks"]
    assert told["asked"] == f"a vocabulary of {V + 1} cut along mesh axis tensor"


def test_moments_lie_as_their_parameters_do():
    with mesh.Mesh(2, 2, 2).activate():
        state = Trainer.of(experiment()).abstract()
    trained = tree.named_leaves(state.trained)
    moments = {n: leaf for n, leaf in tree.named_leaves(state.optimizer).items() if "/mu/" in n}
    assert len(moments) == len(trained)
    for name, leaf in moments.items():
        assert leaf.sharding == trained[name.split("/mu/")[1]].sharding
    assert "tensor" in str(trained["stack/blocks/mlp/up/kernel"].sharding.spec)
    assert "fsdp" in str(trained["stack/blocks/mlp/up/kernel"].sharding.spec)


def test_a_mesh_that_does_not_divide_is_refused():
    x = experiment(model=GPT2(V, 36, 2, 3, context=T))
    with (
        mesh.Mesh(1, 1, 8).activate(),
        pytest.raises(UserError, match=r"has 3 heads, .* tensor = 8"),
    ):
        Trainer.of(x).abstract()
    with mesh.Mesh(8).activate(), pytest.raises(UserError, match="multiple of 8"):
        mesh.check_batch(6)
    with pytest.raises(UserError, match="does not make 8 devices"):
        mesh.Mesh(3).sizes(8)


def test_dropout_differs_by_step_and_repeats_by_seed():
    x = experiment(model=GPT2(V, 32, 2, 4, context=T, dropout=0.5))
    first, _ = run(x)
    again, _ = run(x)
    other, _ = run(experiment(model=x.model, seed=1))
    assert first == again and first != other


def test_starting_from_given_parameters():
    with mesh.single():
        trainer = Trainer.of(experiment(weights=LoRA(rank=2)))
        params = jax.tree.map(lambda a: a + 1, trainer.init().held)
        state = trainer.init(params)
        close(state.held, params, 0)
        joined = trainer.experiment.weights.join(state.trained, state.held)
        close(joined, params, 1e-6)
        assert dataclasses.asdict(trainer.experiment.batch)["size"] == B and jnp.all(
            state.step == 0
        )
