"""The training loop, from a config to a finished run: data, step, log, evaluate, save."""

import contextlib
import functools
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lm_research import config, log, mesh
from lm_research.data import pipeline
from lm_research.data import tokenizer as tokenizers
from lm_research.errors import RESUME, Stopped, UserError
from lm_research.hub import adapter
from lm_research.models import ClassWriter
from lm_research.optimizers.averaged import evaluated
from lm_research.train import restore
from lm_research.train.account import Account
from lm_research.train.best import Best
from lm_research.train.checkpoint import drop_later, save_params
from lm_research.train.divergence import recalled, remembered
from lm_research.train.duration import PROVISIONAL, steps_of, timed
from lm_research.train.experiment import Experiment, changed, completed, experiment, identity
from lm_research.train.interruption import Interruption
from lm_research.train.journal import Journal, check_samples
from lm_research.train.profile import STEP, Profile
from lm_research.train.step import State, Trainer, train_steps
from lm_research.train.verified import standing
from lm_research.train.watchdog import Watchdog

LINES = 10  # at most so many differences are told


def train(given: Mapping[str, Any], workdir: Path) -> int:
    """Runs the experiment that a config declares, or what is left of it.

    Args:
      given: the config.
      workdir: where the run keeps everything; a run that is there already goes on.

    Returns:
      The exit status: 0, or `RESUME` after SIGTERM or SIGINT.

    Raises:
      UserError: anything that the config, its files or the machine cannot do.
    """
    account = Account()
    resolved, data = prepare(given, workdir, account)
    x = experiment(resolved).bound(data.tokenizer)
    with (
        x.mesh.activate(),
        Profile(x.log.traced, x.steps, workdir) as profile,
        Interruption() as interruption,
        x.checkpoint.open(
            workdir / "checkpoints", x.regular, config=identity(resolved)
        ) as checkpoints,
        stopping(checkpoints),
        contextlib.ExitStack() as within,
    ):
        x.check_mesh()
        trainer = Trainer.of(x)
        with Watchdog(account, x.log.watchdog, early):
            state, meta = start(trainer, checkpoints, resolved)
        state, step, position, best = begun(x, state, meta, workdir)
        evaluators = {name: e.bind(x.objective, data, x.batch.size) for name, e in x.evals.items()}
        claim(workdir, resolved, meta)
        journal = Journal(x, state, meta, workdir, data, checkpoints, account)
        within.enter_context(Watchdog(account, x.log.watchdog, journal.stalled))
        dispatch = jax.jit(functools.partial(train_steps, trainer), donate_argnums=0)
        opened = functools.partial(
            pipeline.batches,
            data.train,
            x.objective,
            seed=x.seed,
            size=x.batch.size,
            shuffle=x.data.shuffle,
            share=mesh.share(),
            at_once=x.batch.steps_per_dispatch,
            grouped=getattr(x.data, "grouped", 1),
        )
        stream = opened(start=position)
        while step < x.steps and not best.exhausted and not interruption.agreed():
            count = next_event(x, step) - step
            profile.begin(step, count, state)
            with jax.profiler.StepTraceAnnotation(STEP, step_num=step):
                indices, batches = journal.timed(draw, stream, count)
                state, numbers = dispatch(state, mesh.place(batches, leading=1))
            step, position = step + count, position + count * x.batch.size
            journal.follow(position, indices, numbers)
            with account.during("profile"):
                profile.end(step, state, journal.say)
            saving, happens = checkpoints.due(step), step == next_event(x, step - 1, pause=False)
            if saving or happens:
                journal.flush()
            if journal.bad is not None:
                state = stream.close()  # there may be no room for two
                state, meta = go_back(x, trainer, checkpoints, resolved, journal.bad)
                state, step, position, best = begun(x, state, meta, workdir)
                journal.went_back(step)
                stream = opened(start=position)
                continue
            if happens and journal.step < step:  # batches were skipped: it has yet to happen
                step = journal.step
                continue
            for name, evaluator in x.evals.items():
                if due(step, evaluator.every, x.steps):
                    params = params_of(x, state)
                    with account.during("evaluation"):
                        numbers = evaluators[name](x.model, params)
                    journal.evaluated(step, name, numbers)
                    journal.wrote(name, getattr(evaluators[name], "outputs", ()))
                    if best.improves(step, name, numbers):
                        with account.during("saving"):
                            kept = workdir / restore.BEST, params, step, 2, x.checkpoint.retries
                            save_params(*kept, parts=parts_of(x, state))
            if x.log.samples.every and due(step, x.log.samples.every, x.steps):
                with account.during("samples"):
                    journal.sampled(step, params_of(x, state))
            if saving or step == x.steps:
                with account.during("saving"):
                    save(checkpoints.save, state, position, step, journal, best)
        journal.flush()
        with account.during("saving"):
            if journal.bad is None:
                save(checkpoints.finish, state, position, step, journal, best)
            stream.close()
            checkpoints.close()
        within.close()
        journal.close(journal.step, best)
    return RESUME if step < x.steps and not best.exhausted else 0


