"""One training step of T5-small's shape against PyTorch, in float32.

    python benchmarks/t5_step.py --rounds=9

The peer is `transformers` T5ForConditionalGeneration, eager, without dropout, AdamW(fused=True),
clipping by global norm, on the same sources and targets. Processes and rounds are as in
training_step.py.
"""

import argparse
import json
import statistics
from pathlib import Path

import record
from training_step import compare, ratio, side

SHAPES = {  # layers of each stack, width, heads, head, hidden, S and T, B, V
    "small": (6, 512, 8, 64, 2048, 128, 8, 32128),
    "tiny": (2, 64, 2, 32, 128, 32, 2, 1024),
}
PEER = "PyTorch float32"
SIDES = {
    PEER: dict(side="torch", dtype="float32"),
    "float32": dict(side="ours", dtype="float32"),
    "bfloat16": dict(side="ours", dtype="bfloat16"),
}
BARS = {"small": {"float32": 1.0}}  # of times as fast


def ours(shape: str, dtype: str):
    """A function that makes a step and returns its loss."""
    import functools
    import types

    import jax

    from lm_research.models import T5
    from lm_research.objectives import Seq2Seq
    from lm_research.optimizers import AdamW
    from lm_research.train.step import Trainer, train_step
    from lm_research.weights import Full

    layers, width, heads, head, hidden, length, _, vocab = SHAPES[shape]
    sizes = dict(width=width, layers=layers, heads=heads, head=head, hidden=hidden)
    first = dict(activation="relu", gated=False, tied=True)
    experiment = types.SimpleNamespace(
        model=T5(vocab, **sizes, **first, dtype=dtype),
        objective=Seq2Seq(length),
        weights=Full(),
        optimizer=AdamW(1e-4, shape="constant"),
        batch=types.SimpleNamespace(microbatches=1),
        steps=1000,
        seed=0,
    )
    trainer = Trainer.of(experiment)
    state, batch = trainer.init(), data(shape)
    step = jax.jit(functools.partial(train_step, trainer), donate_argnums=0)

    def run() -> float:
        nonlocal state
        state, numbers = step(state, batch)
        return float(numbers["loss"])

    return run


def torchs(shape: str):
    """A function that makes one step and returns its loss."""
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    layers, width, heads, head, hidden, _, _, vocab = SHAPES[shape]
    config = T5Config(
        vocab_size=vocab,
        d_model=width,
        d_kv=head,
        d_ff=hidden,
        num_layers=layers,
        num_heads=heads,
        dropout_rate=0.0,
        decoder_start_token_id=0,
    )
    torch.manual_seed(0)
    model = T5ForConditionalGeneration(config).train()
    optimizer = torch.optim.AdamW(
        model.parameters(), 1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True
    )
    batch = {name: torch.tensor(value) for name, value in data(shape).items()}
    source, targets = batch["source"].long(), batch["targets"].long()

    def run() -> float:
        loss = model(input_ids=source, attention_mask=batch["segments"], labels=targets).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.item()

    return run


def data(shape: str) -> dict:
    """The same random pairs for both sides."""
    import numpy as np

    from lm_research.data import pipeline
    from lm_research.objectives import Seq2Seq

    *_, length, rows, vocab = SHAPES[shape]
    rng = np.random.default_rng(0)
    texts = rng.integers(2, vocab, (rows, 2, length), np.int32)
    return pipeline.stacked(
        Seq2Seq(length).example({"source": source, "target": target}, rng)
        for source, target in texts
    )


def runner(spec: dict):
    """One side's function that makes a step."""
    if spec["side"] == "torch":
        return torchs(spec["shape"]), 1
    return ours(spec["shape"], spec["dtype"]), 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="small", choices=SHAPES)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--output", type=Path, default=record.RESULTS / "t5_step.json")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        return side(json.loads(options.work), runner)
    shape = options.shape
    seconds = compare(shape, SIDES, options.rounds, 1, __file__)
    layers, width, *_, length, batch, _ = SHAPES[shape]
    what = f"T5 step ({layers} + {layers} layers, width {width}, S and T {length}, B {batch})"
    found = [
        record.Row(
            f"{what}, {name}",
            ratio(seconds, PEER, name),
            f"times as fast as {PEER}",
            BARS.get(shape, {}).get(name),
            False,
        )
        for name in SIDES
        if name != PEER
    ]
    details = {
        name: {
            "milliseconds": round(1e3 * statistics.median(times["wall"]), 1),
            f"CPU time, times as fast as {PEER}": round(ratio(seconds, PEER, name, "cpu"), 2),
        }
        for name, times in seconds.items()
    }
    command = f"python benchmarks/t5_step.py --shape={shape} --rounds={options.rounds}"
    record.write(options.output, command, found, sides=details)


if __name__ == "__main__":
    main()
