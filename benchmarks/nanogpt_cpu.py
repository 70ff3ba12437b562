"""nanoGPT's CPU run as a whole command, in CPU-seconds, against the same run in PyTorch.

    python benchmarks/nanogpt_cpu.py --pairs=3

needs LM_RESEARCH_DATA, under which lies tinyshakespeare/input.txt.gz, and PyTorch. Our side is
`python -m lm_research train --config=configs/shakespeare_char.py`; the peer is `--peer` of this
file: nanoGPT's model and loop in plain PyTorch, with fused attention and fused AdamW. Both read
the text, train, and at the end score the whole held-out tenth and save, once; neither samples.
What counts is user and system time of the process and its children, from start to end.

Both get huge pages (glibc.malloc.hugetlb=1), which our command sets for itself. Sides take turns;
a ratio is the median over rounds of the peer's seconds / ours. PyTorch's threads spin while they
wait, which counts as CPU time and grows on a machine with other work, so the peer is also run on
one thread: measure where nothing else runs.
"""

import argparse
import gzip
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import record

ROOT = Path(__file__).resolve().parent.parent
LAYERS, HEADS, WIDTH, LENGTH, ROWS = 4, 4, 128, 64, 12
PEAK, FINAL, WARMUP = 1e-3, 1e-4, 100
PEER, AUTOCAST = "PyTorch float32", "PyTorch bfloat16 autocast"
PEERS = {  # dtype, threads; 0 is PyTorch's own choice
    PEER: ("float32", 0),
    "PyTorch float32, one thread": ("float32", 1),
    AUTOCAST: ("bfloat16", 0),
}
OURS = {  # dtype, steps per dispatch
    "lm_research float32": ("float32", 1),
    "lm_research float32, ten steps a dispatch": ("float32", 10),
    "lm_research bfloat16, ten steps a dispatch": ("bfloat16", 10),
}


def ours(text: Path, workdir: Path, steps: int, dtype: str, dispatch: int) -> list[str]:
    """Our command."""
    return [
        *(sys.executable, "-m", "lm_research", "train"),
        f"--config={ROOT}/configs/shakespeare_char.py:dtype={dtype},dispatch={dispatch}",
        f"--config.data.source.paths={text}",
        f"--config.steps={steps}",
        f"--config.checkpoint.every={steps}",
        f"--config.evals.heldout.every={steps}",
        "--config.log.samples.every=0",
        f"--workdir={workdir}",
    ]


def peer(
    text: Path, workdir: Path, steps: int, dtype: str, threads: int, seed: int = 1337
) -> list[str]:
    """The peer's command."""
    spec = [str(text), str(workdir), steps, dtype, threads, seed]
    return [sys.executable, __file__, "--peer", json.dumps(spec)]


def cpu_seconds(command: list[str], log: Path) -> tuple[float, float]:
    """User and system seconds of a command and its children; and seconds of wall time."""
    environment = {**os.environ, "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
    start = time.perf_counter()
    with log.open("w") as file:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=file, stderr=file)
        _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{log.read_text()}")
    return used.ru_utime + used.ru_stime, time.perf_counter() - start


def compare(sides: list[str], pairs: int, steps: int, text: Path) -> dict[str, dict]:
    """CPU and wall seconds of each side, and its held-out loss, round by round."""
    found = {name: {"cpu": [], "wall": [], "heldout loss": []} for name in sides}
    for turn in range(pairs):
        for name in sides:
            with tempfile.TemporaryDirectory() as made:
                workdir = Path(made) / "run"
                make, mode = (ours, OURS[name]) if name in OURS else (peer, PEERS[name])
                command = make(text, workdir, steps, *mode)
                cpu, wall = cpu_seconds(command, Path(made) / "log")
                written = (workdir / "metrics.jsonl").read_text().splitlines()
            loss = next(
                row["heldout/loss"] for row in map(json.loads, written) if "heldout/loss" in row
            )
            for kind, value in (("cpu", cpu), ("wall", wall), ("heldout loss", loss)):
                found[name][kind].append(round(value, 3))
            print(f"round {turn + 1}, {name}: {cpu:.1f} CPU-seconds, {wall:.1f} s", flush=True)
    return found


def times_as_fast(found: dict[str, dict], name: str, against: str = PEER) -> float:
    """Median over rounds of the peer's CPU-seconds / this side's."""
    both = zip(found[against]["cpu"], found[name]["cpu"], strict=True)
    return statistics.median(theirs / own for theirs, own in both)


