"""The corpus that every interpreter carries: the documentation of Python and its library."""

import ast
import dataclasses
import functools
import hashlib
import inspect
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

from lm_research.data.source import within

# Tests and other people's packages, which are not the library's documentation.
SKIPPED = {
    *("test", "tests", "idle_test", "site-packages", "dist-packages", "lib2to3", "__pycache__"),
    *("pydoc_data", "turtledemo"),
}
# A module whose docstrings are longer becomes several documents, in characters.
LONGEST = 16_000
# Shorter ones say too little to be a document.
SHORTEST = 200


@dataclasses.dataclass(frozen=True)
class PythonDocs:
    """Records {"text": str}: the topics that `help()` shows, then each module's docstrings.

    The library is parsed, never imported, so nothing of it runs. What comes depends on Python's
    version.
    """

    def __len__(self) -> int:
        return len(_documents())

    def __getitem__(self, index: int) -> dict[str, str]:
        return {"text": _documents()[within(index, len(self))]}

    def fingerprint(self) -> str:
        """Changes when the library's files do."""
        stats = [(str(path), path.stat()) for path in _modules()]
        described = repr([sys.version, *((p, s.st_size, s.st_mtime_ns) for p, s in stats)])
        return hashlib.sha256(described.encode()).hexdigest()


@functools.cache
def _documents() -> tuple[str, ...]:
    from pydoc_data.topics import topics

    texts = [*(topics[name] for name in sorted(topics)), *_module_documents()]
    texts = [text.strip() + "\n" for text in texts]
    return tuple(dict.fromkeys(text for text in texts if len(text) >= SHORTEST))


def _library() -> Path:
    return Path(sysconfig.get_path("stdlib"))


def _modules() -> list[Path]:
    root = _library()
    found = (path.relative_to(root) for path in root.rglob("*.py"))
    return [root / path for path in sorted(found) if not SKIPPED & set(path.parts)]


def _module_documents() -> Iterator[str]:
    seen: set[str] = set()
    for path in _modules():
        name = ".".join(path.relative_to(_library()).with_suffix("").parts)
        text = ""
        for entry in _entries(path, name.removesuffix(".__init__")):
            body = entry.partition("\n\n")[2]
            if body in seen:
                continue
            seen.add(body)
            if text and len(text) + len(entry) > LONGEST:
                yield text
                text = ""
            text += entry + "\n\n"
        yield text


def _entries(path: Path, module: str) -> Iterator[str]:
    """`name(arguments)` and docstring of the module and of everything in it that has one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the library's own
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):
            return  # templates are not Python
    yield from _described(tree, module)


def _described(node: ast.AST, name: str) -> Iterator[str]:
    if docstring := ast.get_docstring(node):
        yield f"{name}{_signature(node)}\n\n{inspect.cleandoc(docstring)}"
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _described(child, f"{name}.{child.name}")


def _signature(node: ast.AST) -> str:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return f"({ast.unparse(node.args)})"
    return ""
