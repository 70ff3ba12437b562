"""Write the vectors of texts, for texts to be compared by their cosines."""

from pathlib import Path
from typing import Any

from absl import flags


def define() -> None:
    """--checkpoint, --input, --output (or --out), --pool."""
    define_model()
    flags.DEFINE_string(
        "input", None, 'a text per line, or of .jsonl {"text": "..."} or {"tokens": [1, 2, ...]}'
    )
    flags.DEFINE_string("output", None, "float32 [texts, D] in numpy's format, .npy")
    flags.DEFINE_alias("out", "output")
    flags.mark_flags_as_required(["input", "output"])


def define_model() -> None:
    """--checkpoint, --pool: what makes vectors."""
    flags.DEFINE_string("checkpoint", None, "a run's directory or a Hugging Face directory")
    flags.DEFINE_enum(
        "pool",
        None,
        ["first", "last", "mean"],
        "what the vector is of a checkpoint that is no embedder; by default the mean",
    )
    flags.mark_flag_as_required("checkpoint")


def run(values: flags.FlagValues) -> None:
    """Writes --output and says its shape."""
    import io

    import numpy as np

    from lm_research import log
    from lm_research.errors import UserError
    from lm_research.infer import text

    output = Path(values.output)
    if output.suffix != ".npy":
        raise UserError(f"--output={output} takes the name of a .npy file")
    [found] = vectors(values, text.lines(Path(values.input)))
    content = io.BytesIO()
    np.save(content, found)
    log.write_bytes(output, content.getvalue())
    print(f"{len(found):,} texts, vectors of {found.shape[1]}: {output} {list(found.shape)}")


def vectors(values: flags.FlagValues, *several: list[Any]) -> list[Any]:
    """The vectors of the texts of each of several lists of requests: float32 [texts, D] each.

    Raises:
      UserError: a request is a pair of texts, or cannot be read by the model.
    """
    from lm_research import mesh
    from lm_research.errors import UserError
    from lm_research.infer.classify import told
    from lm_research.infer.embed import embed, embedder
    from lm_research.train.restore import open_checkpoint

    for line in (line for lines in several for line in lines):
        if line.pair is not None:
            raise UserError(f"{line.where} has a pair; a vector is of one text")
    with mesh.Mesh().activate():
        loaded = open_checkpoint(values.checkpoint)
        model, params = embedder(loaded.model, loaded.params, values.pool)
        read = lambda lines: told(lines, loaded.tokenizer, loaded.context)[0]
        return [embed(model, params, read(lines)) for lines in several]
