"""SST-2, a trunk's features of its sentences, and a logistic regression on them."""

import csv
import functools
import gzip
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lm_research.layers import Mask
from lm_research.models import EncoderDecoder
from lm_research.study.runs import data_folder

ROWS, LENGTH = 64, 64  # of a batch of sentences; longer ones are cut
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)
Labelled = tuple[list[str], np.ndarray]


def sst2(rows: int) -> tuple[Labelled, Labelled]:
    """Sentences and labels: `rows` of the training set, the same every time, and the dev set."""
    if "LM_RESEARCH_DATA" not in os.environ:
        raise SystemExit("set LM_RESEARCH_DATA to the directory under which sst2/ lies")
    directory = data_folder() / "sst2"
    (texts, labels), dev = (_read(directory / f"glue_{part}.tsv.gz") for part in ("train", "dev"))
    chosen = np.random.default_rng(0).permutation(len(texts))[:rows]
    return ([texts[i] for i in chosen], labels[chosen]), dev


def _read(path: Path) -> Labelled:
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [row["sentence"].strip() for row in rows], np.array([int(row["label"]) for row in rows])


def features(model: Any, params: Any, tokenizer: Any, texts: Sequence[str]) -> np.ndarray:
    """The mean of the last hidden states over each text's tokens, [texts, D]."""
    ids = [tokens[:LENGTH] for tokens in tokenizer.encode_batch(list(texts))]
    found = []
    for start in range(0, len(ids), ROWS):
        rows = ids[start : start + ROWS]
        tokens, present = np.zeros((2, ROWS, LENGTH), np.int32)
        for i, row in enumerate(rows):
            tokens[i, : len(row)], present[i, : len(row)] = row, 1
        found.append(np.asarray(_means(model, params, tokens, present))[: len(rows)])
    return np.concatenate(found)


@functools.partial(jax.jit, static_argnums=0)
def _means(model: Any, params: Any, tokens: jax.Array, present: jax.Array) -> jax.Array:
    mask = Mask(segments=(present, present))
    if isinstance(model, EncoderDecoder):  # what its encoder makes of a text
        table = params["embedding"]["table"]
        given = {"params": params["encoder"]}
        hidden = model.encoder.apply(given, tokens, mask=mask, table=table).hidden
    else:
        hidden = model.apply({"params": params}, tokens, mask=mask).hidden
    weight = present[..., None]
    return (hidden * weight).sum(1) / jnp.maximum(weight.sum(1), 1)


def bags(tokenizer: Any, vocab: int, texts: Sequence[str]) -> np.ndarray:
    """Which tokens each text has, [texts, V]."""
    found = np.zeros((len(texts), vocab), np.float32)
    for row, tokens in zip(found, tokenizer.encode_batch(list(texts))):
        row[tokens[:LENGTH]] = 1
    return found


def accuracy(
    train: np.ndarray, train_labels: np.ndarray, test: np.ndarray, test_labels: np.ndarray
) -> float:
    """Of a logistic regression on the test rows; its penalty is chosen on a tenth of the others."""
    mean, deviation = train.mean(0), train.std(0) + 1e-6
    train, test = (train - mean) / deviation, (test - mean) / deviation
    cut = len(train) * 9 // 10
    score = lambda penalty: _right(
        _fitted(train[:cut], train_labels[:cut], penalty), train[cut:], train_labels[cut:]
    )
    best = max(PENALTIES, key=score)
    return _right(_fitted(train, train_labels, best), test, test_labels)


def _right(weights: jax.Array, rows: np.ndarray, labels: np.ndarray) -> float:
    return float((((rows @ weights[:-1] + weights[-1]) > 0) == (labels == 1)).mean())


@functools.partial(jax.jit, static_argnums=3)
def _fitted(rows: jax.Array, labels: jax.Array, penalty: float, steps: int = 200) -> jax.Array:
    """Weights and bias [D + 1] that minimise the penalised loss, by L-BFGS."""

    def loss(weights):
        logits = rows @ weights[:-1] + weights[-1]
        each = jax.nn.softplus(-jnp.where(labels == 1, logits, -logits))
        return each.mean() + penalty / 2 * jnp.square(weights[:-1]).sum()

    solver = optax.lbfgs()
    start = jnp.zeros(rows.shape[1] + 1)

    def step(carry, _):
        weights, state = carry
        value, gradient = optax.value_and_grad_from_state(loss)(weights, state=state)
        updates, state = solver.update(
            gradient, state, weights, value=value, grad=gradient, value_fn=loss
        )
        return (optax.apply_updates(weights, updates), state), None

    return jax.lax.scan(step, (start, solver.init(start)), length=steps)[0][0]
