"""Checkpoints that survive what happens to them, and training that does not wait for them."""

import functools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from lm_research import log, tree
from lm_research.errors import Stopped, UserError
from lm_research.train import checkpoint, stored
from lm_research.train.checkpoint import Checkpoint, load_params, save_params
from lm_research.train.stored import Damaged


@flax.struct.dataclass
class State:
    step: Any
    trained: Any
    held: Any
    optimizer: Any


def mesh(*sizes):
    names = ("data", "fsdp", "tensor")
    return jax.make_mesh(sizes, names, (AxisType.Auto,) * 3)


def shardings(where):
    at = lambda *spec: NamedSharding(where, PartitionSpec(*spec))
    params = {"kernel": at("fsdp", "tensor"), "bias": at("fsdp")}
    return State(at(), params, {"scale": at(("data", "fsdp"))}, {"mu": params, "count": at()})


@functools.lru_cache
def maker(where):
    def build(step):
        keys = jax.random.split(jax.random.key(step), 3)
        kernel, bias, scale = (jax.random.normal(key, (64,)) for key in keys)
        # Most of a file is the kernel, so that is what damage in its middle hits.
        kernel = jnp.outer(jnp.tile(kernel, 16), bias)
        params = {"kernel": kernel, "bias": bias.astype(jnp.bfloat16)}
        moments = jax.tree.map(lambda p: p * 0.1, params)
        held = {"scale": (scale * 50).astype(jnp.int8)}
        return State(jnp.int32(step), params, held, {"mu": moments, "count": jnp.uint32(step)})

    return jax.jit(build, out_shardings=shardings(where))


def make(step, where):
    """A state of several dtypes whose every value depends on `step`."""
    return maker(where)(step)


def abstract(where):
    return jax.tree.map(
        lambda leaf, at: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=at),
        jax.eval_shape(maker(where), 0),
        shardings(where),
    )


def bits(state):
    return {name: np.asarray(leaf).tobytes() for name, leaf in tree.named_leaves(state).items()}


def names(directory):
    return sorted(path.name for path in directory.iterdir())


@pytest.fixture
def where():
    return mesh(2, 2, 2)


@pytest.fixture(autouse=True)
def no_fallbacks():
    log.forget()
    yield
    log.forget()


def saved(directory, where, steps, **settings):
    """Checkpoints of `steps`, written and closed."""
    with Checkpoint(**settings).open(directory) as checkpoints:
        for step in steps:
            checkpoints.save(step, make(step, where), 10 * step, config="abc")


def test_nothing_saved_is_nothing_restored(tmp_path, where):
    checkpoints = Checkpoint().open(tmp_path / "none")
    assert checkpoints.restore(abstract(where)) is None
    assert "no good checkpoint" in checkpoints.last_good()
    assert not (tmp_path / "none").exists()


def test_restores_onto_another_mesh_bit_for_bit(tmp_path, where):
    saved(tmp_path, where, [7])
    other = mesh(4, 1, 2)
    state, meta = Checkpoint().open(tmp_path).restore(abstract(other))
    assert bits(state) == bits(make(7, where))
    assert (meta["step"], meta["position"], meta["config"]) == (7, 70, "abc")
    assert isinstance(state, State)
    for leaf, asked in zip(jax.tree.leaves(state), jax.tree.leaves(shardings(other))):
        assert leaf.sharding.is_equivalent_to(asked, leaf.ndim)


def test_saves_what_was_there_when_the_buffers_are_donated(tmp_path, where):
    zeros = jax.jit(lambda state: jax.tree.map(jnp.zeros_like, state), donate_argnums=0)
    with Checkpoint(keep=5).open(tmp_path) as checkpoints:
        for step in (1, 2, 3):
            state = make(step, where)
            expected = bits(state)
            checkpoints.save(step, state, 0)
            jax.block_until_ready(zeros(state))
            restored, meta = checkpoints.restore(abstract(where))
            assert meta["step"] == step and bits(restored) == expected


def test_keeps_the_newest_and_every_nth(tmp_path, where):
    saved(tmp_path, where, [1, 2, 3, 4, 5, 6], keep=2, keep_every=3)
    assert names(tmp_path) == ["3", "5", "6"]