def early(what: str, seconds: float, line: str) -> None:
    """Says where a run waits that has no journal yet."""
    print(f"process {jax.process_index()}: {line}", file=sys.stderr, flush=True)


def prepare(
    given: Mapping[str, Any], workdir: Path, account: Account | None = None
) -> tuple[dict[str, Any], Any]:
    """The config with everything that data and `init` decide filled in, and the prepared data.

    A run that is in the workdir already stays as it is until all of this has succeeded.

    Args:
      given: the config.
      workdir: the run's.
      account: of this thread, which is watched while data is made.

    Raises:
      UserError: the config or its files cannot be used, or the workdir holds another run.
    """
    resolved, stored = completed(given), stored_run(workdir)
    kept = stored is not None and resolved["resume"] == "same"
    if resolved["init"]:
        begin_from(resolved, stored)
    begins = begin_adapted(resolved, stored)
    # Mistakes are told before the text is read, which may take hours. V is not known yet.
    steps = resolved["steps"] or (stored["steps"] if kept else PROVISIONAL)
    expected = timed(resolved, steps)
    x = experiment({**expected, "model": with_told(expected["model"], vocab=1)})
    if kept:
        refuse_other(workdir, stored, expected)
    if workdir.exists() and not workdir.is_dir():
        raise UserError(f"--workdir={workdir} is a file; give a directory, which need not exist")
    with Watchdog(account or Account(), x.log.watchdog, early):
        data = x.data.prepare(workdir / "data", x.objective.length, kept)
    if jax.process_index() == 0:
        data.tokenizer.save(workdir / "tokenizer")
    resolved = timed(resolved, steps_of(resolved, len(data.train)))
    resolved["model"] = with_told(resolved["model"], vocab=data.tokenizer.vocab)
    vocab = restore.vocab(resolved["model"])
    if vocab < data.tokenizer.vocab:
        raise UserError(
            f"model.vocab is {vocab}, and the tokenizer has {data.tokenizer.vocab} tokens; "
            "give as many or more, which adds rows to a model of init, or without one leave it out"
        )
    if data.classes:
        named = resolved["model"].setdefault("classes", list(data.classes))
        scores = getattr(x.data, "numeric", False) and len(named) == 1  # whatever it is called
        if list(named) != list(data.classes) and not scores:
            raise UserError(
                f"model.classes is {', '.join(named)}, and the data's classes are "
                f"{', '.join(data.classes)}; leave it out (or, where it is that of --config.init, "
                "give the data's classes as model.classes to draw a new head), or give "
                "data.classes the same"
            )
    if isinstance(x.model, ClassWriter):
        resolved["model"]["written"] = written(data.tokenizer, data.classes)
    if begins:
        resolved["weights"] = adapter.read(begins, resolved["model"]).weights
    check_samples(x, data.tokenizer)
    return resolved, data


def written(tokenizer: Any, classes: tuple[str, ...]) -> list[list[int]]:
    """The tokens of the names of classes, as an encoder-decoder writes them.

    Raises:
      UserError: a name has none, or two have the same.
    """
    before, after = tokenizer.frame
    found: dict[tuple[int, ...], str] = {}
    for name in classes:
        tokens = tuple(tokenizer.complete(name).tolist())
        if len(tokens) == len(before) + len(after) or tokens in found:
            other = f"those of {found[tokens]!r}" if tokens in found else "none"
            raise UserError(
                f"the class {name!r} is to be written, and its tokens are {other}; give it another "
                "name, or take an encoder or a decoder"
            )
        found[tokens] = name
    return [list(tokens) for tokens in found]


def stored_run(workdir: Path) -> dict[str, Any] | None:
    """The config of the run that is in the workdir; None where there is none to go on with.

    Raises:
      UserError: it is a Hugging Face directory.
    """
    if not (workdir / "config.json").is_file():
        return None
    if not restore.is_run(workdir):
        raise UserError(f"{workdir} is a Hugging Face directory; give another --workdir")
    told = any((workdir / name).exists() for name in ("metrics.jsonl", "checkpoints"))
    return restore.stored_config(workdir) if told else None  # one that came to nothing is none


