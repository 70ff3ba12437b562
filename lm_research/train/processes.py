"""Several processes, on one host or many, that are one run; `jax.distributed` is the engine."""

import contextlib
import hashlib
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import lm_research
from lm_research import config, log
from lm_research.errors import RESUME, Stopped, UserError, ending
from lm_research.train.peers import Peers, say
from lm_research.train.relay import relay
from lm_research.train.rendezvous import Met, Place, meet

# JAX's own heartbeat, which can only abort, comes long after ours: seconds.
LAST = DAY = 24 * 3600


def place_of(
    coordinator: str | None,
    processes: int | None,
    process: int | None,
    connect_seconds: float,
    peer_seconds: float,
) -> Place | None:
    """This process's place among those of a run; None where it is the only one.

    Args:
      coordinator: `HOST:PORT`, or `auto` for what a TPU pod, Slurm, Open MPI or Kubernetes tells.
      processes: how many there are.
      process: which one this is.
      connect_seconds: how long to wait for the others.
      peer_seconds: without a beat, after which a process counts as lost.

    Raises:
      UserError: they do not make a place.
    """
    for name, value, least in (
        ("connect_seconds", connect_seconds, 1),
        ("peer_seconds", peer_seconds, 5),
    ):
        if not least <= value <= DAY:
            raise UserError(f"--{name}={value:g}; it takes {least} to {DAY}")
    given = {"coordinator": coordinator, "processes": processes, "process": process}
    if all(value is None for value in given.values()):
        return None
    devices = None
    if coordinator == "auto":
        found = _detected(connect_seconds)
        coordinator, processes, process = (
            theirs if ours is None else ours
            for ours, theirs in zip((None, processes, process), found)
        )
        devices = found[3]
    elif missing := [f"--{name}" for name, value in given.items() if value is None]:
        raise UserError(
            f"--coordinator, --processes and --process go together; {missing[0]} is missing"
        )
    host, _, port = coordinator.rpartition(":")
    host = host.strip("[]")
    if not host or not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) < 2**16:
        raise UserError(f"--coordinator={coordinator}; it takes HOST:PORT, or auto")
    if processes < 1:
        raise UserError(f"--processes={processes}; it takes 1 or more")
    if not 0 <= process < processes:
        raise UserError(
            f"--process={process} of --processes={processes}; it takes 0 to {processes - 1}"
        )
    if processes == 1:
        return None
    devices = None if devices is None else list(devices)
    return Place((host, int(port)), processes, process, devices, connect_seconds, peer_seconds)


def _detected(seconds: float) -> tuple[str, int, int, Any]:
    """What the surroundings say: coordinator, processes, process, devices of it (None is all)."""
    try:
        import jax  # noqa: F401  its import makes the kinds of surroundings known
        from jax._src.clusters import ClusterEnv

        unset = (None,) * 5
        found = ClusterEnv.auto_detect_unset_distributed_params(*unset, int(seconds))
    except Exception as error:  # each kind raises what its own clients do
        why = str(error).splitlines() or [repr(error)]
        raise UserError(f"--coordinator=auto finds no other processes: {why[0]}") from error
    if None in found[:3]:
        raise UserError(
            "--coordinator=auto finds none of a TPU pod, Slurm, Open MPI or Kubernetes here; give "
            "--coordinator=HOST:PORT --processes=N --process=I"
        )
    return found


@contextlib.contextmanager
def together(place: Place | None, given: Mapping[str, Any], workdir: Path) -> Iterator[None]:
    """Makes this process one of its run within a block; it ends when any of them does.

    An error in the block ends the process here, after it has been told to the others: JAX's own
    way out waits for processes that may be gone.

    Args:
      place: this process's; None for one that is alone, for which nothing changes.
      given: the config.
      workdir: of the run.

    Raises:
      Stopped: the processes do not come together.
      UserError: they are not of one run.
    """
    if place is None:
        yield
        return
    met = meet(place, running(given), workdir)
    peers = Peers(place.process, met.hosts, met.channels, place.peer_seconds, workdir)
    # Before the loop listens, and after: what is told to stop has nothing to save.
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        peers.start()
        _initialize(place, met)
        log.note(hosts=met.hosts)
        yield
        _shut_down()
    except BaseException as error:
        _end(peers, error)
    peers.leave()
    signal.signal(signal.SIGTERM, previous)


def running(given: Mapping[str, Any]) -> dict[str, Any]:
    """What must be the same on all processes of a run: code, versions and config."""
    origin = log.provenance()
    root = Path(lm_research.__file__).parent
    code = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        code.update(str(path.relative_to(root)).encode() + path.read_bytes())
    commit = (origin["git"] or {}).get("commit")
    return {
        "commit": commit,
        "code (hash)": code.hexdigest()[:12],
        "versions": origin["versions"],
        "config": config.plain(given),
    }


def _initialize(place: Place, met: Met) -> None:
    import jax

    # JAX's service for preemptions would take SIGTERM for itself; `Interruption` does that.
    jax.config.update("jax_enable_preemption_service", False)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    host = place.coordinator[0]
    jax.distributed.initialize(
        relay(host, met.port) if place.process else f"127.0.0.1:{met.port}",
        place.processes,
        place.process,
        local_device_ids=place.devices,
        cluster_detection_method="deactivate",
        initialization_timeout=int(place.connect_seconds),
        heartbeat_timeout_seconds=LAST,
        shutdown_timeout_seconds=LAST,
    )


def _shut_down() -> None:
    import jax

    jax.distributed.shutdown()


def _end(peers: Peers, error: BaseException) -> None:
    """Ends this process for an error of its own, or of another, which `Peers` then knows.

    Not by way of the interpreter's end, where JAX waits for processes that may be gone.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    told = ending(error)
    if told is None or isinstance(error, Stopped):
        # What breaks when another process goes breaks a moment before that is known.
        unknown = type(error).__name__ == "JaxRuntimeError"
        time.sleep(peers.seconds + 5 if unknown else 3)
    if isinstance(error, KeyboardInterrupt):
        told = RESUME, "told to stop; the same command goes on from what was saved"
    status, line = told or (1, " ".join(f"{type(error).__name__}: {error}".split())[:400])
    with contextlib.suppress(OSError):
        if told is None:
            traceback.print_exception(error)
        sys.stdout.flush()
    say(line)
    peers.leave(status, line)
    os._exit(status)