def test_regular_saves_stay_whatever_else_is_saved(tmp_path, where):
    """What a diverging run goes back to must not hang on how often it was stopped."""
    with Checkpoint(every=3, keep=2).open(tmp_path, regular=2) as checkpoints:
        for step in (2, 3, 6, 7, 8):
            checkpoints.save(step, make(step, where), 0)
    assert names(tmp_path) == ["3", "6", "7", "8"]


def test_dropping_goes_on_where_it_was_killed(tmp_path):
    for name in ("15", "20", "20.dropped/state"):
        (tmp_path / name).mkdir(parents=True)
    checkpoint.drop_later(tmp_path, 15)
    assert names(tmp_path) == ["15"]


def test_damage_that_one_process_meets_is_damage_to_all(tmp_path, where):
    """Each asks the others once, before it meets them in a sum: else they would wait for it."""
    saved(tmp_path, where, [1])
    asked = []
    agree = lambda fact: asked.append(fact) or False  # as when another one could not read
    with pytest.raises(Damaged, match="another process could not read it"):
        stored.read(tmp_path / "1", abstract(where), False, agree)
    for path in (tmp_path / "1" / "state").rglob("*"):
        if path.is_file():
            path.unlink()
    with pytest.raises(Damaged, match="the state cannot be read"):
        stored.read(tmp_path / "1", abstract(where), False, agree)
    assert asked == [True, False]


def data_file(step):
    """The file with most of a step's content."""
    return max(step.glob("state/**/d/*"), key=lambda path: path.stat().st_size)


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def rename(path):
    path.write_text(path.read_text().replace("trained/bias", "trained/biaz"))


def other_position(path):
    meta = json.loads(path.read_text())
    path.write_text(json.dumps({**meta, "position": meta["position"] + 1}))


DAMAGE = {
    "a flipped bit": (data_file, flip, r"the content of \S+/kernel"),
    "a truncated file": (data_file, truncate, r'reading "\S+"'),
    "a missing file": (lambda step: step / "state/manifest.ocdbt", os.remove, "NOT_FOUND"),
    "a leaf of another name": (lambda step: step / "state/_METADATA", rename, "no trained/bias"),
    "a torn record": (lambda step: step / "meta/metadata", truncate, "beside the state"),
    "a changed record": (lambda step: step / "meta/metadata", other_position, "not what was"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_falls_back_from_a_damaged_step(tmp_path, where, name, capfd):
    find, damage, told = DAMAGE[name]
    saved(tmp_path, where, [1, 2])
    damage(find(tmp_path / "2"))
    checkpoints = Checkpoint().open(tmp_path)
    capfd.readouterr()
    state, meta = checkpoints.restore(abstract(where))
    said = capfd.readouterr().err.strip()
    assert meta["step"] == 1 and bits(state) == bits(make(1, where))
    assert "\n" not in said and re.search(told, said), said
    assert "step 2" in said and "got that of step 1" in said
    assert names(tmp_path) == ["1", "2"]
    with checkpoints:
        checkpoints.save(2, make(2, where), 20)
    assert names(tmp_path) == ["1", "2", "bad-2"]
    state, meta = Checkpoint().open(tmp_path).restore(abstract(where))
    assert meta["position"] == 20 and bits(state) == bits(make(2, where))


def test_all_damaged_is_an_error_and_nothing_is_removed(tmp_path, where):
    saved(tmp_path, where, [1, 2])
    for step in ("1", "2"):
        flip(data_file(tmp_path / step))
    with pytest.raises(UserError, match=r"step 2: the content .*; step 1: the content") as error:
        Checkpoint().open(tmp_path).restore(abstract(where))
    assert str(tmp_path) in str(error.value)
    assert names(tmp_path) == ["1", "2"]


def test_another_model_is_an_error_of_its_own(tmp_path, where):
    saved(tmp_path, where, [1])
    checkpoints, asked = Checkpoint().open(tmp_path), abstract(where)
    wider = asked.replace(trained={**asked.trained, "bias": asked.optimizer["mu"]["kernel"]})
    with pytest.raises(UserError, match=r"holds trained/bias as bfloat16 \[64\]; float32"):
        checkpoints.restore(wider)
    with pytest.raises(UserError, match="holds held/scale, which is not asked for"):
        checkpoints.restore(asked.replace(held={}))
    with pytest.raises(UserError, match="lacks held/more"):
        checkpoints.restore(asked.replace(held={**asked.held, "more": asked.step}))


def test_parameters_alone(tmp_path, where):
    saved(tmp_path / "run", where, [1, 2])
    params, meta = load_params(tmp_path / "run", abstract(where).trained)
    assert bits(params) == bits(make(2, where).trained) and meta["step"] == 2
    asked = abstract(where).replace(optimizer=None, step=None)
    state, _ = Checkpoint().open(tmp_path / "run").restore(asked, partial=True)
    assert bits(state.held) == bits(make(2, where).held) and state.optimizer is None
    save_params(tmp_path / "params", params, step=2)
    again, meta = load_params(tmp_path / "params", abstract(mesh(1, 8, 1)).trained)
    assert bits(again) == bits(params) and meta["step"] == 2
    with pytest.raises(UserError, match="no checkpoints in"):
        load_params(tmp_path / "nowhere", abstract(where).trained)


def test_a_step_is_saved_once(tmp_path, where):
    saved(tmp_path, where, [1, 2])
    with Checkpoint().open(tmp_path) as checkpoints:
        checkpoints.restore(abstract(where))
        checkpoints.save(2, make(2, where), 20)  # stopped before it made a step
        checkpoints.save(3, make(3, where), 30)
        checkpoints.save(3, make(3, where), 30)  # due and stopped at once
    with pytest.raises(UserError, match="holds the checkpoint of step 3, so step 1"):
        Checkpoint().open(tmp_path).save(1, make(1, where), 10)
    assert names(tmp_path) == ["1", "2", "3"]


def test_due_by_steps_and_by_the_clock(tmp_path, monkeypatch):
    now = 0.0
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: now)
    asked = []
    monkeypatch.setattr(checkpoint, "_from_first", lambda value: asked.append(value) or value)
    checkpoints = Checkpoint(every=1000, minutes=1).open(tmp_path)
    due = []
    for step in range(1, 2001):
        now += 0.1
        if checkpoints.due(step):
            due.append(step)
            checkpoints._clock.restart(step)
    assert due[0] == pytest.approx(600, abs=1) and 1000 in due
    assert due[2] == pytest.approx(1600, abs=1)
    assert len(asked) < 60  # of 2000: each asking makes a pod wait


def test_a_save_that_failed_is_made_again_after_a_pause(tmp_path, monkeypatch):
    def full(step):
        raise OSError("No space left on device")

    now, due = 0.0, []
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: now)
    checkpoints = Checkpoint(every=1, retries=2).open(tmp_path)
    monkeypatch.setattr(checkpoints, "_open_writer", full)
    with pytest.raises(Stopped, match="step 7 cannot be written: No space left on device"):
        for step in range(1, 100):
            now += 0.5
            if checkpoints.due(step):
                due.append(step)
                checkpoints.save(step, {"trained": jnp.ones(2)}, 0)
    assert due == [1, 3, 7]  # pauses of one second and of two, whatever the steps between


