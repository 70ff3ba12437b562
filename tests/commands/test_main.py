"""The command line: every mistake is one line that names what was given and what would do."""

import json
import os
import subprocess
import sys
import time

import pytest

from lm_research.commands import train


def refused(result, *parts, status=2):
    """Checks that a command printed one line alone, with `parts` in it."""
    got, out, err = result
    lines = err.splitlines()
    assert got == status and not out and len(lines) == 1, result
    assert lines[0].startswith("lm_research: ") and "Traceback" not in lines[0]
    for part in parts:
        assert part in lines[0]


@pytest.mark.parametrize(
    "arguments, parts",
    [
        (["trian"], ["'trian'", "'train'"]),
        (["train", "--confg=x"], ["'confg'", "'config'"]),
        (["train", "--config=tests/tiny.py", "--wokdir=x"], ["'wokdir'", "'workdir'"]),
        (["train"], ["--config and --workdir", "--help"]),
        (["train", "--workdir=x"], ["needs --config"]),
        (["report"], ["needs --workdir"]),
        (["train", "--config=none.py", "--workdir=x"], ["--config=none.py", "does not exist"]),
        (["train", "--config=.", "--workdir=x"], [". is not a file"]),
    ],
    ids=lambda value: " ".join(value) if value and value[0] in ("train", "report") else "",
)
def test_commands_and_flags(command, arguments, parts):
    refused(command(*arguments), *parts)


