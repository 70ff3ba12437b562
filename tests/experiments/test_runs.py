"""Runs of experiments: they stop when they have had their minutes, and go on from there."""

import os
import signal
import sys
import threading
import time

import pytest

from lm_research.study.runs import Minutes, data_folder, program, trained

PROGRAM = """#!/bin/bash
echo "$@" >> "{record}"
trap 'exit 75' TERM
i=0
while [ $((i++)) -lt {tenths} ]; do sleep 0.1; done
exit {status}
"""


@pytest.fixture
def python(tmp_path, monkeypatch):
    """Makes what stands for the interpreter: it takes so many tenths of a second."""

    def make(tenths, status=0):
        path = tmp_path / "python"
        path.write_text(PROGRAM.format(record=tmp_path / "record", tenths=tenths, status=status))
        path.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(path))

    return make


def test_minutes_of_all_calls_count(python, tmp_path):
    workdir = tmp_path / "run"
    python(tenths=100)
    first = trained(workdir, 0.5 / 60, "a.py:steps=3", "--config.seed=1")
    assert not first.finished and 0.5 / 60 <= first.wall < 5 / 60 and first.cores > 0
    assert trained(workdir, 0.5 / 60, "a.py") == first == Minutes.of(workdir)  # not begun again
    python(tenths=1)
    second = trained(workdir, 1.0, "a.py:steps=3")
    assert second.finished and second.wall > first.wall and second.cores > first.cores
    given = (tmp_path / "record").read_text().splitlines()
    assert given == [
        f"-m lm_research train --config=a.py:steps=3 --workdir={workdir} --config.seed=1",
        f"-m lm_research train --config=a.py:steps=3 --workdir={workdir}",
    ]


def test_what_tells_the_experiment_to_stop_tells_the_run(python, tmp_path):
    def interrupt():
        while not (tmp_path / "record").exists():
            time.sleep(0.01)
        time.sleep(0.5)  # it waits for the run by now
        os.kill(os.getpid(), signal.SIGINT)

    python(tenths=100)
    threading.Thread(target=interrupt).start()
    with pytest.raises(SystemExit, match="stopped; the same command goes on"):
        trained(tmp_path / "run", 1.0, "a.py")
    spent = Minutes.of(tmp_path / "run")
    assert 0.4 / 60 <= spent.wall < 5 / 60 and not spent.finished


def test_mistakes_are_one_line(monkeypatch, capsys):
    monkeypatch.delenv("LM_RESEARCH_DATA", raising=False)
    with pytest.raises(SystemExit) as ended:
        program(data_folder)
    assert ended.value.code == 2
    assert capsys.readouterr().err.endswith("takes the folder with the data sets\n")


def test_a_run_that_fails_ends_the_experiment(python, tmp_path):
    python(tenths=0, status=2)
    with pytest.raises(SystemExit, match="exited with status 2"):
        trained(tmp_path / "run", 1.0, "a.py")
    assert Minutes.of(tmp_path / "run") == Minutes()
