"""Checkpoints: saved while training goes on, verified when restored, never taken on trust.

Orbax writes and reads; what it leaves out is here. It restores flipped bits without an error, so a
content hash of every leaf lies beside each step; it counts a step as saved before it is, so only
what is on disk counts.
"""

import contextlib
import dataclasses
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from lm_research import config, log, tree
from lm_research.errors import Stopped, UserError
from lm_research.train.stored import Damaged, described, hush, leaves, quiet, read, reason

Tree = Any

PARTS = "parts"  # beside parameters: what they were joined from
DROPPED = ".dropped"  # behind the name of a step that is being removed
SHARED = 2**20  # bytes of an array, from which on the devices that hold copies share its writing


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """When a run saves its state and how much of that it keeps.

    Attributes:
      every: steps between saves; 0 saves by the clock, at the end and when the run is stopped.
      minutes: also save when so many have passed since the last save.
      keep: how many of the newest checkpoints stay.
      keep_every: those of steps that are a multiple of this stay, too.
      best: a metric, such as `heldout/accuracy`: the parameters that are best by it are kept in a
        directory of their own, and are what the run is opened with.
      better: which values of it are.
      patience: the run ends after so many evaluations without a better one; None never does.
      retries: so many times in a row a save that failed, as on a full disk, is made again: after 1,
        2, 4, ... seconds, in which the run goes on. Then it stops; of several processes at once.
    """

    every: int = 1000
    minutes: float | None = None
    keep: int = 3
    keep_every: int | None = None
    best: str | None = None
    better: Literal["higher", "lower"] = "higher"
    patience: int | None = None
    retries: int = 5

    def __post_init__(self):
        config.at_least(self, "checkpoint", 0, "retries")
        if self.patience is not None and (self.best is None or self.patience < 1):
            raise UserError(
                f"checkpoint.patience is {self.patience}; it takes 1 or more, beside a metric in "
                "checkpoint.best"
            )
        if self.every < 0 or self.keep < 1:
            raise UserError(
                f"checkpoint.every is {self.every} and checkpoint.keep {self.keep}; "
                "every takes 0 or more, keep 1 or more"
            )
        for name in ("minutes", "keep_every"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise UserError(f"checkpoint.{name} is {value}; it takes more than 0, or nothing")

    def open(self, directory: str | Path, regular: int = 0, **facts: Any) -> "Checkpoints":
        """The checkpoints in a directory; nothing there changes before the first save.

        Args:
          directory: where they are.
          regular: how many of the newest that `every` asked for stay, whatever else was saved.
          **facts: what lies beside every state, as JSON has it.
        """
        return Checkpoints(self, directory, regular, facts)


class Checkpoints:
    """The checkpoints of one run. Every process calls the same methods; Orbax decides who writes.

    Opening and restoring change nothing on disk, so a run can be read while it trains.
    """

    def __init__(
        self,
        settings: Checkpoint,
        directory: str | Path,
        regular: int,
        facts: Mapping[str, Any],
    ):
        self.settings, self.directory = settings, Path(directory).absolute()
        self.regular, self.facts = regular, facts
        self._clock = _Clock(settings.minutes)
        self._writer: Any = None
        self._newest: int | None = None  # the step that was last handed to the writer
        self._bad: dict[int, str] = {}  # steps that could not be restored, and why
        self._failures = 0  # in a row
        self._again: float | None = None  # when to make the last of them good
        self._problem = ""  # of it

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind, error, trace) -> None:
        with contextlib.suppress(*([] if error is None else [Stopped])):
            self.close()

    def due(self, step: int) -> bool:
        """Whether to save at `step`: the same answer on all processes.

        Raises:
          Stopped: the save that was going on has failed.
        """
        if self._writer is not None and not self._writer.is_saving_in_progress():
            self.wait()
        if self._again is not None:  # before that moment it would fail again, and once too often
            return time.monotonic() >= self._again
        every = self.settings.every
        return bool(every and step % every == 0) or self._clock.due(step)

    def save(self, step: int, state: Tree, position: int, **facts: Any) -> None:
        """Starts to save; returns when `state` may be donated. A step that is saved stays as it is.

        Args:
          step: what to call it.
          state: tree of arrays.
          position: the next index in the data.
          **facts: more to keep beside the state, as JSON has it.

        Raises:
          Stopped: this save or the one before cannot be written, for the last time.
          UserError: the directory holds good checkpoints of later steps.
        """
        self.wait()
        self._again = None
        if step == self._newest:
            return
        import orbax.checkpoint as ocp

        meta = described(step, state, {**self.facts, **facts, "position": position})
        self._newest = step
        try:
            self._writer = self._writer or self._open_writer(step)
            self._writer.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.PyTreeSave(tree.named_leaves(state)),
                    meta=ocp.args.JsonSave(meta),
                ),
                force=True,
            )
        except (OSError, ValueError, RuntimeError) as error:
            self._failed(error)
        self._clock.restart(step)

    def finish(self, step: int, state: Tree, position: int, **facts: Any) -> None:
        """`save`, until it is on disk."""
        while True:
            self.save(step, state, position, **facts)
            self.wait()
            if self._again is None:
                return
            time.sleep(max(0.0, self._again - time.monotonic()))

    def wait(self) -> None:
        """Returns when nothing is being saved.

        Raises:
          Stopped: the save has failed.
        """
        if self._writer is not None:
            try:
                self._writer.wait_until_finished()
            except Exception as error:
                self._failed(error)
            else:
                self._failures, self._again = 0, None

    def close(self) -> None:
        """Waits, and lets go of Orbax's threads; a later save starts them again.

        Raises:
          Stopped: the save has failed.
        """
        self.wait()
        if self._again is not None:
            raise Stopped(self._problem)
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def last_good(self) -> str:
        """Says, for a message, which checkpoint is the newest one on disk."""
        if self._writer is not None:
            with contextlib.suppress(Exception):
                self._writer.wait_until_finished()
        steps = [step for step in _steps(self.directory) if step not in self._bad]
        if not steps:
            return f"there is no good checkpoint in {self.directory}"
        return f"the last good checkpoint is step {steps[-1]} in {self.directory}"

    def restore(
        self, abstract: Tree, partial: bool = False, last: int | None = None
    ) -> tuple[Tree, dict[str, Any]] | None:
        """The newest state that is whole, and what lies beside it; None where nothing was saved.

        Args:
          abstract: tree of shapes and dtypes with the shardings to restore to, whatever they were.
          partial: `abstract` names only some of the leaves; the others are not read.
          last: the newest step that will do.

        Raises:
          UserError: every checkpoint is damaged, or they hold other leaves, shapes or dtypes.
        """
        self.wait()
        steps = [s for s in _agreed_steps(self.directory) if last is None or s <= last]
        with quiet():
            result = self._newest_whole(steps, abstract, partial)
        if result is None and steps:
            reasons = "; ".join(f"step {step}: {why}" for step, why in self._bad.items())
            raise UserError(f"no checkpoint in {self.directory} can be restored: {reasons}")
        self._newest = None if result is None else result[1]["step"]
        if result is None:
            return None
        for bad in (step for step in steps if step > self._newest):
            asked, got = f"the checkpoint of step {bad}", f"that of step {self._newest}"
            log.fallback(f"{asked} in {self.directory}", got, self._bad[bad])
        return result

    def drop_later(self, step: int) -> None:
        """Drops the checkpoints of later steps, which a run that goes back to `step` makes anew."""
        self.close()
        drop_later(self.directory, step)

    def _newest_whole(self, steps: list[int], abstract: Tree, partial: bool):
        for step in reversed(steps):
            try:
                return read(self.directory / str(step), abstract, partial, _everywhere)
            except Damaged as error:
                self._bad[step] = str(error)
        return None

    def _open_writer(self, step: int) -> Any:
        """Moves aside what could not be restored, clears what a crash left, and opens Orbax."""
        import orbax.checkpoint as ocp
        from orbax.checkpoint.checkpoint_managers import preservation_policy as keep

        if later := [s for s in _agreed_steps(self.directory) if s >= step and s not in self._bad]:
            raise UserError(
                f"{self.directory} holds the checkpoint of step {later[-1]}, so step {step} cannot "
                "be saved there; restore it first, or give a new directory"
            )
        if jax.process_index() == 0:
            _finish_dropping(self.directory)
            for bad in self._bad:
                if (self.directory / str(bad)).exists():
                    (self.directory / str(bad)).rename(_free(self.directory / f"bad-{bad}"))
        self._bad.clear()
        hush()
        policies = [keep.LatestN(self.settings.keep)]
        if self.settings.keep_every:
            policies.append(keep.EveryNSteps(self.settings.keep_every))
        if self.regular:
            policies.append(keep.EveryNSteps(self.settings.every, max_to_keep=self.regular))
        options = ocp.CheckpointManagerOptions(
            cleanup_tmp_directories=True,
            preservation_policy=keep.AnyPreservationPolicy(policies),
        )
        # Compression makes random digits 8% smaller, for seven times the processor's time.
        handlers = ocp.handlers.DefaultCheckpointHandlerRegistry()
        # Copies of a small array are not worth the slices, each a program, that share its writing.
        arrays = ocp.type_handlers.ArrayHandler(min_slice_bytes_for_replica_parallel=SHARED)
        types = ocp.type_handlers.create_type_handler_registry((jax.Array, arrays))
        plain = ocp.PyTreeCheckpointHandler(use_compression=False, type_handler_registry=types)
        handlers.add("state", ocp.args.PyTreeSave, plain)
        handlers.add("meta", ocp.args.JsonSave, ocp.JsonCheckpointHandler())
        return ocp.CheckpointManager(self.directory, options=options, handler_registry=handlers)

    def _failed(self, error: Exception) -> None:
        """Removes what a save left that failed, and says when to make it again.

        Raises:
          Stopped: it has failed too often.
        """
        writer, self._writer = self._writer, None
        step, self._newest = self._newest, None
        if writer is not None:
            with contextlib.suppress(Exception):
                writer.close()
        if jax.process_index() == 0:
            _remove_partial(self.directory)
        what = f"the checkpoint of step {step}"
        self._problem = f"{what} cannot be written: {reason(error)}; {self.last_good()}"
        if jax.process_count() > 1 or self._failures == self.settings.retries:
            raise Stopped(self._problem) from error
        pause = 2**self._failures
        self._failures += 1
        self._again = time.monotonic() + pause
        log.fallback(what, f"another save in {pause} s", reason(error))


