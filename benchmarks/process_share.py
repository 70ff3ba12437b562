"""What each of several processes reads and holds, where they share out rows and parameters.

    python benchmarks/process_share.py [--out FILE]

The same three steps of a 34 M parameter GPT-2 by one, two and four processes on this machine, with
`fsdp` over all of them. Counted are the bytes of the examples that a process makes, reading ahead
included, and how far its memory rises, at its peak, above what it was before there were weights.
Of N processes each should have an Nth of both. Results go to results/process_share.json.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from record import RESULTS, Row, write

ROOT = Path(__file__).parents[1]
KNOBS = "width=512,layers=10,heads=8,length=64,batch=16,steps=3,source=text"
COUNTS = (1, 2, 4)

# `python -c COUNTED FILE train --flags`
COUNTED = """
import atexit, json, resource, sys
target = sys.argv.pop(1)
from lm_research.data import pipeline
from lm_research.train import loop

counts = {"bytes": 0, "batches": 0}
made, start = pipeline.Plan.batch, loop.start

def batch(self, number):
    found = made(self, number)
    if self.shuffle:  # those of training
        counts["bytes"] += sum(array.nbytes for array in found.values())
        counts["batches"] += 1
    return found

def peak():
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

def started(*given):
    counts["before"] = peak()
    return start(*given)

pipeline.Plan.batch, loop.start = batch, started
atexit.register(lambda: open(target, "w").write(json.dumps({**counts, "peak": peak()})))
from lm_research.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


def measured(scratch: Path, count: int) -> list[dict[str, int]]:
    """Counts of each of so many processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = [
        f"--config={ROOT / 'configs' / 'gpt2_small.py'}:{KNOBS}",
        f"--config.data.source.paths={scratch / 'text.txt'}",
        "--config.data.tokenizer.vocab=300",
        "--config.log.samples.every=0",
        "--config.mesh.data=1",
        f"--config.mesh.fsdp={count}",
        f"--workdir={scratch / f'run{count}'}",
    ]
    if count > 1:
        flags += [f"--coordinator=127.0.0.1:{port}", f"--processes={count}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    files = [scratch / f"counts{count}-{i}.json" for i in range(count)]
    started = [
        subprocess.Popen(
            [sys.executable, "-c", COUNTED, str(file), "train", *flags]
            + ([f"--process={i}"] if count > 1 else []),
            env=environment,
        )
        for i, file in enumerate(files)
    ]
    if any(process.wait() for process in started):
        raise SystemExit(f"a process of {count} failed")
    return [json.loads(file.read_text()) for file in files]


def main() -> None:
    """Measures, and writes what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULTS / "process_share.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        text = "The cat sat on a mat. A bird flew over it, and over me.\n" * 2000
        (Path(scratch) / "text.txt").write_text(text)
        found = {count: measured(Path(scratch), count) for count in COUNTS}
    batch = lambda counts: counts["bytes"] / counts["batches"]
    rise = lambda counts: counts["peak"] - counts["before"]
    rows = []
    for count in COUNTS[1:]:
        of = f"the most of {count} processes, times {count}, over one process'"
        share = count * max(map(batch, found[count])) / batch(found[1][0])
        rows.append(Row(f"bytes of examples for a step: {of}", share, "times", 1.0))
        held = count * max(map(rise, found[count])) / rise(found[1][0])
        rows.append(Row(f"rise of memory: {of}", held, "times"))
    write(options.out, "python benchmarks/process_share.py", rows, knobs=KNOBS, counts=found)


if __name__ == "__main__":
    main()
