"""Arrays written chunk by chunk are what any safetensors reader reads."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import safetensors
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of
from safetensors.numpy import load_file

from alexnet.storage import tensors
from alexnet.storage.tensors import write_tensors

ARRAYS = arrays_of.arrays(
    st.sampled_from([np.float32, np.float64, np.int64, np.uint8]),
    arrays_of.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5),
)


@settings(max_examples=40, deadline=None)
@given(
    content=st.dictionaries(
        st.text(min_size=1, max_size=8).filter(lambda name: name != "__metadata__"), ARRAYS, max_size=4
    ),
    metadata=st.dictionaries(st.text(max_size=5), st.text(max_size=9), max_size=3),
    chunk_bytes=st.integers(1, 40),
)
def test_the_library_reads_what_was_written(
    content: dict[str, np.ndarray], metadata: dict[str, str], chunk_bytes: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("t") / "x.safetensors"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(tensors, "_CHUNK_BYTES", chunk_bytes)
        digest = write_tensors(path, content, metadata)
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    read = load_file(path)
    assert read.keys() == content.keys()
    for name, array in content.items():
        assert read[name].dtype == array.dtype and read[name].shape == array.shape
        assert read[name].tobytes() == array.tobytes()
    with safetensors.safe_open(path, "np") as opened:
        assert (opened.metadata() or {}) == metadata


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_tensors(path, {"a": np.ones(3, np.float32)}, {})
    before = path.read_bytes()
    with pytest.raises(KeyError, match="complex64"):
        write_tensors(path, {"a": np.ones(3, np.complex64)}, {})
    assert path.read_bytes() == before and [one.name for one in tmp_path.iterdir()] == ["x.safetensors"]
