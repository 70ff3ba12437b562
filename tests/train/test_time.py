"""Where time goes, and where it is lost: goodput, the watchdog, traces, clocks and full disks."""

import json
import os
import subprocess
import threading
import time
import types

import pytest
from outcomes import line, outcome

from lm_research import log
from lm_research.data import pack
from lm_research.train import account, loop, profile
from lm_research.train.account import Account
from lm_research.train.checkpoint import Checkpoints
from lm_research.train.watchdog import Watchdog

WITHOUT = ("waiting",)  # rows that a loaded machine may add


@pytest.fixture
def clock(monkeypatch):
    now = types.SimpleNamespace(monotonic=1000.0, time=5e9)
    monkeypatch.setattr(account.time, "monotonic", lambda: now.monotonic)
    monkeypatch.setattr(account.time, "time", lambda: now.time)
    return now


def spend(clock, one, what, seconds):
    with one.during(what):
        clock.monotonic += seconds


def test_every_second_is_counted_once(clock):
    one, rows = Account(), []
    clock.monotonic += 5
    one.switch("steps")
    for step in range(1, 5):
        spend(clock, one, "data", 1)
        clock.monotonic += 2
        rows.append({"step": step, **one.told()})
    facts = {"boot": account.boot(), "time": rows[0]["time"]}
    assert rows[-1]["goodput"] == 8 / 17
    # Killed; ten seconds later it goes on at step 3, and the clock on the wall jumps meanwhile.
    clock.monotonic, clock.time = clock.monotonic + 10, 1.0
    two = Account()
    clock.monotonic += 4
    two.carry(rows, facts, step=3, down=1e9)
    two.switch("steps")
    clock.monotonic += 2
    told = two.told()
    want = dict(start=9, steps=8, data=4, lost=2, down=10, evaluation=0, samples=0, saving=0)
    assert {name: told["time"][name] for name in want} == want
    assert told["time"]["starts"] == 2 and told["goodput"] == 8 / 33


def test_time_between_boots_is_by_the_wall_and_never_negative(clock):
    for down, want in ((30.0, 27.0), (0.0, 0.0)):
        one = Account()
        clock.monotonic += 3
        one.carry(
            [], {"boot": "another", "time": {**Account().told()["time"], "clock": 9e9}}, 0, down
        )
        assert one.seconds["down"] == want


def test_the_watchdog_says_where_and_less_and_less_often():
    one, said = Account(), []

    def stuck():
        time.sleep(0.9)

    with Watchdog(one, 0.1, lambda *what: said.append(what)), one.during("data"):
        stuck()
    assert 2 <= len(said) <= 4 and {what for what, _, _ in said} == {"data"}
    assert "waiting for data" in said[0][2] and "stuck (tests/train/test_time.py" in said[0][2]
    assert said[1][1] > 1.9 * said[0][1]
    with Watchdog(one, 0.0, lambda *what: said.append(what)), one.during("data"):
        time.sleep(0.1)
    assert len(said) <= 4


def event(name, start, end, **stats):
    return types.SimpleNamespace(
        name=name, start_ns=start, duration_ns=end - start, stats=list(stats.items())
    )


def plane(name, **lines):
    found = [types.SimpleNamespace(name=line, events=events) for line, events in lines.items()]
    return types.SimpleNamespace(name=name, lines=found)


HOST = [event(profile.STEP, 0, 100), event(profile.DATA, 80, 95), event("other", 0, 999)]
# Two devices; one waits for the other, which is idle while the host waits for data.
BUSY = [
    [("dot.1", 0, 40), ("all-reduce.2", 30, 60), ("dot.1", 60, 70), ("while.3", 0, 100)],
    [("dot.1", 0, 100)],
]


