"""Print a checkpoint's held-out loss and metrics, and how good the texts are that it writes."""

import tempfile
from pathlib import Path
from typing import Any

from absl import flags

SCORED = "; use `score`"  # which takes tokens
# Evaluators that judge any part of the data.
OF_PARTS = ("AnswerScores", "Retrieval", "Scores", "Similarity", "WordScores")


def define() -> None:
    """--checkpoint, --paths, --choices, --part, --length, --batch, --dtype; what to write."""
    flags.DEFINE_string("checkpoint", None, "a run's directory or a Hugging Face directory")
    flags.DEFINE_string(
        "paths",
        None,
        "text files to score, or for an encoder-decoder pairs of texts (.tsv, .jsonl, or two "
        "parallel files), or for a run that tells classes, labels or answers, was trained on "
        "conversations, or makes vectors, files like those it was trained on; by default the run's "
        "held-out text",
    )
    flags.DEFINE_string(
        "scored",
        None,
        "folders of STS tasks, or files of SICK or STS-B, in place of --paths: how well cosines "
        "agree with the scores, of any model that reads texts",
    )
    flags.DEFINE_string(
        "choices",
        None,
        "files of questions with choices (see MultipleChoice), of which a language model takes the "
        "likeliest, and a run that chooses the one of the highest score",
    )
    flags.DEFINE_bool("flawed", False, "leave out rows of --choices that are no such questions")
    flags.DEFINE_string(
        "part", None, "of the run's data: heldout, or one of its data.others; by default each"
    )
    flags.DEFINE_integer("length", None, "tokens read at once; by default as in training", 1)
    flags.DEFINE_integer("batch", 8, "sequences scored at once", 1)
    flags.DEFINE_string("dtype", None, "float32 or bfloat16; by default as in training")
    flags.DEFINE_list(
        "metrics", [], "bleu, chrf, rouge: write a text from each source and compare with targets"
    )
    flags.DEFINE_integer("beams", 5, "candidates that beam search follows; 1 is greedy", 1)
    flags.DEFINE_float("length_penalty", 1.0, "see generate")
    flags.DEFINE_integer("new", None, "tokens of a text at most; by default --length", 1)
    flags.DEFINE_integer("limit", None, "records to write a text from; by default all", 1)
    flags.DEFINE_string("tag", None, "put before every source of --paths, such as <2de>")
    flags.DEFINE_string("output", None, "where to keep the texts that are written, a line each")
    flags.mark_flag_as_required("checkpoint")


def run(values: flags.FlagValues) -> None:
    """Scores the text and prints a line for each number."""
    from lm_research import evals, log, mesh
    from lm_research.errors import UserError
    from lm_research.models import EncoderDecoder, TextEmbedder
    from lm_research.objectives import Causal, Masked, Seq2Seq
    from lm_research.train.restore import open_checkpoint

    with mesh.single(), tempfile.TemporaryDirectory() as scratch:
        loaded = open_checkpoint(values.checkpoint, dtype=values.dtype)
        path = Path(values.checkpoint)
        alike = getattr(loaded.model, "classes", None) or isinstance(loaded.model, TextEmbedder)
        if values.choices is not None:
            return _choices(values, loaded, Path(scratch))
        if values.scored is not None:
            loaded, objective, data = _of_scored(values, loaded, Path(scratch))
        elif values.paths is None:
            objective, data = _of_run(path, loaded, values.length)
        elif alike or _chats(path):
            objective, data = _of_alike(path, loaded, values, Path(scratch))
        elif isinstance(loaded.model, EncoderDecoder):
            longest = loaded.context or loaded.model.context or 512
            objective = Seq2Seq(values.length or longest)
            data = _of_pairs(values, loaded, objective.length, Path(scratch))
        else:
            kind = Causal if loaded.model.causal else Masked
            objective = kind(values.length or loaded.model.context or 1024)
            data = _of_files(values.paths, loaded, objective.length, Path(scratch))
            objective = objective.bound(loaded.tokenizer)
        context = loaded.model.context
        if context is not None and objective.length > context:
            raise UserError(f"--length={objective.length}: the model's context is {context}")
        write = _writer(values, objective, data)
        numbers = {}
        asked = values.part or (None if values.paths is None else "heldout")
        judges = _judges(path, asked) if values.scored is None else [evals.Similarity(every=1)]
        for judge in judges:
            part = getattr(judge, "part", "heldout")
            before = "" if part in ("heldout", asked) else f"{part} "
            found = judge.bind(objective, data, values.batch)(loaded.model, loaded.params)
            numbers |= {f"{before}{name}": value for name, value in found.items()}
        if write is not None:
            numbers |= write(loaded.model, loaded.params)
    baselines = ((name, data.facts.get(f"{name}_bits_per_byte")) for name in ("gzip", "xz"))
    beside = ", ".join(f"{name} -9 {value:.4f}" for name, value in baselines if value)
    for name, value in numbers.items():
        note = f"   ({beside})" if name == "bits_per_byte" and beside else ""
        print(f"{name.replace('_', ' ')}: {value:.4f}{note}")
    for name, signature in log.facts().get("metrics", {}).items():
        print(f"{name} by {signature}")
    if values.output is not None:
        log.write_text(Path(values.output), "".join(f"{text}\n" for text in write.outputs))


