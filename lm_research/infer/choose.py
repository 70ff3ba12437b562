"""`choose`: how likely each choice of a question is, by a classifier or by any language model."""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import numpy as np

from lm_research import log
from lm_research.data import Tokenizer
from lm_research.data.choices import CLASSES
from lm_research.errors import UserError
from lm_research.infer.classify import scores, told
from lm_research.infer.score import score
from lm_research.infer.text import Line
from lm_research.models import EncoderDecoder

PROMPT = "Question: {question}\nAnswer:"  # lm-evaluation-harness's for ARC and PIQA


def choose(
    model: nn.Module,
    params: Any,
    tokenizer: Tokenizer | None,
    questions: Sequence[Mapping[str, Any]],
    length: int | None = None,
    prompt: str = PROMPT,
) -> list[np.ndarray]:
    """Probabilities of the choices of each question.

    Of a classifier of choices they are those of its scores; of a language model, those of the
    `likelihoods`.

    Args:
      model, params, tokenizer: of either.
      questions: as `MultipleChoice` has them.
      length: tokens that a classifier was trained on at most, at which texts are cut.
      prompt: see `likelihoods`.

    Raises:
      UserError: the model is neither, has no tokenizer, or reads less than a choice.
    """
    if tokenizer is None:
        raise UserError("the checkpoint has no tokenizer, so it cannot read questions")
    if (classes := tuple(getattr(model, "classes", None) or ())) == CLASSES:
        lines = [
            Line(f"question {i}", text=question["question"], pair=choice)
            for i, question in enumerate(questions)
            for choice in question["choices"]
        ]
        flat = scores(model, params, *told(lines, tokenizer, length))[:, 0].astype(np.float64)
        found = _of_each(questions, flat)
    elif classes:
        raise UserError(f"this model chooses no answers: its classes are {', '.join(classes[:10])}")
    else:
        found = likelihoods(model, params, tokenizer, questions, prompt)
    odds = [np.exp(own - own.max()) for own in found]
    return [own / own.sum() for own in odds]


def likelihoods(
    model: nn.Module,
    params: Any,
    tokenizer: Tokenizer,
    questions: Sequence[Mapping[str, Any]],
    prompt: str = PROMPT,
) -> list[np.ndarray]:
    """Log-probabilities, in nats, of the choices of each question after a prompt with it.

    A choice follows the prompt after a space; where its tokens are others than those of the prompt
    alone, it begins. An encoder-decoder writes it from the prompt. Of an encoder they are
    pseudo-log-likelihoods (see `score`).

    Args:
      model: a language model of any kind.
      params: its plain parameters.
      tokenizer: of the texts.
      questions: as `MultipleChoice` has them.
      prompt: what the model reads, with the question in place of `{question}`.

    Raises:
      UserError: the model predicts no tokens, or its context is shorter than a choice.
    """
    check_prompt(prompt)
    asked = [
        (prompt.replace("{question}", q["question"]), c) for q in questions for c in q["choices"]
    ]
    if isinstance(model, EncoderDecoder):
        sources = [tokenizer.complete(before) for before, _ in asked]
        texts = [tokenizer.complete(choice) for _, choice in asked]
        found = [each["sum"] for each in score(model, params, texts, sources)]
    else:
        found = _continued(model, params, tokenizer, asked)
    return _of_each(questions, np.array(found))


def _of_each(questions: Sequence[Mapping[str, Any]], flat: np.ndarray) -> list[np.ndarray]:
    """Numbers of all choices, one after another, as those of each question."""
    ends = np.cumsum([len(question["choices"]) for question in questions])
    return np.split(flat, ends[:-1])


def check_prompt(prompt: str) -> None:
    """Refuses a prompt that asks nothing.

    Raises:
      ValueError: names it.
    """
    if "{question}" not in prompt:
        raise ValueError(f"prompt is {prompt!r}; it takes a text with {{question}} in it")


def _continued(model, params, tokenizer, asked: Sequence[tuple[str, str]]) -> list[float]:
    """Of each prompt and choice, the log-probability of the tokens that only both have."""
    sequences, begins, long = [], [], 0
    for before, choice in asked:
        given, whole = (tokenizer.whole(text) for text in (before, f"{before} {choice}"))
        both = min(len(given), len(whole))
        same = given[:both] == whole[:both]
        begin = both if same.all() else int(same.argmin())
        over = max(0, len(whole) - model.context) if model.context else 0
        if over >= begin:
            raise UserError(
                f"the choice {choice[:40]!r} has {len(whole) - begin} tokens, and the model's "
                f"context is {model.context}"
            )
        long += over > 0
        sequences.append(whole[over:])
        begins.append(begin - over)
    if long:
        what = f"{long:,} of {len(asked):,} choices with their prompts"
        log.fallback(what, f"their last {model.context} tokens", "the model's context is no more")
    found = score(model, params, sequences, tokenizer=tokenizer)
    return [
        float(sum(x for x in each["logprobs"][begin:] if x is not None))
        for each, begin in zip(found, begins)
    ]
