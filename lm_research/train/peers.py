"""Processes of one run that listen to each other, and end together when one of them is lost.

Each has a connection to process 0, over which both ends beat. A killed process closes it; a frozen
one beats no more. The main thread may hang in a collective then, so a thread of its own says who it
was and ends the process. JAX has a heartbeat, too, whose only answer is to abort.
"""

import contextlib
import json
import os
import selectors
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from lm_research.errors import RESTART, RESUME
from lm_research.train.channel import Channel

EVERY = 1.0  # seconds between beats
RECORD = 5.0  # seconds for writing down a fault
FAULTS = "faults.jsonl"

# Beats while a library holds the interpreter, which stops every thread of Python's, but not while
# the process that started it is stopped (T, t) or dead (Z, X).
BEATER = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
parent, every, *sockets = sys.argv[1:]
while os.getppid() == int(parent):
    with open(f"/proc/{parent}/stat") as file:
        state = file.read().rpartition(")")[2].split()[0]
    for number in [] if state in "TtZX" else sockets:
        try:
            os.write(int(number), b"{}\\n")
        except OSError:
            pass
    time.sleep(float(every))
"""


class Peers(threading.Thread):
    """Watches the other processes of a run from when it is started until `leave`.

    Args:
      process: this one's number.
      hosts: where each process runs.
      channels: to process 0, or from there to each of the others, by number.
      seconds: without a beat, after which a process counts as lost.
      workdir: where faults are recorded.
    """

    def __init__(
        self,
        process: int,
        hosts: list[str],
        channels: dict[int, Channel],
        seconds: float,
        workdir: Path,
    ):
        super().__init__(name="peers", daemon=True)
        self.process, self.hosts, self.channels = process, hosts, dict(channels)
        self.seconds, self.workdir = seconds, workdir
        self.left: set[int] = set()  # that ended well
        self.leaving = False
        self._beater: subprocess.Popen | None = None

    def name_of(self, process: int) -> str:
        return f"process {process} on {self.hosts[process]}"

    def start(self) -> None:
        if sys.platform == "linux":
            sockets = [channel.fileno() for channel in self.channels.values()]
            self._beater = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", BEATER]
                + [str(word) for word in (os.getpid(), EVERY, *sockets)],
                pass_fds=sockets,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Control-C is not for it
            )
        super().start()

    def run(self) -> None:
        try:
            self._watch()
        except Exception as error:  # nobody would notice that nobody watches
            if not self.leaving:
                self._exit(RESTART, f"the other processes cannot be watched any more: {error!r}")

    def _watch(self) -> None:
        """Beats, listens, and judges nobody by time in which it did not run itself."""
        selector = selectors.DefaultSelector()
        for number, channel in self.channels.items():
            selector.register(channel, selectors.EVENT_READ, number)
        heard, beaten = dict.fromkeys(self.channels, time.monotonic()), 0.0
        while not self.leaving:
            before = time.monotonic()
            ready = [key.data for key, _ in selector.select(EVERY)]
            for number in ready:
                messages = self.channels[number].come()
                heard[number] = time.monotonic()
                for message in messages or ():
                    self._told(number, message)
                if messages is None:
                    selector.unregister(self.channels[number])
                    del heard[number]
                    if number not in self.left:
                        self._lost(number, "is gone")
            now = time.monotonic()
            if now - beaten >= EVERY:
                beaten = now
                self._tell_all()
            if now - before > 3 * EVERY:
                heard = dict.fromkeys(heard, now)
            for number, when in heard.items():
                if now - when > self.seconds:
                    self._lost(number, f"has not been heard from for {now - when:.0f} s")

    def leave(self, status: int = 0, line: str = "") -> None:
        """Tells the others that this process ends on purpose, and why where it is not well."""
        self.leaving = True
        if status:
            self._tell_all(ended=self.process, status=status, line=line)
        else:
            self._tell_all(left=self.process)
        self._hang_up()

    def _tell_all(self, **message: Any) -> None:
        for channel in self.channels.values():
            channel.send(**message)

    def _hang_up(self) -> None:
        if self._beater is not None:
            self._beater.kill()
            self._beater.wait()
        for channel in self.channels.values():
            channel.close()

    def _told(self, number: int, message: dict[str, Any]) -> None:
        if "left" in message:
            self.left.add(number)
        elif "lost" in message:
            self._lost(message["lost"], message["line"])
        elif "ended" in message:
            self._end(**message)

    def _lost(self, number: int, why: str) -> None:
        """Says who is lost, records it, and ends this process."""
        if self.leaving:
            return
        self._tell_all(lost=number, line=why)
        if number == self.process:
            line = "the others did not hear from this process, and have ended"
        else:
            line = f"{self.name_of(number)} {why}"
        # What the workdir lies on may be gone as well.
        record = threading.Thread(target=self._record, args=(number, why), daemon=True)
        record.start()
        record.join(RECORD)
        self._exit(RESTART, f"{line}; start all processes again, and the run goes on")

    def _end(self, ended: int, status: int, line: str) -> None:
        """Ends this process as another one did on purpose."""
        if self.leaving:
            return
        self._tell_all(ended=ended, status=status, line=line)
        self._exit(status, f"{self.name_of(ended)} ended: {line}")

    def _record(self, number: int, why: str) -> None:
        """One process's word is enough: that of process 0, or of the next when it is lost."""
        if self.process != (1 if number == 0 else 0):
            return
        fault = {"time": time.time(), "process": number, "host": self.hosts[number], "why": why}
        with contextlib.suppress(OSError):
            self.workdir.mkdir(parents=True, exist_ok=True)
            with (self.workdir / FAULTS).open("a") as file:
                file.write(json.dumps(fault) + "\n")

    def _exit(self, status: int, line: str) -> None:
        say(line)
        self._hang_up()
        os._exit(status if status in (1, 2, RESUME, RESTART) else 1)


def say(line: str) -> None:
    """Prints a line, if anybody listens, whatever lock another thread hangs with."""
    with contextlib.suppress(OSError):
        os.write(2, f"lm_research: {line}\n".encode())
