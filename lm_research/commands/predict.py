"""Tell the class of texts with probabilities, their score, labels of words, or answers."""

from pathlib import Path
from typing import Any

from absl import flags


def define() -> None:
    """--checkpoint, --text, --pair, --choice, --input, --output, --threshold, --glue."""
    flags.DEFINE_string("checkpoint", None, "a run's directory or a Hugging Face directory")
    flags.DEFINE_multi_string(
        "text",
        [],
        "a text to classify and print; words to label, with spaces between; or a question; may be "
        "repeated",
    )
    flags.DEFINE_multi_string(
        "pair", [], "the second text of each --text, where it takes pairs; the question's context"
    )
    flags.DEFINE_multi_string(
        "choice",
        [],
        "an answer that the question in --text may have; repeated, two or more. A run that chooses "
        "tells which is right, and a language model which is likeliest",
    )
    flags.DEFINE_string(
        "input",
        None,
        '{"text": "..."}, {"text": "...", "pair": "..."}, {"words": [...]} or {"tokens": [...]} '
        "per line, or a table like the one that the run was trained on, whose labels need not be "
        "there; questions also as SQuAD's .json, those with choices as ARC's .csv or PIQA's "
        ".jsonl, whose answers need not be there; with --glue a folder with the task's test files, "
        "or TFDS by default",
    )
    flags.DEFINE_string(
        "output",
        None,
        '{"class": ..., "probabilities": {...}}, {"score": ...}, {"words": ..., "labels": ...}, '
        '{"choice": ..., "number": ..., "probabilities": [...]} or {"answer": ...} per line; of '
        'questions in SQuAD\'s JSON {"ID": "ANSWER", ...}, as its evaluation takes them; by '
        "default a line is printed for each; with --glue a folder",
    )
    flags.DEFINE_float(
        "threshold",
        None,
        "of questions: the answer is empty where the score of there being none is above that of "
        "the best one by more; by default 0 where the run learned that some questions have no "
        "answer, or --input says so of one (SQuAD 2.0), and otherwise there is always an answer",
    )
    flags.DEFINE_string(
        "glue", None, "a task such as cola: writes predictions for the benchmark's server"
    )
    flags.mark_flag_as_required("checkpoint")


def run(values: flags.FlagValues) -> None:
    """Prints what it tells of each text, or writes --output."""
    import json

    from lm_research import log, mesh
    from lm_research.data.text import check_unicode
    from lm_research.train.restore import open_checkpoint

    for name in ("text", "pair", "choice"):
        for given in values[name].value:
            check_unicode(given, f"--{name}")
    if values.glue is not None:
        return _submit(values)
    questions = _questions(values)
    with mesh.Mesh().activate():
        loaded = open_checkpoint(values.checkpoint)
        chooses = _chooses(values, loaded)
        lines = _lines(values, _data(values)) if questions is None and not chooses else []
        rows = _choices(values, loaded) if chooses else _told(values, loaded, lines, questions)
    if values.output is None:
        for i, row in enumerate(rows):
            print(_printed(row, lines[i] if lines else None))
        return
    if questions is not None:
        content = {questions[i]["id"]: row["answer"] for i, row in enumerate(rows)}
        text = json.dumps(content, ensure_ascii=False, indent=1) + "\n"
    else:
        text = "".join(json.dumps(row) + "\n" for row in rows)
    log.write_text(Path(values.output), text)
    print(f"{len(rows):,} texts: {values.output}")


def _chooses(values: flags.FlagValues, loaded: Any) -> bool:
    """Whether the requests are questions with choices."""
    from lm_research.data.choices import CLASSES

    classes = tuple(getattr(loaded.model, "classes", None) or ())
    asked = values.choice or (not classes and values.input is not None)
    return classes == CLASSES or bool(asked)


def _choices(values: flags.FlagValues, loaded: Any) -> list[dict]:
    """Which choice the model takes, of the question of --text or of those of --input."""
    from lm_research.data import MultipleChoice
    from lm_research.data.multiple_choice import asked
    from lm_research.errors import UserError
    from lm_research.infer.choose import choose

    if bool(values.choice) == (values.input is not None) or len(values.text) != len(
        values.choice[:1]
    ):
        raise UserError(
            "predict takes one question from --text=... with a --choice=... for each choice, or "
            "several from --input=FILE, one of the two"
        )
    if values.choice:
        given = {"question": values.text[0], "choices": values.choice}
        questions = [asked(given, "the question of --text and --choice")]
    else:
        source = MultipleChoice(values.input)
        questions = [source[i] for i in range(len(source))]
    found = choose(loaded.model, loaded.params, loaded.tokenizer, questions, loaded.context)
    return [
        {
            "question": question["question"],
            "choice": question["choices"][int(own.argmax())],
            "number": int(own.argmax()),
            "probabilities": [round(float(p), 6) for p in own],
        }
        for question, own in zip(questions, found)
    ]


