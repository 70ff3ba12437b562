"""Tell the class of texts, with probabilities."""

from pathlib import Path

from absl import flags


def define() -> None:
    """--checkpoint, --text, --input, --output."""
    flags.DEFINE_string("checkpoint", None, "a run's directory")
    flags.DEFINE_multi_string("text", [], "a text to classify and print; may be repeated")
    flags.DEFINE_string("input", None, '{"text": "..."} or {"tokens": [1, 2, ...]} per line')
    flags.DEFINE_string(
        "output",
        None,
        '{"class": ..., "probabilities": {...}} per line; by default a line is printed for each',
    )
    flags.mark_flag_as_required("checkpoint")


def run(values: flags.FlagValues) -> None:
    """Prints a class and its probability for each text, or writes --output."""
    import json

    from lm_research import log, mesh
    from lm_research.data import Tokenizer
    from lm_research.errors import UserError
    from lm_research.infer import text
    from lm_research.infer.classify import classify
    from lm_research.train.restore import open_checkpoint

    if bool(values.text) == (values.input is not None):
        raise UserError("predict takes texts from --text=... or from --input=FILE, one of the two")
    given = [text.Line(f"--text={one[:40]!r}", text=one) for one in values.text]
    lines = given or text.lines(Path(values.input))
    with mesh.Mesh().activate():
        loaded = open_checkpoint(values.checkpoint)
        tokens = [text.encoded(line, loaded.tokenizer, Tokenizer.whole) for line in lines]
        tokens = _cut(tokens, loaded.context)
        found = classify(loaded.model, loaded.params, tokens)
    names = loaded.model.classes
    rows = [
        {
            "class": names[int(each.argmax())],
            "probabilities": {name: round(float(p), 6) for name, p in zip(names, each)},
        }
        for each in found
    ]
    if values.output is None:
        for line, row in zip(lines, rows):
            told = line.text if line.text is not None else line.where
            print(f"{row['class']}\t{row['probabilities'][row['class']]:.4f}\t{told}")
        return
    log.write_text(Path(values.output), "".join(json.dumps(row) + "\n" for row in rows))
    print(f"{len(rows):,} texts: {values.output}")


def _cut(tokens: list, length: int | None) -> list:
    """Texts as a model was trained to read them; says how many lose something."""
    from lm_research import log

    long = sum(length is not None and len(one) > length for one in tokens)
    if long:
        asked = f"{long:,} of {len(tokens):,} texts, longer than {length} tokens"
        log.fallback(asked, f"their first {length} tokens", "the model was trained on no more")
    return [one[:length] for one in tokens]
