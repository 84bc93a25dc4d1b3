"""Recall and time of search on generated vectors."""

import json

import pytest

from benchmarks.neighbors import main


@pytest.mark.slow
def test_methods_are_measured(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--vectors", "2000", "--values", "64", "--queries", "20", "--rounds", "1", "--bits", "64"]
    assert main([*words, "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)
    methods = measured["methods"]
    assert list(methods) == ["exact", "hnsw", "ivf-pq", "codes, 64 bits", "codes, 64 bits, 100 compared"]
    assert methods["exact"]["recall"] == 1 and methods["hnsw"]["recall"] > 0.9
    assert methods["codes, 64 bits"]["recall"] < methods["codes, 64 bits, 100 compared"]["recall"] <= 1
    assert methods["exact"]["bytes_per_vector"] == 256 and methods["codes, 64 bits"]["bytes_per_vector"] == 8
    assert main(words) == 0
    assert "2,000 vectors of 64 values, 20 queries at once" in capsys.readouterr().out


def test_what_cannot_be_measured_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--vectors", "0"]) == 2
    assert "--vectors is 0; allowed is 1 or more" in capsys.readouterr().err
