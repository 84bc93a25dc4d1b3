"""Features as Parquet: pyarrow reads back every path, class, label and number, in row groups of bounded size."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet.errors import RequestError
from alexnet.explore import feature_parquet
from alexnet.explore.feature_parquet import require_parquet, write_feature_parquet

pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

NAMES = st.binary(min_size=1, max_size=8).map(os.fsdecode)


@settings(max_examples=15, deadline=None)
@given(
    names=st.lists(NAMES, min_size=1, max_size=12),
    is_half=st.booleans(),
    group_bytes=st.integers(1, 600),
    seed=st.integers(0, 99),
)
def test_all_of_it_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], is_half: bool, group_bytes: int, seed: int
) -> None:
    path, num, random = tmp_path_factory.mktemp("parquet") / "features.parquet", len(names), np.random.default_rng(seed)
    dtype = np.float16 if is_half else np.float32
    arrays = {
        "pool5": random.normal(size=(num, 2, 3, 3)).astype(dtype),
        "relu7": np.maximum(0, random.normal(size=(num, 5))).astype(dtype),
    }
    labels = random.integers(-1, 3, num)
    ids = ["" if one < 0 else f"n{one}" for one in labels]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feature_parquet, "GROUP_BYTES", group_bytes)
        write_feature_parquet(path, names, ids, labels, arrays)
    file = pq.ParquetFile(path)
    assert file.metadata.num_row_groups == -(-num // max(1, group_bytes // (4 * 23)))
    table = file.read()
    assert table.column_names == ["path", "class", "label", "pool5", "relu7"]
    shown = [os.fsencode(one).decode("utf-8", "backslashreplace") for one in names]
    assert table["path"].to_pylist() == shown
    assert table["class"].to_pylist() == [one or None for one in ids]
    assert table["label"].to_pylist() == [None if one < 0 else one for one in labels]
    for name, array in arrays.items():
        flat = np.stack(table[name].to_numpy())
        assert flat.dtype == np.float32 and str(table.schema.field(name).type).startswith("fixed_size_list<")
        shape = json.loads(table.schema.field(name).metadata[b"shape"])
        np.testing.assert_array_equal(flat.reshape(num, *shape), array)
    assert json.loads(table.schema.metadata[b"alexnet"]) == {"shapes": {"pool5": [2, 3, 3], "relu7": [5]}}


def test_without_labels_they_are_null(tmp_path: Path) -> None:
    path = tmp_path / "features.parquet"
    write_feature_parquet(path, ["a", "b"], ["", ""], None, {"relu7": np.ones((2, 3), np.float32)})
    table = pq.read_table(path)
    assert table["label"].to_pylist() == table["class"].to_pylist() == [None, None]
    assert str(table.schema.field("label").type) == "int64" and str(table.schema.field("class").type) == "string"


@pytest.mark.slow
def test_a_full_disk_raises_what_a_write_raises(tmp_path: Path) -> None:
    """Where no file may grow beyond 20,000 bytes; in another process, whose limit ends with it."""
    program = (
        "import errno, pathlib, resource, signal, numpy\n"
        "from alexnet.explore.feature_parquet import write_feature_parquet\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "values = numpy.random.default_rng(0).normal(size=(100, 200)).astype('f4')\n"
        "try:\n"
        "    write_feature_parquet(pathlib.Path('x.parquet'), ['a'] * 100, [''] * 100, None, {'relu7': values})\n"
        "except OSError as error:\n"
        "    print(errno.errorcode[error.errno])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert done.stdout == "EFBIG\n", done.stderr


def test_without_pyarrow_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(
        RequestError, match=r"need pyarrow, which is not installed; run: pip install 'alexnet\[parquet\]'"
    ):
        require_parquet()
