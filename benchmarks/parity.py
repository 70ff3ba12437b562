"""Every family and variant beside `transformers`: what `verify`, conversion and decoding show.

    python benchmarks/parity.py
    python benchmarks/parity.py --only=llama     (leaves what it has found of the others)
    python benchmarks/parity.py --missing        (goes on where it was stopped)

JAX_DISABLE_MOST_OPTIMIZATIONS=1 compiles in half of the time, and rounds otherwise. The variants
are those of the tests: each `CASES` in tests/models/, with random weights large enough to tell them
apart. Writes benchmarks/parity.md and benchmarks/results/parity.json after each.
"""

import argparse
import importlib.util
import json
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import numpy as np
import record
import torch
from safetensors.numpy import load_file

from lm_research import mesh
from lm_research.hub import load, save
from lm_research.hub.verify import Limits, verify
from lm_research.infer import generate

TESTS = Path(__file__).parent.parent / "tests" / "models"
sys.path.append(str(TESTS.parent))  # where they find what they share
TABLE = Path(__file__).parent / "parity.md"
BAR = 1e-4
NEW = 12  # tokens of a greedy continuation


def modules() -> list[ModuleType]:
    """The tests that compare families with `transformers`: they have CASES and a Reference."""
    found = []
    for path in sorted(TESTS.glob("test_*.py")):
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        if hasattr(module, "CASES") and hasattr(module, "Reference"):
            found.append(module)
    return found


def compared(module: ModuleType, case: str, scratch: Path) -> dict[str, Any]:
    """What one variant shows."""
    reference = module.Reference(case, scratch / "theirs")
    with mesh.single():
        read = lambda: load.load(reference.directory, reference.ours)
        report = verify(reference.directory, reference.ours, read, Limits(BAR, length=24))
        save.save(scratch / "ours", reference.section, reference.params)
        greedy = continued(reference)
    one, other = (load_file(scratch / name / "model.safetensors") for name in ("theirs", "ours"))
    same = one.keys() == other.keys() and all(np.array_equal(one[n], other[n]) for n in one)
    return {
        "architecture": report.architecture,
        "variant": case,
        "cases": len(report.rows),
        "logits": max(row.logits for row in report.rows),
        "loss": max(row.loss for row in report.rows),
        "gradient": max(row.gradient for row in report.rows),
        "beside_float64": [  # of the inputs where the two are farther apart than the bar
            {"case": row.case, "ours": max(row.exact), "theirs": max(row.rounding)}
            for row in report.rows
            if row.exact is not None
        ],
        "parted": report.parted,
        "greedy": greedy,
        "round_trip": bool(same),
    }


def continued(reference: Any) -> bool | None:
    """Whether greedy continuations are theirs; None where the model does not continue texts."""
    causal = getattr(reference.ours, "causal", False)
    if not causal or not hasattr(reference.model, "generate"):
        return None
    settings = {"do_sample": False, "max_new_tokens": NEW, "eos_token_id": None, "pad_token_id": 0}
    # Their cache cannot have fewer layers than the encoder.
    writes_anew = reference.model.config.is_encoder_decoder
    settings["use_cache"] = not writes_anew
    if writes_anew:  # nothing is forced but what ours begins with
        settings |= {"decoder_start_token_id": reference.ours.start, "forced_eos_token_id": None}
        settings["forced_bos_token_id"] = reference.ours.first
    prompts = [np.arange(3, 12), np.array([7]), np.array([5, 60, 0, 2])]
    ours = generate(reference.ours, reference.params, prompts, length=NEW)
    for prompt, result in zip(prompts, ours, strict=True):
        given = torch.tensor(prompt)[None]
        want = reference.model.generate(given, attention_mask=torch.ones_like(given), **settings)
        if result.tokens.tolist() != want[0, 1 if writes_anew else len(prompt) :].tolist():
            return False
    return True


def table(found: list[dict[str, Any]], count: int, environment: dict[str, Any]) -> str:
    """The table, in Markdown."""
    told = {True: "yes", False: "**no**", None: "-"}
    lines = [
        "# Parity",
        "",
        "Made by `python benchmarks/parity.py`: random weights large enough to tell variants",
        "apart, float32; the largest difference over the inputs of `verify`, as a part of the",
        f"largest entry (bar {BAR:g}); greedy continuations of {NEW} tokens through the cache;",
        "weights after a round trip through our parameters, bit by bit.",
        f"Compared so far: {len(found)} of {count} variants.",
        "",
        "| architecture | variant | logits | loss | gradients | greedy identical | round trip |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in found:
        numbers = " | ".join(f"{row[name]:.1e}" for name in ("logits", "loss", "gradient"))
        missed = f" **{row['parted']}**" if row["parted"] else ""
        for near in [] if missed else row.get("beside_float64", []):
            missed += (
                f" (in '{near['case']}' ours is {near['ours']:.1e} from theirs in float64, "
                f"theirs up to {near['theirs']:.1e})"
            )
        variant = f"{row['variant'].replace('_', ' ')}{missed}"
        flags = f"{told[row['greedy']]} | {told[row['round_trip']]}"
        lines.append(f"| {row['architecture']} | {variant} | {numbers} | {flags} |")
    versions = ", ".join(
        f"{name} {environment[name]}" for name in ("transformers", "torch", "jax", "flax", "python")
    )
    return "\n".join([*lines, "", f"Verified on {versions}.", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="variants whose names contain this")
    parser.add_argument("--missing", action="store_true", help="variants not yet found alone")
    options = parser.parse_args()
    path = record.RESULTS / "parity.json"
    before = json.loads(path.read_text())["variants"] if path.is_file() else []
    found = {row["variant"]: row for row in before}
    cases = [(module, case) for module in modules() for case in module.CASES]
    for module, case in cases:
        if options.only in case and not (options.missing and case in found):
            with tempfile.TemporaryDirectory() as scratch:
                found[case] = compared(module, case, Path(scratch))
            jax.clear_caches()  # thousands of programs exhaust a process's memory maps
            print(found[case], flush=True)
            written(path, [found[case] for _, case in cases if case in found], len(cases))


def written(path: Path, found: list[dict[str, Any]], count: int) -> None:
    """Writes the results of the variants that were compared so far, of so many, and the table."""
    # Where float32 itself does more to the reference, that is what can be reached.
    plain = [row for row in found if row["parted"] or not row.get("beside_float64")]
    largest = lambda name: max((row[name] for row in plain), default=0.0)
    differ = lambda name: sum(row[name] is False for row in found)
    rows = [
        record.Row(f"families and variants compared, of {count}", len(found), "variants"),
        record.Row("parity: largest difference of logits", largest("logits"), "x", BAR),
        record.Row("parity: largest difference of gradients", largest("gradient"), "x", BAR),
        record.Row("parity: variants that part", sum(bool(r["parted"]) for r in found), "", 0),
        record.Row("parity: greedy continuations that differ", differ("greedy"), "variants", 0),
        record.Row("parity: round trips that differ", differ("round_trip"), "variants", 0),
    ]
    record.write(path, "python benchmarks/parity.py", rows, variants=found)
    TABLE.write_text(table(found, count, record.environment()))


if __name__ == "__main__":
    main()
