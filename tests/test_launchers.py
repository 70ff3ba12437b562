"""What launchers would do is what they do; fake commands on PATH stand in for clouds."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lm_research.errors import RESTART, RESUME

ROOT = Path(__file__).parents[1]
TPU = ROOT / "tpu"
COMMIT = "c" * 40
SHOWN = Path(__file__).parent / "launchers.txt"
# Of the machine, what scripts may use; nothing else is on their PATH.
PLAIN = "bash cat dirname env mkdir mktemp nohup python3 rm sleep tail touch tr"

TRAIN = "-- --config=configs/gpt2_small.py:size=medium --workdir=/shared/run"
WHERE = "--name=pod --zone=us-east5-a"
COMMANDS = [
    f"tpu_vm.sh create {WHERE} --accelerator=v5p-32 --spot=true --project=mine",
    f"tpu_vm.sh create {WHERE} --accelerator=v5p-32 --queued=true",
    f"tpu_vm.sh install {WHERE}",
    f"tpu_vm.sh launch {WHERE} {TRAIN} --config.init=it's",
    f"tpu_vm.sh follow {WHERE} --metrics=/shared/run",
    f"tpu_vm.sh stop {WHERE}",
    f"tpu_vm.sh watch {WHERE} --accelerator=v5p-32 {TRAIN}",
    f"tpu_vm.sh delete {WHERE} --queued=true",
    "ssh.sh install --hosts=a,b",
    f"ssh.sh launch --hosts=me@a,b {TRAIN}",
    "ssh.sh follow --hosts=me@a,b --metrics=/shared/run",
    "ssh.sh stop --hosts=me@a,b",
    f"slurm.sh submit --name=job --nodes=2 --partition=gpu --time=4:00:00 {TRAIN}",
    "slurm.sh follow --name=job",
    "slurm.sh stop --name=job",
    "slurm.sh delete --name=job",
    "gke.sh image --image=registry/lm_research:1",
    f"gke.sh apply --name=job --image=registry/lm_research:1 --hosts=4 --slices=2 {TRAIN}",
    "gke.sh follow --name=job",
    "gke.sh delete --name=job",
    f"together.py --processes=2 --port=8476 --python=python {TRAIN}",
]


class Machine:
    """A PATH of its own, with the plain commands of this one and fakes."""

    def __init__(self, directory):
        self.directory, self.path = directory, directory / "bin"
        self.path.mkdir()
        for name in PLAIN.split():
            (self.path / name).symlink_to(shutil.which(name))
        self.fake("git", f"case $* in *rev-parse*) echo {COMMIT} ;; esac")  # a clean tree

    def fake(self, name, script):
        """Makes a command, in place of a plain one: never through the link to it."""
        (self.path / name).unlink(missing_ok=True)
        (self.path / name).write_text(f"#!/usr/bin/env bash\n{script}\n")
        (self.path / name).chmod(0o755)

    def started(self, line, **more):
        name, *words = line.split()
        python = [sys.executable] if name.endswith(".py") else []
        return subprocess.Popen(
            [*python, TPU / name, *words],
            env={"PATH": str(self.path), "TMPDIR": str(self.directory), **more},
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, line, **more):
        """Exit status and both streams."""
        process = self.started(line, **more)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def plain(text, machine):
    """Without what differs between machines."""
    for thing, name in ((machine.directory, "HERE"), (ROOT, "ROOT"), (COMMIT, "COMMIT")):
        text = text.replace(str(thing), name)
    return text


def test_a_dry_run_shows_exactly_what_would_be_done(machine):
    """As in launchers.txt, which `LM_RESEARCH_WRITE=1 pytest` of this test writes anew."""
    parts = []
    for line in COMMANDS:
        options, dashes, flags = line.partition(" -- ")
        status, out, err = machine.run(f"{options} --dry_run{dashes}{flags}")
        assert (status, err) == (0, ""), line
        parts.append(f"$ {line}\n{plain(out, machine)}\n")
    if os.environ.get("LM_RESEARCH_WRITE"):
        SHOWN.write_text("".join(parts))
    assert "".join(parts) == SHOWN.read_text()
    assert {path.name for path in machine.directory.iterdir()} == {"bin"}


RECORD = """
line=${0##*/}
for word in "$@"; do line+=" '${word//\\'/\\'\\\\\\'\\'}'"; done
printf '%s\\n' "$line" >> "$TMPDIR/done"
"""


def test_what_is_done_is_what_was_shown(machine):
    """Word for word, by what the fakes were given."""
    lines = [
        line for line in COMMANDS if re.match(r"tpu_vm.sh (create .*--spot|launch|stop)", line)
    ]
    lines += ["slurm.sh delete --name=job", COMMANDS[-4].replace("--slices=2 ", "")]
    for name in ("gcloud", "kubectl", "scancel"):
        machine.fake(name, RECORD)
    for line in lines:
        options, dashes, flags = line.partition(" -- ")
        shown = machine.run(f"{options} --dry_run{dashes}{flags}")[1]
        status, _, err = machine.run(
            f"{options} --yes{dashes}{flags}", TMPDIR=str(machine.directory)
        )
        assert status == 0, err
        if file := re.match(r"# (job.yaml):\n", shown):
            shown = shown.removeprefix(file[0])
            written = (machine.directory / file[1]).read_text()
            assert shown.startswith(written)
            shown = shown.removeprefix(written)
        done = (machine.directory / "done").read_text()
        (machine.directory / "done").unlink()
        assert shlex.split(done) == shlex.split(shown)


TOOLS = {
    "tpu_vm.sh": "gcloud",
    "ssh.sh (install|launch|follow)": "ssh",
    "ssh.sh stop": "pkill",
    "slurm.sh submit": "sbatch",
    "slurm.sh (stop|delete)": "scancel",
    "gke.sh image": "docker",
    "gke.sh (apply|follow|delete)": "kubectl",
}


def test_nothing_is_done_without_the_command_or_without_asking(machine):
    """A command that is not there is named; what spends or deletes is not done unasked."""
    tools = [
        (line, tool) for line in COMMANDS for how, tool in TOOLS.items() if re.match(how, line)
    ]
    assert len(tools) == len(COMMANDS) - 2
    for line, tool in tools:
        script = line.split()[0]
        assert machine.run(line) == (
            *(2, ""),
            f"{script}: {tool} is not installed (or not on PATH)\n",
        )
    for line, tool in tools:
        if re.search(r"sh (create|watch|delete|submit|apply) ", line):
            machine.fake(tool, RECORD)
            status, out, err = machine.run(line)
            assert status == 2 and out == "" and err.count("\n") == 1 and "--yes" in err
    assert {path.name for path in machine.directory.iterdir()} == {"bin"}


def test_what_a_tool_refuses_is_passed_on_in_one_line(machine):
    machine.fake(
        "gcloud", 'echo out; printf "ERROR: (gcloud)\\n  quota TPUS exceeded\\n" >&2; exit 9'
    )
    status, _, err = machine.run(f"{COMMANDS[0]} --yes")
    assert status == 1 and err == (
        "tpu_vm.sh: gcloud failed with status 9: ERROR: (gcloud) quota TPUS exceeded \n"
    )
    for line, message in (
        ("tpu_vm.sh creat", "'creat' is none of create, install"),
        ("tpu_vm.sh create --nam=x", "there is no --nam; it takes --name="),
        ("tpu_vm.sh create --name=x", "--zone is missing"),
        (f"tpu_vm.sh launch {WHERE}", "the flags of the run are missing"),
    ):
        status, _, err = machine.run(f"{line} --dry_run")
        assert status == 2 and err.count("\n") == 1 and message in err


# A TPU whose state is in a file; an empty one is a failure to say, and the text of a missing one.
CLOUD = """
printf '%s ' "$4" >> "$TMPDIR/done"
state=$(cat "$TMPDIR/state")
case $4 in
  describe)
    case $state in
      NONE) echo "ERROR: NOT_FOUND: there is no such thing" >&2; exit 1 ;;
      "") echo "ERROR: UNAVAILABLE: try again" >&2; exit 1 ;;
      *) echo "$state" ;;
    esac
    ;;
  delete) echo NONE > "$TMPDIR/state" ;;
  create)
    [ -e "$TMPDIR/full" ] || { touch "$TMPDIR/full"; exit 1; }
    echo READY > "$TMPDIR/state"
    ;;
  ssh)
    case $* in
      *nohup*) echo running > "$TMPDIR/run" ;;
      *run.status*) cat "$TMPDIR/run" ;;
    esac
    ;;
