"""The generated data set: the same pixels each time, and pictures worth learning from."""

from pathlib import Path

import numpy as np
import pytest

from alexnet.data import shapes
from alexnet.data.sources.formats import open_source
from alexnet.errors import RequestError


def test_a_taken_destination_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RequestError, match="exists already"):
        shapes.fetch_shapes(tmp_path)


def test_shapes_are_the_same_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shapes, "SHAPES_PER_CLASS", {"train": 2, "val": 1})
    for name in ("one", "two"):
        shapes.fetch_shapes(tmp_path / name)
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file())
    assert len(files) == 31
    assert all((tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes() for file in files)
    source = open_source(tmp_path / "one")
    assert (source.title, source.generated, source.side) == ("shapes (generated)", True, 32)
    assert source.class_ids == sorted(shapes.SHAPES)


@pytest.mark.parametrize("shape", shapes.SHAPES)
def test_a_shape_is_a_picture_that_varies(shape: str) -> None:
    generator = np.random.default_rng(0)
    first, second = shapes.draw_shape(shape, generator), shapes.draw_shape(shape, generator)
    assert first.shape == (32, 32, 3) and first.dtype == np.uint8
    assert first.std() > 10 and not np.array_equal(first, second)
