"""Word vectors as text, the `.vec` files of fastText and word2vec."""

from pathlib import Path
from typing import Any

import numpy as np

from lm_research.data import Bag
from lm_research.errors import UserError
from lm_research.hub.safetensors import appearing

FILE = "vectors.vec"


def word_vectors(tokenizer: Bag, table: np.ndarray) -> np.ndarray:
    """The vector of each word [words, D]: the mean of its own and its n-grams' rows.

    Bojanowski et al. (2017); what fastText's models give out.

    Args:
      tokenizer: knows the words and their n-grams.
      table: [V, D].
    """
    return np.stack([table[tokenizer.subwords(word)].mean(0) for word in tokenizer.known])


def save_vectors(directory: str | Path, tokenizer: Any, params: Any) -> int:
    """Writes vectors.vec of a fastText model: `WORDS D`, then `WORD NUMBER ...` a line.

    Returns how many words there are. The directory appears when it is complete.

    Raises:
      UserError: the tokenizer knows no words, or the directory is in use.
    """
    if not isinstance(tokenizer, Bag):
        raise UserError("word vectors are of a model whose tokenizer is of the kind Words")
    found = word_vectors(tokenizer, np.asarray(params["embedding"]["table"]))
    lines = [
        f"{word} {' '.join(f'{x:.9g}' for x in vector)}\n"
        for word, vector in zip(tokenizer.known, found)
    ]
    with appearing(Path(directory)) as temporary:
        text = f"{found.shape[0]} {found.shape[1]}\n" + "".join(lines)
        (temporary / FILE).write_text(text, "utf-8", newline="\n")
    return len(found)