def begin_from(resolved: dict[str, Any], stored: Mapping[str, Any] | None) -> None:
    """Fills in the model and the tokenizer of `init`.

    A run that began from there already has both of its own, and needs the directory no more.
    """
    asked, source = resolved["model"], Path(resolved["init"])
    began = stored is not None and stored["init"] == resolved["init"]
    found = stored["model"] if began else restore.section(source)
    resolved["model"] = restore.begun(asked, found)
    log.note(model_from_init=config.differences(asked, resolved["model"]))
    if began:
        resolved["data"]["tokenizer"] = stored["data"]["tokenizer"]
        return
    tokenizer = restore.tokenizer_directory(source)
    if tokenizers.find(tokenizer) is not None:
        resolved["data"]["tokenizer"] = {"kind": "Pretrained", "path": str(tokenizer)}
    elif (kind := resolved["data"]["tokenizer"]["kind"]) != "Pretrained":
        if given := [n for n in tokenizers.SENTENCEPIECE if (Path(tokenizer) / n).is_file()]:
            raise UserError(
                f"{tokenizer} has a tokenizer as {given[0]}; it takes {tokenizers.FILES[0]}, which "
                f"transformers' AutoTokenizer.from_pretrained('{tokenizer}').save_pretrained('"
                f"{tokenizer}') writes, or data.tokenizer of kind Pretrained"
            )
        got = f"data.tokenizer ({kind}), whose ids mean something else to the model"
        log.fallback(f"the tokenizer of {tokenizer}", got, "it has none")


def begin_adapted(resolved: dict[str, Any], stored: Mapping[str, Any] | None) -> str | None:
    """The adapter whose factors the run begins from, and which tells its `weights`; if any.

    A run that began from there already has both.

    Raises:
      UserError: it is no adapter, or there is no `init` to add it to.
    """
    directory = resolved["weights"].get("adapter")
    if directory is None:
        return None
    if stored is not None and stored["weights"].get("adapter") == directory:
        resolved["weights"] = stored["weights"]
        return None
    named = adapter.described(directory).get("base_model_name_or_path")
    if not resolved["init"]:
        raise UserError(f"weights.adapter {directory} needs the model it is for as init: {named}")
    return directory


def refuse_other(workdir: Path, stored: Mapping[str, Any], resolved: Mapping[str, Any]) -> None:
    """Refuses to go on with a run that has another config.

    Args:
      workdir: the run's.
      stored: its config.
      resolved: the config to go on with; its model may lack what the data says.

    Raises:
      UserError: says what differs.
    """
    if lines := changed(stored, _completed_by(resolved, stored)):
        lines[LINES:] = [f"and {len(lines) - LINES} more"] if len(lines) > LINES else []
        raise UserError(
            f"{workdir} holds a run with another config ({'; '.join(lines)}); give a new "
            "--workdir, or --config.resume=changed to go on with the new config"
        )


def claim(workdir: Path, resolved: Mapping[str, Any], meta: Mapping[str, Any]) -> None:
    """Makes the workdir this run's by writing its config there.

    Raises:
      UserError: the run has lost its config, and what lies beside its state is of another.
    """
    path = workdir / "config.json"
    if path.is_file() and (lines := changed(restore.stored_config(workdir), resolved)):
        log.note(config_changed=lines)
    own = identity(resolved)
    if not path.is_file() and resolved["resume"] == "same" and meta.get("config", own) != own:
        raise UserError(
            f"{path} is missing, and the checkpoints beside it are of another config than this; "
            "give theirs, or --config.resume=changed to go on with the new config"
        )
    if jax.process_index() == 0:
        log.write_text(path, json.dumps(resolved, indent=2) + "\n")


def start(
    trainer: Trainer, checkpoints: Any, resolved: Mapping[str, Any], last: int | None = None
) -> tuple[State, dict[str, Any]]:
    """The newest good state, of step `last` at most, and what lies beside it; or the first."""
    restored = checkpoints.restore(trainer.abstract(), last=last)
    if restored is not None:
        return restored
    init, beginning = trainer.experiment.init, {"position": 0}
    if not init:
        return trainer.init(), beginning
    loaded = restore.open_checkpoint(init)
    found = resolved["weights"].get("adapter")
    arrays = adapter.read(found, resolved["model"]).arrays if found else {}
    params, told = restore.given(trainer.experiment.model, loaded, arrays)
    log.note(init={"path": init, **told, **standing(init, loaded)})
    return trainer.init(params, arrays), beginning


