"""Requests from JSONL files: texts or token ids, a line each."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from lm_research.errors import UserError


def read(path: str, lines: Iterable[str], plain: bool = False) -> list[dict[str, Any]]:
    """The requests in `lines`: mappings with `text` or `tokens`.

    Args:
      path: where the lines come from, for messages.
      lines: of JSON; empty ones are passed over.
      plain: whether a line that is not a JSON object is a text itself.

    Raises:
      UserError: names the file and the line.
    """
    requests = []
    for number, line in enumerate(lines, 1):
        line = line.rstrip("\n")
        if not line.strip():
            continue
        try:
            request = json.loads(line)
        except ValueError as error:
            if not plain:
                raise UserError(f"{path}:{number} is not JSON: {error}") from None
            request = None
        if plain and not isinstance(request, dict):
            request = {"text": line}
        requests.append(_checked(f"{path}:{number}", request))
    if not requests:
        raise UserError(f'{path} has no requests; it takes lines such as {{"text": "..."}}')
    return requests


def open_lines(path: str) -> list[str]:
    """The lines of a UTF-8 file.

    Raises:
      UserError: it is missing or not UTF-8.
    """
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 at byte {error.start}") from None


def tokens_of(request: dict[str, Any], tokenizer: Any) -> np.ndarray:
    """The token ids of a request.

    Raises:
      UserError: it has text and the checkpoint has no tokenizer.
    """
    if "tokens" in request:
        return np.asarray(request["tokens"], np.int32)
    if tokenizer is None:
        raise UserError('the checkpoint has no tokenizer; it takes {"tokens": [...]}')
    return tokenizer.encode(request["text"])


def _checked(where: str, request: Any) -> dict[str, Any]:
    if not isinstance(request, dict) or not {"text", "tokens"} & set(request):
        given = sorted(request) if isinstance(request, dict) else type(request).__name__
        raise UserError(f'{where} has {given}; it takes {{"text": "..."}} or {{"tokens": [...]}}')
    if "text" in request and not isinstance(request["text"], str):
        raise UserError(f"{where}: text is {request['text']!r}; it takes a string")
    ids = request.get("tokens", [])
    if not isinstance(ids, list) or any(type(i) is not int for i in ids):
        raise UserError(f"{where}: tokens is no list of whole numbers")
    return request
