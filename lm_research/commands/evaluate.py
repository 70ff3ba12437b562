"""Print a checkpoint's held-out loss, and bits per byte or the metrics of its task."""

import tempfile
from pathlib import Path
from typing import Any

from absl import flags


def define() -> None:
    """--checkpoint, --paths, --length, --batch, --dtype."""
    flags.DEFINE_string("checkpoint", None, "a run's directory or a Hugging Face directory")
    flags.DEFINE_string(
        "paths",
        None,
        "text files to score, or for an encoder-decoder pairs of texts (.tsv, .jsonl, or two "
        "parallel files); by default the run's held-out text",
    )
    flags.DEFINE_integer("length", None, "tokens read at once; by default as in training", 1)
    flags.DEFINE_integer("batch", 8, "sequences scored at once", 1)
    flags.DEFINE_string("dtype", None, "float32 or bfloat16; by default as in training")
    flags.mark_flag_as_required("checkpoint")


def run(values: flags.FlagValues) -> None:
    """Scores the text and prints a line for each number."""
    from lm_research import mesh
    from lm_research.errors import UserError
    from lm_research.evals import HeldOut
    from lm_research.models import EncoderDecoder
    from lm_research.objectives import Causal, Masked, Seq2Seq
    from lm_research.train.restore import open_checkpoint

    with mesh.single(), tempfile.TemporaryDirectory() as scratch:
        loaded = open_checkpoint(values.checkpoint, dtype=values.dtype)
        if values.paths is None:
            objective, data = _of_run(Path(values.checkpoint), loaded, values.length)
        elif isinstance(loaded.model, EncoderDecoder):
            objective = Seq2Seq(values.length or loaded.model.context or 512)
            data = _of_pairs(values.paths, loaded, objective.length, Path(scratch))
        else:
            kind = Causal if loaded.model.causal else Masked
            objective = kind(values.length or loaded.model.context or 1024)
            data = _of_files(values.paths, loaded, objective.length, Path(scratch))
            objective = objective.bound(loaded.tokenizer)
        context = loaded.model.context
        if context is not None and objective.length > context:
            raise UserError(f"--length={objective.length}: the model's context is {context}")
        evaluate = HeldOut(every=1).bind(objective, data, values.batch)
        numbers = evaluate(loaded.model, loaded.params)
        if values.paths is None:
            numbers |= _scores(Path(values.checkpoint), loaded, objective, data, values.batch)
    baselines = ((name, data.facts.get(f"{name}_bits_per_byte")) for name in ("gzip", "xz"))
    beside = ", ".join(f"{name} -9 {value:.4f}" for name, value in baselines if value)
    for name, value in numbers.items():
        note = f"   ({beside})" if name == "bits_per_byte" and beside else ""
        print(f"{name.replace('_', ' ')}: {value:.4f}{note}")


def _of_run(path: Path, loaded: Any, length: int | None) -> tuple[Any, Any]:
    """A run's own objective and held-out text."""
    import dataclasses

    from lm_research.errors import UserError
    from lm_research.train.experiment import part
    from lm_research.train.restore import stored_config

    stored = stored_config(path)
    if "data" not in stored:
        raise UserError(f"{path} is no run with data of its own; give --paths=TEXT_FILES")
    objective = part(stored, "objective")
    if length is not None:
        objective = dataclasses.replace(objective, length=length)
    data = part(stored, "data").prepared(path / "data", objective.length)
    if data.tokenizer.hash != loaded.tokenizer.hash:
        raise UserError(
            f"{path / 'data'} was prepared with another tokenizer than {path / 'tokenizer'}, "
            "so its ids mean something else to the model; give --paths=TEXT_FILES"
        )
    return objective.bound(loaded.tokenizer), data


def _scores(path: Path, loaded: Any, objective: Any, data: Any, batch: int) -> dict[str, float]:
    """The metrics that a run's own evaluators give of its task."""
    import dataclasses

    from lm_research.evals import Scores
    from lm_research.train.experiment import part
    from lm_research.train.restore import stored_config

    numbers = {}
    for evaluator in part(stored_config(path), "evals").values():
        if isinstance(evaluator, Scores):
            own = dataclasses.replace(evaluator, batch=batch).bind(objective, data, batch)
            before = "" if evaluator.part == "heldout" else f"{evaluator.part} "
            found = own(loaded.model, loaded.params)
            numbers |= {f"{before}{name}": value for name, value in found.items()}
    return numbers


def _of_files(paths: str, loaded: Any, length: int, scratch: Path) -> Any:
    """All the text of some files, held out."""
    from lm_research.data import Prepared, TextFiles, Windows, shards
    from lm_research.errors import UserError

    if loaded.tokenizer is None:
        raise UserError("the checkpoint has no tokenizer, so it cannot read text; use `score`")
    source = TextFiles(paths)
    texts = (source[i]["text"] for i in range(len(source)))
    windows = Windows(shards.write(scratch / "shards", texts, loaded.tokenizer), length)
    facts = {"heldout_tokens": windows.tokens, "heldout_bytes": windows.shards.index["bytes"]}
    return Prepared(windows, windows, loaded.tokenizer, facts)


def _of_pairs(paths: str, loaded: Any, length: int, scratch: Path) -> Any:
    """All the pairs of some files, held out."""
    import types

    from lm_research.data import Pairs, Parallel
    from lm_research.errors import UserError

    if loaded.tokenizer is None:
        raise UserError("the checkpoint has no tokenizer, so it cannot read text; use `score`")
    given = types.SimpleNamespace(train=lambda texts: loaded.tokenizer)
    return Parallel(Pairs(paths), given, heldout=Pairs(paths)).prepare(scratch / "pairs", length)
