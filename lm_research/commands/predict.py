"""Tell the class of texts with probabilities, or their score."""

from pathlib import Path
from typing import Any

from absl import flags


def define() -> None:
    """--checkpoint, --text, --pair, --input, --output, --glue."""
    flags.DEFINE_string("checkpoint", None, "a run's directory or a Hugging Face directory")
    flags.DEFINE_multi_string("text", [], "a text to classify and print; may be repeated")
    flags.DEFINE_multi_string("pair", [], "the second text of each --text, where it takes pairs")
    flags.DEFINE_string(
        "input",
        None,
        '{"text": "..."}, {"text": "...", "pair": "..."} or {"tokens": [1, 2, ...]} per line; '
        "with --glue a folder with the task's test files, or TFDS by default",
    )
    flags.DEFINE_string(
        "output",
        None,
        '{"class": ..., "probabilities": {...}} or {"score": ...} per line; by default a line is '
        "printed for each; with --glue a folder",
    )
    flags.DEFINE_string(
        "glue", None, "a task such as cola: writes predictions for the benchmark's server"
    )
    flags.mark_flag_as_required("checkpoint")


def run(values: flags.FlagValues) -> None:
    """Prints a class and its probability for each text, or writes --output."""
    import json

    from lm_research import log, mesh
    from lm_research.infer.classify import scores, told
    from lm_research.train.restore import open_checkpoint

    if values.glue is not None:
        return _submit(values)
    lines = _lines(values)
    with mesh.Mesh().activate():
        loaded = open_checkpoint(values.checkpoint)
        tokens, types = told(lines, loaded.tokenizer, loaded.context)
        found = scores(loaded.model, loaded.params, tokens, types)
    rows = [_row(loaded.model.classes, each) for each in found]
    if values.output is None:
        for line, row in zip(lines, rows):
            said = " | ".join(text for text in (line.text, line.pair) if text) or line.where
            if "score" in row:
                print(f"{row['score']:.4f}\t{said}")
            else:
                print(f"{row['class']}\t{row['probabilities'][row['class']]:.4f}\t{said}")
        return
    log.write_text(Path(values.output), "".join(json.dumps(row) + "\n" for row in rows))
    print(f"{len(rows):,} texts: {values.output}")


def _lines(values: flags.FlagValues) -> list[Any]:
    """The requests of --text and --pair, or of --input."""
    from lm_research.errors import UserError
    from lm_research.infer import text

    if bool(values.text) == (values.input is not None):
        raise UserError("predict takes texts from --text=... or from --input=FILE, one of the two")
    if values.pair and len(values.pair) != len(values.text):
        raise UserError(
            f"predict has {len(values.text)} of --text and {len(values.pair)} of --pair; it takes "
            "as many"
        )
    pairs = values.pair or [None] * len(values.text)
    given = [
        text.Line(f"--text={one[:40]!r}", text=one, pair=pair)
        for one, pair in zip(values.text, pairs)
    ]
    return given or text.lines(Path(values.input))


def _row(classes: tuple[str, ...], logits: Any) -> dict[str, Any]:
    """What is said of one text."""
    import numpy as np

    if len(classes) == 1:
        return {"score": round(float(logits[0]), 6)}
    odds = np.exp(logits - logits.max())
    chances = {name: round(float(p), 6) for name, p in zip(classes, odds / odds.sum())}
    return {"class": classes[int(logits.argmax())], "probabilities": chances}


def _submit(values: flags.FlagValues) -> None:
    """Writes the files that GLUE's server takes."""
    from lm_research import mesh
    from lm_research.errors import UserError
    from lm_research.infer.submission import submit
    from lm_research.train.restore import open_checkpoint

    if values.text or values.output is None:
        raise UserError(
            "predict --glue=TASK takes test files from --input=FOLDER and writes --output=FOLDER"
        )
    with mesh.Mesh().activate():
        loaded = open_checkpoint(values.checkpoint)
        given = loaded.model, loaded.params, loaded.tokenizer, loaded.context
        where = dict(task=values.glue, path=values.input or "", directory=Path(values.output))
        for path in submit(*given, **where):
            print(path)
