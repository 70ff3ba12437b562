"""What a run says of itself: numbers, facts, fallbacks, a progress bar and a page of curves."""

import contextlib
import errno
import importlib.metadata
import json
import math
import os
import platform
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from lm_research.errors import UserError

METRICS = "metrics.jsonl"
PAUSES = (1, 2, 4, 8, 16)  # seconds between tries to write on a disk that is full
PACKAGES = (
    *("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "tensorflow-datasets"),
    *("tokenizers", "safetensors", "numpy"),
)

# Layers record while they are traced, far from any run: so these belong to the process.
_noted: dict[str, Any] = {}
_fallbacks: list[dict[str, str]] = []
_strict = False
_heard = True


def strict(on: bool = True) -> None:
    """Says whether a fallback is an error from here on."""
    global _strict
    _strict = on


@contextlib.contextmanager
def unheard():
    """Nothing that layers record in here counts: they are traced for their parameters alone."""
    global _heard
    before, _heard = _heard, False
    try:
        yield
    finally:
        _heard = before


def fallback(asked: str, got: str, why: str) -> None:
    """Records that `got` is used because `asked` could not be had, and prints it the first time.

    Raises:
      UserError: fallbacks are errors (`strict`).
    """
    if not _heard:
        return
    if _strict:
        raise UserError(f"asked for {asked}, could only have {got}: {why} (fallbacks are errors)")
    entry = {"asked": asked, "got": got, "why": why}
    if entry not in _fallbacks:
        _fallbacks.append(entry)
        print(f"fallback: asked for {asked}, got {got}: {why}", file=sys.stderr, flush=True)


def note(**facts: Any) -> None:
    """Records facts of this process's run; a later one of the same name replaces it."""
    if _heard:
        _noted.update(facts)


def facts() -> dict[str, Any]:
    """Everything noted so far, and under `fallbacks` every fallback taken."""
    return {**_noted, "fallbacks": [dict(entry) for entry in _fallbacks]}


def forget() -> None:
    """Clears notes, fallbacks and strictness."""
    _noted.clear()
    _fallbacks.clear()
    strict(False)


def write_text(path: Path, text: str) -> None:
    """Writes a file of which a reader, or a crash, finds the old text or the new."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file of which a reader, or a crash, finds the old content or the new."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".tmp")

    def write() -> None:
        try:
            with partial.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            partial.unlink(missing_ok=True)  # half of it would take up a full disk
            raise

    patiently(write, path)
    os.replace(partial, path)


def append_bytes(path: Path, file: BinaryIO, content: bytes) -> None:
    """Appends all of `content` to an unbuffered file, or nothing of it."""
    end = file.seek(0, os.SEEK_END)

    def write() -> None:
        left = memoryview(content)
        try:
            while left:
                left = left[file.write(left) :]
        except OSError:
            file.truncate(end)
            raise

    patiently(write, path)


def patiently(write: Callable[[], None], path: Path) -> None:
    """`write()`, and on a full disk again, after pauses in which there may be space again.

    Raises:
      OSError: the disk stays full, or something else is wrong; names the file.
    """
    for pause in (*PAUSES, None):
        try:
            return write()
        except OSError as error:
            if pause is None or error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise OSError(error.errno, error.strerror, str(path)) from error
            fallback(f"to write {path}", f"another try in {pause} s", error.strerror)
        time.sleep(pause)


def write_facts(workdir: Path, **more: Any) -> None:
    """Merges versions, the git commit, `facts()` and `more` into facts.json.

    What an earlier process of the run wrote stays unless replaced; its fallbacks all stay.
    """
    path = Path(workdir) / "facts.json"
    known = _object(path)
    new = {**provenance(), **facts(), **more}
    earlier = known.get("fallbacks", [])
    new["fallbacks"] = earlier + [entry for entry in new["fallbacks"] if entry not in earlier]
    write_text(path, json.dumps(_plain({**known, **new}), indent=2, allow_nan=False) + "\n")


def provenance() -> dict[str, Any]:
    """The versions and the git commit that run here."""
    return {"versions": _versions(), "git": _git()}


def stored_facts(workdir: Path) -> dict[str, Any]:
    """What facts.json says; nothing where there is none.

    Raises:
      UserError: it is not JSON.
    """
    return _object(Path(workdir) / "facts.json")


class Log:
    """The numbers of one run: a JSON object per line of metrics.jsonl, and TensorBoard."""

    def __init__(self, workdir: Path, tensorboard: bool = True):
        self.workdir, self.tensorboard = Path(workdir), tensorboard
        self._file: BinaryIO | None = None
        self._board: Any = None
        self._lock = threading.Lock()  # a watchdog writes, too
        self._purge: int | None = None

    def write(self, step: int, numbers: Mapping[str, Any], kind: str = "train") -> None:
        """Appends a row, on disk when this returns; floats keep every bit.

        A number that is not finite becomes null, and its name goes into the row's list `nonfinite`.

        Raises:
          ValueError: a training row has no loss.
        """
        if kind == "train" and "loss" not in numbers:
            raise ValueError(f"the training row of step {step} has no loss: {dict(numbers)}")
        row = {"step": int(step), "kind": kind, **_plain(numbers)}
        if lost := [name for name, value in row.items() if value is None]:
            row["nonfinite"] = lost
        with self._lock:
            if self._file is None:
                self.workdir.mkdir(parents=True, exist_ok=True)
                self._file = _metrics(self.workdir).open("ab", buffering=0)
            line = json.dumps(row, allow_nan=False) + "\n"
            append_bytes(_metrics(self.workdir), self._file, line.encode())
            self._write_board(step, row, kind)

    def resume(self, step: int, position: int = 0) -> None:
        """Drops the rows after `step`, and a last line that a crash tore, as if never written.

        Args:
          step: from which the run goes on.
          position: in the data, where it does: rows with a `position` are of a batch, and stay if
            it comes before.
        """
        self.close()
        self._purge = step + 1
        path = _metrics(self.workdir)
        if not path.exists():
            return
        stays = lambda row: row["position"] < position if "position" in row else row["step"] <= step
        kept = [line for line, row in _lines(path) if stays(row)]
        write_text(path, "".join(line + "\n" for line in kept))

    def close(self) -> None:
        """Closes the files; a later write opens them again."""
        if self._file is not None:
            self._file.close()
        if self._board is not None:
            self._board.close()
        self._file = self._board = None

    def _write_board(self, step: int, row: Mapping[str, Any], kind: str) -> None:
        if not self.tensorboard:
            return
        if self._board is None:
            try:
                from tensorboardX import SummaryWriter
            except ImportError:
                self.tensorboard = False
                return fallback("TensorBoard", "metrics.jsonl alone", "tensorboardX is not there")
            self._board = SummaryWriter(str(self.workdir / "tensorboard"), purge_step=self._purge)
        for name, value in row.items():
            if name != "step" and isinstance(value, int | float):
                self._board.add_scalar(name if "/" in name else f"{kind}/{name}", value, step)


def rows(workdir: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl in order, without a torn last line; none where there is no file.

    Raises:
      UserError: a line before the last is not a row.
    """
    path = _metrics(Path(workdir))
    return [row for _, row in _lines(path)] if path.exists() else []


class Progress:
    """A bar of step, loss, speed, wait for data and time left; lines where there is no terminal.

    Args:
      total: steps of the run.
      start: steps that are behind it already.
      tokens_per_step: what a step trains on.
      out: where it goes; None is standard error.
    """

    LINES = 50  # at most so many in a run without a terminal
    SECONDS = 5.0  # at least so many between them

    def __init__(
        self, total: int, start: int = 0, tokens_per_step: int = 0, out: TextIO | None = None
    ):
        self.total, self.step, self.tokens_per_step = total, start, tokens_per_step
        self.out = sys.stderr if out is None else out
        self._bar = _bar(total, start, self.out) if self.out.isatty() else None
        self._recent = deque([(time.monotonic(), start)], maxlen=50)
        self._updates = 0
        self._told = (-math.inf, start)  # when the last line was printed, and at which step

    def update(self, step: int, loss: float, data_wait_fraction: float) -> None:
        """Shows that `step` is done; the fraction is that of the time since the last update."""
        now, self._updates = time.monotonic(), self._updates + 1
        if self._updates == 2:
            self._recent.popleft()  # the first update's time is mostly compilation
        self._recent.append((now, step))
        text = self._text(step, loss, data_wait_fraction)
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=step >= self.total)
            self._bar.update(step - self.step)
        elif self._due(now, step):
            self.print(f"step {step}/{self.total}: {text}")
            self._told = (now, step)
        self.step = step

    def print(self, text: str) -> None:
        """Prints `text` above the bar."""
        if self._bar is not None:
            self._bar.write(text, file=self.out)
        else:
            print(text, file=self.out, flush=True)

    def close(self) -> None:
        """Leaves the bar as it is and moves to the next line."""
        if self._bar is not None:
            self._bar.close()

    def _text(self, step: int, loss: float, data_wait_fraction: float) -> str:
        (before, first), (now, last) = self._recent[0], self._recent[-1]
        if self._updates == 1:  # which says nothing of those to come
            return f"loss {loss:.4f}, compiled and made in {now - before:.0f} s"
        speed = (last - first) / max(now - before, 1e-9)
        left = _clock((self.total - step) / speed) if speed else "?"
        return (
            f"loss {loss:.4f}, {speed * self.tokens_per_step:,.0f} tokens/s, "
            f"data wait {data_wait_fraction:.0%}, {left} left"
        )

    def _due(self, now: float, step: int) -> bool:
        before, at = self._told
        due = now - before >= self.SECONDS and step - at >= self.total / self.LINES
        return self._updates == 1 or due or step >= self.total


