"""The rules of the design: floors, alphabet, unique kinds, a fast --help."""

import ast
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

import lm_research

ROOT = Path(lm_research.__file__).parent
FLOORS = [
    {"errors", "config", "mesh", "metrics", "tree", "log", "page", "curves", "target"},
    {"layers", "data"},
    {"models", "objectives", "optimizers", "weights"},
    {"hub"},
    {"infer"},
    {"evals", "interpret"},
    {"train"},
    {"study"},
    {"commands"},
    {"__main__"},
]
ALPHABET = set("BTSLDFVENKHC") | {"G"}  # G: query heads per key-value head, inside attention


def floor(package: str) -> int:
    return next(i for i, names in enumerate(FLOORS) if package in names)


def modules() -> list[Path]:
    return sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def package_of(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").parts[0]


def imported(path: Path) -> set[tuple[str, ...]]:
    """The parts of every lm_research module that a file imports, lazily or not."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {tuple(name.name.split(".")) for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            base = tuple(node.module.split("."))
            found |= {(*base, name.name) for name in node.names}
    return {parts[1:] for parts in found if parts[0] == "lm_research" and len(parts) > 1}


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down(path):
    own = package_of(path)
    for parts in imported(path):
        package = parts[0]
        if package == own or package == "__version__":
            continue
        assert floor(package) <= floor(own), f"{path} imports {'.'.join(parts)} from above"
        if floor(package) == floor(own):
            assert floor(own) in (0, 1, 2), f"{path} imports {package} from beside"


def test_every_module_stands_on_a_floor():
    assert {package_of(path) for path in modules()} <= set.union(*FLOORS)


def test_no_family_imports_another():
    files = (ROOT / "models").glob("*.py")
    # A classifier is a head of every family's, told in one place.
    families = {p.stem for p in files if "\nFAMILIES = " in p.read_text()} - {"classifier"}
    assert {"gpt2", "llama"} < families
    for name in families:
        others = {
            parts[1] for parts in imported(ROOT / "models" / f"{name}.py") if parts[0] == "models"
        }
        assert not others & (families - {name})


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_letters_are_in_the_alphabet(path):
    text = path.read_text()
    equations = re.findall(r'"([A-Za-z]+(?:,[A-Za-z]+)*->[A-Za-z]+)"', text)
    comments = re.findall(r"#.*?((?:\[[A-Z](?:, [A-Z0-9])*\](?:, | -> )?)+)", text)
    letters = {letter for found in equations + comments for letter in found if letter.isupper()}
    assert letters <= ALPHABET, f"{path} uses {sorted(letters - ALPHABET)}"
    assert all(equation.replace(",", "").replace("->", "").isupper() for equation in equations)


def test_kinds_are_unique():
    from lm_research import data, evals, layers, models, objectives, optimizers, weights

    names = [
        name
        for package in (layers, data, models, objectives, optimizers, weights, evals)
        for name in package.__all__
    ]
    assert len(names) == len(set(names))
    for package in (layers, data, models, objectives, optimizers, weights, evals):
        assert all(hasattr(package, name) for name in package.__all__)


def test_help_is_fast_and_imports_nothing_heavy():
    program = (
        "import sys, lm_research.__main__ as m; m.main(['--help']);"
        "heavy = {'jax', 'flax', 'grain', 'transformers', 'matplotlib', 'tensorflow_datasets'};"
        "sys.exit(bool(heavy & set(sys.modules)))"
    )
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "train" in done.stdout and "generate" in done.stdout
    assert (
        time.monotonic() - start < 3
    )  # 0.3 s on an idle machine; the bar of 1 s is in benchmarks/