def train_peer(text: Path, workdir: Path, steps: int, dtype: str, threads: int, seed: int) -> None:
    """nanoGPT's run, in PyTorch."""
    import numpy as np
    import torch

    if threads:
        torch.set_num_threads(threads)
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16")
    characters = gzip.decompress(text.read_bytes()).decode()
    letters = sorted(set(characters))
    ids = {letter: i for i, letter in enumerate(letters)}
    tokens = np.array([ids[letter] for letter in characters], np.uint16)
    tokens, heldout = np.split(tokens, [int(len(tokens) * 0.9)])
    torch.manual_seed(seed)
    model = peer_model(len(letters))
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    others = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=PEAK, betas=(0.9, 0.99), fused=True)
    workdir.mkdir(parents=True)
    with (workdir / "metrics.jsonl").open("w") as metrics:
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, steps)
            starts = torch.randint(len(tokens) - LENGTH, (ROWS,)).tolist()
            batch = windows(tokens, starts)
            with autocast:
                loss = model(batch[:, :-1], batch[:, 1:])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            if (step + 1) % 10 == 0 or step + 1 == steps:
                metrics.write(json.dumps({"step": step + 1, "loss": loss.item()}) + "\n")
        starts = np.arange(0, len(heldout) - LENGTH, LENGTH)
        total = 0.0
        with torch.no_grad(), autocast:
            for some in np.array_split(starts, -(-len(starts) // ROWS)):
                batch = windows(heldout, some)
                total += len(some) * model(batch[:, :-1], batch[:, 1:]).item()
        metrics.write(json.dumps({"step": steps, "heldout/loss": total / len(starts)}) + "\n")
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, workdir / "last")


def windows(tokens, starts):
    """Tokens [B, T + 1] from each of the places."""
    import numpy as np
    import torch

    rows = np.stack([tokens[i : i + LENGTH + 1] for i in starts])
    return torch.from_numpy(rows.astype(np.int64))


def learning_rate(step: int, steps: int) -> float:
    """nanoGPT's: linear warm-up, then a cosine down to the final rate."""
    if step < WARMUP:
        return PEAK * (step + 1) / (WARMUP + 1)
    done = (step - WARMUP) / max(1, steps - WARMUP)
    return FINAL + (PEAK - FINAL) * 0.5 * (1 + math.cos(math.pi * done))


def peer_model(vocab: int):
    """GPT-2 without biases, its head tied: takes tokens and targets, returns the loss."""
    import torch
    from torch import nn
    from torch.nn import functional

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention_norm = nn.LayerNorm(WIDTH, bias=False)
            self.inputs = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
            self.out = nn.Linear(WIDTH, WIDTH, bias=False)
            self.mlp_norm = nn.LayerNorm(WIDTH, bias=False)
            self.up = nn.Linear(WIDTH, 4 * WIDTH, bias=False)
            self.down = nn.Linear(4 * WIDTH, WIDTH, bias=False)

        def forward(self, x):
            B, T, D = x.shape
            heads = self.inputs(self.attention_norm(x)).view(B, T, 3, HEADS, D // HEADS)
            query, key, value = heads.permute(2, 0, 3, 1, 4)
            y = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
            x = x + self.out(y.transpose(1, 2).reshape(B, T, D))
            return x + self.down(functional.gelu(self.up(self.mlp_norm(x))))

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(vocab, WIDTH)
            self.position = nn.Embedding(LENGTH, WIDTH)
            self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
            self.norm = nn.LayerNorm(WIDTH, bias=False)
            for name, weight in self.named_parameters():
                if weight.dim() >= 2:
                    into_stream = name.endswith(("out.weight", "down.weight"))
                    nn.init.normal_(
                        weight, std=0.02 / (math.sqrt(2 * LAYERS) if into_stream else 1)
                    )

        def forward(self, tokens, targets):
            x = self.embedding(tokens) + self.position(torch.arange(tokens.shape[1]))
            for block in self.blocks:
                x = block(x)
            logits = functional.linear(self.norm(x), self.embedding.weight)
            return functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())

    return Model()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2_000)
    parser.add_argument("--output", type=Path, default=record.RESULTS / "nanogpt_cpu.json")
    parser.add_argument("--peer", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peer:
        spec = json.loads(options.peer)
        return train_peer(Path(spec[0]), Path(spec[1]), *spec[2:])
    text = record.data("tinyshakespeare/input.txt.gz")
    found = compare([*PEERS, *OURS], options.pairs, options.steps, text)
    ratios = {name: times_as_fast(found, name) for name in OURS}
    best = max(ratios, key=ratios.get)
    start = f"nanoGPT's CPU run, {options.steps:,} steps, CPU-seconds"
    Row = record.Row
    times = "times as fast as PyTorch float32"
    rows = [
        Row(
            f"{start}, {name}",
            ratios[name],
            times,
            1.0 if name == "lm_research float32" else None,
            False,
        )
        for name in OURS
    ]
    rows.append(Row(f"{start}, best of our modes ({best})", ratios[best], times, 1.4, False))
    rows.append(Row(f"{start}, {AUTOCAST}", times_as_fast(found, AUTOCAST), times))
    against = times_as_fast(found, best, AUTOCAST)
    rows.append(Row(f"{start}, {best}", against, f"times as fast as {AUTOCAST}", None, False))
    for name, values in found.items():
        rows.append(Row(f"{start}, {name}", statistics.median(values["cpu"]), "CPU-seconds"))
    command = f"python benchmarks/nanogpt_cpu.py --pairs={options.pairs} --steps={options.steps}"
    record.write(options.output, command, rows, rounds=found)


if __name__ == "__main__":
    main()
