import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from lm_research.errors import UserError
from lm_research.hub import safetensors
from lm_research.hub.safetensors import INDEX, Stored, appearing, write

TENSORS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.arange(12, dtype=np.float32).reshape(3, 4).T,  # not contiguous
    "c": np.float32([7, 8]),
}


def written(directory, limit):
    shapes = {name: tensor.shape for name, tensor in TENSORS.items()}
    write(directory, shapes, TENSORS.__getitem__, limit)
    return Stored(directory)


@pytest.mark.parametrize("limit, files", [(10**9, 1), (60, 2), (30, 3), (10, 3), (75, 2)])
def test_files_hold_what_was_written(tmp_path, limit, files):
    stored = written(tmp_path, limit)
    assert len(list(tmp_path.glob("*.safetensors"))) == files
    assert (tmp_path / INDEX).exists() == (files > 1)
    assert stored.names == set(TENSORS)
    for name, tensor in TENSORS.items():
        assert stored.shape(name) == tensor.shape
        np.testing.assert_array_equal(stored.read(name, (slice(None),) * tensor.ndim), tensor)
    np.testing.assert_array_equal(
        stored.read("b", (slice(1, 3), slice(0, 2))), TENSORS["b"][1:3, :2]
    )


def test_an_index_that_names_what_is_not_there(tmp_path):
    written(tmp_path, 10)
    index = json.loads((tmp_path / INDEX).read_text())
    assert index["metadata"]["total_size"] == 4 * 20
    index["weight_map"]["d"] = index["weight_map"]["a"]
    (tmp_path / INDEX).write_text(json.dumps(index))
    with pytest.raises(UserError, match="lacks d"):
        Stored(tmp_path)
    (tmp_path / index["weight_map"]["b"]).unlink()
    with pytest.raises(UserError, match=r"lacks model-00002-of-00003\.safetensors"):
        Stored(tmp_path)
    (tmp_path / INDEX).write_text("[]")
    with pytest.raises(UserError, match="no index"):
        Stored(tmp_path)


def test_a_single_file_by_another_name(tmp_path):
    save_file({"a": TENSORS["a"]}, tmp_path / "weights.safetensors")
    assert Stored(tmp_path).names == {"a"}
    save_file({"a": TENSORS["a"]}, tmp_path / "more.safetensors")
    with pytest.raises(UserError, match=r"more\.safetensors, weights\.safetensors"):
        Stored(tmp_path)


def test_damaged_files_are_named(tmp_path):
    written(tmp_path, 10**9)
    path = tmp_path / safetensors.FILE
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(UserError, match=r"model\.safetensors is damaged"):
        Stored(tmp_path)


def test_pickled_weights_are_refused_with_the_way_out(tmp_path):
    with pytest.raises(UserError, match="no weights"):
        Stored(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UserError, match=r"pytorch_model\.bin.*save_pretrained") as refused:
        Stored(tmp_path)
    assert "\n" not in str(refused.value)


def test_a_directory_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "new" / "target"
    with pytest.raises(RuntimeError), appearing(target) as temporary:
        (temporary / "half").write_text("x")
        raise RuntimeError
    assert list(tmp_path.rglob("*")) == [tmp_path / "new"]
    target.mkdir()
    with appearing(target) as temporary:
        (temporary / "whole").write_text("x")
        assert not any(target.iterdir())
    assert [path.name for path in target.iterdir()] == ["whole"]
    with pytest.raises(UserError, match="not empty"), appearing(target):
        pass
