"""One trunk under each objective, on the same tokens and budget: held-out loss, and SST-2 probed.

    LM_RESEARCH_DATA=DIR python experiments/objectives/sweep.py
    LM_RESEARCH_DATA=DIR python experiments/objectives/sweep.py --only=causal --steps=20 --rows=200

Runs are kept in --runs and go on where they stopped. Writes results.json, report.md and
objectives.png beside this file.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from probe import accuracy, bags, features, sst2

from lm_research import log, mesh, objectives, tree
from lm_research.commands import config_flag
from lm_research.models.initial import initial
from lm_research.study.runs import parser, program
from lm_research.train import loop, restore
from lm_research.train.experiment import part

HERE = Path(__file__).parent
CONFIG = HERE.parent.parent / "configs" / "pretrain.py"
KINDS = {
    "causal": "Causal",
    "masked": "Masked",
    "permutation": "Permutation",
    "spans": "SpanCorruption",
    "prefix": "Prefix",
}
KINDS = {name: kind for name, kind in KINDS.items() if kind in objectives.__all__}
FAMILIES = {"permutation": "xlnet", "spans": "t5"}  # the others have the plain trunk


def config(name: str, options: argparse.Namespace) -> Any:
    """The run of one objective: a diff of one section, and the trunk where it must be another."""
    T5 = name == "spans"
    knobs = {
        "family": FAMILIES.get(name, "gpt2"),
        "objective": name if name in FAMILIES else "causal",
        "width": options.width,
        "layers": options.layers // 2 if T5 else options.layers,
        "heads": options.width // 64,
        "vocab": 4096,
        "length": options.length,
        "batch": options.batch,
        "steps": options.steps,
    }
    found = config_flag.loaded(f"{CONFIG}:{','.join(f'{k}={v}' for k, v in knobs.items())}")
    if name not in FAMILIES:
        found.model = trunk(options, causal=name != "masked")
        found.objective = dict(kind=KINDS[name], length=options.length)
    if T5:  # gated, with one table of tokens: about as many parameters as the plain trunk
        found.model.update(hidden=8 * options.width // 3, tied=True)
    found.log.tensorboard = False
    if options.paths:
        found.data.source.paths = options.paths
    return found


def trunk(options: argparse.Namespace, causal: bool) -> dict[str, Any]:
    """The model section of the plain trunk."""
    heads = options.width // 64
    attention = dict(kind="Attention", heads=heads, kv_heads=heads, head=64, bias=True)
    block = dict(
        kind="Block",
        attention={**attention, "out_bias": True, "dtype": "bfloat16"},
        mlp=dict(kind="MLP", hidden=4 * options.width, dtype="bfloat16"),
        norm=dict(kind="LayerNorm"),
    )
    return dict(
        kind="Transformer",
        width=options.width,
        stack=dict(kind="Stack", layers=options.layers, period=[block]),
        norm=dict(kind="LayerNorm"),
        position=dict(kind="Learned", length=max(128, options.length)),
        causal=causal,
        dtype="bfloat16",
    )


def entropy(workdir: Path) -> float:
    """Of the unigrams of a run's held-out tokens, in nats."""
    stored = restore.stored_config(workdir)
    data = part(stored, "data").prepare(workdir / "data", part(stored, "objective").length)
    tokens = np.concatenate([data.heldout[i]["tokens"][1:] for i in range(len(data.heldout))])
    counts = np.bincount(tokens)
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log(share)).sum())


