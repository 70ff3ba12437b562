"""Processes find each other before JAX starts, and a mistake is told to all of them in one line."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lm_research.errors import RESTART, Stopped, UserError
from lm_research.train import rendezvous
from lm_research.train.processes import place_of
from lm_research.train.rendezvous import Place, meet

ROOT = Path(__file__).parents[2]


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(rendezvous, "FILES", 0.3)
    monkeypatch.setattr(rendezvous, "ANSWER", 1.0)


def met(*places, running=None, workdirs=None):
    """What `meet` returns or raises at each place, all at once."""
    found = [None] * len(places)

    def come(number):
        run = running[number] if running else {"config": {"steps": 1}}
        try:
            found[number] = meet(places[number], run, workdirs[number])
        except Exception as error:
            found[number] = error

    threads = [threading.Thread(target=come, args=(n,), daemon=True) for n in range(len(places))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    return found


def places(count, seconds=10.0):
    port = free_port()
    return [Place(("127.0.0.1", port), count, n, None, seconds) for n in range(count)]


def test_processes_meet_and_leave_nothing_in_the_workdir(tmp_path):
    """Also when a stranger, such as a scanner of ports, comes first and says something else."""
    here = places(3)
    come = lambda place: meet(place, {"config": {}}, tmp_path / "run")
    with ThreadPoolExecutor() as pool:
        first = pool.submit(come, here[0])
        with knocking(here[0].coordinator):
            found = [first, *(pool.submit(come, place) for place in here[1:])]
            found = [each.result(timeout=20) for each in found]
    assert set(found[0].channels) == {1, 2} and set(found[2].channels) == {0}
    assert len({each.port for each in found}) == 1 and len(found[1].hosts) == 3
    assert list(tmp_path.iterdir()) == []


def knocking(address):
    """A connection that has sent what is no greeting."""
    deadline = time.monotonic() + 10
    while True:
        try:
            stranger = socket.create_connection(address)
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        else:
            stranger.sendall(b"GET / HTTP/1.1\n\n")
            return stranger


def test_processes_that_are_not_of_one_run_are_told_so(tmp_path):
    shared = [tmp_path / "run"] * 3
    configs = [{"config": {"optimizer": {"peak": peak}}, "commit": "a"} for peak in (1, 2, 1)]
    for found in met(*places(3), running=configs, workdirs=shared):
        assert isinstance(found, UserError) and not isinstance(found, Stopped)
        assert "config.optimizer.peak is 1 on process 0 (" in str(found)
        assert "2 on process 1 (" in str(found) and "commit" not in str(found)
    for found in met(*places(2), workdirs=[tmp_path / "one", tmp_path / "two"]):
        assert "process 1 on" in str(found) and "give a directory that all hosts share" in str(
            found
        )
    first, other = places(2)
    three = Place(first.coordinator, 3, 1)
    for found in met(first, three, workdirs=shared):
        assert "has --processes=3" in str(found) and "has --processes=2" in str(found)
    first, other, _ = places(3)
    for found in met(first, other, other, workdirs=shared):
        assert "two processes have --process=1" in str(found)
    assert list(tmp_path.iterdir()) == []


def test_processes_that_do_not_come_together_say_why(tmp_path):
    first, other = places(2, seconds=0.5)
    [found] = met(other, workdirs=[tmp_path])
    assert isinstance(found, Stopped) and "process 1 on" in str(found)
    assert f"cannot reach --coordinator={first.address}: Connection refused" in str(found)
    [found] = met(first, workdirs=[tmp_path])
    assert "process 1 of 2 did not come" in str(found) and isinstance(found, Stopped)
    with socket.create_server(first.coordinator):
        [found] = met(first, workdirs=[tmp_path])
    assert (
        isinstance(found, Stopped) and f"={first.address}" in str(found) and "in use" in str(found)
    )


@pytest.mark.parametrize(
    "given, message",
    [
        (("a:1", 2, None), "--process is missing"),
        (("a:1", 2, 2), "--process=2 of --processes=2; it takes 0 to 1"),
        (("a", 2, 0), "--coordinator=a; it takes HOST:PORT, or auto"),
        (("a:99999", 2, 0), "--coordinator=a:99999; it takes HOST:PORT"),
        (("a:1", 0, 0), "--processes=0; it takes 1 or more"),
        (("auto", None, None), "--coordinator=auto finds none of a TPU pod, Slurm"),
    ],
)
def test_flags_that_make_no_place_are_refused(given, message):
    with pytest.raises(UserError) as error:
        place_of(*given, 300, 30)
    assert message in str(error.value)


def test_surroundings_tell_a_place(monkeypatch):
    for name, value in (
        ("JOB_ID", "7"),
        ("STEP_NODELIST", "node[3,5]"),
        ("NTASKS", "4"),
        ("PROCID", "3"),
        ("LOCALID", "1"),
    ):
        monkeypatch.setenv(f"SLURM_{name}", value)
    place = place_of("auto", None, None, 300, 30)
    assert place.coordinator[0] == "node3" and (place.processes, place.process) == (4, 3)
    assert place.devices == [1]
    assert place_of(None, None, None, 300, 30) is place_of("[::1]:5", 1, 0, 300, 30) is None


# `python -c PROCESS NUMBER PORT WORKDIR` beats until it is stopped; number 2 first has a library
# hold the interpreter for longer than a process may be silent.
PROCESS = """
import ctypes, sys, time
from pathlib import Path
from lm_research.train import peers, rendezvous

number, port, workdir = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
met = rendezvous.meet(rendezvous.Place(("127.0.0.1", port), 3, number), {}, workdir)
peers.EVERY = 0.2
peers.Peers(number, met.hosts, met.channels, 2.0, workdir).start()
if number == 2:
    ctypes.PyDLL(None).usleep(3_000_000)
print("met", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("lost, how", [(1, "SIGSTOP"), (0, "SIGKILL")])
def test_a_process_that_is_frozen_or_killed_is_named_by_the_others(tmp_path, lost, how):
    port = free_port()
    started = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(number), str(port), str(tmp_path)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(3)
    ]
    try:
        for process in started:
            assert process.stdout.readline() == "met\n"
        started[lost].send_signal(signal.Signals[how])
        begun = time.monotonic()
        said = "is gone" if how == "SIGKILL" else "has not been heard from for 2 s"
        for number in {0, 1, 2} - {lost}:
            _, err = started[number].communicate(timeout=30)
            assert started[number].returncode == RESTART, err
            assert err.count("\n") == 1 and f"process {lost} on " in err and said in err
        assert time.monotonic() - begun < 10
        fault = json.loads((tmp_path / "faults.jsonl").read_text())
        assert fault["process"] == lost and said in fault["why"]
        started[lost].send_signal(signal.SIGCONT)
        assert started[lost].wait(timeout=30) in (RESTART, -signal.SIGKILL)
    finally:
        for process in started:
            process.kill()
            process.communicate()
