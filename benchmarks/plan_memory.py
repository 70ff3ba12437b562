"""Memory and parameters as `plan` says them, against those of the step that a run executes.

    python benchmarks/plan_memory.py

`python -m lm_research plan` reads no data and makes no array. Beside it a process prepares a run's
data, draws its weights on as many virtual devices, compiles its step for them as a run does, and
executes it twice. XLA's account of that program is what is measured: arguments, temporaries, and
outputs that share no memory with arguments. How much the process grew is told, too: its devices
share it, and glibc keeps what it has had once.
"""

import argparse
import json
import os
import random
import string
import subprocess
import sys
import tempfile
from pathlib import Path

import record

BAR, ROOT = 0.1, Path(__file__).resolve().parent.parent
DECODER = "size=smollm2-135m,source=text,vocab=512,length=128,batch=16,steps=10"
WIDTH = "width=128,layers=2,heads=4,length=128,batch=16,steps=10"
SMALL = {"model.width": 128, "model.layers": 2, "model.heads": 4, "model.kv_heads": 2}
SMALL |= {"model.hidden": 384}
CASES = {  # config and knobs, devices, fields
    "GPT-2, fsdp=4 data=2": (f"gpt2_small.py:{WIDTH},source=text", 8, {"mesh.fsdp": 4}),
    "BERT": (f"bert.py:{WIDTH},source=text", 1, {}),
    "T5": ("t5.py:size=small,width=128,layers=2,length=128,batch=16,steps=10", 1, {}),
    "Llama, full remat": (f"decoder.py:{DECODER}", 1, SMALL | {"model.remat": "full"}),
    "Llama, scanned, full remat, fsdp=2 tensor=2 data=2": (
        f"decoder.py:{DECODER}",
        8,
        SMALL
        | {"model.remat": "full", "model.execution": "scan", "mesh.fsdp": 2, "mesh.tensor": 2},
    ),
    "Llama, 4 microbatches": (f"decoder.py:{DECODER}", 1, SMALL | {"batch.microbatches": 4}),
}
VOCAB = 512


def flags(config: str, fields: dict, text: Path) -> list[str]:
    """Of both commands."""
    given = {**fields, "model.vocab": VOCAB, "data.tokenizer.vocab": 400}
    given["data.source.paths"] = text
    given["log.samples.every"] = 0
    return [f"--config=configs/{config}", *(f"--config.{k}={v}" for k, v in given.items())]


def run(command: list, devices: int = 1) -> None:
    """Runs a process in the repository."""
    environment = dict(os.environ)
    if devices > 1:
        environment["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode not in (0, 1):
        raise SystemExit(done.stdout + done.stderr)


def measure(workdir: Path, output: Path, given: list[str]) -> None:
    """What a run's step takes, from the run's own data, weights and program."""
    import functools
    import itertools

    import jax
    from absl import flags as absl_flags

    from lm_research import mesh, tree
    from lm_research.commands import config_flag
    from lm_research.data import pipeline
    from lm_research.train import loop
    from lm_research.train.experiment import experiment
    from lm_research.train.step import Trainer, train_steps

    config_flag.define()
    sys.argv = ["measure", *given]
    absl_flags.FLAGS(sys.argv)
    resolved, data = loop.prepare(absl_flags.FLAGS.config, workdir)
    x = experiment(resolved).bound(data.tokenizer)
    with x.mesh.activate():
        trainer = Trainer.of(x)
        state = trainer.init()
        stream = pipeline.batches(data.train, x.objective, seed=0, size=x.batch.size)
        batches = [mesh.place(loop.draw(stream, 1)[1], leading=1) for _ in range(2)]
        stream.close()
        parameters = tree.count(x.weights.join(state.trained, state.held))
        step = jax.jit(functools.partial(train_steps, trainer), donate_argnums=0)
        compiled = step.lower(state, batches[0]).compile()
        before = grown()
        for batch in itertools.chain(batches):
            state, numbers = compiled(state, batch)
        float(numbers["loss"][0])
    memory = compiled.memory_analysis()
    held = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    held += memory.output_size_in_bytes - memory.alias_size_in_bytes
    found = {"memory": held, "parameters": parameters, "process": grown() - before}
    output.write_text(json.dumps(found))


def grown() -> int:
    """The most memory that this process has had at once, in bytes."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def text(path: Path) -> Path:
    """A file of words, always the same."""
    draw = random.Random(0)
    words = [
        "".join(draw.choices(string.ascii_lowercase, k=draw.randint(2, 9))) for _ in range(999)
    ]
    path.write_text("\n".join(" ".join(draw.choices(words, k=40)) for _ in range(400)))
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure", type=Path, nargs=2)
    parser.add_argument("--cases", default="", help="those whose names hold this")
    parser.add_argument("--output", type=Path, default=record.RESULTS / "plan_memory.json")
    options, given = parser.parse_known_args()
    if options.measure:
        return measure(*options.measure, given)
    rows, details = [], {}
    for name, (config, devices, fields) in CASES.items():
        if options.cases not in name:
            continue
        with tempfile.TemporaryDirectory() as directory:
            directory = Path(directory)
            both = flags(config, fields, text(directory / "text.txt"))
            files = [directory / "planned.json", directory / "measured.json"]
            plan = [sys.executable, "-m", "lm_research", "plan", f"--devices={devices}"]
            run([*plan, f"--json={files[0]}", *both])
            run([sys.executable, __file__, "--measure", directory, files[1], *both], devices)
            planned, measured = (json.loads(file.read_text()) for file in files)
        off = abs(planned["memory"]["total"] / measured["memory"] - 1)
        missing = abs(planned["parameters"] - measured["parameters"])
        rows.append(
            record.Row(f"{name}: memory of a device, planned beside XLA's", off, "of it", BAR)
        )
        rows.append(record.Row(f"{name}: parameters, planned less measured", missing, "of them", 0))
        details[name] = {"planned": planned["memory"], "measured": measured}
        print(name, details[name], flush=True)
    record.write(options.output, "python benchmarks/plan_memory.py", rows, **details)
    return None


if __name__ == "__main__":
    main()
