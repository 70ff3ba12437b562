"""Fine-tuning: where a classifier starts, how long it goes on, and which of its steps is kept."""

import json
import os
import signal

import jax
import numpy as np
import pytest

from lm_research import config, mesh, tree
from lm_research.commands import config_flag
from lm_research.data import Bytes
from lm_research.errors import UserError
from lm_research.models.initial import initial
from lm_research.train import loop, restore
from lm_research.train.best import Best
from lm_research.train.checkpoint import Checkpoint
from lm_research.train.duration import steps_of, timed
from lm_research.train.experiment import CONTENTS
from tests.test_configs import CONFIGS

ROWS = "text\tlabel\n" + "".join(
    f"{word} {other} here\t{label}\n"
    for other in ("cat", "dog", "bird", "hill", "mat")
    for word, label in (("good", "yes"), ("bad", "no"), ("fine", "yes"), ("poor", "no"))
)
KNOBS = "width=16,layers=1,heads=2,vocab=261,length=16,batch=8,epochs=4,dropout=0.0"


@pytest.fixture
def finetune(tmp_path):
    """Trains with `configs/finetune/classify.py`; the exit status."""
    (tmp_path / "table.tsv").write_text(ROWS)

    def run(name="run", knobs="", **fields):
        given = config_flag.loaded(f"{CONFIGS}/finetune/classify.py:{KNOBS}{knobs}")
        told = {"data.source.paths": str(tmp_path / "table.tsv"), "log.tensorboard": False}
        with given.unlocked():
            given.update_from_flattened_dict(told | fields)
        return loop.train(given, tmp_path / name)

    return run