@pytest.mark.parametrize("wrong", [{"every": -1}, {"keep": 0}, {"minutes": 0.0}, {"keep_every": 0}])
def test_settings_are_checked(wrong):
    with pytest.raises(UserError, match=f"checkpoint.{next(iter(wrong))}"):
        Checkpoint(**wrong)


PROGRAM = """
    import os, resource, signal, sys, threading, time
    import jax, jax.numpy as jnp
    from lm_research.errors import Stopped
    from lm_research.train.checkpoint import Checkpoint

    def state(step, size=1 << 20):
        return {"trained": jax.random.normal(jax.random.key(step), (size,))}

    checkpoints = Checkpoint(every=1, retries=RETRIES).open(sys.argv[1])
"""


def start(directory, program, retries=0):
    """A process that runs `program` with `checkpoints` in `directory`."""
    text = textwrap.dedent(PROGRAM) + textwrap.dedent(program)
    text = text.replace("RETRIES", str(retries))
    environment = {**os.environ, "XLA_FLAGS": "", "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, "-c", text, str(directory)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )


def newest(directory):
    """What is restored of a process's state: the step."""
    at = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    leaf = jax.ShapeDtypeStruct((1 << 20,), jnp.float32, sharding=at)
    return Checkpoint().open(directory).restore({"trained": leaf})[1]["step"]


FULL = """
    checkpoints.save(1, state(1), 10)
    checkpoints.wait()
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (BYTES, resource.RLIM_INFINITY))
    try:
        for step in range(2, 9):
            checkpoints.save(step, state(step), 10 * step)
            for _ in range(20):  # the steps of a run, in which the error comes up
                time.sleep(0.02)
                checkpoints.due(step)
    except Stopped as error:
        print("stopped:", error)
    checkpoints.close()
"""


def check_stopped(directory, program, reason, last):
    output, _ = start(directory, program).communicate(timeout=60)
    lines = output.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith(f"stopped: the checkpoint of step {last + 1} ")
    assert reason in lines[0] and f"the last good checkpoint is step {last} in" in lines[0]
    assert names(directory) == [str(step) for step in range(1, last + 1)]
    assert newest(directory) == last


@pytest.mark.parametrize("limit", [0, 300, 100_000])
def test_a_failed_write_stops_with_one_line(tmp_path, limit):
    check_stopped(tmp_path / "run", FULL.replace("BYTES", str(limit)), "File too large", 1)


def test_a_full_disk_stops_with_one_line(tmp_path):
    disk = ["mount", "-t", "tmpfs", "-o", "size=10m", "tmpfs", str(tmp_path)]
    if subprocess.run(disk, capture_output=True, check=False).returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        check_stopped(tmp_path / "run", FULL.replace("BYTES", "-1"), "No space left on device", 2)
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


KILLED = """
    checkpoints.save(1, state(1), 10)
    checkpoints.wait()
    threading.Timer(DELAY, lambda: os.kill(os.getpid(), signal.SIGKILL)).start()
    for step in range(2, 100):
        checkpoints.save(step, state(step), 10 * step)
        print(step, flush=True)
"""


def test_killed_at_any_moment_it_goes_on_from_a_good_step(tmp_path):
    delays = [0.02, 0.06, 0.13, 0.25, *np.linspace(0.03, 0.6, 9)]
    begin = lambda delay: start(tmp_path / str(delay), KILLED.replace("DELAY", str(delay)))
    runs, torn = [begin(delay) for delay in delays[:4]], 0
    for number, delay in enumerate(delays):
        if number >= 4 and torn:  # a machine of another speed is torn at other moments
            break
        run = runs[number] if number < 4 else begin(delay)
        output, _ = run.communicate(timeout=60)
        assert run.returncode == -signal.SIGKILL, output
        directory = tmp_path / str(delay)
        torn += any("tmp" in name for name in names(directory))
        step = newest(directory)
        assert step in (1, *range(int((output.split() or ["2"])[-1]) - 1, 100))
        with Checkpoint().open(directory) as checkpoints:
            state = {"trained": jnp.ones(1 << 20)}
            checkpoints.save(step + 1, state, 0)
        assert not any("tmp" in name for name in names(directory))
        assert newest(directory) == step + 1
    assert torn  # else nothing was tested


TWO = """
import sys, time
import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from lm_research.train.checkpoint import Checkpoint
from lm_research.train.fingerprint import fingerprint

directory, process, port = sys.argv[1], int(sys.argv[2]), sys.argv[3]
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(f"localhost:{port}", 2, process)
mesh = jax.make_mesh((2,), ("x",), (AxisType.Auto,))
where = NamedSharding(mesh, PartitionSpec("x"))
state = jax.jit(lambda key: {"trained": jax.random.normal(key, (8, 4))}, out_shardings=where)
asked = {"trained": jax.ShapeDtypeStruct((8, 4), "float32", sharding=where)}
due = []
with Checkpoint(every=3, minutes=0.003).open(directory) as checkpoints:
    assert checkpoints.restore(asked) is None
    for step in range(1, 6):
        time.sleep(0.1 * process)  # their clocks disagree
        if checkpoints.due(step):
            due.append(step)
            checkpoints.save(step, state(jax.random.key(step)), 10 * step)
restored, meta = Checkpoint().open(directory).restore(asked)
assert fingerprint(restored) == fingerprint(state(jax.random.key(meta["step"])))
print("due", due, "restored", meta["step"])
"""


def test_two_processes_agree(tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    environment = {**os.environ, "XLA_FLAGS": "", "PYTHONPATH": os.pathsep.join(sys.path)}
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", TWO, str(tmp_path / "run"), process, port],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for process in ("0", "1")
    ]
    try:
        outputs = [run.communicate(timeout=60) for run in runs]
    finally:
        for run in runs:
            run.kill()
    said = [re.search(r"due \[.*?(\d+)\] restored (\d+)", output) for output, _ in outputs]
    assert all(said), outputs
    assert said[0].group() == said[1].group()
    assert said[0].group(1) == said[0].group(2)