def _choices(values: flags.FlagValues, loaded: Any, scratch: Path) -> None:
    """Prints how many of the questions of --choices are answered right."""
    import types

    from lm_research.data import Choices, MultipleChoice
    from lm_research.data.choices import CLASSES
    from lm_research.errors import UserError
    from lm_research.evals import ChoiceScores, Scores
    from lm_research.objectives import Choose

    for name in ("paths", "part", "metrics"):
        if values[name].present:
            raise UserError(f"--choices are judged by themselves; leave out --{name}")
    given = _trained(loaded)
    source = MultipleChoice(values.choices, "leave out" if values.flawed else "refuse")
    if tuple(getattr(loaded.model, "classes", None) or ()) == CLASSES:
        objective = Choose(values.length or loaded.context or loaded.model.context or 512)
        data = Choices(source, given, source).prepare(scratch / "choices", objective.length)
        judge = Scores(every=1)
    else:
        objective, data = None, types.SimpleNamespace(tokenizer=loaded.tokenizer)
        judge = ChoiceScores(every=1, source=source)
    numbers = judge.bind(objective, data, values.batch)(loaded.model, loaded.params)
    for name, value in numbers.items():
        print(f"{name.replace('_', ' ')}: {value:.4f}")


def _judges(path: Path, part: str | None) -> list:
    """The run's own evaluators of a part of its data, or of every one; else held-out loss."""
    import dataclasses

    from lm_research import evals
    from lm_research.config import build
    from lm_research.errors import UserError
    from lm_research.train.experiment import CONTENTS
    from lm_research.train.restore import is_run, stored_config

    stored = stored_config(path).get("evals", {}) if is_run(path) else {}
    found = [
        build({**section, "every": 1, "batch": None}, CONTENTS, f"evals.{name}")
        for name, section in stored.items()
        if section["kind"] in OF_PARTS
    ]
    if not found and part not in (None, "heldout"):
        raise UserError(f"--part={part}: the run has no evaluator of parts of its data")
    if not found:
        return [evals.HeldOut(every=1)]
    if part is None:
        return found
    own = [judge for judge in found if judge.part == part]
    return own or [dataclasses.replace(found[0], part=part)]


def _writer(values: flags.FlagValues, objective: Any, data: Any) -> Any:
    """What writes texts and judges them; None where that is not asked for."""
    from lm_research.errors import UserError
    from lm_research.evals import Generation

    named = dict.fromkeys(name.strip() for name in values.metrics)
    if wrong := [name for name in named if name not in ("bleu", "chrf", "rouge")]:
        raise UserError(f"--metrics has {wrong[0]!r}; it takes some of bleu, chrf, rouge")
    if values.tag is not None and values.paths is None:
        raise UserError("--tag is put before the sources of --paths; give both")
    if not named:
        writing = ("limit", "new", "output", "length_penalty", "beams")
        if asked := [name for name in writing if values[name].present]:
            raise UserError(f"--{asked[0]} is for texts to be written: give --metrics=bleu,chrf")
        return None
    settings = dict(limit=values.limit, beams=values.beams, length=values.new)
    settings |= dict(metrics=tuple(named), length_penalty=values.length_penalty)
    return Generation(every=1, **settings).bind(objective, data, 1)


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