def _told(values: flags.FlagValues, loaded: Any, lines: list[Any], questions: Any) -> list[dict]:
    """What the model tells of each text, in its own way."""
    from lm_research.data.questions import CLASSES
    from lm_research.errors import UserError
    from lm_research.infer.classify import scores, told
    from lm_research.objectives.classify import refusal_of_each

    classes = tuple(getattr(loaded.model, "classes", None) or ())
    each = not refusal_of_each(loaded.model)
    if each and classes == CLASSES:
        return _answers(values, loaded, lines, questions)
    if questions is not None or values.threshold is not None:
        named = ", ".join(classes[:10]) or "none"
        raise UserError(f"this model answers no questions: its classes are {named}")
    if each:
        return _tags(loaded, lines)
    _check_pairs(values, lines)
    tokens, types = told(lines, loaded.tokenizer, loaded.context)
    found = scores(loaded.model, loaded.params, tokens, types)
    return [_row(classes, each) for each in found]


def _check_pairs(values: flags.FlagValues, lines: list[Any]) -> None:
    """Refuses a text alone to a run that was trained on pairs."""
    from lm_research.errors import UserError

    pairs = _of_pairs(values)
    if pairs is False and (more := [line for line in lines if line.pair is not None]):
        raise UserError(
            f"{more[0].where} has a second text, and the run was trained on single texts; give one"
        )
    if not pairs and "pair" not in _columns(_data(values)):
        return
    for line in lines:
        if line.text is not None and line.pair is None:
            raise UserError(
                f"{line.where} has no second text, and the run was trained on pairs; give both, as "
                '--text and --pair or as {"text": "...", "pair": "..."}'
            )


def _of_pairs(values: flags.FlagValues) -> bool | None:
    """Whether a run was trained on pairs; None where that is not known."""
    from lm_research.data.prepare import PREPARED, preparation

    told = preparation(Path(values.checkpoint) / "data" / PREPARED).get("facts", {})
    return told.get("pairs")


def _tags(loaded: Any, lines: list[Any]) -> list[dict]:
    """Labels of the words of each line."""
    from lm_research.errors import UserError
    from lm_research.infer.tag import tag

    words = [list(line.words or (line.text or "").split()) for line in lines]
    for line, own in zip(lines, words):
        if not own:
            raise UserError(f"{line.where} has no words to label")
    found = tag(loaded.model, loaded.params, loaded.tokenizer, words, loaded.context)
    return [
        {
            "words": own,
            "labels": [None if one is None else one[0] for one in told],
            "probabilities": [None if one is None else round(one[1], 6) for one in told],
        }
        for own, told in zip(words, found)
    ]


def _answers(values: flags.FlagValues, loaded: Any, lines: list[Any], questions: Any) -> list[dict]:
    """Answers to the questions of lines, or of a file of SQuAD's."""
    from lm_research.data.questions import refuses
    from lm_research.errors import UserError
    from lm_research.infer.answer import answer

    if questions is not None:
        asked = [(record["question"], record["context"]) for record in questions]
    else:
        asked = [(line.text, line.pair) for line in lines]
        for line in lines:
            if not line.text or line.pair is None:
                raise UserError(
                    f"{line.where} has no question with its context; give both, as --text and "
                    '--pair or as {"text": "...", "pair": "..."}'
                )
    data, threshold = _data(values), values.threshold
    unanswered = any(record["impossible"] for record in questions or ())
    if threshold is None and (unanswered or refuses(Path(values.checkpoint) / "data")):
        threshold = 0.0
    given = {name: data[name] for name in ("question", "stride") if name in data}
    length = loaded.context or loaded.model.context or 384
    found = answer(loaded.model, loaded.params, loaded.tokenizer, asked, length, **given)
    rows = []
    for one in found:
        best = one.candidates[0] if one.candidates else None
        silent = best is None or (threshold is not None and one.difference > threshold)
        probability = one.none if silent else best.probability
        row = {"answer": "" if silent else best.text, "start": None if silent else best.start}
        rows.append(row | {"probability": round(probability, 6), "no_answer": round(one.none, 6)})
    return rows


def _printed(row: dict[str, Any], line: Any) -> str:
    """A line about a text."""
    import json

    if "words" in row or "answer" in row:
        return json.dumps(row, ensure_ascii=False)
    if "choice" in row:
        return f"{row['choice']}\t{max(row['probabilities']):.4f}\t{row['question']}"
    said = " | ".join(text for text in (line.text, line.pair) if text) or line.where
    if "score" in row:
        return f"{row['score']:.4f}\t{said}"
    return f"{row['class']}\t{row['probabilities'][row['class']]:.4f}\t{said}"


