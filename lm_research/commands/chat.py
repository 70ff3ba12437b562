"""Talk with a model that was tuned to answer: a line of yours, an answer, and so on."""

import sys
from typing import Any

from absl import flags


def define() -> None:
    """--checkpoint, --template, --system, --context; how to draw."""
    flags.DEFINE_string("checkpoint", None, "a run's directory or a Hugging Face directory")
    flags.DEFINE_string(
        "template",
        None,
        "chatml, alpaca, or a .jinja file; by default the template that the checkpoint carries",
    )
    flags.DEFINE_string("system", None, "a message that the conversation begins with")
    flags.DEFINE_integer("length", 256, "new tokens of an answer at most", lower_bound=1)
    flags.DEFINE_integer(
        "context",
        None,
        "tokens of conversation and answer at most; by default the model's positions, or where it "
        "has none, the length it was trained at. The oldest turns are forgotten first",
        lower_bound=2,
    )
    flags.DEFINE_float("temperature", 0.7, "divides the logits; 0 takes the likeliest token")
    flags.DEFINE_integer("top_k", None, "keep the k likeliest tokens")
    flags.DEFINE_float("top_p", 0.95, "keep the likeliest tokens that sum to this probability")
    flags.DEFINE_float("min_p", None, "keep tokens at least so likely, against the likeliest")
    flags.DEFINE_float("repetition_penalty", 1.0, "see generate")
    flags.DEFINE_integer("no_repeat", None, "see generate", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "of the draws", lower_bound=0, upper_bound=2**31)
    flags.DEFINE_enum(
        "dtype", None, ["float32", "bfloat16"], "of products; by default as it was trained"
    )
    flags.mark_flag_as_required("checkpoint")


def run(values: flags.FlagValues) -> None:
    """Reads lines of standard input until it ends, or `/quit`; `/reset` begins anew."""
    from lm_research import mesh
    from lm_research.data.chat import ends
    from lm_research.errors import UserError
    from lm_research.infer import generate, separate
    from lm_research.infer.sample import given_sampler
    from lm_research.infer.talk import Talk
    from lm_research.infer.text import Transcript
    from lm_research.models import EncoderDecoder
    from lm_research.train.restore import open_checkpoint

    sampler = given_sampler(values)
    with mesh.single():
        loaded = open_checkpoint(values.checkpoint, dtype=values.dtype)
        tokenizer = _tokenizer(values, loaded)
        if isinstance(loaded.model, EncoderDecoder) or not getattr(loaded.model, "continues", True):
            raise UserError("chat takes a decoder, which goes on with what was said")
        model, params = separate(loaded.model, loaded.params)
        context = values.context or loaded.model.context or loaded.context
        room = None if context is None else context - values.length
        stops = tuple(dict.fromkeys((*loaded.eos, *ends(tokenizer))))
        talk = Talk(tokenizer, values.system)
        if sys.stdin.isatty():
            print("/reset begins anew, /quit ends", file=sys.stderr)
        for number, line in enumerate(_lines()):
            if line in ("/quit", "/exit"):
                return
            if line == "/reset":
                talk.reset()
            if not line.strip() or line == "/reset":
                continue
            try:
                prompt, forgotten = talk.ask(line, room)
            except UserError as error:
                print(f"lm_research: {error}", file=sys.stderr, flush=True)
                continue
            if forgotten:
                told = f"({forgotten} of the oldest turns forgotten: the context is {context})"
                print(told, file=sys.stderr, flush=True)
            transcript = Transcript(tokenizer, prompt)
            told = []

            def show(request, sample, tokens, transcript=transcript, told=told):
                told.append(transcript.add(tokens))
                print(told[-1], end="", flush=True)

            generate(
                model,
                params,
                [prompt],
                sampler=sampler,
                length=values.length,
                seed=values.seed + number,
                eos=stops,
                stream=show,
            )
            told.append(transcript.rest())
            print(told[-1], flush=True)
            talk.answered("".join(told))


def _lines():
    """Lines of standard input, asked for on a terminal."""
    asks = sys.stdin.isatty()
    while True:
        try:
            line = input("> ") if asks else next(sys.stdin, None)
        except EOFError:
            return
        if line is None:
            return
        yield line.rstrip("\r\n")


def _tokenizer(values: flags.FlagValues, loaded: Any) -> Any:
    """The checkpoint's tokenizer with the template that is asked for, or its own.

    Raises:
      UserError: there is none, or the template has tokens that the model lacks.
    """
    from pathlib import Path

    from lm_research.data.chat import templated
    from lm_research.data.chat_template import template
    from lm_research.errors import UserError

    tokenizer, name = loaded.tokenizer, values.template
    if tokenizer is None:
        raise UserError(f"{values.checkpoint} has no tokenizer, which a conversation takes")
    if name is not None:
        tokenizer = templated(tokenizer, template(name, tokenizer.begins, "--template"))
    if tokenizer.chat is None:
        raise UserError(
            f"{values.checkpoint} carries no chat template, so it was not tuned to answer: train "
            "with configs/finetune/instruct.py, or give --template=chatml, alpaca or a .jinja file"
        )
    if tokenizer.vocab > loaded.model.vocab:
        raise UserError(
            f"--template={Path(name).name} has special tokens that the model lacks "
            f"({tokenizer.vocab - loaded.tokenizer.vocab} of them); take another"
        )
    return tokenizer
