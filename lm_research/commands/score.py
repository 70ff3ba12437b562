"""Say how likely a model finds texts, token by token."""

from pathlib import Path
from typing import Any

from absl import flags


def define() -> None:
    """--checkpoint, --input, --output, --dtype."""
    flags.DEFINE_string("checkpoint", None, "a run's directory or a Hugging Face directory")
    flags.DEFINE_string(
        "input",
        None,
        '{"text": "..."} or {"tokens": [1, 2, ...]} per line; for an encoder-decoder also "source"',
    )
    flags.DEFINE_string(
        "output", None, '{"tokens": [...], "logprobs": [null, ...], "sum": ...} per line, in nats'
    )
    flags.DEFINE_enum(
        "dtype", None, ["float32", "bfloat16"], "of products; by default as it was trained"
    )
    flags.mark_flags_as_required(["checkpoint", "input", "output"])


def run(values: flags.FlagValues) -> None:
    """Writes --output, a line for each of --input."""
    import json

    from lm_research import log, mesh
    from lm_research.data import Tokenizer
    from lm_research.errors import UserError
    from lm_research.infer import text
    from lm_research.infer.score import score
    from lm_research.infer.shapes import check
    from lm_research.models import EncoderDecoder
    from lm_research.train.restore import open_checkpoint

    lines = text.lines(Path(values.input))
    with mesh.Mesh().activate():
        loaded = open_checkpoint(values.checkpoint, dtype=values.dtype)
        reads = isinstance(loaded.model, EncoderDecoder)
        encode = Tokenizer.complete if reads else Tokenizer.whole
        sequences = [text.encoded(line, loaded.tokenizer, encode) for line in lines]
        for line, tokens in zip(lines, sequences):
            check(loaded.model.decoder if reads else loaded.model, tokens, line.where)
        sources = _sources(loaded, lines) if reads else None
        if not reads and (given := [line.where for line in lines if line.source is not None]):
            raise UserError(f"{given[0]} has a source, and the model has no encoder to read it")
        results = score(loaded.model, loaded.params, sequences, sources, loaded.tokenizer)
    log.write_text(Path(values.output), "".join(json.dumps(result) + "\n" for result in results))
    count = sum(x is not None for result in results for x in result["logprobs"])
    total = sum(result["sum"] for result in results)
    mean = f"{-total / count:.4f} nats per token over " if count else ""
    print(f"{mean}{count:,} tokens of {len(results):,} lines: {values.output}")


def _sources(loaded: Any, lines: list) -> list:
    """The tokens of each line's source."""
    from lm_research.data import Tokenizer
    from lm_research.errors import UserError
    from lm_research.infer import text
    from lm_research.infer.shapes import check

    sources = []
    for line in lines:
        if line.source is None:
            raise UserError(
                f'{line.where} has no source; this model takes {{"source": ..., "text": ...}}'
            )
        sources.append(text.encoded(line.source, loaded.tokenizer, Tokenizer.complete))
        check(loaded.model, sources[-1], line.source.where)
    return sources