def _questions(values: flags.FlagValues) -> Any:
    """The questions of --input, where it is SQuAD's JSON; else None."""
    import json

    from lm_research.data import SQuAD
    from lm_research.data.text import whole_text

    name = (values.input or "").removesuffix(".gz")
    if values.text or not name.endswith(".json") or not Path(values.input).is_file():
        return None
    try:
        content = json.loads(whole_text(Path(values.input)))
    except ValueError:  # several lines of JSON
        return None
    if not isinstance(content, dict) or "data" not in content:
        return None
    found = SQuAD(values.input)
    return [found[i] for i in range(len(found))]


def _data(values: flags.FlagValues) -> dict[str, Any]:
    """The section that says what data a run was trained on; empty where it is no run."""
    from lm_research.train.restore import is_run, stored_config

    path = Path(values.checkpoint)
    return (stored_config(path).get("data") or {}) if is_run(path) else {}


def _source(data: dict[str, Any]) -> dict[str, Any]:
    """The section of the files that data is from, whatever is made of them."""
    return _source(data["source"]) if isinstance(data.get("source"), dict) else data


def _columns(data: dict[str, Any]) -> dict[str, str | int]:
    """The columns of a table that data is from, or the fields of TFDS, that are its texts."""
    source = _source(data)
    found = source.get("columns") or source.get("fields")
    found = found if isinstance(found, dict) else {"text": "text"}
    return {name: column for name, column in found.items() if name in ("text", "pair")}


def _table(path: Path, data: dict[str, Any]) -> Any:
    """The requests in a table like the one that data is from; None where --input is no such."""
    from lm_research.data import Table
    from lm_research.data.table import MARK
    from lm_research.data.text import numbered_lines, parsed, whole_text
    from lm_research.infer import text

    source, columns = _source(data), _columns(data)
    if source.get("kind") != "Table" or not path.is_file():
        return None
    number, first = next(iter(numbered_lines(whole_text(path))), (1, ""))
    if text.is_table(path):
        form = source.get("form") if source.get("form") in ("tsv", "csv") else None
    elif text.jsonl(path):
        form, fields = "jsonl", set(columns.values())
        record = parsed(first, f"{path}:{number}") if first else {}
        if fields == set(columns) or not isinstance(record, dict) or not fields <= set(record):
            return None
    elif first.startswith(MARK):
        form = "txt"
    else:
        return None
    rows = Table((str(path),), columns, form)
    return [
        text.Line(rows.where(i), text=row["text"], pair=row.get("pair"))
        for i, row in enumerate(rows)
    ]


def _sentences(path: Path, data: dict[str, Any]) -> Any:
    """The sentences in a CoNLL file like those that data is from; None where --input is no such.

    A text in each line is none: a CoNLL file has empty lines between sentences, or tabs, or says by
    its name that it is no .txt or .jsonl.
    """
    from lm_research.data import CoNLL
    from lm_research.data.conll import SPELLED, form_of
    from lm_research.data.text import whole_text
    from lm_research.infer import text

    source = _source(data)
    if source.get("kind") != "CoNLL" or not path.is_file() or text.jsonl(path):
        return None
    content = whole_text(path).strip("\n")
    plain = path.name.removesuffix(".gz").endswith(".txt")
    if plain and "\t" not in content and "\n\n" not in content:
        return None
    form, words = form_of(path, source.get("form")), source.get("words")
    words = SPELLED[form] if words is None else words
    # What is read as labels is not asked for: a file without any will do.
    found = CoNLL((str(path),), words, words, form, source.get("comment"))
    return [text.Line(found.where(i), words=tuple(found[i]["words"])) for i in range(len(found))]


def _lines(values: flags.FlagValues, data: dict[str, Any]) -> list[Any]:
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
    if given:
        return given
    path = Path(values.input)
    return _table(path, data) or _sentences(path, data) or text.lines(path)


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
    from lm_research.data import glue
    from lm_research.errors import UserError
    from lm_research.infer.submission import submit
    from lm_research.train.restore import open_checkpoint

    if values.text or values.output is None:
        raise UserError(
            "predict --glue=TASK takes test files from --input=FOLDER and writes --output=FOLDER"
        )
    pairs, asked = _of_pairs(values), "pair" in glue.task(values.glue).test
    if pairs is not None and pairs != asked:
        kinds = {True: "pairs of texts", False: "single texts"}
        raise UserError(
            f"--checkpoint={values.checkpoint} was trained on {kinds[pairs]}, and "
            f"--glue={values.glue} is of {kinds[asked]}"
        )
    with mesh.Mesh().activate():
        loaded = open_checkpoint(values.checkpoint)
        given = loaded.model, loaded.params, loaded.tokenizer, loaded.context
        where = dict(task=values.glue, path=values.input or "", directory=Path(values.output))
        for path in submit(*given, **where):
            print(path)
