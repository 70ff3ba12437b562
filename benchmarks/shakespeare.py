"""nanoGPT's character-level CPU run as published, and a recipe of ours at the same size and steps.

    python benchmarks/shakespeare.py --seeds=1337,1,2

needs LM_RESEARCH_DATA, under which lies tinyshakespeare/input.txt.gz. Every run is the train
command in a process of its own; a loss is that of all characters of the last tenth of the text, in
windows of 64, at the last step. nanoGPT publishes 1.88, estimated on 240 random windows; the same
run in PyTorch, measured as ours is, stands beside it.

This file is also the config of the recipes:

    python -m lm_research train --config=benchmarks/shakespeare.py:recipe=ours \
        --config.data.source.paths=input.txt --workdir=runs/ours
"""

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from ml_collections import ConfigDict

from lm_research.config import knobs, known

ROOT = Path(__file__).resolve().parent.parent
BAR = 1.89

# In place of the sections of configs/shakespeare_char.py; 800,256 parameters, 3,840 fewer.
OURS = {
    "model": {
        "kind": "Llama",
        "width": 128,
        "layers": 4,
        "heads": 4,
        "hidden": 344,
        "head_norms": True,
        "tied": True,
        "dtype": "float32",
    },
    "optimizer": {
        "kind": "Muon",
        "peak": 1e-2,
        "warmup": 100,
        "shape": "wsd",
        "cooldown": 0.5,
        "final": 0.0,
        "decay": 0.1,
    },
}
PYTORCH = "published in PyTorch"  # the peer of nanogpt_cpu.py
RECIPES = {"published": {}, PYTORCH: {}, "ours": OURS}


def get_config(arg: str = "") -> ConfigDict:
    """Knobs: recipe (published or ours), steps (0: 2,000)."""
    knob = knobs(arg, recipe="ours", steps=0)
    known(knob.recipe, RECIPES, "recipe")
    path = ROOT / "configs" / "shakespeare_char.py"
    spec = importlib.util.spec_from_file_location("shakespeare_char", path)
    published = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(published)
    config = published.get_config(f"run=cpu,steps={knob.steps}")
    for section, values in RECIPES[knob.recipe].items():
        vocab = {"vocab": config.model.get_ref("vocab")} if section == "model" else {}
        config[section] = ConfigDict({**vocab, **values})
    return config


def held_out_loss(recipe: str, seed: int, steps: int, text: Path) -> float:
    """Held-out loss at the end of one run, in nats per character."""
    import nanogpt_cpu

    with tempfile.TemporaryDirectory() as made:
        workdir = Path(made) / "run"
        command = [
            *(sys.executable, "-m", "lm_research", "train"),
            f"--config={Path(__file__).resolve()}:recipe={recipe},steps={steps}",
            f"--config.data.source.paths={text}",
            f"--config.seed={seed}",
            f"--config.evals.heldout.every={steps}",
            f"--config.checkpoint.every={steps}",
            "--config.log.samples.every=0",
            "--config.log.tensorboard=false",
            f"--workdir={workdir}",
        ]
        if recipe == PYTORCH:
            command = nanogpt_cpu.peer(text, workdir, steps, "float32", 0, seed)
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        rows = [json.loads(line) for line in (workdir / "metrics.jsonl").open()]
    return next(
        row["heldout/loss"] for row in rows if row["step"] == steps and "heldout/loss" in row
    )


def main() -> None:
    import record

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", default="1337,1,2")
    parser.add_argument("--recipes", default=",".join(RECIPES))
    parser.add_argument("--steps", type=int, default=2_000)
    parser.add_argument("--output", type=Path, default=record.RESULTS / "shakespeare.json")
    options = parser.parse_args()
    text = record.data("tinyshakespeare/input.txt.gz")
    seeds = [int(seed) for seed in options.seeds.split(",")]
    losses, rows = {}, []
    for recipe in options.recipes.split(","):
        losses[recipe] = {}
        for seed in seeds:
            losses[recipe][seed] = held_out_loss(recipe, seed, options.steps, text)
            print(f"{recipe}, seed {seed}: {losses[recipe][seed]:.4f}", flush=True)
        what = f"Shakespeare characters, recipe `{recipe}`, step {options.steps:,}: validation loss"
        bar = BAR if recipe == "published" else None
        mean = statistics.mean(losses[recipe].values())
        rows.append(record.Row(f"{what}, mean of {len(seeds)} seeds", mean, "nats", bar))
    record.write(
        options.output,
        f"python benchmarks/shakespeare.py --seeds={options.seeds} --recipes={options.recipes!r}",
        rows,
        losses=losses,
        ours_differs_in=OURS,
    )


if __name__ == "__main__":
    main()
