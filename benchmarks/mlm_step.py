"""One step of masked language modelling against PyTorch: BERT-base's shape, in float32.

    python benchmarks/mlm_step.py --rounds=9

The peer is `transformers` BertForMaskedLM, eager, without dropout, AdamW(fused=True), clipping by
global norm. The same tokens are hidden on both sides; the peer makes logits of all tokens, as its
users do, and ours of the hidden ones alone. Processes and rounds are as in training_step.py.
"""

import argparse
import json
import statistics
from pathlib import Path

import record
from training_step import compare, ratio, side

SHAPES = {  # layers, width, heads, T, B, V
    "base": (12, 768, 12, 128, 8, 30522),
    "tiny": (2, 128, 2, 32, 2, 1024),
}
PEER = "PyTorch float32"
SIDES = {
    PEER: dict(side="torch", dtype="float32"),
    "float32": dict(side="ours", dtype="float32"),
    "bfloat16": dict(side="ours", dtype="bfloat16"),
}
BARS = {"base": {"float32": 1.0}}  # of times as fast


def ours(shape: str, dtype: str):
    """A function that makes a step and returns its loss."""
    import functools
    import types

    import jax

    from lm_research.models import BERT
    from lm_research.objectives import Masked
    from lm_research.optimizers import AdamW
    from lm_research.train.step import Trainer, train_step
    from lm_research.weights import Full

    layers, width, heads, length, _, vocab = SHAPES[shape]
    experiment = types.SimpleNamespace(
        model=BERT(vocab, width, layers, heads, dropout=0.0, attention_dropout=0.0, dtype=dtype),
        objective=Masked(length),
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
    import numpy as np
    import torch
    from transformers import BertConfig, BertForMaskedLM

    layers, width, heads, length, rows, vocab = SHAPES[shape]
    config = BertConfig(
        vocab_size=vocab,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    torch.manual_seed(0)
    model = BertForMaskedLM(config).train()
    optimizer = torch.optim.AdamW(
        model.parameters(), 1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True
    )
    batch = data(shape)
    labels = np.full((rows, length), -100)  # what they leave out
    np.put_along_axis(labels, batch["places"], batch["targets"], 1)
    tokens, labels = (torch.tensor(x).long() for x in (batch["tokens"], labels))

    def run() -> float:
        loss = model(tokens, labels=labels).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.item()

    return run


def data(shape: str) -> dict:
    """The same random tokens for both sides, of which the same are hidden."""
    import types

    import numpy as np

    from lm_research.data import pipeline
    from lm_research.objectives import Masked

    _, _, _, length, rows, vocab = SHAPES[shape]
    roles = dict.fromkeys(("eos", "bos", "pad", "cls", "sep", "unk"))
    tokenizer = types.SimpleNamespace(
        vocab=vocab, mask=3, sentinels=(), begins_word=np.ones(vocab, bool), **roles
    )
    objective, rng = Masked(length).bound(tokenizer), np.random.default_rng(0)
    windows = (
        {
            "tokens": rng.integers(4, vocab, length + 1, np.int32),
            "weights": np.ones(length + 1, np.float32),
        }
        for _ in range(rows)
    )
    return pipeline.stacked(objective.example(window, rng) for window in windows)


def runner(spec: dict):
    """One side's function that makes a step."""
    if spec["side"] == "torch":
        return torchs(spec["shape"]), 1
    return ours(spec["shape"], spec["dtype"]), 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="base", choices=SHAPES)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--output", type=Path, default=record.RESULTS / "mlm_step.json")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        return side(json.loads(options.work), runner)
    shape = options.shape
    seconds = compare(shape, SIDES, options.rounds, 1, __file__)
    layers, width, _, length, batch, _ = SHAPES[shape]
    what = f"masked step ({layers} layers, width {width}, T {length}, B {batch})"
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
    command = f"python benchmarks/mlm_step.py --shape={shape} --rounds={options.rounds}"
    record.write(options.output, command, found, sides=details)


if __name__ == "__main__":
    main()