def begun(
    x: Experiment, state: State, meta: Mapping[str, Any], workdir: Path
) -> tuple[State, int, int, Best]:
    """The state to go on from, its step and position in the data, and the best found by then."""
    drop_later(workdir / restore.BEST, int(state.step))
    step = meta.get("planned", int(state.step))
    state = state.replace(recent=recalled(x.divergence, meta.get("recent", ())))
    return state, step, int(meta["position"]), Best.after(x.checkpoint, meta)


def go_back(
    x: Experiment,
    trainer: Trainer,
    checkpoints: Any,
    resolved: Mapping[str, Any],
    bad: Mapping[str, Any],
) -> tuple[State, dict[str, Any]]:
    """The state to go back to from a batch, and what lies beside it; later ones are dropped.

    Which one it is depends on the config alone, so a run that was stopped goes back to the same;
    where that one is gone, another one before the batch is better than the beginning.
    """
    target = x.divergence.target(bad["step"], x.checkpoint.every)
    found, abstract = None, trainer.abstract()
    if target:
        found = checkpoints.restore(abstract, last=target)
        found = found or checkpoints.restore(abstract, last=bad["step"] - 1)
    state, meta = found or start(trainer, checkpoints, resolved, 0)
    if x.checkpoint.every and int(state.step) != target:
        asked, why = f"the checkpoint of step {target}, to go back to", "it is not there"
        log.fallback(asked, f"that of step {int(state.step)}", why)
    checkpoints.drop_later(int(state.step))
    return state, {**meta, "position": bad["position"] + x.batch.size}


def save(
    how: Callable[..., None],
    state: State,
    position: int,
    planned: int,
    journal: Journal,
    best: Best,
) -> None:
    """Saves the state and what lies beside it, by a method of `Checkpoints`."""
    facts = {**journal.beside(planned), **best.facts}
    if state.recent is not None:
        facts["recent"] = remembered(state.recent)
    how(journal.step, state.replace(recent=None), position, **facts)


def draw(stream: Any, count: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The next batches, stacked: indices [count, B] and arrays [count, B, ...]."""
    drawn = [next(stream) for _ in range(count)]
    indices = np.stack([indices for indices, _ in drawn])
    return indices, pipeline.together([batch for _, batch in drawn])


def params_of(x: Experiment, state: State) -> Any:
    """The parameters to evaluate."""
    return x.weights.join(evaluated(state.trained, state.optimizer), state.held)


def parts_of(x: Experiment, state: State) -> Any:
    """What is trained of the parameters to evaluate, where that is not a part of themselves."""
    apart = getattr(x.weights, "apart", False)
    return evaluated(state.trained, state.optimizer) if apart else None


def due(step: int, every: int, steps: int) -> bool:
    """Whether something that happens every so many steps, and at the end, happens now."""
    return step % every == 0 or step == steps


def next_event(x: Experiment, step: int, pause: bool = True) -> int:
    """The step at which the host next has something to do, or with `pause` a dispatch ends.

    It depends on the step alone, so a run that was stopped makes the same dispatches as one that
    was not.
    """
    every = [x.checkpoint.every, x.log.samples.every] + [x.batch.steps_per_dispatch] * pause
    every += [evaluator.every for evaluator in x.evals.values()]
    return min([x.steps, *(step - step % n + n for n in every if n)])


def _completed_by(resolved: Mapping[str, Any], stored: Mapping[str, Any]) -> dict[str, Any]:
    """The config with what data told the model of a stored one, where it does not say so itself."""
    model = stored.get("model", {})
    told = {name: model[name] for name in ("classes", "written") if name in model}
    vocab = restore.vocab(model)
    return {**resolved, "model": {**told, **with_told(resolved["model"], vocab)}}


def with_told(model: Mapping[str, Any], vocab: int) -> dict[str, Any]:
    """A model section with V, in its trunk where it has one, unless it says it itself."""
    if "trunk" in model:
        return {**model, "trunk": {"vocab": vocab, **model["trunk"]}}
    return {"vocab": vocab, **model}


@contextlib.contextmanager
def stopping(checkpoints: Any):
    """Names the last good checkpoint where the machine refuses something, such as a full disk.

    Raises:
      Stopped: instead of OSError.
    """
    try:
        yield
    except OSError as error:
        raise Stopped(f"{error}; {checkpoints.last_good()}") from error