@pytest.mark.parametrize(
    "code, parts",
    [
        ("def get_config(arg=''):\n    return 1 / 0\n", ["line 2", "ZeroDivisionError"]),
        ("def get_config(arg=''):\n    return int('x')\n", ["line 2", "ValueError", "'x'"]),
        ("import nosuch\n", ["line 1", "No module named 'nosuch'"]),
        ("\ndef get_config(arg=''\n", ["line 2", "SyntaxError"]),
        ("x = 1\n", ["no function get_config"]),
        ("def get_config(arg=''):\n    pass\n", ["NoneType", "ConfigDict"]),
        (
            "from ml_collections import ConfigDict\n"
            "def get_config(arg=''):\n    return ConfigDict(dict(model=dict(kind='GPT2')))\n",
            ["lacks objective, data"],
        ),
    ],
)
def test_config_files(command, tmp_path, code, parts):
    path = tmp_path / "mine.py"
    path.write_text(code)
    where = [] if "lacks" in parts[0] else [str(path)]
    refused(command("train", f"--config={path}", f"--workdir={tmp_path / 'run'}"), *where, *parts)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "field, parts",
    [
        ("modle.width=3", ["'modle'", "'model'"]),
        ("model.widht=3", ["config.model", "'widht'", "'width'"]),
        ("model.dropuot=0.1", ["config.model", "'dropuot'", "'dropout'"]),
        ("model.deviatoin=0.1", ["config.model", "'deviatoin'", "'deviation'"]),
        ("model.deviation=small", ["--config.model.deviation=small", "float"]),
        ("model.execution=fast", ["model.execution is 'fast'", "'auto' or 'scan'"]),
        ("model.width.size=3", ["model.width is 16", "not a section"]),
        ("model=3", ["model is a section", "--config.model."]),
        ("model.kind=GPT3", ["model.kind", "'GPT3'", "'GPT2'"]),
        ("model.kind=AdamW", ["model.kind", "'AdamW'", "GPT2, "]),
        ("steps=many", ["--config.steps=many", "int"]),
        ("steps=1.5", ["--config.steps=1.5", "int"]),
        ("optimizer.peak=fast", ["--config.optimizer.peak=fast", "float"]),
        ("log.tensorboard=perhaps", ["--config.log.tensorboard=perhaps", "bool"]),
        ("model.vocab=abc", ["--config.model.vocab=abc", "int"]),
        ("resume=perhaps", ["resume is 'perhaps'", "'same' or 'changed'"]),
        ("steps=-1", ["steps is -1", "from 0"]),
        ("seed=4294967296", ["seed", "4294967296"]),
        ("evals.heldout.every=0", ["evals.heldout.every is 0", "from 1"]),
        ("log.every=0", ["log.every is 0", "from 1"]),
        ("log.samples.every=-1", ["log.samples.every is -1", "from 0"]),
        ("log.samples.length=0", ["log.samples.length is 0", "from 1"]),
        ("checkpoint.every=-1", ["checkpoint.every is -1", "0 or more"]),
        ("checkpoint.keep=0", ["checkpoint.keep 0", "1 or more"]),
        ("batch.size=0", ["batch.size is 0"]),
        ("batch.steps_per_dispatch=0", ["batch.steps_per_dispatch is 0"]),
        ("batch.microbatches=3", ["batch.size 8", "batch.microbatches 3"]),
        ("batch.shards=0", ["batch.shards is 0"]),
        ("batch.size=12", ["12 rows", "multiple of 8"]),
        ("objective.length=0", ["objective.length is 0"]),
        ("objective.length=17", ["objective.length 17", "16 positions", "model.context"]),
        ("model.layers=0", ["model.layers is 0"]),
        ("model.width=15", ["width 15", "heads 2"]),
        ("model.vocab=20", ["model.vocab is 20", "257 tokens"]),
        ("log.samples.length=16", ["the prompt ''", "log.samples.length 16", "context is 16"]),
        ("mesh.data=3", ["data=3", "8 devices"]),
        ("optimizer.warmup=-1", ["warmup is -1"]),
        ("evals.heldout.batches=0", ["evals.heldout", "batches is 0", "from 1"]),
        ("data.heldout=2.0", ["data.heldout is 2.0"]),
        ("init=/nonexistent", ["/nonexistent is not a directory"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_fields(tiny, tmp_path, field, parts):
    refused(tiny("", f"--config.{field}"), *parts)
    assert not (tmp_path / "run" / "config.json").exists()  # so that a second try is no other run


def test_fields_before_the_file(command):
    result = command("train", "--config.modle.width=3", "--config=tests/tiny.py", "--workdir=run")
    refused(result, "'modle'", "'model'")
    refused(command("train", "--config.modle=3", "--config", "tests/tiny.py"), "'modle'", "'model'")


def test_fields_that_the_file_leaves_out(tiny, tmp_path):
    """Numbers, a whole one too, and a choice: they are the run's from then on."""
    fields = "model.deviation=1", "optimizer.clip=0.5", "model.execution=scan"
    given = [f"--config.{field}" for field in fields]
    assert tiny("steps=1,every=0", *given, "--config.evals.heldout.every=1")[0] == 0
    stored = json.loads((tmp_path / "run" / "config.json").read_text())
    assert stored["model"]["deviation"] == 1.0 and stored["model"]["execution"] == "scan"
    assert stored["optimizer"]["clip"] == 0.5


def test_heads_that_the_mesh_does_not_divide(tiny):
    result = tiny("", "--config.mesh.tensor=4", "--config.model.vocab=260")
    refused(result, "has 2 heads", "mesh axis tensor = 4 does not divide")


@pytest.mark.parametrize(
    "knobs, parts",
    [
        ("stps=3", ["'stps'", "'steps'"]),
        ("steps=a", ["steps='a'", "int"]),
        ("steps", ["'steps' lacks a value", "steps=12"]),
    ],
)
def test_knobs(tiny, knobs, parts):
    refused(tiny(knobs), *parts)


def test_positional_arguments_and_a_file_as_workdir(tiny, tmp_path):
    refused(tiny("", "more"), "takes flags only", "'more'")
    (tmp_path / "file").write_text("")
    refused(tiny(workdir=tmp_path / "file"), "file is a file")


@pytest.mark.parametrize(
    "name, content, parts",
    [
        ("empty.txt", b"", ["empty.txt is empty"]),
        ("binary.txt", b"abc\0\1\2" * 100, ["binary.txt is binary", "at 3"]),
        ("latin.txt", b"caf\xe9 " * 100, ["latin.txt is not UTF-8", "0xe9", "offset 3"]),
        ("short.txt", b"short text", ["fewer than one sequence of 16", "objective.length"]),
        ("wrong.pdf", b"a" * 999, ["wrong.pdf", ".txt, .jsonl"]),
        ("bad.jsonl", b'{"text": "a"}\n{"txt": 3}\n', ["bad.jsonl:2", "'text'", "'txt'"]),
        ("broken.jsonl", b'{"text": "a"}\n{"text"\n', ["broken.jsonl:2", "not JSON"]),
        (None, b"", ["there is no file", "nothere.txt"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("verb", ["train", "prepare"])
def test_texts(tiny, tmp_path, verb, name, content, parts):
    path = tmp_path / (name or "nothere.txt")
    if name:
        path.write_bytes(content)
    refused(tiny(name=verb, paths=path), *parts)


def test_prepare_then_a_boolean_field(tiny, tmp_path):
    status, out, _ = tiny("", "--config.log.tensorboard", name="prepare")
    assert status == 0 and "train_tokens: " in out and "vocab: 257" in out
    assert (tmp_path / "run" / "tokenizer" / "tokenizer.json").is_file()


def test_strict_makes_a_fallback_an_error(command, tmp_path):
    """cuDNN attention cannot be had on CPU."""
    from pathlib import Path

    text = tmp_path / "text.txt"
    text.write_text("All happy families are alike. " * 40)
    tiny = Path(__file__).parents[1] / "tiny.py"
    code = tiny.read_text().replace("context=16,", 'context=16, kernel="cudnn",')
    config = tmp_path / "config.py"
    config.write_text(code)
    arguments = [
        "train",
        f"--config={config}:steps=1",
        f"--config.data.source.paths={text}",
        f"--workdir={tmp_path / 'run'}",
        "--config.log.samples.every=0",
    ]
    status, out, err = command(*arguments, "--strict")
    refused((status, out, err.splitlines()[-1]), "cudnn", "fallbacks are errors")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    status, _, err = command(*arguments)
    assert status == 0 and err.count("fallback: asked for") == 1


def test_help_is_quick_and_mistakes_are_one_line_in_a_process_too():
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "lm_research", "--help"], capture_output=True, text=True, check=True
    )
    seconds = time.monotonic() - start
    assert "train" in done.stdout and "jax" not in done.stderr
    assert seconds < 5  # a second on a machine that does nothing else
    done = subprocess.run(
        [sys.executable, "-m", "lm_research", "train", "--config=tests/tiny.py", "--confg=3"],
        capture_output=True,
        text=True,
    )
    refused((done.returncode, done.stdout, done.stderr), "'confg'", "'config'")


def test_ordered_sums_go_without_avx512(monkeypatch):
    """Unless a user says which instructions there are to be."""
    monkeypatch.setattr(train.platform, "machine", lambda: "x86_64")
    monkeypatch.setenv("XLA_FLAGS", "--xla_a=1")
    train.without_avx512()
    train.without_avx512()
    assert os.environ["XLA_FLAGS"] == "--xla_a=1 --xla_cpu_max_isa=AVX2"
    monkeypatch.setattr(train.platform, "machine", lambda: "aarch64")
    monkeypatch.delenv("XLA_FLAGS")
    train.without_avx512()
    assert "XLA_FLAGS" not in os.environ
