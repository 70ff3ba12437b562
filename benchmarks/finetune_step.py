"""Fine-tuning steps against PyTorch: BERT-base's shape on batches with the lengths of IMDB's texts.

    LM_RESEARCH_DATA=DIR python benchmarks/finetune_step.py --rounds=9

The peer is `transformers` BertForSequenceClassification, eager, in float32, without dropout,
AdamW(fused=True), clipping by global norm; it pads a batch to its longest text, as its users' data
collator does. Ours pads it to one of a few lengths. A round is the same ROUND batches on each side;
tokens are random, lengths are those of words and punctuation in IMDB's training texts. Processes
and rounds: see steps.py.
"""

import functools
import itertools
import os
import random
import re
import sys
import tarfile
from pathlib import Path

from steps import beside_pytorch, trainer

SHAPES = {
    "base": (12, 768, 12, 128, 16),
    "tiny": (2, 128, 2, 128, 16),
}  # layers, width, heads, T, B
VOCAB, RATE, ROUND = 30522, 5e-5, 4
BARS = {"base": {"float32": 1.3}}  # of times as fast


def lengths(shape: str) -> list[list[int]]:
    """Tokens of each text of each batch, [CLS] and [SEP] among them."""
    _, _, _, most, rows = SHAPES[shape]
    if "LM_RESEARCH_DATA" not in os.environ:
        sys.exit("LM_RESEARCH_DATA, under which imdb/ lies, is not set")
    found = []
    archive = Path(os.environ["LM_RESEARCH_DATA"]) / "imdb" / "aclImdb_labeled.tar.xz"
    with tarfile.open(archive) as file:
        texts = (member for member in file if member.isfile() and "/train/" in member.name)
        for member in itertools.islice(texts, 1000):
            text = file.extractfile(member).read().decode()
            found.append(min(most, 2 + len(re.findall(r"\w+|[^\w\s]", text))))
    random.Random(0).shuffle(found)
    return [found[i * rows : (i + 1) * rows] for i in range(ROUND)]


def batches(shape: str, padded) -> list[dict]:
    """Random tokens and labels of the same texts, as long as `padded` makes the longest one."""
    import numpy as np

    rng, made = np.random.default_rng(0), []
    for counts in lengths(shape):
        whole = rng.integers(1000, VOCAB, (len(counts), SHAPES[shape][3]))
        segments = np.arange(whole.shape[1]) < np.array(counts)[:, None]
        T = padded(max(counts))
        cut = {"tokens": whole * segments, "segments": segments}
        made.append({name: values[:, :T].astype(np.int32) for name, values in cut.items()})
        made[-1] |= {"label": rng.integers(0, 2, len(counts)).astype(np.int32)}
        made[-1] |= {"weights": np.ones(len(counts), np.float32)}
    return made


def ours(shape: str, dtype: str):
    """A function that makes a step on each batch and returns the last loss."""
    import jax

    from lm_research.data.pipeline import padded_length
    from lm_research.models import BERT, Classifier
    from lm_research.objectives import Classify
    from lm_research.train.step import train_step

    layers, width, heads, length, _ = SHAPES[shape]
    trunk = BERT(VOCAB, width, layers, heads, dropout=0.0, attention_dropout=0.0, dtype=dtype)
    made = trainer(Classifier(trunk, ("0", "1"), dropout=0.0), Classify(length), RATE)
    state, given = made.init(), batches(shape, lambda n: padded_length(n, parts=4))
    step = jax.jit(functools.partial(train_step, made), donate_argnums=0)

    def run() -> float:
        nonlocal state
        for batch in given:
            state, numbers = step(state, batch)
        return float(numbers["loss"])

    return run


def torchs(shape: str):
    """A function that makes a step on each batch and returns the last loss."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    layers, width, heads, _, _ = SHAPES[shape]
    config = BertConfig(
        vocab_size=VOCAB,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    model = BertForSequenceClassification(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=0.1, fused=True)
    given = [
        {name: torch.tensor(values).long() for name, values in batch.items()}
        for batch in batches(shape, lambda length: length)
    ]

    def run() -> float:
        for batch in given:
            output = model(batch["tokens"], attention_mask=batch["segments"], labels=batch["label"])
            optimizer.zero_grad(set_to_none=True)
            output.loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        return output.loss.item()

    return run


def described(shape: str) -> str:
    """What a shape is called in the results."""
    _, _, _, length, rows = SHAPES[shape]
    return f"fine-tuning BERT-{shape}, {rows} texts of up to {length} tokens a batch"


if __name__ == "__main__":
    beside_pytorch(__doc__, __file__, SHAPES, ours, torchs, described, BARS, ROUND)
