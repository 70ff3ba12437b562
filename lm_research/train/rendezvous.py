"""Processes of one run find each other, and make sure that they are of one run, before JAX starts.

Process 0 listens at the coordinator's address; the others come and say who they are, what they run
and whether they see its workdir. A mistake is told to all of them, and all end.
"""

import contextlib
import dataclasses
import os
import platform
import secrets
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lm_research.errors import Stopped, UserError, ending
from lm_research.train.channel import Channel

FILES = 30.0  # seconds that a network's file system may take to show a new file to all hosts
ANSWER = 10.0  # seconds within which somebody who has connected says who it is
NAMED = 3  # at most so many differences, and processes of one, are told


@dataclasses.dataclass(frozen=True)
class Place:
    """One process's place among those of a run.

    Attributes:
      coordinator: host and port at which process 0 listens.
      processes: how many there are.
      process: which one this is.
      devices: those of this host that it takes; None is all.
      connect_seconds: how long to wait for the others.
      peer_seconds: without a beat, after which a process counts as lost.
    """

    coordinator: tuple[str, int]
    processes: int
    process: int
    devices: list[int] | None = None
    connect_seconds: float = 300.0
    peer_seconds: float = 30.0

    @property
    def address(self) -> str:
        return "{}:{}".format(*self.coordinator)


@dataclasses.dataclass(frozen=True)
class Met:
    """Processes that have found each other.

    Attributes:
      channels: to process 0, or from there to the others, by number.
      hosts: where each process runs.
      port: on process 0's host, for JAX's own coordinator.
    """

    channels: dict[int, Channel]
    hosts: list[str]
    port: int


def meet(place: Place, running: Mapping[str, Any], workdir: Path) -> Met:
    """All processes of the run, which run the same and share the workdir.

    Args:
      place: this process's.
      running: what must be the same on all of them, as JSON has it.
      workdir: of the run.

    Raises:
      Stopped: they do not come together in time, or the port is taken.
      UserError: they are not of one run.
    """
    hello = {
        "lm_research": 1,
        "process": place.process,
        "processes": place.processes,
        "host": platform.node() or "an unnamed host",
        "running": running,
    }
    if place.process:
        return _come(place, hello, workdir)
    return _gather(place, hello, workdir)


def _gather(place: Place, hello: dict[str, Any], workdir: Path) -> Met:
    """Process 0's side."""
    deadline = time.monotonic() + place.connect_seconds
    channels: dict[int, Channel] = {}
    strangers: list[Channel] = []  # those who are refused hear why, too
    with _listening(place) as server:
        try:
            hellos = {0: hello}
            while len(hellos) < place.processes:
                channel, other = _next(server, place, hellos, deadline)
                strangers.append(channel)
                number = _checked(other, place, hellos)
                hellos[number], channels[number] = other, strangers.pop()
            if difference := differing([hellos[number] for number in sorted(hellos)]):
                raise UserError(difference)
            hosts = [hellos[number]["host"] for number in sorted(hellos)]
            _check_shared(channels, hosts, workdir)
            with socket.socket() as free:
                free.bind(("", 0))
                port = free.getsockname()[1]
            for channel in channels.values():
                channel.send(hosts=hosts, port=port)
            return Met(channels, hosts, port)
        except BaseException as error:
            status, line = ending(error) or (1, repr(error))
            for channel in (*channels.values(), *strangers, *_late(server, place, len(hellos))):
                channel.send(refused=line, status=status)
                channel.close()
            raise


def _listening(place: Place) -> socket.socket:
    host, port = place.coordinator
    here = host in ("localhost", "::1") or host.startswith("127.")
    try:
        if here:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            return socket.create_server((host, port), family=family, backlog=1024)
        if socket.has_dualstack_ipv6():
            both = {"family": socket.AF_INET6, "dualstack_ipv6": True}
            return socket.create_server(("", port), backlog=1024, **both)
        return socket.create_server(("", port), backlog=1024)
    except OSError as error:
        raise Stopped(
            f"process 0 cannot listen at --coordinator={place.address} on {platform.node()}: "
            f"{os.strerror(error.errno) if error.errno else error}; give another port, or end what "
            "has it"
        ) from None


def _next(
    server: socket.socket, place: Place, hellos: Mapping[int, Any], deadline: float
) -> tuple[Channel, dict[str, Any]]:
    """The next process that comes; strangers are sent away."""
    while (left := deadline - time.monotonic()) > 0:
        server.settimeout(left)
        try:
            connection, _ = server.accept()
        except TimeoutError:
            break
        channel = Channel(connection)
        message = channel.receive(min(deadline, time.monotonic() + ANSWER))
        if message is not None and "lm_research" in message:
            return channel, message
        channel.close()
    missing = [str(number) for number in range(place.processes) if number not in hellos]
    raise Stopped(
        f"process {_some(missing)} of {place.processes} did not come to "
        f"--coordinator={place.address} within {place.connect_seconds:g} s (--connect_seconds)"
    )


