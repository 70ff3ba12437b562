"""Find the texts of a file that are nearest to queries, by the cosine of their vectors."""

from pathlib import Path
from typing import Any

from absl import flags

from lm_research.commands.embed import define_model


def define() -> None:
    """--checkpoint, --pool, --index, --query, --input, --count, --output."""
    define_model()
    flags.DEFINE_string("index", None, "the file to find texts of: a text per line, or .jsonl")
    flags.DEFINE_multi_string("query", [], "a text to find others of; may be repeated")
    flags.DEFINE_string("input", None, "a file of queries: a text per line, or .jsonl")
    flags.DEFINE_integer("count", 5, "texts to find for each query", 1)
    flags.DEFINE_string(
        "output",
        None,
        '{"query": ..., "found": [{"line": 1, "cosine": ..., "text": ...}, ...]} per line; by '
        "default cosine, line and text of each are printed",
    )
    flags.mark_flag_as_required("index")


def run(values: flags.FlagValues) -> None:
    """Prints what it finds for each query, or writes --output."""
    import json

    from lm_research import log
    from lm_research.commands.embed import vectors
    from lm_research.errors import UserError
    from lm_research.infer import text
    from lm_research.infer.embed import nearest

    if bool(values.query) == (values.input is not None):
        raise UserError("search takes queries from --query=... or --input=FILE, one of the two")
    index = text.lines(Path(values.index))
    queries = [text.Line(f"--query={one[:40]!r}", text=one) for one in values.query]
    queries = queries or text.lines(Path(values.input))
    places, cosines = nearest(*vectors(values, queries, index), values.count)
    rows = [
        {"query": _said(query), "found": [_entry(index, *pair) for pair in zip(*own)]}
        for query, *own in zip(queries, places.tolist(), cosines.tolist())
    ]
    if values.output is not None:
        content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        log.write_text(Path(values.output), content)
        print(f"{len(rows):,} queries: {values.output}")
        return
    for row in rows:
        if len(rows) > 1:
            print(f"# {row['query']}")
        for one in row["found"]:
            print(f"{one['cosine']:.4f}\t{one['line']}\t{one['text']}")


def _entry(index: list[Any], place: int, cosine: float) -> dict[str, Any]:
    line = int(index[place].where.rpartition(":")[2])
    return {"line": line, "cosine": round(cosine, 6), "text": _said(index[place])}


def _said(line: Any) -> str:
    """The text of a request; its tokens where it has none."""
    return line.text if line.text is not None else " ".join(map(str, line.tokens.tolist()))