esac
"""


def watching(machine, state, run):
    machine.fake("gcloud", CLOUD)
    (machine.directory / "state").write_text(state)
    (machine.directory / "run").write_text(run)
    line = f"tpu_vm.sh watch {WHERE} --accelerator=v5p-32 --every=0.05 --yes {TRAIN}"
    return machine.started(line), machine.directory / "done"


@pytest.mark.parametrize("state", ["PREEMPTED", "NONE"])
def test_a_preempted_tpu_is_made_anew(machine, state):
    """Until capacity comes back: the first creation fails. When the run ends, so does this."""
    process, done = watching(machine, state, "lost\n")
    # `--every` is short: what is there is asked for again and again.
    eventually(lambda: done_text(done).endswith("describe ssh describe ssh "))
    (machine.directory / "run").write_text("Connecting to worker 0...\n0\n")
    out, _ = process.communicate(timeout=20)
    assert process.returncode == 0 and out.endswith(
        "the run has finished; the TPU pod is still there and costs money until: "
        "tpu/tpu_vm.sh delete --name=pod --zone=us-east5-a\n"
    )
    first = "describe delete create " if state == "PREEMPTED" else "describe create "
    made = "describe create describe ssh scp ssh ssh describe ssh describe ssh "
    assert done_text(done).startswith(first + made)


@pytest.mark.parametrize("state", ["", "REPAIRING", "CREATING", "READY"])
def test_a_tpu_that_may_be_well_is_let_be(machine, state):
    process, done = watching(machine, state, "running\n")
    eventually(lambda: done_text(done).count("describe") > 3)
    process.kill()
    process.communicate()
    assert set(done_text(done).split()) <= {"describe", "ssh"}


@pytest.mark.parametrize("said, status", [("2", 2), ("75 stopped", RESUME)])
def test_a_watch_ends_with_a_run_that_is_not_to_go_on(machine, said, status):
    process, done = watching(machine, "READY", f"{said}\n")
    out, _ = process.communicate(timeout=20)
    assert process.returncode == status and f"status {status}, which is not" in out
    assert done_text(done) == "describe ssh "


def eventually(there):
    deadline = time.monotonic() + 30
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def done_text(path):
    return path.read_text() if path.exists() else ""


# A process of a run, without JAX: what it does at its Nth start is the Nth word of the environment.
PROCESS = """
number=${!#}; number=${number#--process=}
count=$(cat "count$number" 2> /dev/null || echo 0)
echo $((count + 1)) > "count$number"
words=($(eval echo "\\$DOES$number"))
echo "$@" > "given$number"
case ${words[$count]} in
  wait) trap 'echo told; exit 75' TERM; touch "up$number"; while true; do sleep 0.05; done ;;
  frozen) touch "up$number"; kill -s STOP $$ ;;
  killed) kill -s KILL $$ ;;
  *) exit "${words[$count]}" ;;
