"""What a user did wrong, told in one line; `__main__` prints it and exits without a traceback."""


class UserError(Exception):
    """One clear line: what was given, where, and what would be accepted."""


class Stopped(UserError):
    """A run that ended early and kept everything that it had saved."""
