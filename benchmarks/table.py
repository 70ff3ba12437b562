"""The table of benchmarks/README.md, from benchmarks/results/*.json.

python benchmarks/table.py          prints it
python benchmarks/table.py --write  puts it into benchmarks/README.md, between its two marks
"""

import argparse
import json
from pathlib import Path

HERE = Path(__file__).parent
BEGIN, END = "<!-- table -->", "<!-- end of table -->"
HEADER = "| what | bar | measured | command |\n|---|---|---|---|"


def lines(path: Path) -> list[str]:
    """A line for each result of one benchmark; its command stands on the first."""
    found = json.loads(path.read_text())
    if "rows" not in found:
        raise SystemExit(f"{path} has no rows: write it with `record.write`")
    result = []
    for row in found["rows"]:
        bar = "" if row["bar"] is None else f"{'≤' if row['lower'] else '≥'} {row['bar']:g}"
        missed = " **missed**" if row["met"] is False else ""
        command = "" if result else f"`{found['command']}`"
        measured = f"{number(row['measured'])} {row['unit']}{missed}"
        result.append(f"| {row['what']} | {bar} | {measured} | {command} |")
    return result


def number(value: float) -> str:
    """With three or four digits that count, and commas."""
    if value == int(value) or abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) < 1e-3:
        return f"{value:.1e}"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def machine(paths: list[Path]) -> str:
    """On what the results were measured: one line for each machine and set of versions."""
    found = []
    for path in paths:
        it = json.loads(path.read_text())["environment"]
        versions = ", ".join(f"{name} {it[name]}" for name in ("python", "jax", "torch"))
        line = f"{it['cores']} cores of {it['processor']}, {versions}"
        found += [line] if line not in found else []
    return "\n".join(f"Measured on {line}." for line in found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="into benchmarks/README.md")
    options = parser.parse_args()
    paths = sorted((HERE / "results").glob("*.json"))
    body = [line for path in paths for line in lines(path)]
    table = "\n".join([HEADER, *body, "", machine(paths)]).rstrip()
    if not options.write:
        return print(table)
    readme = HERE / "README.md"
    before, rest = readme.read_text().split(BEGIN)
    readme.write_text(f"{before}{BEGIN}\n{table}\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main()