@pytest.mark.parametrize("kind", ["CPU", "GPU", "TPU"])
def test_shares_of_a_trace(monkeypatch, kind):
    if kind == "CPU":
        events = [
            event(op, *span, hlo_op=op, device_ordinal=i)
            for i, busy in enumerate(BUSY)
            for op, *span in busy
        ]
        planes = [plane("/host:CPU", python=HOST, threads=events)]
    elif kind == "GPU":
        own = [[event(f"k_{op}", *span, hlo_op=op) for op, *span in busy] for busy in BUSY]
        planes = [plane(f"/device:GPU:{i}", **{"Stream #7": one}) for i, one in enumerate(own)]
        planes.append(plane("/host:CPU", python=HOST, threads=[event("t", 0, 9, hlo_op="dot.1")]))
    else:
        own = [[event(f"%{op} = f32[] x()", *span) for op, *span in busy] for busy in BUSY]
        more = {"Steps": [event("1", 0, 100)]}
        planes = [plane(f"/device:TPU:{i}", **{"XLA Ops": o}, **more) for i, o in enumerate(own)]
        planes.append(plane("/host:CPU", python=HOST))
    read = types.SimpleNamespace(from_file=lambda path: types.SimpleNamespace(planes=planes))
    monkeypatch.setattr(profile.jax.profiler, "ProfileData", read)
    found = profile.summary("trace", (3, 4))
    # Of 100 each: 50 + 100 compute, 20 + 0 alone in a collective, 15 of 30 idle for data.
    want = {"compute": 0.75, "collectives": 0.1, "data": 0.075, "host": 0.075}
    assert found["shares"] == pytest.approx(want) and found["devices"] == 2
    assert [one["operation"] for one in found["costliest"]] == ["dot.1", "all-reduce.2"]
    assert found["costliest"][0]["share"] == pytest.approx(0.75)
    assert found["costliest"][1]["milliseconds_per_step"] == pytest.approx(30 / 1e6 / 4)


def test_a_start_that_stalls_is_told(tiny, monkeypatch):
    read = pack.survey
    monkeypatch.setattr(pack, "survey", lambda source: (time.sleep(1), read(source))[1])
    status, _, err = tiny("steps=1", "--config.log.watchdog=0.4")
    assert status == 0 and "starting: data, checkpoint, compilation, for" in err


def test_a_trace_of_nothing_ends_no_run(tmp_path, capsys):
    """As one of a GPU that may not be looked into."""
    with profile.Profile((1, 1), 9, tmp_path) as tracing:
        for step in (0, 0):  # the first dispatch compiles
            tracing.begin(step, 1, ())
        tracing.end(1, (), print)
    assert "has no operation of a device" in capsys.readouterr().err


@pytest.mark.parametrize(
    "field, parts",
    [
        ("log.profile=3", ["log.profile is '3'", "START:STEPS"]),
        ("log.profile=0:3", ["log.profile is '0:3'", "from 1"]),
        ("log.profile=99:1", ["step 99", "12 steps"]),
        ("log.watchdog=-1", ["log.watchdog is -1"]),
        ("checkpoint.retries=-1", ["checkpoint.retries is -1"]),
    ],
)
def test_mistakes(tiny, tmp_path, field, parts):
    line(tiny("", f"--config.{field}"), *parts)


@pytest.fixture(scope="module")
def straight_runs():
    return {}


@pytest.fixture
def straight(tiny, tmp_path, straight_runs):
    """The outcome of a run to which nothing happens."""
    if not straight_runs:
        status, _, err = tiny("steps=6,every=2", workdir=tmp_path / "straight")
        assert status == 0, err
        straight_runs["text"] = tmp_path / "text.txt"
        straight_runs["outcome"] = outcome(tmp_path / "straight", WITHOUT)
    return straight_runs


def test_stalled_killed_traced_and_under_another_clock(tiny, tmp_path, monkeypatch, straight):
    """None of it changes the run; each is told."""
    draws, draw, now, ahead = 0, loop.draw, time.time, 0.0

    def drawn(*arguments):
        nonlocal draws, ahead
        draws += 1
        ahead = {2: 3e8, 4: -3e8}.get(draws, ahead)  # seconds: ten years
        if draws == 5:
            time.sleep(0.5)
        if draws == 6:
            raise KeyboardInterrupt
        return draw(*arguments)

    monkeypatch.setattr(loop, "draw", drawn)
    monkeypatch.setattr(time, "time", lambda: now() + ahead)
    run, paths = tmp_path / "run", straight["text"]
    flags = "--config.log.watchdog=0.2", "--config.log.profile=3:2"
    status, _, err = tiny("steps=6,every=2", *flags, workdir=run, paths=paths)
    assert status == 130 and "waiting for data, for" in err, err
    assert "drawn (tests/train/test_time.py" in err
    profiled = [text for text in err.splitlines() if text.startswith("profile of steps 3 to 4")]
    assert len(profiled) == 1 and "compute" in profiled[0]
    status, _, err = tiny("steps=6,every=2", workdir=run, paths=paths)
    assert status == 0 and "going on at step 4" in err
    assert outcome(run, WITHOUT) == straight["outcome"]
    facts = json.loads((run / "facts.json").read_text())
    assert sum(facts["profile"]["shares"].values()) == pytest.approx(1)
    assert len(facts["profile"]["costliest"]) == 10
    assert list((run / "profile").glob("plugins/profile/*/*.xplane.pb"))
    told = [row for row in log.rows(run) if row["kind"] == "train"]
    assert [row["time"]["starts"] for row in told] == [1, 1, 1, 1, 2, 2]
    last = told[-1]["time"]
    whole = sum(value for name, value in last.items() if name not in ("starts", "clock"))
    assert 0 < told[-1]["goodput"] < 1 and told[-1]["goodput"] == pytest.approx(
        last["steps"] / whole, abs=1e-3
    )
    assert last["down"] < 60  # jumps of years are none of it
    page = (run / "report.html").read_text()
    assert "Goodput" in page and "first of 2 starts" in page and "Steps 3 to 4" in page


