"""Whether a checkpoint was compared with `transformers`: kept beside it, void once it changes."""

import hashlib
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lm_research import __version__, config, log
from lm_research.errors import UserError
from lm_research.hub import load as hub
from lm_research.hub.adapter import is_adapter
from lm_research.hub.save import save
from lm_research.hub.verify import Limits, Report, verify
from lm_research.train import restore
from lm_research.train.fingerprint import fingerprint

FILE = "verify.json"


def verified(path: Path, limits: Limits) -> Report:
    """Compares a run or a Hugging Face directory with `transformers`, and stores what was found.

    Of a run or an adapter, what is compared is what `convert` makes of it.

    Raises:
      UserError: it cannot be opened, converted or compared.
    """
    loaded: list[restore.Loaded] = []

    def params() -> Any:
        loaded.append(restore.open_checkpoint(path, dtype="float32"))
        return loaded[0].params

    if restore.is_run(path) or is_adapter(path):
        with tempfile.TemporaryDirectory() as scratch:
            directory = Path(scratch) / "huggingface"
            run = restore.open_checkpoint(path, dtype="float32")
            save(directory, run.section, run.params, run.tokenizer)
            model = run.model
            del run
            report = verify(directory, model, params, limits)
    else:
        described = {**hub.section(path), "dtype": "float32"}
        model = config.build(described, restore.CONTENTS, "model")
        report = verify(path, model, params, limits)
    found = _stored(report, loaded[0])
    log.write_text(path / FILE, json.dumps(found, indent=2) + "\n")
    if restore.is_run(path):
        verdict = _judged(found, found["content"], loaded[0].step)
        facts = {**log.stored_facts(path), "verified": verdict}
        log.write_text(path / "facts.json", json.dumps(facts, indent=2) + "\n")
    return report


def standing(path: str | Path, loaded: restore.Loaded) -> dict[str, Any]:
    """Whether what was loaded from a directory was verified; why not, or how closely and when.

    Raises:
      UserError: what is stored there is damaged.
    """
    file = Path(path) / FILE
    if not file.is_file():
        return {"verified": False, "why": f"`verify --checkpoint={path}` has not been run"}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        return _judged(found, content(loaded), loaded.step)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is damaged ({error!r}); remove it, or run `verify`") from None


def _judged(found: Mapping[str, Any], now: str, step: int | None) -> dict[str, Any]:
    """What a stored report says of weights whose content is `now`."""
    if found["content"] != now:
        return {"verified": False, "why": "weights or config have changed since `verify` ran"}
    if found["parted"]:
        return {"verified": False, "why": found["parted"]}
    kept = ("largest", "tolerance", "versions", "content")
    return {"verified": True, **{name: found[name] for name in kept}, "step": step}


def content(loaded: restore.Loaded) -> str:
    """SHA-256 of what a model computes with: its section and every weight."""
    described = {k: v for k, v in loaded.section.items() if k not in restore.EXECUTION}
    everything = [config.plain(described), fingerprint(loaded.params)]
    return hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()


def _stored(report: Report, loaded: restore.Loaded) -> dict[str, Any]:
    versions = {"lm_research": __version__, **report.versions}
    rows = [
        {
            "case": row.case,
            "tokens": list(row.shape),
            "logits": row.logits,
            "loss": row.loss,
            "gradient": row.gradient,
            "tensor": row.tensor,
        }
        for row in report.rows
    ]
    return {
        "architecture": report.architecture,
        "equal": not report.parted,
        "parted": report.parted,
        "largest": report.largest,
        "tolerance": report.tolerance,
        "versions": versions,
        "content": content(loaded),
        "step": loaded.step,
        "cases": rows,
    }
