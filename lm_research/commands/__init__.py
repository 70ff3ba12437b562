"""One thin absl program per command: `define()` declares its flags, `run(flags)` does the work.

A command's module imports nothing heavy, so that `--help` answers at once.
"""

COMMANDS = (
    *("train", "evaluate", "generate", "chat", "score", "predict", "embed", "search"),
    *("prepare", "convert", "verify", "plan", "report"),
)