@pytest.mark.parametrize("back", [True, False], ids=["space comes back", "it does not"])
def test_a_full_disk(tiny, tmp_path, monkeypatch, straight, back):
    """From the save of step 4 on, all that is written fails."""
    disk, filler = tmp_path / "disk", tmp_path / "disk" / "filler"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small file system cannot be mounted here")
    monkeypatch.setattr(log, "PAUSES", (0.5,) * 6 if back else ())
    save = Checkpoints.save

    def full(self, step, *arguments, **more):
        if step == 4 and not filler.exists():
            self.wait()
            free = os.statvfs(disk)
            filler.write_bytes(bytes(free.f_bavail * free.f_bsize - 16384))
            monkeypatch.setattr(Checkpoints, "save", save)
            if back:
                threading.Timer(1.0, filler.unlink).start()
        return save(self, step, *arguments, **more)

    monkeypatch.setattr(Checkpoints, "save", full)
    flags = (f"--config.checkpoint.retries={5 if back else 0}",)
    command = lambda: tiny("steps=6,every=2", *flags, workdir=disk / "run", paths=straight["text"])
    try:
        status, _, err = result = command()
        if back:
            assert status == 0 and "asked for the checkpoint of step 4, got another save" in err
        else:
            line(result, "No space left", "last good checkpoint is step 2", status=1)
            assert [p.name for p in (disk / "run" / "checkpoints").iterdir()] == ["2"]
            filler.unlink()
            status, _, err = command()
            assert status == 0 and "going on at step 2" in err
        assert outcome(disk / "run", WITHOUT) == straight["outcome"]
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_line_that_does_not_fit_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    """Written in parts, of which some fail."""
    path = tmp_path / "metrics.jsonl"
    monkeypatch.setattr(log, "PAUSES", (0,) * 3)

    class Full:
        def __init__(self, file):
            self.file, self.seek, self.truncate, self.tries = file, file.seek, file.truncate, 0

        def write(self, data):
            self.tries += 1
            if self.tries in (2, 4):
                raise OSError(28, "No space left on device")
            return self.file.write(data[:7])

    with path.open("ab", buffering=0) as file:
        file.write(b"before\n")
        log.append_bytes(path, Full(file), b"a line of text\n")
        assert path.read_bytes() == b"before\na line of text\n"
        monkeypatch.setattr(log, "PAUSES", ())
        with pytest.raises(OSError, match=r"No space left.*metrics\.jsonl"):
            log.append_bytes(path, Full(file), b"another line\n")
    assert path.read_bytes() == b"before\na line of text\n"


def test_a_lost_config_is_known_by_the_checkpoint(tiny, tmp_path, straight):
    run, paths = tmp_path / "run", straight["text"]
    assert tiny("steps=2,every=2", workdir=run, paths=paths)[0] == 0
    (run / "config.json").unlink()
    other = "--config.optimizer.peak=0.5"
    line(tiny("steps=2,every=2", other, workdir=run, paths=paths), "config.json is missing")
    status, _, err = tiny("steps=2,every=2", workdir=run, paths=paths)
    assert status == 0 and "going on at step 2" in err
    (run / "config.json").write_text("")
    line(tiny("steps=2,every=2", workdir=run, paths=paths), "not JSON", "remove it")