def load_params(directory: str | Path, abstract: Tree) -> tuple[Tree, dict[str, Any]]:
    """The parameters of `save_params`, or the trained ones of a run, and what lies beside them.

    Args:
      directory: checkpoints.
      abstract: shapes, dtypes and shardings of the parameters.

    Raises:
      UserError: there are none, they are damaged, or they are of another model.
    """
    restored = Checkpoint().open(directory).restore({"trained": abstract}, partial=True)
    if restored is None:
        raise UserError(f"there are no checkpoints in {directory}")
    state, meta = restored
    return state["trained"], meta


def load_parts(directory: str | Path, abstract: Tree) -> tuple[Tree, dict[str, Any]] | None:
    """What `save_params` kept beside the newest parameters, and what lies beside it; if anything.

    Args:
      directory: checkpoints.
      abstract: shapes, dtypes and shardings of the parts.

    Raises:
      UserError: they are damaged, or of another model.
    """
    steps = (Path(directory) / str(step) for step in _steps(Path(directory)))
    if not any(name.startswith(f"{PARTS}/") for step in steps for name in leaves(step)):
        return None
    restored = Checkpoint().open(directory).restore({PARTS: abstract}, partial=True)
    return restored[0][PARTS], restored[1]


def drop_later(directory: str | Path, step: int) -> None:
    """Drops the checkpoints of later steps, which a run that goes on from `step` makes anew."""
    if jax.process_index() == 0:
        _finish_dropping(Path(directory))
        # From the newest on, and each all at once: a run that is killed here goes on from the rest.
        for later in reversed(_steps(Path(directory))):
            if later > step:
                dropped = Path(directory) / f"{later}{DROPPED}"
                (Path(directory) / str(later)).rename(dropped)
        _finish_dropping(Path(directory))


