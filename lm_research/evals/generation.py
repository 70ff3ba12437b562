"""Texts written from held-out sources, and how near they come to what people wrote."""

import dataclasses
import importlib.metadata
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import flax.linen as nn

from lm_research import log
from lm_research.data import Source
from lm_research.data.chat import asked, ends
from lm_research.data.pairs import targets
from lm_research.errors import UserError
from lm_research.infer import beam_search, generate
from lm_research.infer.beam import Beam
from lm_research.infer.shapes import check
from lm_research.infer.text import answer, request

Metric = Literal["bleu", "chrf", "rouge"]
ROUGE = ("rouge1", "rouge2", "rougeL", "rougeLsum")


@dataclasses.dataclass(frozen=True)
class Generation:
    """Writes a text from each held-out source, and compares it with the targets as they were.

    Of a conversation the source is what comes before its last answer; one that leaves no room for
    an answer is passed over.

    BLEU and chrF are sacrebleu's, ROUGE is rouge-score's with stemming, the best of several targets
    for each text; all of them in hundredths. Their signatures are among the run's facts.

    Attributes:
      every: steps between evaluations.
      limit: records, from the start of the held-out ones; None is all.
      beams: candidates that beam search follows; 1 takes the likeliest token.
      length: new tokens at most; None is the objective's length.
      length_penalty: see `Beam`.
      metrics: which to compute.
      source: records with a `source`, and a `target` or `targets`, to write from instead of the
        data's held-out ones.
    """

    every: int
    limit: int | None = None
    beams: int = 1
    length: int | None = None
    length_penalty: float = 1.0
    metrics: tuple[Metric, ...] = ("bleu", "chrf")
    source: Source | None = None

    def __post_init__(self):
        for name in ("limit", "length"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it takes a number from 1 on")
        if not self.metrics:
            raise ValueError("metrics is empty; it takes some of bleu, chrf, rouge")
        Beam(self.beams, self.length_penalty)
        check_packages(self.metrics)

    def bind(self, objective: Any, data: Any, size: int) -> "Bound":
        """The evaluator of an objective on prepared data: takes a model and its parameters.

        Raises:
          UserError: the data keeps no texts.
        """
        del size
        records = data.texts if self.source is None else self.source
        if records is None:
            raise UserError(
                "the evaluator Generation compares texts with targets, and this data keeps none: "
                "it takes data=Parallel, prepared by this version, or evals.NAME.source"
            )
        length = objective.length if self.length is None else self.length
        prefix = getattr(objective, "prefix", False)
        room = objective.length - length
        kept = (records[i] for i in range(len(records)) if _fits(data.tokenizer, records[i], room))
        found = list(itertools.islice(kept, self.limit))
        if not found:
            raise UserError(
                f"no record leaves room for {length} new tokens in {objective.length}; give the "
                "evaluator Generation a shorter length"
            )
        return Bound(self, data.tokenizer, found, objective.length, length, prefix)


@dataclasses.dataclass
class Bound:
    """A `Generation` with what it reads.

    Attributes:
      settings: the evaluator.
      tokenizer: of sources and texts.
      records: what to write from and to compare with.
      read: tokens of a source at most; longer ones are cut, as for training.
      length: tokens of a text at most.
      prefix: whether a prompt's tokens see each other.
      outputs: the texts of the last call.
    """

    settings: Generation
    tokenizer: Any
    records: Sequence[Mapping[str, Any]]
    read: int
    length: int
    prefix: bool = False
    outputs: list[str] = dataclasses.field(default_factory=list)

    def __call__(self, model: nn.Module, params: Any) -> dict[str, float]:
        """What the metrics say of the texts that the model writes."""
        self.outputs = self._written(model, params)
        references = [targets(record) for record in self.records]
        numbers, signatures = compared(self.outputs, references, self.settings.metrics)
        log.note(metrics=signatures)
        return numbers

    def _written(self, model: nn.Module, params: Any) -> list[str]:
        tokenizer = self.tokenizer
        prompts = [self._prompt(request(model), record) for record in self.records]
        for i, prompt in enumerate(prompts):
            check(model, prompt, f"the source of held-out record {i}", self.length)
        given = dict(
            length=self.length,
            eos=ends(tokenizer),
            prefix=self.prefix,
        )
        if self.settings.beams > 1:
            given["beam"] = Beam(self.settings.beams, self.settings.length_penalty)
            found = beam_search(model, params, prompts, **given)
        else:
            found = generate(model, params, prompts, **given)
        texts = (answer(tokenizer, model, prompts[r.request], r.tokens) for r in found)
        return [" ".join(text.split()) for text in texts]

    def _prompt(self, encode, record):
        if "messages" in record:
            return asked(self.tokenizer, record["messages"])
        tokens, after = encode(self.tokenizer, record["source"]), self.tokenizer.frame[1]
        if len(tokens) <= self.read:
            return tokens
        tokens = tokens.copy()
        tokens[self.read - len(after) : self.read] = after
        return tokens[: self.read]


def _fits(tokenizer: Any, record: Mapping[str, Any], room: int) -> bool:
    """Whether a record is no conversation, or one of as many tokens as there is room for."""
    return "messages" not in record or len(asked(tokenizer, record["messages"])) <= room


def check_packages(metrics: Sequence[Metric]) -> None:
    """Refuses metrics whose package is not installed.

    Raises:
      UserError: names it.
    """
    for metric in metrics:
        package = "rouge-score" if metric == "rouge" else "sacrebleu"
        try:
            importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            raise UserError(
                f"the metric {metric} needs {package}: pip install 'lm_research[tasks]'"
            ) from None


def compared(
    outputs: Sequence[str], references: Sequence[Sequence[str]], metrics: Sequence[Metric]
) -> tuple[dict[str, float], dict[str, str]]:
    """How near texts come to their references, and by which signatures that was found.

    Args:
      outputs: a text for each source.
      references: one or more for each, their number may differ.
      metrics: which to compute.
    """
    numbers, signatures = {}, {}
    for metric in metrics:
        if metric == "rouge":
            found, signature = _rouge(outputs, references)
        else:
            found, signature = _sacrebleu(metric, outputs, references)
        numbers |= found
        signatures[metric] = signature
    return numbers, signatures


def _sacrebleu(metric: Metric, outputs, references) -> tuple[dict[str, float], str]:
    from sacrebleu.metrics import BLEU, CHRF

    score = BLEU() if metric == "bleu" else CHRF()
    most = max(map(len, references))
    # sacrebleu takes a list for each first, second, ... reference; None where there is none.
    streams = [[r[i] if i < len(r) else None for r in references] for i in range(most)]
    found = score.corpus_score(list(outputs), streams).score
    return {metric: found}, str(score.get_signature())


def _rouge(outputs, references) -> tuple[dict[str, float], str]:
    from rouge_score import rouge_scorer

    scorer = rouge_scorer.RougeScorer(list(ROUGE), use_stemmer=True)
    found = [scorer.score_multi(list(r), text) for text, r in zip(outputs, references)]
    means = {name: 100 * sum(s[name].fmeasure for s in found) / len(found) for name in ROUGE}
    version = importlib.metadata.version("rouge-score")
    return means, f"rouge-score {version}|F1|stemmed|best of the references"
