"""Continue prompts with a trained model."""

import functools
import sys
from pathlib import Path
from typing import Any

from absl import flags


def define() -> None:
    """--checkpoint, what to continue, how to draw, where to write."""
    flags.DEFINE_string("checkpoint", None, "a run's directory or a Hugging Face directory")
    flags.DEFINE_multi_string(
        "prompt",
        [],
        "text to continue, or for an encoder-decoder to read, or token ids with spaces between "
        "them where there is no tokenizer; may be repeated; without any, a new text begins",
    )
    flags.DEFINE_string(
        "input",
        None,
        'a file with a text per line, or a .jsonl file with {"text": "..."} or {"tokens": '
        "[1, 2, ...]} per line; -: a text per line of standard input",
    )
    flags.DEFINE_string(
        "output",
        None,
        "where to write continuations: a JSON object each where the name ends in .jsonl, else a "
        "line of text each; by default texts are printed",
    )
    flags.DEFINE_string(
        "tag", None, "put before every text that an encoder-decoder reads, such as <2de>"
    )
    flags.DEFINE_integer("length", 100, "new tokens at most", lower_bound=1)
    flags.DEFINE_float("temperature", 1.0, "divides the logits; 0 takes the likeliest token")
    flags.DEFINE_integer("top_k", None, "keep the k likeliest tokens")
    flags.DEFINE_float("top_p", None, "keep the likeliest tokens that sum to this probability")
    flags.DEFINE_float("min_p", None, "keep tokens at least so likely, against the likeliest")
    flags.DEFINE_bool("greedy", False, "take the likeliest token: temperature 0")
    flags.DEFINE_integer("beams", 1, "candidates that beam search follows; 1 draws", lower_bound=1)
    flags.DEFINE_float(
        "length_penalty", 1.0, "beam search divides a log-probability by tokens ** length_penalty"
    )
    flags.DEFINE_enum(
        "early_stopping",
        "false",
        ["false", "true", "never"],
        "when beam search is done: once the best candidate would not enter the best ended texts, "
        "as soon as there are as many texts as beams, or once nothing better can come",
    )
    flags.DEFINE_float(
        "repetition_penalty",
        1.0,
        "divides the positive scores of tokens that occurred, and multiplies negative ones",
    )
    flags.DEFINE_integer("no_repeat", None, "no sequence of so many tokens occurs twice", 1)
    flags.DEFINE_multi_string("stop", [], "text before which a continuation ends; may be repeated")
    flags.DEFINE_bool(
        "chat", False, "whether a prompt is a message to be answered, by the chat template"
    )
    flags.DEFINE_string("system", None, "with --chat, a message before the prompt's")
    flags.DEFINE_integer("samples", 1, "continuations of each prompt", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "of the draws", lower_bound=0, upper_bound=2**32 - 1)
    flags.DEFINE_bool("stream", None, "print text as it comes; by default on a terminal")
    flags.DEFINE_enum(
        "dtype", None, ["float32", "bfloat16"], "of products; by default as it was trained"
    )
    flags.mark_flag_as_required("checkpoint")


def run(values: flags.FlagValues) -> None:
    """Prints continuations, or writes them to --output."""
    from lm_research import log, mesh
    from lm_research.infer import beam_search, generate
    from lm_research.infer.classify import told
    from lm_research.infer.shapes import check
    from lm_research.infer.text import encoded, jsonl, stopping, tagged
    from lm_research.train.restore import open_checkpoint

    write = functools.partial(beam_search, beam=_beam(values))
    if values.beams == 1:
        write = functools.partial(generate, sampler=_sampler(values), seed=values.seed)
    with mesh.Mesh().activate():
        loaded = open_checkpoint(values.checkpoint, dtype=values.dtype)
        lines = _requests(values, loaded)
        encode, eos = _encoding(values, loaded)
        if _reads(loaded):
            sources = [tagged(line, values.tag) for line in lines]
            prompts, _ = told(sources, loaded.tokenizer, loaded.context, ends=True)
        else:
            prompts = [encoded(line, loaded.tokenizer, encode) for line in lines]
        for line, prompt in zip(lines, prompts):
            check(loaded.model, prompt, line.where, values.length)
        if printer := _printer(values, loaded, prompts):
            write = functools.partial(write, stream=printer.show)
        if values.stop:
            given = _before(values, loaded, prompts)
            stops = stopping(loaded.tokenizer, given, values.stop)
            write = functools.partial(write, stops=stops)
        results = write(
            loaded.model,
            loaded.params,
            prompts,
            length=values.length,
            eos=eos,
            samples=values.samples,
            prefix=loaded.prefix,
        )
    if printer is not None:
        printer.end()
    elif values.output is None:
        for result in results:
            print(
                _heading(values, result, len(prompts))
                + _text(values, loaded, lines, prompts, result)
            )
    if values.output is not None:
        path = Path(values.output)
        one = _json if jsonl(path) else _line
        text = "".join(one(values, loaded, lines, prompts, result) + "\n" for result in results)
        log.write_text(path, text)
        print(f"{len(results)} continuations: {values.output}", file=sys.stderr)


