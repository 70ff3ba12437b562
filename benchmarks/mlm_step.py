"""One step of masked language modelling against PyTorch: BERT-base's shape, in float32.

    python benchmarks/mlm_step.py --rounds=9

The peer is `transformers` BertForMaskedLM, eager, without dropout, AdamW(fused=True), clipping by
global norm. The same tokens are hidden on both sides; the peer makes logits of all tokens, as its
users do, and ours of the hidden ones alone. Processes and rounds: see steps.py.
"""

from steps import beside_pytorch, our_step, their_step

SHAPES = {  # layers, width, heads, T, B, V
    "base": (12, 768, 12, 128, 8, 30522),
    "tiny": (2, 128, 2, 32, 2, 1024),
}
RATE = 1e-4
BARS = {"base": {"float32": 1.0}}  # of times as fast


def ours(shape: str, dtype: str):
    """A function that makes a step and returns its loss."""
    from lm_research.models import BERT
    from lm_research.objectives import Masked

    layers, width, heads, length, _, vocab = SHAPES[shape]
    model = BERT(vocab, width, layers, heads, dropout=0.0, attention_dropout=0.0, dtype=dtype)
    return our_step(model, Masked(length), data(shape), RATE)


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
    batch = data(shape)
    labels = np.full((rows, length), -100)  # what they leave out
    np.put_along_axis(labels, batch["places"], batch["targets"], 1)
    tokens, labels = (torch.tensor(x).long() for x in (batch["tokens"], labels))

    return their_step(model, lambda: model(tokens, labels=labels).loss, RATE)


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


def described(shape: str) -> str:
    """For the table."""
    layers, width, _, length, batch, _ = SHAPES[shape]
    return f"masked step ({layers} layers, width {width}, T {length}, B {batch})"


if __name__ == "__main__":
    beside_pytorch(__doc__, __file__, SHAPES, ours, torchs, described, BARS)