def _late(server: socket.socket, place: Place, come: int) -> Iterator[Channel]:
    """Those that come soon after all is lost, so that they need not wait in vain."""
    server.settimeout(ANSWER)
    with contextlib.suppress(OSError):
        for _ in range(come, place.processes):
            yield Channel(server.accept()[0])


def _checked(other: dict[str, Any], place: Place, hellos: Mapping[int, Any]) -> int:
    """The number of a process that has come.

    Raises:
      UserError: it cannot be.
    """
    number, host = other["process"], other["host"]
    if other["processes"] != place.processes:
        raise UserError(
            f"process {number} on {host} has --processes={other['processes']}, and process 0 on "
            f"{hellos[0]['host']} has --processes={place.processes}; all take the same"
        )
    if number in hellos:
        raise UserError(
            f"two processes have --process={number}, one on {hellos[number]['host']} and one on "
            f"{host}; each takes its own, from 0 to {place.processes - 1}"
        )
    return number


def differing(hellos: list[dict[str, Any]]) -> str:
    """What processes do not run the same, and which ones; nothing where all do."""
    runs = [dict(_flat(hello["running"])) for hello in hellos]
    names = sorted(set().union(*runs))
    lines = []
    for name in names:
        values: dict[str, list[str]] = {}
        for number, (hello, run) in enumerate(zip(hellos, runs)):
            value = str(run.get(name, "(absent)"))
            values.setdefault(value, []).append(f"{number} ({hello['host']})")
        if len(values) > 1:
            told = (f"{value} on process {_some(who)}" for value, who in values.items())
            lines.append(f"{name} is {', '.join(told)}")
    return f"processes of one run must run the same: {_some(lines, '; ')}" if lines else ""


def _flat(section: Mapping[str, Any], path: str = ""):
    for name, value in section.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{path}{name}.")
        else:
            yield path + name, value


def _some(words: list[str], between: str = ", ") -> str:
    more = [f"and {len(words) - NAMED} more"] if len(words) > NAMED else []
    return between.join(words[:NAMED] + more)


def _check_shared(channels: Mapping[int, Channel], hosts: list[str], workdir: Path) -> None:
    """Makes sure that all processes see what process 0 writes into the workdir.

    Raises:
      UserError: one does not.
    """
    made = not workdir.exists()
    workdir.mkdir(parents=True, exist_ok=True)
    token = workdir / f".shared-{secrets.token_hex(8)}"
    token.touch()
    try:
        for channel in channels.values():
            channel.send(look=token.name)
        deadline = time.monotonic() + FILES + ANSWER
        blind = []
        for number, channel in sorted(channels.items()):
            answer = channel.receive(deadline)
            if answer is None:
                raise Stopped(f"process {number} on {hosts[number]} went away before it began")
            if not answer["seen"]:
                blind.append(f"{number} on {hosts[number]}")
    finally:
        token.unlink()
        if made:
            with contextlib.suppress(OSError):
                workdir.rmdir()
    if blind:
        raise UserError(
            f"process {_some(blind)} cannot see what process 0 on {hosts[0]} writes into "
            f"--workdir={workdir}; give a directory that all hosts share"
        )


def _come(place: Place, hello: dict[str, Any], workdir: Path) -> Met:
    """The side of all processes but 0."""
    deadline = time.monotonic() + place.connect_seconds
    channel, message = _reached(place, hello, deadline)
    if "look" in message:
        channel.send(seen=_appears(workdir / message["look"]))
        message = channel.receive(time.monotonic() + FILES + 2 * ANSWER)
    if message is None:
        raise Stopped(f"process 0 at --coordinator={place.address} went away before it began")
    if "refused" in message:
        raise (UserError if message["status"] == 2 else Stopped)(message["refused"])
    return Met({0: channel}, message["hosts"], message["port"])


def _reached(
    place: Place, hello: dict[str, Any], deadline: float
) -> tuple[Channel, dict[str, Any]]:
    """The connection to process 0, and its first word.

    One that closes without a word is that of an earlier process 0 which is about to end.
    """
    why = "no answer"
    while (left := deadline - time.monotonic()) > 0:
        try:
            channel = Channel(
                socket.create_connection(place.coordinator, timeout=min(left, ANSWER))
            )
        except OSError as error:
            why = str(error).partition("] ")[2] or str(error)
        else:
            channel.send(**hello)
            # Process 0 may have come later, and then waits longer.
            if (message := channel.receive(deadline + place.connect_seconds)) is not None:
                return channel, message
            channel.close()
            why = "it closes the connection without a word"
        time.sleep(min(0.2, max(0.0, left)))
    raise Stopped(
        f"process {place.process} on {hello['host']} cannot reach --coordinator={place.address}: "
        f"{why} (within {place.connect_seconds:g} s, --connect_seconds)"
    )


def _appears(path: Path) -> bool:
    deadline = time.monotonic() + FILES
    while True:
        with contextlib.suppress(OSError):
            if path.name in os.listdir(path.parent):  # asks a network's file system anew
                return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
