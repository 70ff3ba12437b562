"""`Watchdog`: says where a run waits when nothing moves. It never ends one."""

import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from lm_research.train.account import PLACES, Account

ROOT = Path(__file__).parents[1]
READING = (ROOT / "data", ROOT / "objectives")  # whose frames, on other threads, make batches


class Watchdog:
    """A thread that looks at an account, within a block.

    It speaks when one entry has run for `seconds`, again after twice as long, and so on.

    Args:
      account: of the thread that opens the block.
      seconds: how long is too long; 0 is never.
      tell: takes what ran, since how many seconds, and one line.
    """

    def __init__(self, account: Account, seconds: float, tell: Callable[[str, float, str], None]):
        self.account, self.seconds, self.tell = account, seconds, tell
        self._ended = threading.Event()
        self._watched = 0
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "Watchdog":
        self._watched = threading.get_ident()
        if self.seconds:
            self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *error) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join(1)  # a disk that stalls may hold it, too

    def _watch(self) -> None:
        seen, patience = None, self.seconds
        while not self._ended.wait(min(1.0, self.seconds / 4)):
            what, since = now = self.account.now
            if now is not seen:
                seen, patience = now, self.seconds
            waited = time.monotonic() - since
            if waited >= patience:
                patience = 2 * waited
                line = f"{PLACES[what]}, for {waited:.0f} s: {self._where(what)}"
                self.tell(what, waited, line)

    def _where(self, what: str) -> str:
        frames = sys._current_frames()
        mine = frames.pop(self._watched, None)
        found = [] if mine is None else [_told(mine)]
        if own := _innermost(mine, (ROOT,)):
            found += [f"called from {_told(own)}"] if own is not mine else []
        if what == "data":
            readers = (_innermost(frame, READING) for frame in frames.values())
            found += [f"a thread is at {_told(reader)}" for reader in readers if reader][:1]
        return "; ".join(found)


def _innermost(frame: FrameType | None, places: tuple[Path, ...]) -> FrameType | None:
    """The innermost frame whose code lies in one of the places."""
    while frame is not None:
        if any(place in Path(frame.f_code.co_filename).parents for place in places):
            return frame
        frame = frame.f_back
    return None


def _told(frame: FrameType) -> str:
    path = Path(frame.f_code.co_filename)
    return f"{frame.f_code.co_name} ({'/'.join(path.parts[-3:])}:{frame.f_lineno})"
