"""What every benchmark here writes: results beside their bars, and where they were measured."""

import json
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "torch", "transformers")


class Row(NamedTuple):
    """One result.

    Attributes:
      what: was measured.
      measured: the number.
      unit: of it.
      bar: what it has to reach; None where it is only told.
      lower: whether less is better.
    """

    what: str
    measured: float
    unit: str
    bar: float | None = None
    lower: bool = True

    @property
    def met(self) -> bool | None:
        """Whether the bar is reached."""
        if self.bar is None:
            return None
        return self.measured <= self.bar if self.lower else self.measured >= self.bar


def environment() -> dict[str, Any]:
    """Versions, and the processor."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "python": platform.python_version(),
        **versions,
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "system": f"{platform.system()} {platform.release()}",
        "load": [round(x, 1) for x in os.getloadavg()],
    }


def processor() -> str:
    """The name of the processor's model."""
    path = Path("/proc/cpuinfo")
    for line in path.read_text().splitlines() if path.exists() else ():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def data(name: str) -> Path:
    """A file of the data directory that LM_RESEARCH_DATA names."""
    if "LM_RESEARCH_DATA" not in os.environ:
        raise SystemExit(f"set LM_RESEARCH_DATA to the directory under which {name} lies")
    return Path(os.environ["LM_RESEARCH_DATA"]) / name


def write(path: Path, command: str, rows: list[Row], **details: Any) -> None:
    """Prints a line for each row and writes all to `path` as JSON.

    Args:
      path: of the results.
      command: that measures this again.
      rows: the results.
      **details: settings, single measurements and what else is worth keeping.
    """
    for row in rows:
        bar = "" if row.bar is None else f"   bar {row.bar:g}: {'met' if row.met else 'MISSED'}"
        print(f"{row.what}: {row.measured:.4g} {row.unit}{bar}", flush=True)
    results = {
        "command": command,
        "rows": [{**row._asdict(), "met": row.met} for row in rows],
        "environment": environment(),
        **details,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=2) + "\n")
