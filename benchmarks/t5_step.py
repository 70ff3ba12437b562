"""One training step of T5-small's shape against PyTorch, in float32.

    python benchmarks/t5_step.py --rounds=9

The peer is `transformers` T5ForConditionalGeneration, eager, without dropout, AdamW(fused=True),
clipping by global norm, on the same sources and targets. Processes and rounds: see
steps.py.
"""

from steps import beside_pytorch, our_step, their_step

SHAPES = {  # layers of each stack, width, heads, head, hidden, S and T, B, V
    "small": (6, 512, 8, 64, 2048, 128, 8, 32128),
    "tiny": (2, 64, 2, 32, 128, 32, 2, 1024),
}
RATE = 1e-4
BARS = {"small": {"float32": 1.0}}  # of times as fast


def ours(shape: str, dtype: str):
    """A function that makes a step and returns its loss."""
    from lm_research.models import T5
    from lm_research.objectives import Seq2Seq

    layers, width, heads, head, hidden, length, _, vocab = SHAPES[shape]
    sizes = dict(width=width, layers=layers, heads=heads, head=head, hidden=hidden)
    first = dict(activation="relu", gated=False, tied=True)
    model = T5(vocab, **sizes, **first, dtype=dtype)
    return our_step(model, Seq2Seq(length), data(shape), RATE)


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
    batch = {name: torch.tensor(value) for name, value in data(shape).items()}
    source, targets = batch["source"].long(), batch["targets"].long()

    given = {"input_ids": source, "attention_mask": batch["segments"], "labels": targets}
    return their_step(model, lambda: model(**given).loss, RATE)


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


def described(shape: str) -> str:
    """For the table."""
    layers, width, *_, length, batch, _ = SHAPES[shape]
    return f"T5 step ({layers} + {layers} layers, width {width}, S and T {length}, B {batch})"


if __name__ == "__main__":
    beside_pytorch(__doc__, __file__, SHAPES, ours, torchs, described, BARS)
