"""Greedy generation against `transformers`' `generate`: the same weights, prompts and tokens.

    python benchmarks/generation.py --rounds=5

Prompts of 128 random tokens, 64 new ones, at batch 1 and 8, for shapes b and c of
`training_step.py`. The weights are those of a randomly initialised `transformers` GPT-2, written
with `save_pretrained` and read by `lm_research.hub`; both sides must give the same tokens in
float32. Both run as processes of their own that take turns; a ratio is the median over rounds of
the peer's seconds / ours, compilation apart.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import record

SHAPES = {  # layers, width, heads, V
    "b": (6, 384, 6, 8192),
    "c": (12, 768, 12, 50257),
}
PROMPT, NEW, BATCHES = 128, 64, (1, 8)
PEER = "transformers float32"
SIDES = {
    PEER: ("torch", "float32"),
    "transformers bfloat16": ("torch", "bfloat16"),
    "float32": ("ours", "float32"),
    "bfloat16": ("ours", "bfloat16"),
}
BARS = {  # of times as fast as the peer: shape, batch, side
    ("b", 1, "float32"): 2.2,
    ("b", 8, "float32"): 2.2,
    ("c", 1, "float32"): 1.7,
    ("c", 8, "float32"): 1.7,
    ("b", 8, "bfloat16"): 2.5,
    ("c", 8, "bfloat16"): 2.5,
}


def make(shape: str, directory: Path) -> None:
    """Writes a randomly initialised GPT-2, its weights large enough that tokens vary."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    layers, width, heads, vocab = SHAPES[shape]
    torch.manual_seed(0)
    sizes = {"n_layer": layers, "n_embd": width, "n_head": heads, "vocab_size": vocab}
    special = {"bos_token_id": None, "eos_token_id": None}
    config = GPT2Config(**sizes, **special, n_positions=1024, initializer_range=0.1)
    GPT2LMHeadModel(config).save_pretrained(directory)


def prompts(vocab: int, batch: int):
    """Random tokens [batch, PROMPT]."""
    import numpy as np

    return np.random.default_rng(0).integers(0, vocab, (batch, PROMPT))


def ours(directory: Path, dtype: str):
    """A function of prompts that returns the new tokens."""
    from lm_research.infer import generate, separate
    from lm_research.train.restore import open_checkpoint

    loaded = open_checkpoint(directory, dtype=dtype)
    model, params = separate(loaded.model, loaded.params)

    def run(tokens):
        results = generate(model, params, list(tokens), length=NEW)
        return [result.tokens.tolist() for result in results]

    return run


def torchs(directory: Path, dtype: str):
    """The same, by the peer."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(directory, dtype=getattr(torch, dtype)).eval()

    def run(tokens):
        given = torch.tensor(tokens)
        with torch.inference_mode():
            found = model.generate(
                given,
                attention_mask=torch.ones_like(given),
                do_sample=False,
                max_new_tokens=NEW,
                min_new_tokens=NEW,
                pad_token_id=0,
            )
        return found[:, PROMPT:].tolist()

    return run


def work(side: str, dtype: str, directory: str, vocab: int) -> None:
    """One side: reads a batch size from standard input, generates, writes seconds and tokens."""
    run = (ours if side == "ours" else torchs)(Path(directory), dtype)
    for batch in BATCHES:
        run(prompts(vocab, batch))
    print("ready", flush=True)
    for line in sys.stdin:
        given = prompts(vocab, int(line))
        start = time.perf_counter()
        tokens = run(given)
        print(json.dumps({"wall": time.perf_counter() - start, "tokens": tokens}), flush=True)


def compare(shape: str, directory: Path, rounds: int) -> tuple[dict, dict]:
    """Seconds by batch and side, round by round; and the share of the peer's tokens in each."""
    environment = {**os.environ, "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
    processes = {}
    for name, (side, dtype) in SIDES.items():
        given = json.dumps([side, dtype, str(directory), SHAPES[shape][3]])
        processes[name] = subprocess.Popen(
            [sys.executable, __file__, "--work", given],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert processes[name].stdout.readline() == "ready\n"
    seconds = {batch: {name: [] for name in SIDES} for batch in BATCHES}
    same = {batch: {} for batch in BATCHES}
    for _ in range(rounds):
        for batch in BATCHES:
            tokens = {}
            for name, process in processes.items():
                process.stdin.write(f"{batch}\n")
                process.stdin.flush()
                found = json.loads(process.stdout.readline())
                seconds[batch][name].append(found["wall"])
                tokens[name] = [token for row in found["tokens"] for token in row]
            for name in SIDES:
                pairs = zip(tokens[name], tokens[PEER], strict=True)
                same[batch][name] = sum(a == b for a, b in pairs) / len(tokens[PEER])
    for process in processes.values():
        process.stdin.close()
        process.wait()
    return seconds, same


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", default="b,c")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=record.RESULTS / "generation.json")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        side, *given = json.loads(options.work)
        if side == "torch":
            return work(side, *given)
        from lm_research.mesh import single

        with single():
            return work(side, *given)
    rows, details = [], {}
    for shape in options.shapes.split(","):
        with tempfile.TemporaryDirectory() as directory:
            make(shape, Path(directory))
            seconds, same = compare(shape, Path(directory), options.rounds)
        details[shape] = {
            batch: {
                name: {"seconds": round(statistics.median(times), 4), "same": same[batch][name]}
                for name, times in sides.items()
            }
            for batch, sides in seconds.items()
        }
        for batch, sides in seconds.items():
            what = f"generation, {shape}, batch {batch}"
            for name, times in sides.items():
                if name != PEER:
                    ratio = statistics.median(
                        theirs / own for theirs, own in zip(sides[PEER], times, strict=True)
                    )
                    bar = BARS.get((shape, batch, name))
                    unit = f"times as fast as {PEER}"
                    rows.append(record.Row(f"{what}, {name}", ratio, unit, bar, False))
            equal = same[batch]["float32"]
            rows.append(
                record.Row(f"{what}, float32: tokens equal to {PEER}'s", equal, "of them", 1, False)
            )
    command = f"python benchmarks/generation.py --shapes={options.shapes}"
    record.write(options.output, f"{command} --rounds={options.rounds}", rows, sides=details)


if __name__ == "__main__":
    main()
