"""The benchmark of predictions classifies the same images from files and from prepared data."""

from typing import Any

import pytest

from benchmarks.predict import PREDICT, main, measure_predictions, print_table


def test_files_and_both_stores_are_measured(make_tree: Any, capsys: pytest.CaptureFixture[str]) -> None:
    measured = measure_predictions(make_tree("photographs"), "cifar-80sec", 1, 2, device="cpu")
    assert list(measured["methods"]) == ["evaluate, jpeg", "evaluate, pixels", PREDICT]
    assert measured["images"] == 36
    assert all(one["images_per_second"] > 0 < one["cpu_ms_per_image"] for one in measured["methods"].values())
    print_table(measured)
    assert PREDICT in capsys.readouterr().out
    assert main(["nowhere", "--rounds", "0"]) == 2
    assert "--rounds 0" in capsys.readouterr().err
