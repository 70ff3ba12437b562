"""What a user did wrong, told in one line, and the exit status of it; never a traceback."""

import sys
from collections.abc import Callable

RESUME = 75  # exit status of a run that was told to stop and can go on: EX_TEMPFAIL
RESTART = 76  # of a process that lost another one of its run: all of them start again


class UserError(Exception):
    """One clear line: what was given, where, and what would be accepted."""


class Stopped(UserError):
    """A run that ended early and kept everything that it had saved."""


def ending(error: BaseException) -> tuple[int, str] | None:
    """The exit status and the line for an error that is somebody's business; None for a bug."""
    match error:
        case Stopped():
            return 1, str(error)
        case UserError():
            return 2, str(error)
        case OSError():  # a disk, a permission, a pipe: the machine's business, not ours
            return 1, str(error)
        case KeyboardInterrupt():
            return 130, "interrupted"
    return None


def exit_status(name: str, main: Callable[[], int | None]) -> int:
    """Of a program; what is somebody's business is told in a line that begins with its name."""
    try:
        return main() or 0
    except (UserError, OSError, KeyboardInterrupt) as error:
        status, line = ending(error)
        print(f"{name}: {line}", file=sys.stderr)
        return status
