"""One checkpoint on disk: what lies beside the state, and reading both without trusting either."""

import contextlib
import gc
import hashlib
import json
import logging
import re
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from lm_research import tree
from lm_research.errors import UserError
from lm_research.train.fingerprint import fingerprint

Tree = Any

# TensorStore says where in its own layers an error came up, and encloses its whole settings.
NOISE = re.compile(
    r'Error opening "\w+" driver: | in OCDBT database at local file "[^"]*"'
    r"| \[(?:source locations|tensorstore_spec|os_error_code).*"
)


class Damaged(Exception):
    """What is wrong with a checkpoint, in one line."""


def described(step: int, state: Tree, facts: Mapping[str, Any]) -> dict[str, Any]:
    """What lies beside a state: its step, `facts`, each leaf's shape and content, and a seal."""
    contents = fingerprint(state)
    leaves = {
        name: {"shape": list(leaf.shape), "dtype": str(leaf.dtype), "fingerprint": contents[name]}
        for name, leaf in tree.named_leaves(state).items()
    }
    meta = {**facts, "step": step, "leaves": leaves}
    return {**meta, "seal": _seal(meta)}


def read(
    path: Path, abstract: Tree, partial: bool, everywhere: Callable[[bool], bool]
) -> tuple[Tree, dict[str, Any]]:
    """The state in a step's directory, verified, and what lies beside it.

    Args:
      path: the directory.
      abstract: tree of shapes and dtypes with the shardings to restore to.
      partial: `abstract` names only some of the leaves.
      everywhere: whether a fact holds on all processes, each of which asks it once.

    Raises:
      Damaged: a file is missing or torn, or the content is not what was written: on all processes,
        if one of them finds so.
      UserError: it holds other leaves, shapes or dtypes.
    """
    wanted = tree.named_leaves(abstract)
    try:
        leaves, meta = _unverified(path, wanted, partial)
        problem = None
    except Damaged as error:
        problem = error
    # Each has files of its own; one that cannot read them must not leave the others waiting.
    if not everywhere(problem is None):
        raise problem or Damaged("another process could not read it")
    found = fingerprint(leaves)
    wrong = [name for name in wanted if found[name] != meta["leaves"][name]["fingerprint"]]
    if wrong:
        more = f" and of {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise Damaged(f"the content of {wrong[0]}{more} is not what was written")
    restored = [leaves[name] for name in wanted]
    return jax.tree.unflatten(jax.tree.structure(abstract), restored), meta


def _unverified(path: Path, wanted: Mapping, partial: bool) -> tuple[dict, dict[str, Any]]:
    """Leaves by name, and what lies beside them, by this process alone: nothing waits for others.

    Raises:
      Damaged: they cannot be read.
      UserError: it holds other leaves, shapes or dtypes.
    """
    import orbax.checkpoint as ocp

    with contextlib.closing(ocp.CompositeCheckpointHandler()) as reader:
        meta = _beside(reader, path)
        _check_same(path, wanted, meta["leaves"], partial)
        with _damage("the state"):
            arguments = ocp.args.PyTreeRestore(
                wanted,
                restore_args=ocp.checkpoint_utils.construct_restore_args(wanted),
                partial_restore=True,
            )
            found = reader.restore(path, ocp.args.Composite(state=arguments))["state"]
            # What it has no record of, Orbax gives back as it was asked for: a mere shape.
            lost = [name for name in wanted if not isinstance(found.get(name), jax.Array)]
        if lost:
            raise Damaged(f"the state has no {lost[0]}, which was written")
        return found, meta


def leaves(path: Path) -> set[str]:
    """Names of the leaves in a step's directory; none where it is damaged."""
    import orbax.checkpoint as ocp

    with contextlib.closing(ocp.CompositeCheckpointHandler()) as reader:
        try:
            return set(_beside(reader, path)["leaves"])
        except Damaged:
            return set()


def _beside(reader: Any, path: Path) -> dict[str, Any]:
    """What lies beside the state in a step's directory.

    Raises:
      Damaged: it cannot be read, or is not what was written.
    """
    import orbax.checkpoint as ocp

    with _damage("what lies beside the state"):
        meta = reader.restore(path, ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]
        seal = meta.pop("seal")
    if seal != _seal(meta):
        raise Damaged(f"{path}/meta is not what was written")
    return meta


@contextlib.contextmanager
def _damage(what: str):
    """Turns whatever Orbax, TensorStore or JSON say of bad files into one line."""
    try:
        yield
    except jax.errors.JaxRuntimeError:  # out of memory, or another process is gone
        raise
    except Exception as error:
        time.sleep(0.2)  # reads that are under way end in threads, and complain there
        raise Damaged(f"{what} cannot be read: {reason(error)}") from error


def _check_same(path: Path, wanted: Mapping, stored: Mapping, partial: bool) -> None:
    missing = [name for name in wanted if name not in stored]
    extra = [] if partial else [name for name in stored if name not in wanted]
    if missing or extra:
        what = f"lacks {missing[0]}" if missing else f"holds {extra[0]}, which is not asked for"
        more = len(missing) + len(extra) - 1
        raise UserError(f"the checkpoint {path} {what}" + (f" ({more} more)" if more else ""))
    for name, leaf in wanted.items():
        shape, dtype = stored[name]["shape"], stored[name]["dtype"]
        if (list(leaf.shape), str(leaf.dtype)) != (shape, dtype):
            raise UserError(
                f"the checkpoint {path} holds {name} as {dtype} {shape}; "
                f"{leaf.dtype} {list(leaf.shape)} was asked for"
            )


def _seal(meta: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()


@contextlib.contextmanager
def quiet():
    """Holds back what the reads that Orbax abandons print when another one has failed."""
    hush()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # coroutines that were never awaited
        try:
            yield
        finally:
            gc.collect()  # what is abandoned complains when it is collected


def hush() -> None:
    """Keeps Orbax's tracebacks off the screen: each error is raised, too, and told in a line."""
    for name in ("absl", "asyncio"):
        logging.getLogger(name).addFilter(_told_otherwise)
    if sys.unraisablehook is not _unraisable:
        _earlier_hook.append(sys.unraisablehook)
        sys.unraisablehook = _unraisable


_earlier_hook: list[Any] = []


def _unraisable(found: Any) -> None:
    """Tells what cannot be raised, but for reads and writes that were abandoned after an error."""
    abandoned = "orbax" in repr(getattr(found.object, "cr_code", ""))
    if not abandoned and str(found.exc_value) != "Event loop is closed":
        _earlier_hook[-1](found)


def reason(error: BaseException) -> str:
    """One line of an error whose message, or whose causes, may have many."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = next((line for line in str(error).splitlines() if line.strip()), "")
    text = NOISE.sub("", text).strip()
    if not text or not isinstance(error, OSError | ValueError):
        text = f"{type(error).__name__}: {text}"
    return text if len(text) < 400 else text[:200] + " ... " + text[-195:]


def _told_otherwise(record: logging.LogRecord) -> bool:
    if not record.exc_info:
        return True
    frames = traceback.walk_tb(record.exc_info[2])
    places = [frame.f_code.co_filename for frame, _ in frames]
    return not any("orbax" in text for text in (record.pathname, record.getMessage(), *places))