def measured(name: str, workdir: Path, options: argparse.Namespace) -> dict[str, Any]:
    """What a run's trunk gives."""
    losses = [row for row in log.rows(workdir) if "heldout/loss" in row]
    (train, train_labels), (dev, dev_labels) = sst2(options.rows)
    with mesh.single():
        loaded = restore.open_checkpoint(workdir, dtype="float32")
        vectors = [
            features(loaded.model, loaded.params, loaded.tokenizer, texts) for texts in (train, dev)
        ]
        drawn = jax.jit(lambda key: tree.unboxed(initial(loaded.model, key)))(jax.random.key(0))
        untrained = [
            features(loaded.model, drawn, loaded.tokenizer, texts) for texts in (train, dev)
        ]
    words = [bags(loaded.tokenizer, loaded.model.vocab, texts) for texts in (train, dev)]
    probed = lambda pair: accuracy(pair[0], train_labels, pair[1], dev_labels)
    return {
        "objective": name,
        "parameters": tree.count(loaded.params),
        "steps": loaded.step,
        "heldout_loss": losses[-1]["heldout/loss"],
        "curve": [[row["step"], row["heldout/loss"]] for row in losses],
        "unigram_entropy": entropy(workdir),
        "sst2": probed(vectors),
        "sst2_untrained": probed(untrained),
        "sst2_bag_of_tokens": probed(words),
    }


def report(found: list[dict[str, Any]], options: argparse.Namespace) -> str:
    """The table, in Markdown."""
    tokens = options.steps * options.batch * options.length
    lines = [
        "# What each objective gives",
        "",
        f"Width {options.width}, {options.layers} layers, {options.steps:,} updates of "
        f"{options.batch} x {options.length} tokens ({tokens:,} in all) of "
        f"{options.paths or 'the documentation that Python carries'}. See `question.md`.",
        "",
        "| objective | parameters | held-out loss | of the unigrams' entropy | SST-2 probe "
        "| untrained | bag of tokens |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in sorted(found, key=lambda row: -row["sst2"]):
        share = row["heldout_loss"] / row["unigram_entropy"]
        lines.append(
            f"| {row['objective']} | {row['parameters']:,} | {row['heldout_loss']:.3f} nats "
            f"| {share:.0%} | {row['sst2']:.1%} | {row['sst2_untrained']:.1%} "
            f"| {row['sst2_bag_of_tokens']:.1%} |"
        )
    return "\n".join([*lines, "", "![Held-out loss and SST-2](objectives.png)", ""])


def plot(found: list[dict[str, Any]], path: Path) -> None:
    """Held-out loss by step, and probe accuracy."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for row in found:
        left.plot(*zip(*row["curve"]), marker=".", label=row["objective"])
    left.set(xlabel="step", ylabel="held-out loss of its own kind (nats)")
    left.legend()
    names = [row["objective"] for row in found]
    right.bar(names, [100 * row["sst2"] for row in found], label="trained")
    drawn = [100 * row["sst2_untrained"] for row in found]
    right.plot(names, drawn, "k_", ms=30, label="untrained")
    right.axhline(100 * found[0]["sst2_bag_of_tokens"], ls=":", c="k", label="bag of tokens")
    right.set(ylim=(50, None), ylabel="SST-2 accuracy of a linear probe (%)")
    right.legend(loc="lower right")
    figure.savefig(path, dpi=120)


def main() -> None:
    flags = parser(__doc__)
    flags.add_argument("--only", default="", help="objectives, with commas between")
    flags.add_argument("--runs", type=Path, default=Path("runs/objectives"))
    flags.add_argument("--output", type=Path, default=HERE)
    flags.add_argument("--paths", default="", help="text files; Python's documentation if empty")
    flags.add_argument("--rows", type=int, default=10_000, help="training sentences of SST-2")
    for name, value in (("width", 192), ("layers", 4), ("length", 128), ("batch", 32)):
        flags.add_argument(f"--{name}", type=int, default=value)
    flags.add_argument("--steps", type=int, default=1500)
    options = flags.parse_args()
    chosen = options.only.split(",") if options.only else list(KINDS)
    found = []
    for name in chosen:
        workdir = options.runs / name
        status = loop.train(config(name, options), workdir)
        if status:
            raise SystemExit(status)
        found.append(measured(name, workdir, options))
        print({k: v for k, v in found[-1].items() if k != "curve"}, flush=True)
    options.output.mkdir(parents=True, exist_ok=True)
    settings = {k: v for k, v in vars(options).items() if not isinstance(v, Path)}
    results = {"settings": settings, "versions": {"jax": jax.__version__}, "rows": found}
    (options.output / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    (options.output / "report.md").write_text(report(found, options))
    plot(found, options.output / "objectives.png")


if __name__ == "__main__":
    program(main)