def report(workdir: Path) -> None:
    """Writes report.html: one file with the run's curves, config, facts and last samples.

    Raises:
      UserError: a file of the run cannot be read.
    """
    from lm_research.page import page

    workdir = Path(workdir)
    samples = workdir / "samples.md"
    text = page(
        workdir.resolve().name,
        rows(workdir),
        _object(workdir / "config.json"),
        _object(workdir / "facts.json"),
        samples.read_text(encoding="utf-8", errors="replace") if samples.exists() else "",
    )
    write_text(workdir / "report.html", text)


def _metrics(workdir: Path) -> Path:
    return workdir / METRICS


def _lines(path: Path) -> list[tuple[str, dict[str, Any]]]:
    found = []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    lines = [(number, line) for number, line in enumerate(lines, 1) if line]
    for number, line in lines:
        try:
            row = json.loads(line)
            row["step"] + 0  # half a number is JSON too
        except (ValueError, TypeError, KeyError):
            if number == lines[-1][0]:
                break  # killed in the middle of a write
            raise UserError(
                f"{path}, line {number}, is not a row of metrics: {line[:60]!r}"
            ) from None
        found.append((line, row))
    return found


def _object(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}; mend it or remove it") from None


def _plain(value: Any) -> Any:
    """`value` as JSON has it: arrays of one as numbers, what is not finite as null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if not isinstance(value, str | int | float | None):
        value = value.item() if hasattr(value, "item") else str(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def _git() -> dict[str, Any] | None:
    root = Path(__file__).resolve().parents[1]
    try:
        top = _git_output(root, "rev-parse", "--show-toplevel")
        if Path(top).resolve() != root:  # installed inside somebody else's checkout
            return None
        commit = _git_output(root, "rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(_git_output(root, "status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None


def _git_output(root: Path, *arguments: str) -> str:
    command = ["git", "--no-optional-locks", "-C", str(root), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    return done.stdout.strip()


def _bar(total: int, start: int, out: TextIO) -> Any:
    from tqdm import tqdm

    shape = "{percentage:3.0f}%|{bar:20}| {n_fmt}/{total_fmt}{postfix}"
    try:
        columns = os.get_terminal_size(out.fileno()).columns
    except OSError:
        columns = 0
    # A container's terminal may say that it has no size, and tqdm would then show nothing.
    size = {"dynamic_ncols": True} if columns else {"ncols": 100, "nrows": 24}
    return tqdm(total=total, initial=start, file=out, bar_format=shape, **size)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
