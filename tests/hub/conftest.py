"""A small Llama in a Hugging Face directory; tests/models compares with `transformers`."""

import dataclasses
import json
import zlib
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lm_research import config, tree
from lm_research.hub import names, save

SECTION = {
    "kind": "Llama",
    "vocab": 16,
    "width": 8,
    "layers": 3,
    "heads": 4,
    "kv_heads": 2,
    "hidden": 12,
    "head_norms": True,
    "tied": True,
}


@dataclasses.dataclass
class Made:
    """A directory and what is in it."""

    directory: Path
    section: dict[str, Any]
    model: Any
    params: Any

    @property
    def tensors(self) -> dict[str, np.ndarray]:
        return load_file(self.directory / "model.safetensors")

    def rewrite(self, tensors):
        save_file(tensors, self.directory / "model.safetensors")

    def configure(self, **changes):
        path = self.directory / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture(scope="session")
def drawn():
    """Makes the model of a section, and random parameters."""

    def draw(path, leaf):
        return jnp.float32(np.random.default_rng(zlib.crc32(path.encode())).normal(size=leaf.shape))

    def make(section):
        model = config.build(section, save.CONTENTS, "model")
        return model, tree.map_named(draw, tree.unboxed(names.abstract(model)))

    return make


@pytest.fixture
def made(tmp_path, drawn):
    """Makes such a directory, with changes to the model section."""

    def make(**changes):
        section = SECTION | changes
        model, params = drawn(section)
        save.save(tmp_path / "stored", section, params)
        return Made(tmp_path / "stored", section, model, params)

    return make