esac
"""


@pytest.mark.parametrize(
    "does, status, starts",
    [
        (("76 0", "killed 0"), 0, 2),
        (("76 0", "frozen 0"), 0, 2),
        (("0 0", "frozen 0"), 0, 2),
        (("2", "wait"), 2, 1),
        (("1 1 1", "76 76 76"), 76, 3),
    ],
)
def test_all_processes_start_again_when_one_is_lost(machine, does, status, starts):
    machine.fake("python", PROCESS)
    more = {f"DOES{number}": words for number, words in enumerate(does)}
    line = "together.py --processes=2 --restarts=2 --grace_seconds=0.3 --python=python -- --a=b"
    found, _, err = machine.run(line, **more)
    assert found == status, err
    for number in range(2):
        assert (machine.directory / f"count{number}").read_text() == f"{starts}\n"
    assert err.count("starting all again") == starts - 1
    given = (machine.directory / "given1").read_text()
    assert re.search(
        r"-m lm_research train --a=b --coordinator=127.0.0.1:\d+ --processes=2 --process=1", given
    )


@pytest.mark.parametrize("hosts", [False, True])
def test_a_signal_is_passed_on_to_all(machine, hosts):
    """Here and on hosts, whose ssh is a shell of this machine; and then nothing starts again."""
    machine.fake("python", PROCESS)
    machine.fake("ssh", 'exec bash -c "${@: -1}"')
    where = "--hosts=a,b --port=8476 --directory=." if hosts else "--processes=2"
    line = f"together.py {where} --python={machine.path}/python -- --config=c --workdir=w"
    process = machine.started(line, DOES0="wait", DOES1="wait")
    eventually(lambda: all((machine.directory / f"up{number}").exists() for number in range(2)))
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=20)
    assert process.returncode == RESUME and out == "told\ntold\n" and err == ""


@pytest.mark.skipif(shutil.which("pkill") is None, reason="pkill is not installed")
def test_a_launch_by_ssh_is_stopped_from_beside_it(machine):
    machine.fake("python", PROCESS)
    machine.fake("ssh", 'exec bash -c "${@: -1}"')
    (machine.path / "pkill").symlink_to(shutil.which("pkill"))
    (machine.directory / "lm_research/env/bin").mkdir(parents=True)
    (machine.directory / "lm_research/env/bin/python").symlink_to(machine.path / "python")
    assert machine.run("ssh.sh stop --hosts=a,b")[0] == 1
    process = machine.started(f"ssh.sh launch --hosts=a,b {TRAIN}", DOES0="wait", DOES1="wait")
    up = [machine.directory / f"lm_research/up{number}" for number in range(2)]
    eventually(lambda: all(path.exists() for path in up))
    status, _, err = machine.run("ssh.sh stop --hosts=a,b")
    assert status == 0, err
    out, err = process.communicate(timeout=20)
    assert process.returncode == RESUME and out == "told\ntold\n" and err == ""


@pytest.mark.parametrize(
    "does, status, starts",
    [("76 killed 0", 0, 3), ("frozen 0", 0, 2), ("2", 2, 1), ("1 1 1 1", 1, 3)],
)
def test_a_host_starts_its_process_again(machine, does, status, starts):
    machine.fake("python", PROCESS)
    machine.fake("sleep", "exit 0")
    found, _, err = machine.run("again.sh 2 python --process=0", DOES0=does)
    assert found == status and err.count("starting again") == starts - 1
    assert (machine.directory / "count0").read_text() == f"{starts}\n"
    assert (machine.directory / "run.status").read_text() == f"{status}\n"


def test_a_host_passes_a_signal_on(machine):
    machine.fake("python", PROCESS)
    process = machine.started("again.sh 2 python --process=0", DOES0="wait")
    eventually((machine.directory / "up0").exists)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=20)
    assert process.returncode == RESUME and out == "told\n"


def test_a_job_of_slurm_is_requeued_unless_it_was_stopped(machine):
    for name in ("sbatch", "scancel", "scontrol"):
        machine.fake(name, RECORD)
    machine.fake("srun", "exit $DOES")
    assert machine.run(f"slurm.sh submit --name=job --yes {TRAIN}")[0] == 0
    done = machine.directory / "done"

    def job(does, **more):
        done.unlink(missing_ok=True)
        run = ["bash", str(machine.directory / "job.sbatch")]
        environment = {"PATH": str(machine.path), "TMPDIR": str(machine.directory)}
        environment |= {"DOES": str(does), "SLURM_JOB_ID": "7", **more}
        status = subprocess.run(run, env=environment, cwd=machine.directory).returncode
        return status, done_text(done)

    assert job(0) == (0, "") and job(2) == (2, "")
    assert job(RESTART) == (RESTART, "scontrol 'requeue' '7'\n")
    assert job(RESTART, SLURM_RESTART_COUNT="100") == (RESTART, "")
    assert machine.run("slurm.sh stop --name=job")[0] == 0
    assert job(RESUME) == (RESUME, "")


def test_scripts_pass_shellcheck():
    shellcheck = shutil.which("shellcheck")
    if shellcheck is None:
        pytest.skip("shellcheck is not installed; the extra `dev` has it")
    scripts = sorted(TPU.glob("*.sh"))
    found = subprocess.run([shellcheck, *scripts], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout
    assert all(os.access(script, os.X_OK) for script in scripts if script.name != "steps.sh")
