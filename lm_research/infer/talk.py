"""`Talk`: the history of a conversation, and as much of it as a model can read."""

import dataclasses
from typing import Any

import numpy as np

from lm_research.data.chat import asked
from lm_research.errors import UserError


@dataclasses.dataclass
class Talk:
    """What was said so far; a system message stays, whatever is forgotten.

    Attributes:
      tokenizer: carries the chat template.
      system: what a conversation begins with, perhaps.
      turns: messages of user and assistant, the oldest first.
    """

    tokenizer: Any
    system: str | None = None
    turns: list[dict[str, str]] = dataclasses.field(default_factory=list)

    def ask(self, text: str, room: int | None = None) -> tuple[np.ndarray, int]:
        """The tokens after which the answer to a text comes, and how many turns are forgotten.

        Args:
          text: the user's next message.
          room: tokens at most; the oldest message, with its answer, is forgotten first.

        Raises:
          UserError: the message is too long by itself, or the template refuses it; it is then not
            part of the conversation.
        """
        first = [] if self.system is None else [{"role": "system", "content": self.system}]
        turns = [*self.turns, {"role": "user", "content": text}]
        for start in range(0, len(turns), 2):
            tokens = asked(self.tokenizer, [*first, *turns[start:]])
            if room is None or len(tokens) <= room:
                self.turns = turns[start:]
                return tokens, start // 2
        raise UserError(
            f"the message makes {len(tokens)} tokens with what the template puts around it, and "
            f"there is room for {max(0, room)}; ask for less, or for fewer new tokens (--length)"
        )

    def answered(self, text: str) -> None:
        """Takes note of what was answered."""
        self.turns.append({"role": "assistant", "content": text.strip()})

    def reset(self) -> None:
        """Forgets all turns."""
        self.turns = []
