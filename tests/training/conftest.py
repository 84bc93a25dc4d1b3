"""A prepared data set that the tiny network of `small_trainings` learns in seconds."""

from pathlib import Path
from typing import Any

import pytest

from alexnet.data.preparation.prepare import prepare


@pytest.fixture
def data(make_tree: Any, tmp_path: Path) -> Path:
    """24 images to train on and 12 to validate, of three plain colors, stored as pixels."""
    prepare(make_tree("photographs"), tmp_path / "data", side=32)
    return tmp_path / "data"