def _chats(path: Path) -> bool:
    """Whether it is a run on conversations, which files of text are not."""
    from lm_research.train.restore import is_run, stored_config

    return is_run(path) and stored_config(path).get("data", {}).get("kind") == "Instruct"


def _of_alike(path: Path, loaded: Any, values: flags.FlagValues, scratch: Path) -> Any:
    """A run's own objective, and all of some files that are like those of its data."""
    import dataclasses

    from lm_research.errors import UserError
    from lm_research.train.experiment import part
    from lm_research.train.restore import is_run, stored_config, tokenizer_directory

    stored = stored_config(path) if is_run(path) else {}
    if "paths" not in stored.get("data", {}).get("source", {}):
        raise UserError(f"{path} is no run with files of its own, so nothing says what these mean")
    source = {**stored["data"]["source"], "paths": values.paths}
    tokenizer = {"kind": "Pretrained", "path": str(tokenizer_directory(path))}
    section = {**stored["data"], "source": source, "heldout": source, "tokenizer": tokenizer}
    section |= {"others": {}} if "others" in section else {}
    named = stored["data"]["kind"] in ("Labelled", "LabelledWords")
    if stored["data"]["kind"] == "Instruct":
        section["template"] = "own"
    elif named and not stored["data"].get("numeric"):
        section["classes"] = list(loaded.model.classes)
    objective = part(stored, "objective")
    if values.length is not None:
        objective = dataclasses.replace(objective, length=values.length)
    data = part({"data": section}, "data").prepare(scratch / "data", objective.length)
    return objective.bound(loaded.tokenizer), data


def _of_scored(values: flags.FlagValues, loaded: Any, scratch: Path) -> tuple[Any, Any, Any]:
    """A model of vectors, its objective, and all of some files of scored pairs."""
    import dataclasses

    from lm_research.data import STS, Related
    from lm_research.infer.embed import embedder
    from lm_research.objectives import Contrast

    given, source = _trained(loaded), STS(values.scored)
    model, params = embedder(loaded.model, loaded.params)
    objective = Contrast(values.length or loaded.context or model.context or 512)
    data = Related(source, given, heldout=source).prepare(scratch / "scored", objective.length)
    return dataclasses.replace(loaded, model=model, params=params), objective, data


def _trained(loaded: Any, instead: str = "") -> Any:
    """What data trains as its tokenizer, and is the checkpoint's.

    Raises:
      UserError: it has none; says what to do instead.
    """
    import types

    from lm_research.errors import UserError

    if loaded.tokenizer is None:
        raise UserError(f"the checkpoint has no tokenizer, so it cannot read text{instead}")
    return types.SimpleNamespace(train=lambda texts: loaded.tokenizer)


def _of_files(paths: str, loaded: Any, length: int, scratch: Path) -> Any:
    """All the text of some files, held out."""
    from lm_research.data import Prepared, TextFiles, Windows, shards

    tokenizer, source = _trained(loaded, SCORED).train(()), TextFiles(paths)
    texts = (source[i]["text"] for i in range(len(source)))
    windows = Windows(shards.write(scratch / "shards", texts, tokenizer), length)
    facts = {"heldout_tokens": windows.tokens, "heldout_bytes": windows.shards.index["bytes"]}
    return Prepared(windows, windows, tokenizer, facts)


def _of_pairs(values: flags.FlagValues, loaded: Any, length: int, scratch: Path) -> Any:
    """All the pairs of some files, held out."""
    from lm_research.data import Pairs, Parallel, Tagged
    from lm_research.infer.text import note_spelled

    given, pairs = _trained(loaded, SCORED), Pairs(values.paths)
    if values.tag is not None:
        note_spelled(values.tag, loaded.tokenizer)
        pairs = Tagged(pairs, values.tag)
    data = Parallel(pairs, given, heldout=pairs, packed=True)
    return data.prepare(scratch / "pairs", length)
