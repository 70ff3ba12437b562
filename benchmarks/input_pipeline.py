"""From token shards to batches on the host: tokens a second, and how long training waits for them.

    python benchmarks/input_pipeline.py

The first is the pipeline alone, T 1,024, with Grain's threads on two cores. The second are two runs
of `python -m lm_research train` on tinyshakespeare (LM_RESEARCH_DATA): nanoGPT's CPU run, whose
steps are the shortest, and GPT-2 at T 1,024. Waiting is what the loop's own `data_wait` says, the
share of the time between two rows of metrics that it stood in the iterator.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import record

from lm_research.data import Bytes, Windows, pipeline, shards
from lm_research.objectives import Causal

ROOT = Path(__file__).resolve().parent.parent
LENGTH, BATCH, COUNT = 1024, 32, 400
BAR = 5.0  # million tokens/s: more than one H200 trains on with 100 million parameters
RUNS = {  # config, and what to replace in it
    "nanoGPT's CPU run": ("shakespeare_char.py:steps=400", ()),
    "GPT-2, T 1,024, width 128": (
        "gpt2_small.py:source=text,width=128,layers=2,heads=2,batch=4,steps=40,dtype=float32",
        ("--config.data.tokenizer.vocab=512",),
    ),
}


def corpus(documents: int = 20_000, characters: int = 500):
    """Random printable texts of uneven length."""
    random = np.random.default_rng(0)
    for length in random.integers(1, 2 * characters, documents):
        yield random.integers(32, 127, length, np.uint8).tobytes().decode()


def speed(windows: Windows) -> tuple[float, float]:
    """Million tokens per second, and per CPU-second."""
    with pipeline.batches(windows, Causal(LENGTH), seed=0, size=BATCH) as stream:
        next(stream)
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(COUNT):
            next(stream)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    tokens = COUNT * BATCH * LENGTH / 1e6
    return tokens / wall, tokens / cpu


def waiting(config: str, fields: tuple[str, ...]) -> float:
    """Percent of its time that a run waits for data, once it has compiled: the median row."""
    with tempfile.TemporaryDirectory() as workdir:
        command = [
            *(sys.executable, "-m", "lm_research", "train"),
            f"--config={ROOT}/configs/{config}",
            f"--config.data.source.paths={record.data('tinyshakespeare/input.txt.gz')}",
            *("--config.log.samples.every=0", "--config.log.every=1", *fields),
            f"--workdir={workdir}",
        ]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        rows = [json.loads(line) for line in (Path(workdir) / "metrics.jsonl").open()]
    waits = [row["data_wait"] for row in rows if row["kind"] == "train"]
    return 100 * statistics.median(waits[len(waits) // 4 :])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=record.RESULTS / "input_pipeline.json")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as directory:
        written = shards.write(Path(directory) / "shards", corpus(), Bytes().train(()))
        for documents in ("joined", "separate"):
            wall, cpu = speed(Windows(written, LENGTH, documents))
            what = f"input pipeline alone, T {LENGTH:,}, documents {documents}"
            rows.append(record.Row(what, wall, "million tokens/s", BAR, False))
            rows.append(record.Row(what, cpu, "million tokens per CPU-second"))
    for name, run in RUNS.items():
        rows.append(record.Row(f"data wait in training, {name}", waiting(*run), "%", 1.0))
    record.write(options.output, "python benchmarks/input_pipeline.py", rows)


if __name__ == "__main__":
    main()