def rows(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def opened(path):
    with mesh.single():
        loaded = restore.open_checkpoint(path)
        return loaded, {name: np.asarray(x) for name, x in tree.named_leaves(loaded.params).items()}


def test_starts_from_a_pretrained_trunk(tmp_path, finetune, capfd):
    """Of a masked model the trunk is taken to the bit; its pooler too, where it has one."""
    section = dict(kind="BERT", vocab=261, width=16, layers=1, heads=2, pair=True)
    model = config.build(section, CONTENTS, "model")
    tokenizer = Bytes(("mask", "cls", "sep")).train(())
    params = tree.unboxed(initial(model, jax.random.key(3)))
    with mesh.single():
        loaded = restore.Loaded(model, params, tokenizer, section)
        restore.save_run(tmp_path / "bert", loaded)
    before = {name: np.asarray(leaf) for name, leaf in tree.named_leaves(params).items()}
    capfd.readouterr()
    # Nothing moves: what the run holds is what it began with.
    finetune(**{"init": str(tmp_path / "bert"), "optimizer.peak": 0.0, "optimizer.decay": 0.0})
    loaded, after = opened(tmp_path / "run")
    trunk = {name.removeprefix("trunk/"): x for name, x in after.items() if "trunk/" in name}
    assert trunk and all(np.array_equal(before[name], x) for name, x in trunk.items())
    for name in ("kernel", "bias"):
        assert np.array_equal(after[f"dense/{name}"], before[f"pooler/dense/{name}"])
    assert "asked for bias, kernel, got drawn anew" in "".join(capfd.readouterr())
    assert json.loads((tmp_path / "run" / "facts.json").read_text())["init"]["drawn"]
    assert loaded.tokenizer.hash == tokenizer.hash


def test_goes_on_from_a_classifier_or_says_why_not(tmp_path, finetune):
    finetune()
    _, before = opened(tmp_path / "run")
    still = {"init": str(tmp_path / "run"), "optimizer.peak": 0.0}
    finetune("again", **still)
    _, after = opened(tmp_path / "again")
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert {"kernel", "dense/kernel"} < set(before)
    with pytest.raises(UserError, match=r"model.classes is no, yes, and the data's classes are a"):
        finetune("other", **still, **{"data.classes": ("a", "no", "yes")})


def test_epochs_and_shares_are_steps(tmp_path, finetune):
    """18 records of 20, in batches of 8, four times: nine steps."""
    finetune(knobs=",evaluations=0.5")
    stored = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (stored["steps"], stored["batch"]["epochs"]) == (9, 4.0)
    assert stored["optimizer"]["warmup"] == 1 and stored["evals"]["heldout"]["every"] == 4
    assert [row["step"] for row in rows(tmp_path / "run") if "heldout/accuracy" in row] == [4, 8, 9]
    assert steps_of({"batch": {"size": 16, "epochs": 3.0}}, 100) == 19  # 18.75
    sections = {name: {} for name in ("evals", "checkpoint", "log")}
    given = {"optimizer": {"optimizer": {"warmup": 0.1}}, **sections}
    assert timed(given, 200)["optimizer"] == {"optimizer": {"warmup": 20}}
    with pytest.raises(UserError, match=r"optimizer.warmup is 1.5; it takes a number of steps, or"):
        timed({"optimizer": {"warmup": 1.5}, **sections}, 200)
    with pytest.raises(UserError, match=r"the config has both of steps and batch.epochs"):
        finetune("both", steps=3)


def test_best_waits_and_knows_what_it_saw():
    settings = Checkpoint(best="heldout/accuracy", patience=2)
    best, values = Best.after(settings, {}), [0.5, 0.7, float("nan"), 0.7, 0.9]
    seen = []
    for step, value in enumerate(values):
        assert not best.improves(step, "other", {})
        seen.append((best.improves(step, "heldout", {"accuracy": value}), best.exhausted))
        best = Best.after(settings, json.loads(json.dumps(best.facts)))
    assert seen == [(True, False), (True, False), (False, False), (False, True), (True, False)]
    lower = Best.after(Checkpoint(best="heldout/loss", better="lower"), best.facts)
    assert lower.value is None and lower.improves(1, "heldout", {"loss": 2.0})
    assert not lower.improves(2, "heldout", {"loss": 3.0})
    with pytest.raises(UserError, match=r"'heldout/loss', and evals.heldout gives accuracy"):
        lower.improves(3, "heldout", {"accuracy": 1.0})


def test_ends_when_nothing_gets_better(tmp_path, finetune, capfd):
    """With a rate of nothing, the first evaluation stays the best one, and is what is opened."""
    fields = {"optimizer.peak": 0.0, "checkpoint.patience": 2, "evals.heldout.every": 1}
    assert finetune(**fields) == 0
    assert rows(tmp_path / "run")[-1]["step"] == 3
    told = capfd.readouterr().out
    assert "at step 1, with which the run is opened" in told
    assert "stopped early at step 3: none better in 2 evaluations" in told
    assert opened(tmp_path / "run")[0].step == 1
    assert finetune(**fields) == 0 and rows(tmp_path / "run")[-1]["step"] == 3


def test_killed_and_resumed_has_the_same_best(tmp_path, finetune, monkeypatch):
    draws, draw = [], loop.draw

    def stopping(*arguments):
        draws.append(arguments)
        if len(draws) == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return draw(*arguments)

    fields = {"optimizer.peak": 0.02, "evals.heldout.every": 2, "checkpoint.best": "heldout/loss"}
    fields |= {"checkpoint.better": "lower", "checkpoint.every": 3}
    finetune("whole", **fields)
    monkeypatch.setattr(loop, "draw", stopping)
    assert finetune("killed", **fields) == loop.RESUME
    assert finetune("killed", **fields) == 0
    (one, whole), (two, killed) = opened(tmp_path / "whole"), opened(tmp_path / "killed")
    assert one.step == two.step and all(np.array_equal(whole[n], killed[n]) for n in whole)
    losses = {r["step"]: r["heldout/loss"] for r in rows(tmp_path / "whole") if "heldout/loss" in r}
    assert one.step == min(losses, key=losses.get)


def test_the_evaluator_of_the_best_must_be_there(finetune):
    with pytest.raises(UserError, match=r"checkpoint.best is 'dev/accuracy'; it takes one of the"):
        finetune(**{"checkpoint.best": "dev/accuracy"})
    assert jax.process_count() == 1
