"""The loop in one process: what a run leaves, what it refuses, how it starts and stops."""

import json
import re
import resource
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from outcomes import line

from lm_research import mesh
from lm_research.data import pipeline
from lm_research.train import loop, restore
from lm_research.train.checkpoint import Checkpoints
from lm_research.train.journal import drop_samples


def metrics(workdir, kind="train"):
    rows = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [row for row in rows if row["kind"] == kind]


def contents(workdir):
    """Every file of a run, but for locks and logs of events."""
    files = (path for path in workdir.rglob("*") if path.is_file() and path.name != ".lock")
    return {path.relative_to(workdir): path.read_bytes() for path in files}


@pytest.fixture
def finished(tiny, tmp_path, finished_runs):
    """A copy of a run of four steps, saved after two and four."""
    if not finished_runs.get("run"):
        status, out, err = tiny("steps=4,every=2")
        assert status == 0, err
        finished_runs["run"] = tmp_path / "run"
        finished_runs["printed"] = out, err
    # Flags name the text and the workdir, and the config of a run has the first of them.
    paths = finished_runs["run"].parent / "text.txt"
    copy = tmp_path / "copy"
    shutil.copytree(finished_runs["run"], copy)
    return copy, paths


@pytest.fixture(scope="module")
def finished_runs():
    return {}


def test_a_run_leaves_everything(finished, finished_runs):
    workdir, _ = finished
    out, err = finished_runs["printed"]
    names = "config.json facts.json metrics.jsonl checkpoints samples.md report.html tokenizer data"
    assert {path.name for path in workdir.iterdir()} == set(names.split())
    config = json.loads((workdir / "config.json").read_text())
    assert config["model"]["vocab"] == 257 and config["checkpoint"]["kind"] == "Checkpoint"
    facts = json.loads((workdir / "facts.json").read_text())
    for name in "versions git data parameters flops_per_token flops_convention devices".split():
        assert name in facts
    assert facts["unused_sharding_rules"] == [] and facts["fallbacks"] == []
    train = metrics(workdir)
    assert [row["step"] for row in train] == [1, 2, 3, 4]
    for name in ("loss", "gradient_norm", "parameter_norm", "learning_rate", "tokens_per_second"):
        assert all(np.isfinite(row[name]) for row in train)
    assert train[-1]["loss"] < train[0]["loss"]
    held = metrics(workdir, "eval")
    assert [row["step"] for row in held] == [2, 4] and "heldout/bits_per_byte" in held[0]
    assert (workdir / "samples.md").read_text().startswith("## step 2\n\n> ****")
    assert "next: python -m lm_research generate" in out and "held-out bits per byte" in out
    assert "step 4/4" in err


def test_samples_after_a_step_are_dropped_and_texts_are_no_headings(tmp_path):
    path = tmp_path / "samples.md"
    kept = "## step 2\n\n> ****one\n> ## step 9\n> two\r\n\n\n"
    path.write_bytes((kept + "## step 4\n\n> ****thr").encode())  # torn
    drop_samples(path, 4)
    assert "thr" in path.read_text()
    drop_samples(path, 2)
    assert path.read_bytes() == kept.encode()
    drop_samples(path, 0)
    assert path.read_bytes() == b""


def test_another_config_is_refused_and_nothing_is_touched(tiny, finished):
    workdir, paths = finished
    before = contents(workdir)
    other = ("--config.model.width=8", "--config.data.heldout=0.2")
    said = line(tiny("steps=4,every=2", *other, workdir=workdir, paths=paths), "another config")
    assert "model.width: 16 -> 8" in said and "data.heldout: 0.1 -> 0.2" in said
    assert str(workdir) in said and "--config.resume=changed" in said
    result = tiny("steps=4,every=2", *other, name="prepare", workdir=workdir, paths=paths)
    line(result, "model.width: 16 -> 8")
    assert contents(workdir) == before


def test_another_text_is_refused(tiny, finished, tmp_path):
    workdir, _ = finished
    config = workdir / "config.json"
    paths = tmp_path / "other.txt"
    stored = json.loads(config.read_text())
    stored["data"]["source"]["paths"] = str(paths)
    config.write_text(json.dumps(stored))
    paths.write_text("Something else altogether, which nobody has read before.\n" * 60)
    before = (workdir / "tokenizer" / "tokenizer.json").read_bytes()
    line(tiny("steps=4,every=2", workdir=workdir, paths=paths), "another text")
    assert (workdir / "tokenizer" / "tokenizer.json").read_bytes() == before


