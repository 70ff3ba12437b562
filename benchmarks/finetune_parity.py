"""Fine-tuning beside PyTorch: the same weights and batches, and after 50 steps the same weights.

    LM_RESEARCH_DATA=DIR python benchmarks/finetune_parity.py

Ours is a run of configs/finetune/classify.py that starts from a `BertForSequenceClassification`
with random weights, on SST-2, without dropout: AdamW with decay and warm-up, clipping by global
norm. The peer is that model in PyTorch, with its own AdamW, on the run's batches, with the schedule
and the decay of `transformers`. Compared are the loss at every step, and every tensor afterwards;
and both with the peer in float64, whose distance from itself in float32 is what rounding does.
"""

import argparse
import copy
import json
import os
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np
import record
import torch
import transformers
from safetensors.numpy import load_file
from transformers.trainer_pt_utils import get_parameter_names

from lm_research import mesh
from lm_research.commands import config_flag
from lm_research.data import pipeline
from lm_research.hub import save
from lm_research.train import loop, restore
from lm_research.train.experiment import experiment

ROOT = Path(__file__).parents[1]
STEPS, BATCH, LENGTH, VOCAB = 50, 16, 64, 2000
SHAPE = dict(hidden_size=128, num_hidden_layers=4, num_attention_heads=4, intermediate_size=512)


def started(directory: Path) -> torch.nn.Module:
    """The model that both sides start from, saved."""
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=VOCAB,
        **SHAPE,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        id2label={0: "0", 1: "1"},
        label2id={"0": 0, "1": 1},
    )
    model = transformers.BertForSequenceClassification(config)
    model.save_pretrained(directory)
    return model


def config(init: Path, table: Path):
    """Ours."""
    knobs = f"text=sentence,vocab={VOCAB},batch={BATCH},length={LENGTH},warmup=5,patience=1000"
    given = config_flag.loaded(f"{ROOT}/configs/finetune/classify.py:{knobs}")
    with given.unlocked():
        given.update_from_flattened_dict(
            {
                "init": str(init),
                "data.source.paths": str(table),
                "steps": STEPS,
                "batch.epochs": None,
                "model.dropout": 0.0,
                "model.trunk.dropout": 0.0,
                "model.trunk.attention_dropout": 0.0,
                "optimizer.peak": 5e-4,
                "optimizer.epsilon": 1e-6,  # as BERT was trained
                "evals.heldout.every": STEPS,
                "checkpoint.every": STEPS,
                "log.every": 1,
                "log.tensorboard": False,
            }
        )
    return given


def peer(model: torch.nn.Module, workdir: Path) -> list[float]:
    """Makes the run's steps in PyTorch; the loss of each."""
    stored = json.loads((workdir / "config.json").read_text())
    x = experiment(stored)
    data = x.data.prepared(workdir / "data", x.objective.length)
    named = get_parameter_names(model, [torch.nn.LayerNorm], ["bias", "layernorm", "rmsnorm"])
    plain = [p for name, p in model.named_parameters() if name not in named]
    decayed = [p for name, p in model.named_parameters() if name in named]
    groups = [
        {"params": decayed, "weight_decay": x.optimizer.decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    settings = dict(betas=(x.optimizer.b1, x.optimizer.b2), eps=x.optimizer.epsilon)
    optimizer = torch.optim.AdamW(groups, x.optimizer.peak, **settings)
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, x.optimizer.warmup, x.steps)
    losses, model = [], model.train()
    batches = pipeline.batches(data.train, x.objective, seed=x.seed, size=x.batch.size)
    for _, (_, batch) in zip(range(STEPS), batches):
        loss = model(
            torch.tensor(batch["tokens"]).long(),
            attention_mask=torch.tensor(batch["segments"]),
            labels=torch.tensor(batch["label"]).long(),
        ).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), x.optimizer.clip)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    batches.close()
    return losses


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    if "LM_RESEARCH_DATA" not in os.environ:
        sys.exit("LM_RESEARCH_DATA, under which sst2/glue_train.tsv.gz lies, is not set")
    table = Path(os.environ["LM_RESEARCH_DATA"]) / "sst2" / "glue_train.tsv.gz"
    with tempfile.TemporaryDirectory() as scratch:
        workdir = Path(scratch) / "run"
        model = started(Path(scratch) / "start")
        begun = load_file(Path(scratch) / "start" / "model.safetensors")
        loop.train(config(Path(scratch) / "start", table), workdir)
        rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
        ours = [row["loss"] for row in rows if "loss" in row]
        exact = copy.deepcopy(model).double()
        theirs, _ = peer(model, workdir), peer(exact, workdir)
        with mesh.single():
            loaded = restore.open_checkpoint(workdir)
            save.save(Path(scratch) / "ours", loaded.section, jax.device_get(loaded.params))
        found = load_file(Path(scratch) / "ours" / "model.safetensors")
    apart, moved, rounding, from_exact = {}, {}, 0.0, {}
    for (name, tensor), right in zip(model.state_dict().items(), exact.state_dict().values()):
        want = tensor.numpy()
        difference = float(np.abs(found[name] - want).max())
        if name.endswith("key.bias"):  # changes no attention, so its gradient is rounding alone
            rounding = max(rounding, difference)
            continue
        apart[name] = difference / float(np.abs(want).max())
        size = float(right.abs().max())
        distances = (
            float(np.abs(side - right.numpy()).max()) / size for side in (found[name], want)
        )
        from_exact[name] = dict(zip(("ours", "theirs"), distances))
        moved[name] = float(np.abs(begun[name] - want).max() / np.abs(want).max())
    worst = max(apart, key=apart.get)
    curves = max(abs(a - b) / b for a, b in zip(ours, theirs, strict=True))
    print(f"{worst} is furthest apart; the least that a tensor moved is {min(moved.values()):.1e}")
    print(f"from float64 there: {from_exact[worst]}")
    print(f"keys' biases, which rounding alone moves, are at most {rounding:.1e} apart")
    found_rows = [
        record.Row(f"fine-tuning, {STEPS} steps beside PyTorch: weights", apart[worst], "x", 1e-4),
        record.Row(f"fine-tuning, {STEPS} steps beside PyTorch: loss curves", curves, "x", 1e-4),
    ]
    path = record.RESULTS / "finetune_parity.json"
    told = dict(
        ours=ours,
        theirs=theirs,
        apart=apart,
        moved=moved,
        keys_biases=rounding,
        from_float64=from_exact,
    )
    record.write(path, "python benchmarks/finetune_parity.py", found_rows, **told)


if __name__ == "__main__":
    main()
