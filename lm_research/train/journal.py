"""What a run tells as it goes on, a dispatch late, so that the device never waits for it."""

import math
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

from lm_research import log, tree
from lm_research.data import pipeline
from lm_research.data.chat import ends
from lm_research.errors import Stopped, UserError
from lm_research.hub.names import abstract
from lm_research.infer.decode import generate
from lm_research.infer.sample import Sampler
from lm_research.infer.text import request
from lm_research.models import EncoderDecoder, TextEmbedder
from lm_research.train.account import Account, boot, silent
from lm_research.train.best import Best
from lm_research.train.experiment import Experiment
from lm_research.train.flops import CONVENTION, flops_per_token, peak_flops
from lm_research.train.profile import DATA
from lm_research.train.step import State

T = TypeVar("T")

SAMPLES, HEADING = "samples.md", "## step "
# What `predict` takes beside a text, by the classes of a model.
BESIDE = {("start", "end"): " --pair='...'", ("choice",): " --choice='...' --choice='...'"}


class Dispatch(NamedTuple):
    """Steps that the device was given and whose numbers nobody has read yet."""

    position: int  # in the data, after them
    indices: np.ndarray  # [steps, B]
    numbers: dict[str, jax.Array]  # [steps] each


class Journal:
    """Rows of metrics, the progress bar, samples, facts and the page of one run.

    Every process calls the same methods; the first one writes and prints.
    """

    def __init__(
        self,
        x: Experiment,
        state: State,
        meta: Mapping[str, Any],
        workdir: Path,
        data: Any,
        checkpoints: Any,
        account: Account,
    ):
        self.account = account
        self.x, self.workdir, self.data, self.checkpoints = x, workdir, data, checkpoints
        self.pending: Dispatch | None = None
        self.step = int(state.step)  # updates whose numbers have been read
        self.skipped: list[dict[str, Any]] = list(meta.get("skipped", ()))
        self.bad: dict[str, Any] | None = None  # the batch from which the run has to go back
        self.waited, self.read_at = 0.0, time.monotonic()
        self.held_out: dict[str, float] = {}
        params = jax.eval_shape(x.weights.join, state.trained, state.held)
        lengths = pipeline.ragged(data.train, x.objective)
        mean = x.objective.length if lengths is None else float(lengths.mean())
        self.tokens_per_step = round(x.batch.size * mean)
        self.flops = flops_per_token(x.model, params, x.objective.length)
        self.peak = peak_flops()
        self.first = self.step
        self.tells = jax.process_index() == 0
        if not self.tells:
            return
        self.log = log.Log(workdir, x.log.tensorboard)
        metrics = workdir / log.METRICS
        account.carry(log.rows(workdir), log.stored_facts(workdir), self.first, silent(metrics))
        self.log.resume(self.first, meta["position"])
        drop_samples(workdir / SAMPLES, self.first)
        self.progress = log.Progress(x.steps, self.first, self.tokens_per_step)
        self._facts(params, tree.count(state.trained))

    def _facts(self, params: Any, trained: int) -> None:
        sizes = dict(jax.sharding.get_mesh().shape)
        letters = set("BTS") | {
            letter
            for box in jax.tree.leaves(abstract(self.x.model), is_leaf=tree.boxed)
            for letter in getattr(box, "names", ())
        }
        log.note(
            data=self.data.facts,
            parameters=tree.count(params),
            trained_parameters=trained,
            flops_per_token=self.flops,
            flops_convention=CONVENTION,
            devices=f"{jax.device_count()} x {jax.devices()[0].device_kind}",
            backend=jax.default_backend(),
            mesh=sizes,
            time=self.account.told()["time"],
            boot=boot(),
            unused_sharding_rules=self.x.mesh.unused(letters, sizes),
            mfu="of the dense bfloat16 peak"
            if self.peak
            else "not given: this device has no published peak",
        )
        log.write_facts(self.workdir)
        start = f"going on at step {self.first}" if self.first else f"{self.x.steps:,} steps"
        self.progress.print(
            f"{tree.count(params):,} parameters, {trained:,} of them trained, "
            f"on {self.data.facts['train_tokens']:,} tokens; {start}"
        )

    def timed(self, wait: Callable[..., T], *arguments: Any) -> T:
        """`wait(*arguments)`; its time counts as waiting for data."""
        before = time.monotonic()
        with self.account.during("data"), jax.profiler.TraceAnnotation(DATA):
            result = wait(*arguments)
        self.waited += time.monotonic() - before
        return result

    def follow(self, position: int, indices: np.ndarray, numbers: dict[str, jax.Array]) -> None:
        """Takes note of a dispatch that ends at `position`, and reads the one before it."""
        previous, self.pending = self.pending, Dispatch(position, indices, numbers)
        if previous is not None:
            self._read(previous)

    def flush(self) -> None:
        """Reads what is pending; from here on the state is known to be finite."""
        if self.pending is not None:
            previous, self.pending = self.pending, None
            self._read(previous)

    def _read(self, dispatch: Dispatch) -> None:
        if self.bad is not None:
            return  # what comes after it does not count
        numbers = {name: np.asarray(values) for name, values in dispatch.numbers.items()}
        skipped = numbers.pop("skipped", None)
        told = self.account.told()
        if self.account.now[0] == "start":
            self.account.switch("steps")
        count = len(dispatch.indices)
        now = time.monotonic()
        seconds, self.read_at = now - self.read_at, now
        rate = count * self.tokens_per_step / seconds
        speed = {"tokens_per_second": rate, "flops_per_second": rate * self.flops}
        speed["data_wait"] = min(1.0, self.waited / seconds)
        if self.peak:
            speed["mfu"] = rate * self.flops / self.peak
        self.waited = 0.0
        for i in range(count):
            step = self.step + 1
            row = {name: float(values[i]) for name, values in numbers.items()}
            finite = math.isfinite(row["loss"]) and math.isfinite(row["gradient_norm"])
            if not finite if skipped is None else skipped[i]:
                position = dispatch.position - (count - i) * self.x.batch.size
                self._pass_over(step, position, row, dispatch.indices[i])
                if self.bad is not None:
                    return
                continue
            self.step = step
            if self.tells and (step % self.x.log.every == 0 or step in (1, self.x.steps)):
                self.log.write(step, row | speed | told)
        if self.tells:
            self.progress.update(self.step, row["loss"], speed["data_wait"])

    def _pass_over(
        self, step: int, position: int, row: dict[str, float], indices: np.ndarray
    ) -> None:
        """Does with a batch, from which update `step` was to be made, what `divergence` says.

        Raises:
          Stopped: the run is to stop, or has passed over enough of them.
        """
        settings = self.x.divergence
        found = f"the loss is {row['loss']} and the gradient's norm {row['gradient_norm']}"
        if settings.policy == "stop" or len(self.skipped) == settings.limit:
            if self.tells:
                self.log.write(step, row)
            enough = "" if settings.policy == "stop" else " (divergence.limit)"
            many = f", after {len(self.skipped)} others were passed over{enough}"
            raise Stopped(
                f"at step {step} {found}, on the examples with indices {indices.tolist()}"
                f"{many if self.skipped else ''}; {self.checkpoints.last_good()}"
            )
        entry = {"step": step, "position": position}
        self.skipped.append(entry)
        found += f", on the batch at {position} of the data ({len(self.skipped)} of at most "
        found += f"{settings.limit})"
        if settings.policy == "back":
            self.bad = {**entry, **row, "found": found}
        elif self.tells:
            self.log.write(step, {**entry, **row}, "skipped")
            self._tell_skipped(f"step {step}: {found}: skipped")

    def went_back(self, step: int) -> None:
        """Drops what was told of the steps after `step`, from which the run goes on."""
        bad, self.bad, self.pending = self.bad, None, None
        self.step, self.skipped[-1]["back_to"] = step, step
        self.read_at = time.monotonic()
        if self.tells:
            self.account.redo(log.rows(self.workdir), step)
            self.log.resume(step, bad["position"])
            drop_samples(self.workdir / SAMPLES, step)
            row = {name: value for name, value in bad.items() if name != "found"}
            self.log.write(bad["step"], {**row, "back_to": step}, "skipped")
            self._tell_skipped(
                f"step {bad['step']}: {bad['found']}: back to step {step}, and on after that batch"
            )

    def _tell_skipped(self, line: str) -> None:
        log.note(skipped=self.skipped)
        log.write_facts(self.workdir)
        self.progress.print(line)

    def beside(self, planned: int) -> dict[str, Any]:
        """What of this to keep beside the state of `step`, where the next event is that of a plan.

        Args:
          planned: the step that the run would be at without the batches that were skipped since
            the last event: where it stops next hangs on it.
        """
        facts = {"skipped": self.skipped} if self.skipped else {}
        return {**facts, "planned": planned} if planned != self.step else facts

    def say(self, line: str) -> None:
        """Prints a line, on one process."""
        if self.tells:
            self.progress.print(line)

    def stalled(self, what: str, seconds: float, line: str) -> None:
        """Says where the run waits, and records it; from a thread of its own."""
        if not self.tells:
            print(f"process {jax.process_index()}: {line}", file=sys.stderr, flush=True)
            return
        self.progress.print(line)
        self.log.write(self.step, {"waiting": what, "seconds": seconds, "where": line}, "waiting")

    def evaluated(self, step: int, name: str, numbers: dict[str, float]) -> None:
        """Records what an evaluator found."""
        self.read_at = time.monotonic()  # evaluation is not part of the next dispatch's time
        self.held_out = numbers
        if not self.tells:
            return
        self.log.write(step, {f"{name}/{key}": value for key, value in numbers.items()}, "eval")
        found = ", ".join(f"{key.replace('_', ' ')} {value:.4f}" for key, value in numbers.items())
        self.progress.print(f"step {step}: {name} {found}")

    def wrote(self, name: str, outputs: Sequence[str]) -> None:
        """Keeps the texts that an evaluator wrote last, a line each, in outputs/NAME.txt."""
        if self.tells and outputs:
            text = "".join(f"{output}\n" for output in outputs)
            log.write_text(self.workdir / "outputs" / f"{name}.txt", text)

    def sampled(self, step: int, params: Any) -> None:
        """Continues the prompts and appends the texts to samples.md."""
        settings, tokenizer = self.x.log.samples, self.data.tokenizer
        encode = request(self.x.model)
        prompts = [encode(tokenizer, text) for text in settings.prompts]
        results = generate(
            self.x.model,
            params,
            prompts,
            sampler=Sampler(settings.temperature, top_p=settings.top_p),
            length=settings.length,
            seed=self.x.seed,
            eos=ends(tokenizer),
            prefix=getattr(self.x.objective, "prefix", False),
        )
        self.read_at = time.monotonic()
        if not self.tells:
            return
        texts = [
            f"**{text}**{tokenizer.decode(result.tokens)}"
            for text, result in zip(settings.prompts, results)
        ]
        written = "".join(f"{HEADING}{step}\n\n{_quoted(text)}\n\n" for text in texts)
        path = self.workdir / SAMPLES
        with path.open("ab", buffering=0) as file:
            log.append_bytes(path, file, written.encode())
        first = " ".join((settings.prompts[0] + tokenizer.decode(results[0].tokens)).split())
        self.progress.print(f"step {step}: sample: {first[:160]}")

    def close(self, step: int, best: Best) -> None:
        """Writes the page and says what to type next."""
        if not self.tells:
            return
        self.log.close()
        self.progress.close()
        if best.value is not None:
            log.note(best={"metric": best.settings.best, "value": best.value, "step": best.step})
        told = self.account.told()
        log.note(goodput=told["goodput"], time=told["time"])
        log.write_facts(self.workdir)
        log.report(self.workdir)
        facts = self.data.facts
        if "bits_per_byte" in self.held_out and "gzip_bits_per_byte" in facts:
            print(
                f"held-out bits per byte: {self.held_out['bits_per_byte']:.3f} "
                f"(gzip -9 {facts['gzip_bits_per_byte']:.3f}, "
                f"xz -9 {facts['xz_bits_per_byte']:.3f})"
            )
        texts = f"   texts: {self.workdir}/{SAMPLES}" if self.x.log.samples.every else ""
        print(f"page: {self.workdir}/report.html{texts}")
        command = "python -m lm_research"
        if best.value is not None:
            print(f"best: {best}, with which the run is opened")
        if best.exhausted:
            print(f"stopped early at step {step}: none better in {best.waited} evaluations")
        if step < self.x.steps and not best.exhausted:
            print(f"stopped at step {step} of {self.x.steps}; the same command goes on from there")
        else:
            own = ""
            if classes := getattr(self.x.model, "classes", None):
                beside = BESIDE.get(tuple(classes), "")
                own = f"{command} predict --checkpoint={self.workdir} --text='...'{beside}   or: "
            elif isinstance(self.x.model, TextEmbedder):
                given = f"--checkpoint={self.workdir} --index=texts.txt --query='...'"
                own = f"{command} search {given}   or: "
            elif self.data.texts is not None and self.data.tokenizer.chat is not None:
                own = f"{command} chat --checkpoint={self.workdir}   or: "
            elif getattr(self.x.model, "continues", True):
                own = f"{command} generate --checkpoint={self.workdir} --prompt='...'   or: "
            print(
                f"next: {own}{command} evaluate --checkpoint={self.workdir}   "
                "(the same train command resumes where it was stopped)"
            )


