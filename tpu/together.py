"""Starts all processes of a run, here or by ssh, and starts all of them again when one is lost.

    python tpu/together.py --processes=2 -- --config=configs/quickstart.py --workdir=runs/two
    python tpu/together.py --hosts=a,b -- --config=configs/gpt2_small.py --workdir=/shared/gpt2

It ends when all end with status 0, when one ends with status 2 (a user's mistake), or when it has
started again `--restarts` times. SIGTERM and Control-C are passed on to all, which then save and
end. It needs nothing but Python: the machine from which hosts are started need not have JAX.
"""

import argparse
import contextlib
import shlex
import signal
import socket
import subprocess
import sys
import time

FINISHED, MISTAKE, RESUME = 0, 2, 75  # see lm_research/errors.py

# On a host: the command as a child, to which each line of standard input is a signal. When the
# launcher is gone, the child is told to stop.
REMOTE = """cd {directory} && {{ exec 3<&0
{command} < /dev/null &
child=$!
{{ while read -r name; do kill -s "$name" "$child"; done; kill -s TERM "$child"; }} <&3 &
reader=$!
wait "$child"; status=$?
kill "$reader"
exit "$status"; }}"""


class Started:
    """A process of the run, here or on a host."""

    def __init__(self, arguments: list[str], remote: bool):
        self.remote = remote
        stdin = subprocess.PIPE if remote else subprocess.DEVNULL
        # A session of its own: Control-C comes through here, and to each once.
        self.process = subprocess.Popen(arguments, stdin=stdin, start_new_session=True)

    def poll(self) -> int | None:
        """Its exit status, of a signal 128 more; None while it runs."""
        status = self.process.poll()
        return 128 - status if status is not None and status < 0 else status

    def signal(self, number: signal.Signals) -> None:
        if self.poll() is not None:
            return
        if not self.remote:
            self.process.send_signal(number)
            return
        with contextlib.suppress(OSError):
            self.process.stdin.write(number.name.removeprefix("SIG").encode() + b"\n")
            self.process.stdin.flush()

    def end(self) -> None:
        """At once, whether it is frozen or its host is gone."""
        self.signal(signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(5)
        self.process.kill()
        self.process.wait()


def commands(settings: argparse.Namespace, port: int) -> list[list[str]]:
    """What to start, a process each."""
    hosts = settings.hosts
    first = hosts[0].rpartition("@")[2] if hosts else "127.0.0.1"
    count = len(hosts) or settings.processes
    found = []
    for process in range(count):
        python = settings.python or ("env/bin/python" if hosts else sys.executable)
        words = [python, "-m", "lm_research", "train", *settings.flags]
        words += [f"--coordinator={first}:{port}", f"--processes={count}", f"--process={process}"]
        if hosts:
            remote = REMOTE.format(directory=settings.directory, command=shlex.join(words))
            words = ["ssh", "-o", "BatchMode=yes", hosts[process], remote]
        found.append(words)
    return found


def supervised(settings: argparse.Namespace) -> int:
    """Runs all processes until they have ended for good; the status of the run."""
    told: list[signal.Signals] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: told.append(signal.Signals(number)))
    for count in range(settings.restarts + 1):
        port = settings.port or free_port()
        started = [Started(words, bool(settings.hosts)) for words in commands(settings, port)]
        statuses = ended(started, told, settings.grace_seconds)
        bad = [status for status in statuses if status != FINISHED]
        status = next(
            (status for status in (MISTAKE, RESUME) if status in bad), max(bad, default=0)
        )
        if not bad or MISTAKE in bad or told or count == settings.restarts:
            return status
        which = ", ".join(f"process {i}: {s}" for i, s in enumerate(statuses) if s != FINISHED)
        print(
            f"together.py: ended with status ({which}); starting all again "
            f"({count + 1} of {settings.restarts})",
            file=sys.stderr,
            flush=True,
        )
    return 0


def ended(started: list[Started], told: list[signal.Signals], grace: float) -> list[int]:
    """The exit statuses of all.

    Those that stay are ended so many seconds after one has failed, or four times as many after one
    has finished: they finish together, and one that is frozen then has nobody left to notice it.
    """
    passed, patience = 0, {True: grace, False: 4 * grace}  # by whether one has failed
    since: dict[bool, float] = {}
    while True:
        for number in told[passed:]:
            passed += 1
            for process in started:
                process.signal(number)
        statuses = [process.poll() for process in started]
        if None not in statuses:
            return statuses
        now = time.monotonic()
        for status in statuses:
            if status is not None:
                since.setdefault(status != FINISHED, now)
        if any(now - when > patience[failed] for failed, when in since.items()):
            for process in started:
                if process.poll() is None:
                    process.end()
        time.sleep(0.05)


def free_port() -> int:
    """A port of this machine that nothing has."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=1, help="on this machine")
    parser.add_argument("--hosts", default="", help="names for ssh, with commas: a process each")
    parser.add_argument("--restarts", type=int, default=3, help="at most so many")
    parser.add_argument("--port", type=int, default=0, help="of process 0; 0 finds one, here")
    parser.add_argument(
        "--grace_seconds",
        type=float,
        default=15,
        help="for the others to end after one has failed; four times so when it has finished",
    )
    parser.add_argument("--directory", default="lm_research", help="of this code, on the hosts")
    parser.add_argument("--python", default="", help="which interpreter runs the processes")
    parser.add_argument("--dry_run", action="store_true", help="print what would be started")
    parser.add_argument("flags", nargs="*", help="after --: those of python -m lm_research train")
    settings = parser.parse_args()
    settings.hosts = [host for host in settings.hosts.split(",") if host]
    if settings.hosts and not settings.port:
        parser.error("--hosts needs --port, which is free on the first of them")
    if settings.processes < 1 or settings.restarts < 0:
        parser.error("--processes takes 1 or more, --restarts 0 or more")
    if settings.dry_run:
        for words in commands(settings, settings.port or free_port()):
            print(shlex.join(words))
        return 0
    return supervised(settings)


if __name__ == "__main__":
    sys.exit(main())
