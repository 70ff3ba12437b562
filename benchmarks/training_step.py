"""One training step against PyTorch: GPT-2 of three sizes, float32 and bfloat16, in one run.

    python benchmarks/training_step.py --shapes=a,b,c --rounds=9

The peer is `transformers` GPT2LMHeadModel, eager, AdamW(fused=True), clipping by global norm, in
float32 or under bfloat16 autocast.
"""

import argparse
import json
from pathlib import Path

import record
from steps import PEER, compare, our_step, ratio, side, their_step, times

SHAPES = {  # layers, width, heads, T, B, V
    "a": (4, 128, 4, 64, 12, 65),
    "b": (6, 384, 6, 256, 8, 8192),
    "c": (12, 768, 12, 256, 2, 50257),
}
STEPS = {"a": 10, "b": 1, "c": 1}  # of one turn
RATE = 3e-4
AUTOCAST = "PyTorch bfloat16 autocast"
SIDES = {
    PEER: dict(side="torch", dtype="float32"),
    AUTOCAST: dict(side="torch", dtype="bfloat16"),
    "float32": dict(side="ours", dtype="float32"),
    "bfloat16": dict(side="ours", dtype="bfloat16"),
    "bfloat16, ten steps a dispatch": dict(side="ours", dtype="bfloat16", dispatch=10),
}
# Of times as fast: against which peer, for each shape.
BARS = {
    ("float32", PEER): {"a": 1.0, "b": 1.0, "c": 1.0},
    ("bfloat16", AUTOCAST): {"a": 1.4, "b": 0.9, "c": 0.95},
    ("bfloat16", PEER): {"a": 1.5, "b": 1.5, "c": 1.5},
}


def ours(shape: str, dtype: str, dispatch: int = 1):
    """A function that makes `dispatch` steps and returns the last loss."""
    import numpy as np

    from lm_research.models import GPT2
    from lm_research.objectives import Causal

    layers, width, heads, length, _, vocab = SHAPES[shape]
    model = GPT2(vocab, width, layers, heads, context=max(64, length), dtype=dtype)
    tokens = data(shape)
    batch = {"tokens": tokens[:, :-1], "targets": tokens[:, 1:]}
    batch["weights"] = np.ones(batch["tokens"].shape, np.float32)
    return our_step(model, Causal(length), batch, RATE, dispatch)


def torchs(shape: str, dtype: str):
    """A function that makes one step and returns its loss."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    layers, width, heads, length, _, vocab = SHAPES[shape]
    config = GPT2Config(
        vocab_size=vocab,
        n_positions=max(64, length),
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        attn_pdrop=0.0,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
    )
    torch.manual_seed(0)
    model = GPT2LMHeadModel(config).train()
    tokens = torch.tensor(data(shape)).long()

    def loss():
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            logits = model(tokens[:, :-1]).logits
            return torch.nn.functional.cross_entropy(
                logits.flatten(0, 1).float(), tokens[:, 1:].flatten()
            )

    return their_step(model, loss, RATE)


def data(shape: str):
    """The same random tokens for both sides."""
    import numpy as np

    _, _, _, length, rows, vocab = SHAPES[shape]
    return np.random.default_rng(0).integers(0, vocab, (rows, length + 1), np.int32)


def runner(spec: dict):
    """One side's function that makes steps, and how many."""
    if spec["side"] == "torch":
        return torchs(spec["shape"], spec["dtype"]), 1
    per = spec.get("dispatch", 1)
    return ours(spec["shape"], spec["dtype"], per), per


def rows(shape: str, seconds: dict) -> list[record.Row]:
    """How many times as fast each of our sides is, and the two peers beside each other."""
    layers, width, _, length, batch, _ = SHAPES[shape]
    what = f"step of {shape} ({layers} layers, width {width}, T {length}, B {batch})"
    found = []
    for name in seconds:
        for peer in (PEER, AUTOCAST):
            if name != peer and (name, peer) != (PEER, AUTOCAST):
                bar = BARS.get((name, peer), {}).get(shape)
                unit = f"times as fast as {peer}"
                found.append(
                    record.Row(f"{what}, {name}", ratio(seconds, peer, name), unit, bar, False)
                )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", default="a,b,c")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--output", type=Path, default=record.RESULTS / "training_step.json")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        return side(json.loads(options.work), runner)
    found, details = [], {}
    for shape in options.shapes.split(","):
        seconds = compare(shape, SIDES, options.rounds, STEPS[shape], __file__)
        found += rows(shape, seconds)
        details[shape] = times(seconds)
    command = f"python benchmarks/training_step.py --shapes={options.shapes}"
    record.write(options.output, f"{command} --rounds={options.rounds}", found, sides=details)


if __name__ == "__main__":
    main()
