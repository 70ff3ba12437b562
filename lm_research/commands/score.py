"""Say how likely a model finds texts, token by token."""

from pathlib import Path

from absl import flags


def define() -> None:
    """--checkpoint, --input, --output, --dtype."""
    flags.DEFINE_string("checkpoint", None, "a run's directory or a Hugging Face directory")
    flags.DEFINE_string("input", None, '{"text": "..."} or {"tokens": [1, 2, ...]} per line')
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
    from lm_research.infer import text
    from lm_research.infer.score import score
    from lm_research.infer.shapes import check
    from lm_research.train.restore import open_checkpoint

    lines = text.lines(Path(values.input))
    with mesh.Mesh().activate():
        loaded = open_checkpoint(
            values.checkpoint, **({} if values.dtype is None else {"dtype": values.dtype})
        )
        sequences = [text.encoded(line, loaded.tokenizer, begins=False) for line in lines]
        for line, tokens in zip(lines, sequences):
            check(loaded.model, tokens, line.where)
        results = score(loaded.model, loaded.params, sequences, tokenizer=loaded.tokenizer)
    log.write_text(Path(values.output), "".join(json.dumps(result) + "\n" for result in results))
    count = sum(x is not None for result in results for x in result["logprobs"])
    total = sum(result["sum"] for result in results)
    mean = f"{-total / count:.4f} nats per token over " if count else ""
    print(f"{mean}{count:,} tokens of {len(results):,} lines: {values.output}")