def _sampler(values: flags.FlagValues) -> Any:
    import dataclasses

    from lm_research.errors import UserError
    from lm_research.infer.sample import given_sampler

    if values.greedy and values["temperature"].present:
        raise UserError("--greedy is --temperature=0; give one of them")
    sampler = given_sampler(values)
    return dataclasses.replace(sampler, temperature=0.0) if values.greedy else sampler


def _encoding(values: flags.FlagValues, loaded: Any) -> tuple[Any, tuple[int, ...]]:
    """How a prompt becomes tokens, and the tokens that end what is written."""
    from lm_research.data.chat import asked, ends
    from lm_research.errors import UserError
    from lm_research.infer.text import note_spelled, request

    if values.tag is not None:
        if not _reads(loaded):
            raise UserError("--tag is for what an encoder-decoder reads, and a decoder goes on")
        if loaded.tokenizer is not None:
            note_spelled(values.tag, loaded.tokenizer)
    if not values.chat:
        if values.system is not None:
            raise UserError("--system is for a conversation: give --chat")
        return request(loaded.model), loaded.eos
    if _reads(loaded) or loaded.tokenizer is None or loaded.tokenizer.chat is None:
        raise UserError(
            f"--chat takes a decoder with a chat template, and {values.checkpoint} is none; "
            "configs/finetune/instruct.py trains one"
        )
    system = [] if values.system is None else [{"role": "system", "content": values.system}]
    encode = lambda tokenizer, text: asked(tokenizer, [*system, {"role": "user", "content": text}])
    return encode, tuple(dict.fromkeys((*loaded.eos, *ends(loaded.tokenizer))))


def _before(values: flags.FlagValues, loaded: Any, prompts: list) -> list:
    """What the text of each continuation goes on with."""
    from lm_research.errors import UserError

    if loaded.tokenizer is None:
        raise UserError("--stop is text, and the checkpoint has no tokenizer")
    if not all(values.stop):
        raise UserError("--stop is empty; it takes a text")
    return [()] * len(prompts) if _reads(loaded) else prompts


def _beam(values: flags.FlagValues) -> Any:
    """How to search; None where tokens are to be drawn."""
    from lm_research.errors import UserError
    from lm_research.infer import Beam
    from lm_research.infer.sample import given_sampler

    drawn = ("greedy", "temperature", "top_k", "top_p", "min_p", "seed", "stream", "stop")
    searched = ("length_penalty", "early_stopping")
    if given := [name for name in drawn if values.beams > 1 and values[name].present]:
        raise UserError(f"--{given[0]} is for drawing tokens, and --beams={values.beams} searches")
    if given := [name for name in searched if values.beams == 1 and values[name].present]:
        raise UserError(f"--{given[0]} is for beam search: give --beams=5, or another number")
    stopping = {"false": False, "true": True, "never": "never"}[values.early_stopping]
    if values.beams == 1:
        return None
    repetition = given_sampler(values).repetition
    return Beam(values.beams, values.length_penalty, stopping, repetition)


def _reads(loaded: Any) -> bool:
    """Whether a prompt is a source to read, and what is written does not go on with it."""
    from lm_research.models import EncoderDecoder

    return isinstance(loaded.model, EncoderDecoder)


def _requests(values: flags.FlagValues, loaded: Any) -> list:
    from lm_research.errors import UserError
    from lm_research.infer.text import Line, lines

    tokenizer = loaded.tokenizer
    found = [_prompt(i, text, tokenizer) for i, text in enumerate(values.prompt, 1)]
    if values.input == "-":
        texts = (line.rstrip("\r\n") for line in sys.stdin)
        found += [Line(f"standard input:{i}", text=text) for i, text in enumerate(texts, 1)]
    elif values.input is not None:
        found += lines(Path(values.input))
    if not found and values.input is None and tokenizer is not None and not _reads(loaded):
        found = [Line("the empty prompt", text="")]
    if not found:
        what = "read" if _reads(loaded) else "continue"
        raise UserError(
            f"there is nothing to {what}: give --prompt or --input"
            if tokenizer is not None
            else "the checkpoint has no tokenizer to begin a text with; give token ids: "
            "--prompt='1 2'"
        )
    return found