def check_samples(x: Experiment, tokenizer: Any) -> None:
    """Refuses prompts that, with the tokens to add, are longer than the model's context.

    Raises:
      UserError: names the prompt; or the model continues none.
    """
    settings, context = x.log.samples, getattr(x.model, "context", None)
    if settings.every and not getattr(x.model, "continues", True):
        raise UserError(
            f"log.samples.every is {settings.every}, and an encoder does not continue texts; "
            "it takes 0 here"
        )
    if not settings.every or context is None:
        return
    for text in settings.prompts:
        # A source takes no room of what is written from it.
        count = 0 if isinstance(x.model, EncoderDecoder) else len(tokenizer.prompt(text))
        if count + settings.length > context:
            raise UserError(
                f"the prompt {text[:40]!r} of log.samples has {count} tokens, and "
                f"log.samples.length {settings.length} more; the model's context is {context}"
            )


def drop_samples(path: Path, step: int) -> None:
    """Drops the samples after `step`, as if never written."""
    if not path.exists():
        return
    text = path.read_bytes().decode("utf-8", errors="replace")
    for heading in re.finditer(rf"^{HEADING}(\d+)$", text, re.MULTILINE):
        if int(heading[1]) > step:
            log.write_text(path, text[: heading.start()])
            return


def _quoted(text: str) -> str:
    """A Markdown quotation, so that no line of it is taken for a heading."""
    return "".join(f"> {line}" for line in text.splitlines(keepends=True))
