"""`ChatTemplate`: a conversation as one text, by the Jinja that Hugging Face directories carry."""

import dataclasses
import functools
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lm_research.data.text import whole_text
from lm_research.errors import UserError

Message = Mapping[str, str]  # role, content, and perhaps the input that an instruction is about

ROLES = ("system", "user", "assistant")
# Unicode's noncharacters, which no text has: where an answer begins and ends, and what stands in a
# content that spells a special token.
BEGIN, END, GUARD = "\ufdd0", "\ufdd1", "\ufdd2"

CHATML = """\
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- endif %}"""

# The prompt of Stanford Alpaca (Taori et al., 2023), for several turns; a system message stands in
# place of its first sentences.
ALPACA = """\
{%- set past = namespace(role='') %}
{%- for message in messages %}
{%- if message.role == 'system' %}
{%- if not loop.first %}{{ raise_exception('a system message comes first') }}{% endif %}
{{- message.content + '\\n\\n' }}
{%- elif message.role == past.role or (message.role == 'assistant' and past.role != 'user') %}
{{- raise_exception('turns of user and assistant alternate, and a user begins') }}
{%- elif message.role == 'user' %}
{%- if loop.first %}
{{- 'Below is an instruction that describes a task' }}
{%- if message.input %}{{ ', paired with an input that provides further context' }}{% endif %}
{{- '. Write a response that appropriately completes the request.\\n\\n' }}
{%- endif %}
{{- '### Instruction:\\n' + message.content + '\\n\\n' }}
{%- if message.input %}{{ '### Input:\\n' + message.input + '\\n\\n' }}{% endif %}
{{- '### Response:' }}
{%- else %}
{{- message.content + eos_token }}
{%- if not loop.last %}{{ '\\n\\n' }}{% endif %}
{%- endif %}
{%- set past.role = message.role %}
{%- endfor %}"""

NAMED = {"chatml": CHATML, "alpaca": ALPACA}
_BLOCK = re.compile(r"\{%-?\s*generation\s*-?%\}")
_SPECIAL = re.compile(r"<\|[^|<>\s]+\|>")  # how templates spell their special tokens, mostly


@dataclasses.dataclass(frozen=True)
class ChatTemplate:
    """A template, and the special tokens that it may name.

    Attributes:
      source: Jinja, which sees `messages`, `add_generation_prompt` and the special tokens.
      special: `bos_token`, `eos_token` and their like, as they are spelled.
    """

    source: str
    special: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def tokens(self) -> list[str]:
        """What the template spells that looks like a special token of its own."""
        return list(dict.fromkeys(_SPECIAL.findall(self.source)))

    def render(self, messages: Sequence[Message], prompt: bool = False) -> str:
        """The text of a conversation, as `transformers.apply_chat_template` renders it.

        Args:
          messages: what was said.
          prompt: whether the next answer is to begin: `add_generation_prompt`.

        Raises:
          UserError: the template refuses the conversation, or is none.
        """
        return _unmarked(self._rendered(messages, prompt))

    def parts(self, messages: Sequence[Message], special: re.Pattern) -> list[tuple[str, bool]]:
        """The same text in parts, and whether each is an answer: what a model is to write itself.

        That is what stands in a block `generation`, where the template has one. Else it is what
        follows the prompt for the answer, with the content and the special token that ends it.

        Args:
          messages: what was said; answers without space around them.
          special: any special token.

        Raises:
          UserError: the template refuses the conversation, or writes an answer as something else.
        """
        answers = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        if _BLOCK.search(self.source):
            text, spans = _spans(self._rendered(messages))
        else:
            text = self.render(messages)
            same, contents = _spans(self._rendered(_marked(messages)))
            if same != text or len(contents) != len(answers):
                raise UserError("the chat template rewrites an answer, so nobody knows its tokens")
            begun = (self._begun(messages[:i], text) for i in answers)
            spans = [
                (begin if prompt is None or prompt > begin else prompt, _ended(text, end, special))
                for prompt, (begin, end) in zip(begun, contents)
            ]
        places = [0, *(place for span in spans for place in span), len(text)]
        pieces = ((text[a:b], i % 2 == 1) for i, (a, b) in enumerate(itertools.pairwise(places)))
        return [(piece, answer) for piece, answer in pieces if piece]

    def _begun(self, messages: Sequence[Message], text: str) -> int | None:
        """Where the prompt for an answer ends in a text; None where it is not how the text begins.

        Some templates leave out of earlier turns what they show of the last.
        """
        try:
            prompt = self.render(messages, prompt=True)
        except UserError:  # without an answer that is no conversation
            return None
        return len(prompt) if text.startswith(prompt) else None

    def _rendered(self, messages: Sequence[Message], prompt: bool = False) -> str:
        import jinja2

        if "message.input" not in self.source:
            messages = [_folded(message) for message in messages]
        try:
            return _compiled(self.source).render(
                messages=[dict(message) for message in messages],
                add_generation_prompt=prompt,
                tools=None,
                documents=None,
                **self.special,
            )
        except jinja2.TemplateError as error:
            raise UserError(f"the chat template refuses it: {_line(error)}") from None
        except (TypeError, ValueError, KeyError, AttributeError, IndexError) as error:
            raise UserError(f"the chat template fails on it: {_line(error)}") from None


