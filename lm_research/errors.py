"""What a user did wrong, told in one line; `__main__` prints it and exits without a traceback."""

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
