"""One training step against PyTorch: GPT-2 of three sizes, float32 and bfloat16, in one run.

    python benchmarks/training_step.py --shapes=a,b,c --rounds=9

The peer is `transformers` GPT2LMHeadModel, eager, AdamW(fused=True), clipping by global norm, in
float32 or under bfloat16 autocast. Both sides run as processes of their own that take turns, round
by round; a ratio is the median over rounds of peer time / our time. Both get huge pages
(glibc.malloc.hugetlb=1), which `python -m lm_research` sets for itself.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import record

SHAPES = {  # layers, width, heads, T, B, V
    "a": (4, 128, 4, 64, 12, 65),
    "b": (6, 384, 6, 256, 8, 8192),
    "c": (12, 768, 12, 256, 2, 50257),
}
STEPS = {"a": 10, "b": 1, "c": 1}  # of one turn
PEER, AUTOCAST = "PyTorch float32", "PyTorch bfloat16 autocast"
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
    import functools
    import types

    import jax
    import numpy as np

    from lm_research.models import GPT2
    from lm_research.objectives import Causal
    from lm_research.optimizers import AdamW
    from lm_research.train.step import Trainer, train_steps
    from lm_research.weights import Full

    layers, width, heads, length, _, vocab = SHAPES[shape]
    experiment = types.SimpleNamespace(
        model=GPT2(vocab, width, layers, heads, context=max(64, length), dtype=dtype),
        objective=Causal(length),
        weights=Full(),
        optimizer=AdamW(3e-4, shape="constant"),
        batch=types.SimpleNamespace(microbatches=1),
        steps=1000,
        seed=0,
    )
    trainer = Trainer.of(experiment)
    state = trainer.init()
    tokens = data(shape)
    batch = {"tokens": tokens[:, :-1], "targets": tokens[:, 1:]}
    batch["weights"] = np.ones(batch["tokens"].shape, np.float32)
    batches = jax.tree.map(lambda x: np.broadcast_to(x, (dispatch, *x.shape)), batch)
    step = jax.jit(functools.partial(train_steps, trainer), donate_argnums=0)

    def run() -> float:
        nonlocal state
        state, numbers = step(state, batches)
        return float(numbers["loss"][-1])

    return run


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
    optimizer = torch.optim.AdamW(
        model.parameters(), 3e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True
    )
    tokens = torch.tensor(data(shape)).long()

    def run() -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            logits = model(tokens[:, :-1]).logits
            loss = torch.nn.functional.cross_entropy(
                logits.flatten(0, 1).float(), tokens[:, 1:].flatten()
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.item()

    return run


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


def work(run, per: int) -> None:
    """One side: reads a number of steps from standard input, makes them, writes seconds a step."""
    first = run()
    for _ in range(2):
        last = run()
    print(json.dumps({"first": first, "last": last}), flush=True)
    for line in sys.stdin:
        turns = max(1, int(line) // per)
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(turns):
            run()
        steps = turns * per
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        print(json.dumps({"wall": wall / steps, "cpu": cpu / steps}), flush=True)


def side(spec: dict, runner) -> None:
    """`work` of one side, ours on the mesh of this machine."""
    if spec["side"] == "torch":
        return work(*runner(spec))
    from lm_research.mesh import Mesh

    with Mesh().activate():
        return work(*runner(spec))


def compare(shape: str, sides: dict, rounds: int, steps: int, program: str = __file__) -> dict:
    """Seconds per step of every side, wall and CPU, in interleaved rounds of so many steps each."""
    environment = {**os.environ, "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
    processes, seconds = {}, {}
    for name, spec in sides.items():
        command = [sys.executable, program, "--work", json.dumps({"shape": shape, **spec})]
        processes[name] = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        losses = json.loads(processes[name].stdout.readline())
        print(f"  {name}: loss {losses['first']:.3f} -> {losses['last']:.3f}", flush=True)
        seconds[name] = {"wall": [], "cpu": []}
    for _ in range(rounds):
        for name, process in processes.items():
            process.stdin.write(f"{steps}\n")
            process.stdin.flush()
            for kind, value in json.loads(process.stdout.readline()).items():
                seconds[name][kind].append(value)
    for process in processes.values():
        process.stdin.close()
        process.wait()
    return seconds


def ratio(seconds: dict, peer: str, name: str, kind: str = "wall") -> float:
    """Median over rounds of the peer's time / this side's time."""
    pairs = zip(seconds[peer][kind], seconds[name][kind], strict=True)
    return statistics.median(theirs / own for theirs, own in pairs)


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
        seconds = compare(shape, SIDES, options.rounds, STEPS[shape])
        found += rows(shape, seconds)
        details[shape] = {
            name: {
                "milliseconds": round(1e3 * statistics.median(times["wall"]), 1),
                f"CPU time, times as fast as {PEER}": round(ratio(seconds, PEER, name, "cpu"), 2),
            }
            for name, times in seconds.items()
        }
    command = f"python benchmarks/training_step.py --shapes={options.shapes}"
    record.write(options.output, f"{command} --rounds={options.rounds}", found, sides=details)


if __name__ == "__main__":
    main()