def _finish_dropping(directory: Path) -> None:
    """Removes what was dropped, by this process or by one that was killed at it."""
    for left in directory.glob(f"*{DROPPED}"):
        shutil.rmtree(left)


def save_params(
    directory: str | Path,
    params: Tree,
    step: int = 0,
    keep: int = 3,
    retries: int = 0,
    parts: Tree | None = None,
) -> None:
    """Saves parameters alone, and returns when they are on disk.

    Args:
      directory: of checkpoints.
      params: what to save.
      step: what to call it.
      keep: how many of the newest stay.
      retries: how often to try again.
      parts: what they are made of, to be kept beside them for `load_parts`.

    Raises:
      Stopped: they cannot be written.
      UserError: the directory holds checkpoints of later steps.
    """
    with Checkpoint(keep=keep, retries=retries).open(directory) as checkpoints:
        beside = {} if parts is None else {PARTS: parts}
        checkpoints.finish(step, {"trained": params, **beside}, 0)


class _Clock:
    """Says when so many minutes have passed on process 0's clock.

    Asking process 0 makes every process wait for the devices, so it also says for how many steps
    not to ask again.
    """

    def __init__(self, minutes: float | None):
        self.seconds = None if minutes is None else 60 * minutes
        self.since, self.start, self.ask = time.monotonic(), None, 0

    def restart(self, step: int) -> None:
        self.since, self.start, self.ask = time.monotonic(), step, step + 1

    def due(self, step: int) -> bool:
        if self.start is None:
            self.start = step
        if self.seconds is None or step < self.ask:
            return False
        pause = int(_from_first(self._pause(step)))
        self.ask = step + pause
        return pause == 0

    def _pause(self, step: int) -> int:
        """0 if it is time, else half of the steps that fit into what is left."""
        passed = time.monotonic() - self.since
        pace = max(passed, 1e-9) / max(1, step - self.start)
        left = self.seconds - passed
        return 0 if left <= 0 else max(1, int(min(left / pace / 2, 1e6)))


