"""Bytes that devices send one another in a training step, against the textbook's formulas.

    python benchmarks/collectives.py

A step of a small Llama is compiled for 8, 64 and 256 simulated devices; nothing is executed. With s
bytes a number and n devices, a device sends in a step

    fully sharded (Rajbhandari et al., 2020, section 5.3; Zhao et al., 2023): each block's weights
    are gathered for the forward and again for the backward pass, the tables of the embedding and
    of the head once each (a lookup's gradient takes no table, and the loss makes its gradient with
    its value), and each gradient is reduced and scattered once:
        s (n - 1) / n (2 P_blocks + P_tables + P)

    tensor parallel (Shoeybi et al., 2019, section 3): two all-reduces of the stream in each
    block forward and two backward, one after the vocabulary-parallel lookup, one of the stream's
    gradient before the head; and of each token the softmax's maximum, its sum and a logit:
        2 s (n - 1) / n (B T D (4 L + 2) + 3 B T)

The same is done once for a published 7B shape in bfloat16 on 256 chips, whose seconds are told.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import record

LAYERS, WIDTH, HIDDEN, VOCAB, LENGTH = 4, 512, 1024, 512, 128
HEADS = 256  # each of 256 devices has one
BAR = 0.05
SMALL = "size=llama-2-7b,source=text,dtype=float32"
LARGE = "size=llama-2-7b,source=text,vocab=32000,length=4096,batch=256"
ROOT = Path(__file__).resolve().parent.parent


def planned(knobs: str, devices: str, **fields) -> tuple[dict, float]:
    """What `python -m lm_research plan` says of configs/decoder.py, and its seconds."""
    import time

    with tempfile.TemporaryDirectory() as directory:
        output = Path(directory) / "plan.json"
        command = [sys.executable, "-m", "lm_research", "plan", f"--json={output}"]
        command += [f"--config=configs/decoder.py:{knobs}", f"--devices={devices}"]
        command += [f"--config.{name}={value}" for name, value in fields.items()]
        before = time.monotonic()
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if not output.is_file():
            raise SystemExit(done.stdout + done.stderr)
        return json.loads(output.read_text()), time.monotonic() - before


def small(n: int, axis: str) -> dict:
    """The plan of the small Llama over one mesh axis."""
    sizes = dict(width=WIDTH, layers=LAYERS, heads=HEADS, kv_heads=HEADS, hidden=HIDDEN)
    fields = {f"model.{name}": value for name, value in sizes.items()}
    rows = 2 * n if axis == "fsdp" else 8
    knobs = f"{SMALL},vocab={VOCAB},length={LENGTH},batch={rows}"
    mesh = {"mesh.data": 1, f"mesh.{axis}": n, "model.execution": "scan"}
    return planned(knobs, str(n), **fields, **mesh)[0] | {"rows": rows}


def blocks(layers: int, width: int, attended: int, hidden: int) -> int:
    """Parameters of the blocks."""
    return layers * (4 * width * attended + 3 * width * hidden + 2 * width)


def fsdp(n: int, matrices: int, tables: int, rest: int, size: int) -> float:
    """The formula; the tables and the norm at the end are gathered in float32."""
    return (n - 1) / n * (3 * size * matrices + (4 + size) * tables + 12 * rest)


def tensor(n: int, rows: int) -> float:
    """The formula, in float32."""
    stream = rows * LENGTH * WIDTH * (4 * LAYERS + 2)
    return 2 * 4 * (n - 1) / n * (stream + 3 * rows * LENGTH)


def sent(plan: dict) -> float:
    """Bytes that a device sends, by all collectives."""
    return sum(one["bytes"] for one in plan["collectives"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", default="8,64,256")
    parser.add_argument("--output", type=Path, default=record.RESULTS / "collectives.json")
    options = parser.parse_args()
    rows, details = [], {}
    for n in map(int, options.devices.split(",")):
        matrices = blocks(LAYERS, WIDTH, HEADS * 2, HIDDEN)
        wanted = {"fsdp": fsdp(n, matrices, 2 * VOCAB * WIDTH, WIDTH, 4), "tensor": 0.0}
        for axis in wanted:
            plan = small(n, axis)
            expected = tensor(n, plan["rows"]) if axis == "tensor" else wanted[axis]
            off = abs(sent(plan) / expected - 1)
            what = f"bytes a device sends in a step, {axis}={n}"
            rows.append(record.Row(f"{what}, beside the formula", off, "of it", BAR))
            details[f"{axis}={n}"] = {"formula": expected, "collectives": plan["collectives"]}
            print(what, sent(plan), expected, plan["collectives"], flush=True)
    plan, seconds = planned(
        LARGE, "256xv5p", **{"mesh.fsdp": 256, "mesh.data": 1, "model.remat": "full"}
    )
    expected = fsdp(256, blocks(32, 4096, 4096, 11008), 2 * 32_000 * 4096, 4096, 2)
    off = abs(sent(plan) / expected - 1)
    rows.append(record.Row("the same, Llama 2 7B in bfloat16, fsdp=256", off, "of it", BAR))
    rows.append(record.Row("seconds to plan Llama 2 7B on 256 chips", seconds, "s", 300))
    details["7b"] = {"formula": expected, "collectives": plan["collectives"]}
    record.write(options.output, "python benchmarks/collectives.py", rows, **details)


if __name__ == "__main__":
    main()
