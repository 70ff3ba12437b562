"""How many lines each family's file has beyond its table of names and its sizes.

    python benchmarks/family_lines.py

A line is one of code: no blank, comment or docstring, and no import. The table is what holds names
of tensors or says what a config.json may hold: whatever mentions `Row`, `Family` or another table.
Functions that turn a config.json into a section, or back, are counted with and apart.
"""

import ast
import statistics
from pathlib import Path

import record

MODELS = Path(__file__).parents[1] / "lm_research" / "models"
BAR = 60


def code(node: ast.AST) -> set[int]:
    """The numbers of a statement's lines, without its docstrings."""
    documented = ast.FunctionDef | ast.ClassDef
    docstrings = [
        inner.body[0]
        for inner in ast.walk(node)
        if isinstance(inner, documented) and ast.get_docstring(inner, clean=False)
    ]
    lines = lambda inner: set(range(inner.lineno, inner.end_lineno + 1))
    return lines(node).difference(*map(lines, docstrings))


def beyond(path: Path) -> tuple[int, int, int]:
    """Lines beyond table and sizes, how many of them translate a config, and lines of the table."""
    text = path.read_text()
    written = [line.strip() for line in text.splitlines()]
    real = {i for i, line in enumerate(written, 1) if line and not line.startswith("#")}
    own, translation, table, tables = 0, 0, 0, {"Row", "Family", "replace"}
    for node in ast.parse(text).body:
        if isinstance(node, ast.Import | ast.ImportFrom | ast.Expr):
            continue
        names = {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}
        attributes = {inner.attr for inner in ast.walk(node) if isinstance(inner, ast.Attribute)}
        assigned = isinstance(node, ast.Assign | ast.AnnAssign)
        if assigned or tables & (names | attributes):
            table += len(code(node) & real)
            if isinstance(node, ast.FunctionDef):
                tables.add(node.name)
        else:
            own += len(code(node) & real)
            if "section" in getattr(node, "name", "") or "config" in getattr(node, "name", ""):
                translation += len(code(node) & real)
    return own, translation, table


def main() -> None:
    found = {
        path.stem: beyond(path)
        for path in sorted(MODELS.glob("*.py"))
        if "\nFAMILIES = " in path.read_text()
    }
    for name, (own, translation, table) in found.items():
        print(f"{name:12} {own:4} lines, {translation} of them for configs; {table:4} of the table")
    median = statistics.median(own for own, _, _ in found.values())
    rest = statistics.median(own - translation for own, translation, _ in found.values())
    what = f"lines of a family beyond its table and sizes, median of {len(found)} files"
    rows = [
        record.Row(what, median, "lines", BAR),
        record.Row("the same without what translates a config.json to and fro", rest, "lines"),
    ]
    path = record.RESULTS / "family_lines.json"
    record.write(path, "python benchmarks/family_lines.py", rows, files=found)


if __name__ == "__main__":
    main()
