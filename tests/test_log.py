"""Rows that survive crashes, fallbacks that are not silent, a page that stands alone."""

import io
import json
import math
import os
import re
import subprocess
import sys

import pytest

from lm_research import log
from lm_research.errors import UserError


@pytest.fixture(autouse=True)
def _forgotten():
    log.forget()
    yield
    log.forget()


def _write(workdir, steps, tensorboard=False):
    writer = log.Log(workdir, tensorboard=tensorboard)
    for step in steps:
        writer.write(step, {"loss": 10 / step, "learning_rate": 1e-3 / 3, "gradient_norm": 0.1})
        if step % 5 == 0:
            writer.write(
                step, {"heldout/loss": 11 / step, "heldout/bits_per_byte": 4 / step}, "eval"
            )
    writer.close()


def test_floats_keep_every_bit(tmp_path):
    import numpy as np

    value, narrow = 0.1 + 0.2, np.float32(1) / np.float32(3)
    writer = log.Log(tmp_path, tensorboard=False)
    writer.write(np.int64(1), {"loss": value, "narrow": narrow, "array": np.array(7)})
    (row,) = log.rows(tmp_path)  # readable before the log is closed
    writer.close()
    assert row == {
        "step": 1,
        "kind": "train",
        "loss": value,
        "narrow": float(narrow),
        "array": 7,
    }


def test_a_training_row_has_a_loss(tmp_path):
    with pytest.raises(ValueError, match="no loss"):
        log.Log(tmp_path, tensorboard=False).write(1, {"gradient_norm": 1.0})


def test_numbers_that_are_not_finite_are_null(tmp_path):
    writer = log.Log(tmp_path, tensorboard=False)
    writer.write(1, {"loss": math.nan, "gradient_norm": math.inf, "learning_rate": 0.5})
    writer.close()

    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    text = (tmp_path / "metrics.jsonl").read_text()
    row = json.loads(text, parse_constant=refuse)
    assert row["loss"] is None and row["learning_rate"] == 0.5
    assert row["nonfinite"] == ["loss", "gradient_norm"]


def test_a_torn_last_line_is_no_row(tmp_path):
    _write(tmp_path, range(1, 5))
    path = tmp_path / "metrics.jsonl"
    whole = path.read_bytes()
    last = whole.rindex(b"\n", 0, -1) + 1
    for end in range(last, len(whole) - 1):
        path.write_bytes(whole[:end])
        assert [row["step"] for row in log.rows(tmp_path)] == [1, 2, 3]
    path.write_bytes(whole[:-1])  # all but the newline
    assert [row["step"] for row in log.rows(tmp_path)] == [1, 2, 3, 4]


def test_a_broken_line_in_the_middle_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(UserError, match="line 2"):
        log.rows(tmp_path)


@pytest.mark.parametrize("torn", ["", '{"step": 13, "ki', '{"step": 10, "kind": "train"'])
@pytest.mark.parametrize("newline", [True, False])
def test_resumed_equals_never_stopped(tmp_path, torn, newline):
    _write(tmp_path / "whole", range(1, 21))
    stopped = tmp_path / "stopped"
    _write(stopped, range(1, 13 if torn or newline else 11))
    path = stopped / "metrics.jsonl"
    text = path.read_text()
    path.write_text((text if newline or torn else text[:-1]) + torn)
    writer = log.Log(stopped, tensorboard=False)
    writer.resume(10)
    writer.close()
    _write(stopped, range(11, 21))
    assert path.read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()
    assert {p.name for p in stopped.iterdir()} == {"metrics.jsonl"}


def test_resume_at_the_start_forgets_all(tmp_path):
    log.Log(tmp_path / "new", tensorboard=False).resume(0)  # nothing there is nothing to drop
    _write(tmp_path, range(1, 4))
    log.Log(tmp_path, tensorboard=False).resume(0)
    assert log.rows(tmp_path) == [] == log.rows(tmp_path / "new")


def test_tensorboard_gets_the_rows_and_the_purge(tmp_path):
    from tensorboardX.proto.event_pb2 import Event

    writer = log.Log(tmp_path)
    writer.resume(4)
    writer.write(5, {"loss": 2.0})
    writer.write(5, {"heldout/loss": 3.0, "heldout/perplexity": math.inf}, "eval")
    writer.close()
    (path,) = (tmp_path / "tensorboard").iterdir()
    data, at, found, purged = path.read_bytes(), 0, {}, []
    while at < len(data):  # a record: 8 bytes of length, 4 of checksum, the event, 4 of checksum
        size = int.from_bytes(data[at : at + 8], "little")
        event = Event.FromString(data[at + 12 : at + 12 + size])
        at += 16 + size
        found |= {value.tag: (event.step, value.simple_value) for value in event.summary.value}
        purged += [event.step] if event.HasField("session_log") else []
    assert found == {"train/loss": (5, 2.0), "heldout/loss": (5, 3.0)}
    assert purged == [5]


