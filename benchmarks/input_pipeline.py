"""Tokens per second from token shards to batches on the host: the bar is 5 million on two cores.

python -m benchmarks.input_pipeline
"""

import tempfile
import time
from pathlib import Path

import numpy as np

from lm_research.data import Bytes, Windows, pipeline, shards

LENGTH, BATCH, COUNT = 1024, 32, 400
BAR = 5e6  # more than one H200 trains on with a model of 100 million parameters


class NextToken:
    """What `lm_research.objectives.Causal` makes of a window, without importing JAX."""

    def example(self, record, rng):
        """T inputs and the T tokens after them."""
        del rng
        example = {name: values[:-1] for name, values in record.items()}
        return example | {"targets": record["tokens"][1:], "weights": record["weights"][1:]}


def corpus(documents: int = 20_000, characters: int = 500):
    """Random printable texts of uneven length."""
    random = np.random.default_rng(0)
    for length in random.integers(1, 2 * characters, documents):
        yield random.integers(32, 127, length, np.uint8).tobytes().decode()


def main() -> None:
    """Prints a row per way of packing."""
    with tempfile.TemporaryDirectory() as directory:
        written = shards.write(Path(directory) / "shards", corpus(), Bytes().train(()))
        for documents in ("joined", "separate"):
            windows = Windows(written, LENGTH, documents)
            with pipeline.batches(windows, NextToken(), seed=0, size=BATCH) as stream:
                next(stream)
                wall, cpu = time.perf_counter(), time.process_time()
                for _ in range(COUNT):
                    next(stream)
                wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            tokens = COUNT * BATCH * LENGTH / 1e6
            verdict = "met" if tokens / wall * 1e6 >= BAR else "missed"
            print(
                f"{documents}: {tokens / wall:.1f} million tokens/s, {tokens / cpu:.1f} per "
                f"CPU-second; the bar of {BAR / 1e6:.0f} is {verdict}"
            )


if __name__ == "__main__":
    main()
