"""A loss that is not finite, or leaps: skipped, gone back from, told, and the same when killed."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from outcomes import line, outcome
from variants import long, tried

from lm_research import log, mesh, tree
from lm_research.models import GPT2
from lm_research.objectives import Causal
from lm_research.optimizers import AdamW
from lm_research.train import divergence, loop
from lm_research.train.divergence import Divergence
from lm_research.train.experiment import Batch, Experiment
from lm_research.train.step import Trainer, train_steps

B, T, V = 8, 16, 32


def bits(state):
    return {name: np.asarray(leaf).tobytes() for name, leaf in tree.named_leaves(state).items()}


def trained(x, data, dispatch=1):
    """The state after batches [steps, B, ...], and the numbers of each."""
    with mesh.Mesh().activate():
        trainer = Trainer.of(x)
        state = trainer.init().replace(recent=divergence.recalled(x.divergence, ()))
        step = jax.jit(functools.partial(train_steps, trainer), donate_argnums=0)
        told = []
        for first in range(0, len(data["tokens"]), dispatch):
            piece = {name: rows[first : first + dispatch] for name, rows in data.items()}
            state, numbers = step(state, mesh.place(piece, leading=1))
            told.append(numbers)
        return bits(state.replace(recent=None)), jax.tree.map(
            lambda *a: np.concatenate([np.asarray(v) for v in a]), *told
        )


@pytest.mark.parametrize("dispatch", [1, 3])
def test_a_skipped_batch_was_never_there(dispatch):
    """Parameters, optimizer state, step and randomness are those of the data without it."""
    x = Experiment(
        model=GPT2(V, 16, 1, 2, context=T, dropout=0.1),
        objective=Causal(T),
        optimizer=AdamW(1e-2, warmup=3),
        batch=Batch(B),
        divergence=Divergence("skip"),
        steps=100,
    )
    tokens = np.random.default_rng(0).integers(0, V, (6, B, T + 1), np.int32)
    data = {"tokens": tokens[..., :-1], "targets": tokens[..., 1:]}
    data["weights"] = np.ones((6, B, T), np.float32)
    harmed = {name: np.insert(rows, 2, rows[0], 0) for name, rows in data.items()}
    harmed["weights"][2, 3, 0] = np.inf
    if dispatch > 1:  # as many dispatches of as many steps
        harmed = {
            name: np.concatenate([rows[:3], rows[3:], rows[:2]]) for name, rows in harmed.items()
        }
        harmed["weights"][7:] = np.nan
    got, told = trained(x, harmed, dispatch)
    want, expected = trained(x, data, dispatch)
    assert got == want
    assert told["skipped"].nonzero()[0].tolist() == [2, *range(7, len(told["skipped"]))]
    assert (told["loss"][~told["skipped"]] == expected["loss"]).all()


def test_a_spike_is_far_above_the_newest_losses():
    settings = Divergence("skip", spike=4.0)
    losses = [3.0, 3.1, 2.9, 3.0] * 4
    with mesh.single():
        judged = jax.jit(functools.partial(divergence._leaps, spike=4.0))
        early = divergence.recalled(settings, losses[:15])
        recent = divergence.recalled(settings, losses)
        assert divergence.remembered(recent) == np.float32(losses).tolist()
        assert not judged(jnp.float32(9.0), early)
        assert not judged(jnp.float32(3.2), recent) and judged(jnp.float32(3.4), recent)


@pytest.fixture
def harmed(monkeypatch):
    """Batches whose positions are in a set have infinite weights, as data may have."""
    places, draw = set(), loop.draw

    def drawn(stream, count):
        indices, rows = draw(stream, count)
        for i, first in enumerate(indices[:, 0].tolist()):
            if first in places:
                rows["weights"][i, 0, 0] = np.inf
        return indices, rows

    monkeypatch.setattr(loop, "draw", drawn)
    return places


def stopped(run, after, monkeypatch):
    """Runs, and ends without a word at draw number `after`, as if killed."""
    before, count = loop.draw, 0

    def drawn(*arguments):
        nonlocal count
        count += 1
        if count == after:
            raise KeyboardInterrupt
        return before(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "draw", drawn)
        assert run()[0] == 130


SKIP = "skip", "steps=9,every=3,dispatch=2", [(2, None), (8, None), (8, None)]
# Back to nothing from batch 1, and on at 2; step 6 is made of batch 7, step 7 not of 8.
BACK = "back", "steps=9,every=3", [(2, 0), (7, 6), (7, 6)]


@pytest.mark.parametrize("policy, knobs, skipped", tried([SKIP, BACK], [BACK]))
def test_passed_over_and_killed(tiny, tmp_path, harmed, monkeypatch, policy, knobs, skipped):
    harmed |= {8 * 1, 8 * 8, 8 * 9}
    flags = f"--config.divergence.policy={policy}", "--config.log.samples.every=3"
    status, _, err = tiny(knobs, *flags, workdir=tmp_path / "straight")
    assert status == 0 and "1 of at most 10" in err, err
    last, meta, rows, _ = straight = outcome(tmp_path / "straight")
    found = [(row["step"], row.get("back_to")) for row in rows if row["kind"] == "skipped"]
    assert (found, last) == (skipped, 9), rows
    assert [row["step"] for row in rows if row["kind"] == "train"] == list(range(1, 10))
    assert [e["step"] for e in meta["skipped"]] == [step for step, _ in skipped]
    facts = json.loads((tmp_path / "straight" / "facts.json").read_text())
    assert facts["skipped"] == meta["skipped"]
    killed = functools.partial(tiny, knobs, *flags, workdir=tmp_path / "killed")
    for after in (3, 5):
        stopped(killed, after, monkeypatch)
    assert killed()[0] == 0
    assert outcome(tmp_path / "killed") == straight


def test_too_many_batches_stop_the_run(tiny, tmp_path, harmed):
    harmed |= {8 * n for n in range(4, 30)}
    flags = "--config.divergence.policy=skip", "--config.divergence.limit=3"
    said = line(tiny("steps=9,every=2", *flags), "limit", "step 4", status=1)
    assert "after 3 others" in said and "at step 5" in said
    # What a user does then: go on, and pass over nothing, or more.
    result = tiny("steps=9,every=2", "--config.divergence.policy=skip")
    line(result, "divergence.limit: 3 -> 10", "--config.resume=changed")


@pytest.mark.parametrize(
    "field, parts",
    [
        ("policy=jump", ["divergence.policy is 'jump'", "'back'"]),
        ("limit=0", ["divergence.limit is 0"]),
        ("spike=-1", ["divergence.spike is -1"]),
        ("polcy=skip", ["'polcy'", "'policy'"]),
    ],
)
def test_mistakes(tiny, field, parts):
    line(tiny("", f"--config.divergence.{field}"), *parts)


def test_checkpoints_to_go_back_to_must_be_kept(tiny):
    flags = "--config.divergence.policy=back", "--config.divergence.back=9"
    line(tiny("", *flags), "divergence.back is 9", "checkpoint.keep takes 4")


@long
def test_a_run_from_before_there_was_a_choice_goes_on(tiny, tmp_path):
    assert tiny("steps=2,every=2")[0] == 0
    path = tmp_path / "run" / "config.json"
    stored = json.loads(path.read_text())
    del stored["divergence"]
    path.write_text(json.dumps(stored))
    status, _, err = tiny("steps=2,every=2")
    assert status == 0 and "going on at step 2" in err
    flags = "--config.divergence.spike=3", "--config.resume=changed"
    assert tiny("steps=4,every=2", *flags)[0] == 0
    rows = [row["step"] for row in log.rows(tmp_path / "run") if row["kind"] == "train"]
    assert rows == [1, 2, 3, 4]
