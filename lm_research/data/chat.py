"""Conversations as tokens, by the chat template that a tokenizer carries."""

from collections.abc import Sequence

import numpy as np

from lm_research.data.chat_template import BEGIN, END, GUARD, ChatTemplate, Message
from lm_research.data.tokenizer import Tokenizer
from lm_research.errors import UserError


def conversed(tokenizer: Tokenizer, messages: Sequence[Message]) -> tuple[np.ndarray, np.ndarray]:
    """int32 ids of a conversation, and which of them are answers: bool.

    An answer begins where the tokens of `asked` end, so that it is learned as it will be asked for.

    Raises:
      UserError: the tokenizer has no template, the template refuses the conversation, or a
        character is unknown.
    """
    parts = _template(tokenizer).parts(_guarded(tokenizer, messages), tokenizer.special)
    if tokenizer.joins:
        pieces = [tokenizer.spoken(text)[0] for text, _ in parts]
        ids = np.concatenate(pieces)
        return ids, np.repeat([answer for _, answer in parts], list(map(len, pieces)))
    ids, spans = tokenizer.spoken("".join(text for text, _ in parts))
    sizes = [len(text) - text.count(GUARD) for text, _ in parts]
    inside = np.append(np.repeat([answer for _, answer in parts], sizes), False)
    # A token over both is the answer's: of a word that begins with the space before it.
    return ids, inside[np.maximum(spans[:, 0], spans[:, 1] - 1)]


def asked(tokenizer: Tokenizer, messages: Sequence[Message]) -> np.ndarray:
    """int32 ids of a conversation up to where its next answer begins.

    Raises:
      UserError: as `conversed`.
    """
    template, messages = _template(tokenizer), _guarded(tokenizer, messages)
    text = template.render(messages, prompt=True)
    parts = _before(tokenizer, messages) if tokenizer.joins else []
    whole = "".join(parts)
    if not text.startswith(whole):  # how a template shows earlier turns may hang on later ones
        return tokenizer.spoken(text)[0]
    parts.append(text[len(whole) :])
    return np.concatenate([tokenizer.spoken(part)[0] for part in parts if part])


def _before(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[str]:
    """A text in parts, of which answers are cut off from what is around them, as they are learned.

    Of a conversation without answers, or whose answers the template rewrites, there are none.
    """
    if all(message["role"] != "assistant" for message in messages):
        return []
    try:
        parts = _template(tokenizer).parts(messages, tokenizer.special)
    except UserError:
        return []
    return [text for text, _ in parts]


def ends(tokenizer: Tokenizer | None) -> tuple[int, ...]:
    """The tokens that end a text: `eos`, and what ends an answer of the chat template."""
    found = () if tokenizer is None or tokenizer.eos is None else (tokenizer.eos,)
    if tokenizer is None or tokenizer.chat is None:
        return found
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    try:
        ids, answers = conversed(tokenizer, turns)
    except UserError:  # whoever chats with it is told why
        return found
    last = ids[answers][-1:].tolist()
    return tuple(dict.fromkeys((*found, *(i for i in last if i in tokenizer.special_ids))))


def templated(tokenizer: Tokenizer, source: str) -> Tokenizer:
    """A tokenizer with a chat template, and what tokens of the template it lacked at the end."""
    lacking = [t for t in ChatTemplate(source).tokens if t not in tokenizer.special_ids.values()]
    return tokenizer.extended(source, lacking)


def _template(tokenizer: Tokenizer) -> ChatTemplate:
    if tokenizer.chat is None:
        raise UserError("the tokenizer has no chat template")
    return tokenizer.chat


def _guarded(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[Message]:
    """Messages in which the spelling of a special token is text, as it is everywhere else.

    Raises:
      UserError: one has a character that is none.
    """
    return [{name: _guard(tokenizer, text) for name, text in m.items()} for m in messages]


def _guard(tokenizer: Tokenizer, text: str) -> str:
    if any(mark in text for mark in (BEGIN, END, GUARD)):
        raise UserError(f"a message has one of U+{ord(BEGIN):X} to {ord(GUARD):X}, no characters")
    return tokenizer.special.sub(lambda found: found[0][0] + GUARD + found[0][1:], text)