def test_a_run_lives_by_the_text_that_it_was_prepared_from(tiny, tmp_path, command):
    """The text may be gone, and `evaluate` never looks at it."""
    run, paths = tmp_path / "run", tmp_path / "text.txt"
    assert tiny("steps=2,every=2")[0] == 0
    expected = command("evaluate", f"--checkpoint={run}")
    assert expected[0] == 0
    paths.write_text("Something else altogether, which nobody has read before.\n" * 60)
    before = contents(run)
    assert command("evaluate", f"--checkpoint={run}") == expected
    line(tiny("steps=2,every=2", paths=paths), "another text")
    assert contents(run) == before
    paths.unlink()
    assert command("evaluate", f"--checkpoint={run}") == expected
    status, _, err = tiny("steps=2,every=2", paths=paths)
    assert status == 0 and "a look at the text of the run" in err and "going on at step 2" in err


def test_a_run_needs_what_it_began_from_no_more(tiny, tmp_path, gpt2, command):
    run, more = tmp_path / "run", (f"--config.init={gpt2}", "--config.log.samples.every=0")
    assert tiny("steps=2,every=2", *more)[0] == 0
    expected = command("evaluate", f"--checkpoint={run}")
    shutil.rmtree(gpt2)
    assert command("evaluate", f"--checkpoint={run}") == expected
    status, _, err = tiny("steps=2,every=2", *more)
    assert status == 0 and "going on at step 2" in err, err


def test_what_changes_no_number_may_change(tiny, finished):
    workdir, paths = finished
    more = ("--config.log.every=2", "--config.checkpoint.keep=1", "--config.evals.heldout.every=3")
    assert tiny("steps=4,every=2", *more, workdir=workdir, paths=paths)[0] == 0


def test_a_changed_config_goes_on_when_asked(tiny, finished):
    workdir, paths = finished
    changed = ("--config.resume=changed", "--config.optimizer.peak=0.02")
    status, _, err = tiny("steps=6,every=2", *changed, workdir=workdir, paths=paths)
    assert status == 0 and "going on at step 4" in err
    assert [row["step"] for row in metrics(workdir)] == [1, 2, 3, 4, 5, 6]
    facts = json.loads((workdir / "facts.json").read_text())
    assert "optimizer.peak: 0.01 -> 0.02" in facts["config_changed"]


def test_a_hugging_face_directory_is_no_workdir(tiny, tmp_path):
    workdir = tmp_path / "run"
    workdir.mkdir()
    (workdir / "config.json").write_text('{"model_type": "gpt2"}')
    line(tiny(workdir=workdir), "Hugging Face directory", "another --workdir")
    assert contents(workdir) == {Path("config.json"): b'{"model_type": "gpt2"}'}


def first_loss(directory, workdir):
    """The loss of the model in `directory` on the first batch of a run."""
    stored = restore.stored_config(workdir)
    x = loop.experiment(stored)
    data = x.data.prepare(workdir / "data", x.objective.length)
    with pipeline.batches(data.train, x.objective, seed=x.seed, size=x.batch.size) as batches:
        _, batch = next(batches)
    with mesh.single():
        loaded = restore.open_checkpoint(directory)
        return float(
            jax.jit(x.objective.measure, static_argnums=0)(loaded.model, loaded.params, batch)[
                "loss"
            ].value()
        )


def test_lora_on_a_run(tiny, tmp_path, finished):
    """The factors start at nothing, train, and are merged into what is loaded again."""
    first, paths = finished
    code = Path(__file__).parents[1] / "tiny.py"
    lora = tmp_path / "lora.py"
    lora.write_text(code.read_text().replace('kind="Full"', 'kind="LoRA", rank=2'))
    workdir = tmp_path / "lora"
    status, _, err = tiny(
        "steps=2,every=2",
        f"--config.init={first}",
        "--config.batch.size=16",
        workdir=workdir,
        paths=paths,
        config=lora,
    )
    assert status == 0, err
    np.testing.assert_allclose(metrics(workdir)[0]["loss"], first_loss(first, workdir), rtol=1e-5)
    with mesh.single():
        before, after = (restore.open_checkpoint(path).params for path in (first, workdir))
    changed = jax.tree.map(lambda a, b: bool((a != b).any()), before, after)
    assert changed["stack"]["blocks"]["attention"]["query"]["kernel"]
    assert not changed["embedding"]["table"]