def template(name: str, bos: bool, where: str) -> str:
    """The source of a template of ours, or in a file.

    Args:
      name: one of `NAMED`, or a file's, which ends in .jinja.
      bos: whether the tokenizer begins every text with its `bos`, as Llama's does; so do ours then.
      where: what gave the name, for messages.

    Raises:
      UserError: there is no such template.
    """
    if name in NAMED:
        return ("{{- bos_token }}" if bos else "") + NAMED[name]
    if not name.endswith(".jinja"):
        known = ", ".join(NAMED)
        raise UserError(f"{where} is {name!r}; it takes {known}, or the name of a .jinja file")
    if not Path(name).is_file():
        raise UserError(f"{where}: there is no file {name}")
    return whole_text(Path(name))


@functools.lru_cache(16)
def _compiled(source: str) -> Any:
    """A template in an environment like that of `transformers`, whose templates it takes."""
    import datetime

    import jinja2.ext
    import jinja2.sandbox

    class Generation(jinja2.ext.Extension):
        """The block `generation`, whose text is marked."""

        tags = {"generation"}

        def parse(self, parser):
            line = next(parser.stream).lineno
            body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
            call = self.call_method("_marked")
            return jinja2.nodes.CallBlock(call, [], [], body).set_lineno(line)

        def _marked(self, caller):
            return f"{BEGIN}{caller()}{END}"

    def refuse(message: str) -> None:
        raise jinja2.TemplateError(message)

    def as_json(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(value, **{k: v for k, v in locals().items() if k != "value"})

    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = as_json  # jinja2's own is for web pages
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    return environment.from_string(source)


def _folded(message: Message) -> Message:
    """With the input that an instruction is about in its content."""
    if not message.get("input"):
        return message
    return {"role": message["role"], "content": f"{message['content']}\n\n{message['input']}"}


def _marked(messages: Sequence[Message]) -> list[Message]:
    """With marks around the contents of answers."""
    mark = lambda message: {**message, "content": f"{BEGIN}{message['content']}{END}"}
    return [mark(m) if m["role"] == "assistant" else m for m in messages]


def _unmarked(text: str) -> str:
    return text.replace(BEGIN, "").replace(END, "")


def _spans(marked: str) -> tuple[str, list[tuple[int, int]]]:
    """A text without its marks, and where in it what they enclose begins and ends."""
    spans, before = [], 0  # marks so far
    for found in re.finditer(f"{BEGIN}[^{BEGIN}{END}]*{END}", marked):
        spans.append((found.start() - before, found.end() - before - 2))
        before += 2
    return _unmarked(marked), spans


def _ended(text: str, end: int, special: re.Pattern) -> int:
    """Where an answer ends whose content ends at `end`: with a special token, if one follows."""
    space = len(text) - len(text[end:].lstrip())
    found = special.match(text, space)
    return found.end() if found else end


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