def _steps(directory: Path) -> list[int]:
    """The complete steps on disk, in order: a step gets its name when all of it is there."""
    names = [path.name for path in directory.iterdir()] if directory.is_dir() else []
    return sorted(int(name) for name in names if name.isdigit())


def _agreed_steps(directory: Path) -> list[int]:
    """The steps that process 0 sees."""
    steps = _steps(directory)
    count = int(_from_first(len(steps)))
    return [int(step) for step in _from_first(np.resize(np.array(steps, np.int32), count))]


def _from_first(value: Any) -> Any:
    """What process 0 has as `value`."""
    if jax.process_count() == 1:
        return value
    from jax.experimental import multihost_utils

    return multihost_utils.broadcast_one_to_all(np.asarray(value))


def _everywhere(fact: bool) -> bool:
    """Whether `fact` holds on all processes."""
    if jax.process_count() == 1:
        return fact
    from jax.experimental import multihost_utils

    return bool(multihost_utils.process_allgather(np.asarray(fact)).all())


def _remove_partial(directory: Path) -> None:
    """Removes what a failed save left; other threads of it may still be writing there."""
    for _ in range(20):
        partial = list(directory.glob("*.orbax-checkpoint-tmp*"))
        if not partial:
            return
        for path in partial:
            shutil.rmtree(path, ignore_errors=True)
        time.sleep(0.05)


def _free(path: Path) -> Path:
    """`path`, or with a number behind it the first that does not exist."""
    others = (path.with_name(f"{path.name}-{n}") for n in range(2, 1000))
    return next(p for p in (path, *others) if not p.exists())