def test_without_tensorboardx_a_fallback_is_recorded(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    _write(tmp_path, range(1, 4), tensorboard=True)
    (entry,) = log.facts()["fallbacks"]
    assert entry["asked"] == "TensorBoard" and len(log.rows(tmp_path)) == 3


def test_a_fallback_is_recorded_and_printed_once(capsys):
    for _ in range(3):
        log.fallback("kernel a", "kernel b", "no device")
    assert capsys.readouterr().err == "fallback: asked for kernel a, got kernel b: no device\n"
    assert log.facts()["fallbacks"] == [
        {"asked": "kernel a", "got": "kernel b", "why": "no device"}
    ]


def test_strict_makes_a_fallback_an_error():
    log.strict(True)
    with pytest.raises(UserError, match=r"kernel a.*kernel b.*no device"):
        log.fallback("kernel a", "kernel b", "no device")
    log.strict(False)
    log.fallback("kernel a", "kernel b", "no device")


def test_facts_merge(tmp_path):
    log.note(attention_kernel="xla", loss=math.nan)
    log.fallback("a", "b", "c")
    log.write_facts(tmp_path, data={"gzip_bits_per_byte": 3.0})
    log.forget()  # the process that resumes
    log.fallback("a", "b", "c")
    log.fallback("d", "e", "f")
    log.write_facts(tmp_path, attention_kernel="cudnn")
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert facts["attention_kernel"] == "cudnn" and facts["data"] == {"gzip_bits_per_byte": 3.0}
    assert facts["loss"] is None
    assert [entry["asked"] for entry in facts["fallbacks"]] == ["a", "d"]
    assert facts["versions"]["python"] == sys.version.split()[0]
    assert re.match(r"\d+\.", facts["versions"]["jax"])
    assert facts["git"] is None or set(facts["git"]) == {"commit", "dirty"}


def test_facts_that_cannot_be_read_are_a_users_matter(tmp_path):
    (tmp_path / "facts.json").write_text("{")
    with pytest.raises(UserError, match=r"facts\.json is not JSON"):
        log.write_facts(tmp_path)


def test_import_is_light():
    code = (
        "import sys, lm_research.log as log; log.note(a=1); log.strict(False);"
        "heavy = {'jax', 'numpy', 'matplotlib', 'tqdm', 'tensorboardX'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_progress_without_a_terminal_prints_few_lines(monkeypatch):
    clock = iter(range(10, 100_000, 10))
    monkeypatch.setattr(log.time, "monotonic", lambda: next(clock))
    out = io.StringIO()
    progress = log.Progress(1000, 500, 64, out)
    for step in range(501, 1001):
        progress.update(step, 2.5, 0.125)
    progress.print("sample")
    progress.close()
    lines = out.getvalue().splitlines()
    assert 20 <= len(lines) <= 53
    assert lines[0] == "step 501/1000: loss 2.5000, compiled and made in 10 s"
    assert lines[-1] == "sample"
    assert "6 tokens/s, data wait 12%" in lines[5]  # 64 tokens in 10 seconds
    assert lines[5].endswith(f"{log._clock(10 * (1000 - int(lines[5][5:8])))} left")


def test_progress_on_a_terminal_is_a_bar():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    out = Terminal()
    progress = log.Progress(10, 4, 64, out)
    progress.update(6, 2.5, 0.0)
    progress.print("sample")
    progress.update(10, 2.25, 0.5)
    progress.close()
    last = out.getvalue().split("\r")[-1]
    assert "100%" in last and "10/10" in last and "loss 2.2500" in last and "data wait 50%" in last
    assert "sample\n" in out.getvalue()


def test_progress_shows_on_a_terminal_without_a_size(monkeypatch):
    pty = pytest.importorskip("pty")
    reader, writer = pty.openpty()  # such a terminal starts with 0 rows of 0 columns
    with open(writer, "w") as out:
        monkeypatch.setattr(sys, "stderr", out)
        progress = log.Progress(10, 0, 64)
        progress.update(10, 2.25, 0.5)
        progress.close()
        shown = ""
        while "10/10" not in shown:  # it is read in pieces
            shown += os.read(reader, 10_000).decode()
    os.close(reader)
    assert "10/10, loss 2.2500" in shown


def _page(workdir):
    log.report(workdir)
    text = (workdir / "report.html").read_text()
    assert not re.search(r"<script|<link|<img|<iframe|@import|javascript:", text)
    assert not re.search(r"(href|src|xmlns\S*)\s*=\s*[\"'](?!#)", text)
    assert not re.search(r"url\((?!#)", text)
    ids = re.findall(r'\bid="([^"]*)"', text)
    assert len(ids) == len(set(ids)), "two figures share an id"
    assert set(re.findall(r'(?:url\(|href=")#(\w+)', text)) == set(ids)
    assert not re.search(r"#0[1-6]0[1-6]0[1-6]\b", text), "a colour that does not follow the page's"
    return text


def _figures(text):
    return re.findall(r"<figure><h3>(.*?)</h3>", text)


def test_a_page_without_rows(tmp_path):
    assert "No step has been recorded" in _page(tmp_path)


def test_a_page_of_one_step(tmp_path):
    (tmp_path / "config.json").write_text('{"steps": 1}')
    writer = log.Log(tmp_path, tensorboard=False)
    writer.write(1, {"loss": 2.0, "learning_rate": 0.0, "gradient_norm": 1.0})
    writer.close()
    text = _page(tmp_path)
    assert "Step 1 of 1" in text
    assert _figures(text) == ["Loss", "Learning rate", "Gradient norm"]


def test_a_page_before_the_first_step(tmp_path):
    writer = log.Log(tmp_path, tensorboard=False)
    writer.write(0, {"heldout/loss": 2.0}, "eval")
    writer.close()
    assert _figures(_page(tmp_path)) == ["Loss"]


def test_a_page_of_many_rows(tmp_path):
    _write(tmp_path, range(1, 3001))
    (tmp_path / "config.json").write_text(
        json.dumps({"steps": 3000, "model": {"kind": "GPT2", "width": 96}, "init": None})
    )
    log.fallback("kernel <a>", "kernel b", "no device")
    log.write_facts(tmp_path, data={"gzip_bits_per_byte": 3.25, "xz_bits_per_byte": 2.5})
    text = _page(tmp_path)
    assert "Step 3,000 of 3,000" in text and "rows of training, up to 10, lie above" in text
    assert _figures(text) == ["Loss", "Held-out bits per byte", "Learning rate", "Gradient norm"]
    assert "gzip -9 3.250" in re.sub(r"\s+", " ", text) and "best 0.0037 at step 3,000" in text
    assert '<div class="warn">' in text and "kernel &lt;a&gt;" in text
    assert "model: GPT2" in text and re.search(r"<th[^>]*>width</th><td>96</td>", text)
    assert len(text) < 300_000
    assert _page(tmp_path) == text


def test_a_page_escapes_what_it_shows(tmp_path):
    evil = "<script>alert('x')</script>&amp;"
    workdir = tmp_path / "a<b>&c"
    writer = log.Log(workdir, tensorboard=False)
    writer.write(1, {"loss": math.nan, evil: math.nan})
    writer.write(1, {f"{evil}/loss": 1.0, r"$\x$/loss": 2.0}, "eval")
    writer.close()
    (workdir / "config.json").write_text(
        json.dumps({"steps": evil, evil: {"kind": evil, "a": evil}})
    )
    (workdir / "facts.json").write_text(json.dumps({evil: [evil, {"b": evil}]}))
    (workdir / "samples.md").write_text(f"## step 1\n\n**{evil}**{evil}\n\n")
    text = _page(workdir)
    assert "<title>a&lt;b&gt;&amp;c</title>" in text
    assert "alert(&#x27;x&#x27;)&lt;/script&gt;&amp;amp;" in text


def test_a_page_shows_the_last_samples(tmp_path):
    (tmp_path / "samples.md").write_text(
        "## step 5\n\n**early**old\n\n## step 10\n\n**one **two\n\n## step 10\n\n****three\n\n"
    )
    text = _page(tmp_path)
    assert "<pre><b>one </b>two</pre><pre><b></b>three</pre>" in text and "old" not in text


def test_a_page_says_what_was_not_finite(tmp_path):
    _write(tmp_path, range(1, 4))
    writer = log.Log(tmp_path, tensorboard=False)
    writer.write(4, {"loss": math.nan})
    writer.close()
    assert "Not finite, first at step 4: loss" in _page(tmp_path)