@pytest.fixture
def gpt2(tmp_path):
    """A Hugging Face directory with a tiny GPT-2 and a tokenizer of bytes."""
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from lm_research.data import Bytes

    directory = tmp_path / "gpt2"
    sizes = dict(vocab_size=257, n_embd=16, n_layer=1, n_head=2, n_positions=16)
    config = transformers.GPT2Config(**sizes, bos_token_id=256, eos_token_id=256)
    transformers.GPT2LMHeadModel(config).save_pretrained(directory)
    Bytes().train(()).save(directory)
    return directory


def test_a_hugging_face_directory_as_a_start(tiny, tmp_path, gpt2):
    status, _, err = tiny(
        "steps=2,every=2", f"--config.init={gpt2}", "--config.log.samples.every=0"
    )
    assert status == 0, err
    run = tmp_path / "run"
    np.testing.assert_allclose(metrics(run)[0]["loss"], first_loss(gpt2, run), rtol=1e-5)
    assert restore.stored_config(run)["data"]["tokenizer"]["path"] == str(gpt2)


@pytest.mark.parametrize(
    "harm, parts",
    [
        ("missing", ["missing: transformer.h.0.attn.c_attn.weight"]),
        ("shape", ["wrong shape: transformer.wpe.weight", "[8, 16]", "[16, 16]"]),
        ("architecture", ["FalconForCausalLM", "GPT2LMHeadModel"]),
        ("weights", ["model.safetensors"]),
    ],
)
def test_a_hugging_face_directory_that_is_refused(tiny, tmp_path, gpt2, harm, parts):
    from safetensors.numpy import load_file, save_file

    path = gpt2 / "model.safetensors"
    tensors = {name: np.ascontiguousarray(value) for name, value in load_file(path).items()}
    if harm == "missing":
        del tensors["transformer.h.0.attn.c_attn.weight"]
    if harm == "shape":
        tensors["transformer.wpe.weight"] = tensors["transformer.wpe.weight"][:8].copy()
    save_file(tensors, path, metadata={"format": "pt"})
    if harm == "weights":
        path.unlink()
    if harm == "architecture":
        config = json.loads((gpt2 / "config.json").read_text())
        config |= {"architectures": ["FalconForCausalLM"], "model_type": "falcon"}
        (gpt2 / "config.json").write_text(json.dumps(config))
    line(tiny("steps=2,every=2", f"--config.init={gpt2}"), str(gpt2), *parts)
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_loss_that_is_not_finite_stops_at_its_step(tiny, tmp_path):
    result = tiny("steps=8,every=1", "--config.optimizer.peak=1e30", "--config.log.samples.every=0")
    said = line(result, "last good checkpoint", status=1)
    step, indices, good = re.search(
        r"at step (\d+) the loss is .* indices \[([\d, ]+)\]; .* is step (\d+) in", said
    ).groups()
    assert int(good) == int(step) - 1
    first = 8 * (int(step) - 1)
    assert indices == ", ".join(map(str, range(first, first + 8)))
    last = metrics(tmp_path / "run")[-1]
    assert last["step"] == int(step) and "loss" in last["nonfinite"]


def test_a_full_disk_stops_with_the_last_good_step(tiny, tmp_path, monkeypatch):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    save = Checkpoints.save

    def full(self, step, *arguments, **more):
        if step == 4:
            self.wait()
            resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
        return save(self, step, *arguments, **more)

    monkeypatch.setattr(Checkpoints, "save", full)
    try:
        flags = "--config.log.samples.every=0", "--config.checkpoint.retries=0"
        result = tiny("steps=6,every=2", *flags)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    line(result, "last good checkpoint is step 2", status=1)
    monkeypatch.undo()
    assert {p.name for p in (tmp_path / "run" / "checkpoints").iterdir()} == {"2"}
    status, _, err = tiny("steps=6,every=2", "--config.log.samples.every=0")
    assert status == 0 and "going on at step 2" in err
    assert [row["step"] for row in metrics(tmp_path / "run")] == [1, 2, 3, 4, 5, 6]


def test_dispatches_end_where_something_happens():
    from types import SimpleNamespace as Settings

    x = Settings(
        steps=14,
        batch=Settings(steps_per_dispatch=5),
        checkpoint=Settings(every=4),
        log=Settings(samples=Settings(every=0)),
        evals={"heldout": Settings(every=6)},
    )
    ends, step = [], 0
    while step < x.steps:
        step = loop.next_event(x, step)
        ends.append(step)
    assert ends == [4, 5, 6, 8, 10, 12, 14]
    assert [loop.next_event(x, step) for step in (1, 4, 7, 13)] == [4, 5, 8, 14]