def _prompt(number: int, text: str, tokenizer: Any) -> Any:
    import numpy as np

    from lm_research.errors import UserError
    from lm_research.infer.text import Line

    where = f"--prompt number {number}"
    if tokenizer is not None:
        return Line(where, text=text)
    if not all(word.isdecimal() for word in text.split()) or not text.strip():
        raise UserError(
            f"{where} is {text!r}, and the checkpoint has no tokenizer; it takes token ids: '1 2 3'"
        )
    return Line(where, tokens=np.array([int(word) for word in text.split()]))


class _Printer:
    """Prints one continuation as it comes."""

    def __init__(self, start: str, transcript: Any):
        self.transcript = transcript
        print(start, end="", flush=True)

    def show(self, request: int, sample: int, tokens: Any) -> None:
        if self.transcript is None:
            print("", *tokens, end="", flush=True)
        else:
            print(self.transcript.add(tokens), end="", flush=True)

    def end(self) -> None:
        print("" if self.transcript is None else self.transcript.rest())


def _printer(values: flags.FlagValues, loaded: Any, prompts: list) -> _Printer | None:
    """Where a single continuation is to be watched."""
    from lm_research.infer.text import Transcript

    wanted = sys.stdout.isatty() if values.stream is None else values.stream
    if (
        not wanted
        or values.beams > 1
        or values.output is not None
        or len(prompts) * values.samples > 1
    ):
        return None
    tokenizer = loaded.tokenizer
    if _reads(loaded):
        return _Printer("", None if tokenizer is None else Transcript(tokenizer, (), values.stop))
    if tokenizer is None:
        return _Printer(" ".join(map(str, prompts[0])), None)
    start = values.prompt[0] if values.prompt and not values.chat else ""
    return _Printer(start, Transcript(tokenizer, prompts[0], values.stop))


def _heading(values: flags.FlagValues, result: Any, prompts: int) -> str:
    if prompts * values.samples == 1:
        return ""
    return f"--- prompt {result.request + 1}, sample {result.sample + 1}\n"


def _text(values: flags.FlagValues, loaded: Any, lines: list, prompts: list, result: Any) -> str:
    """Prompt and continuation, as a reader wants them; of a source what was written from it."""
    from lm_research.infer.text import answer, continuation

    prompt, tokenizer = prompts[result.request], loaded.tokenizer
    before = () if _reads(loaded) else prompt
    if tokenizer is None:
        return " ".join(map(str, [*before, *result.tokens]))
    if values.chat:
        return answer(tokenizer, loaded.model, prompt, result.tokens, values.stop)
    if _reads(loaded):
        return continuation(tokenizer, before, result.tokens, values.stop)
    start = lines[result.request].text
    start = tokenizer.decode(prompt) if start is None else start
    return start + continuation(tokenizer, prompt, result.tokens, values.stop)


def _line(values: flags.FlagValues, loaded: Any, lines: list, prompts: list, result: Any) -> str:
    """A continuation as one line, without a tokenizer of ids; of a blank source a blank one."""
    from lm_research.infer.text import answer

    text = lines[result.request].text
    if _reads(loaded) and text is not None and not text.strip():
        return ""
    if loaded.tokenizer is None:
        return " ".join(map(str, result.tokens))
    prompt = prompts[result.request]
    text = answer(loaded.tokenizer, loaded.model, prompt, result.tokens, values.stop)
    return " ".join(text.split())


def _json(values: flags.FlagValues, loaded: Any, lines: list, prompts: list, result: Any) -> str:
    import json

    from lm_research.infer.text import continuation

    line, prompt = lines[result.request], prompts[result.request]
    texts = {}
    if loaded.tokenizer is not None:
        before = () if _reads(loaded) else prompt
        texts = {"text": continuation(loaded.tokenizer, before, result.tokens, values.stop)}
        if line.text is not None:
            texts = {"prompt": line.text, **texts}
    return json.dumps(
        {
            "request": result.request,
            "sample": result.sample,
            **texts,
            "prompt_tokens": [int(token) for token in prompt],
            "tokens": result.tokens.tolist(),
            "logprobs": [round(float(x), 6) for x in result.logprobs],
            "ended": result.ended,
            **({} if result.score is None else {"score": round(result.score, 6)}),
        }
    )
