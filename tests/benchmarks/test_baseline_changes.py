"""The table of changes ends at the recipe, runs every row, and repeats none."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("sklearn")

from alexnet.data.preparation.prepare import prepare
from alexnet.runs.baseline_recipe import BASELINES, BaselineRecipe, FisherSettings, baseline_differences
from benchmarks import baseline_changes as script


def test_the_last_row_is_the_recipe_and_each_differs_from_the_one_before() -> None:
    rows = script.recipes(0)
    assert baseline_differences(rows[-1], BASELINES[script.RECIPE]) == []
    places = [data for _, data, _ in script.CHANGES]
    for (before, after), (place, other) in zip(itertools.pairwise(rows), itertools.pairwise(places), strict=True):
        assert (baseline_differences(before, after) != []) != (place != other), "one change at a time"


def test_rows_are_measured_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    random = np.random.default_rng(3)
    for label in range(2):
        for number in range(5):
            pixels = random.integers(0, 256, (40, 60, 3)) // (1 + 3 * label)
            path = tmp_path / "tree" / f"class{label}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(path)
    squares = prepare(tmp_path / "tree", tmp_path / "squares", side=48).folder
    whole = prepare(tmp_path / "tree", tmp_path / "whole", side=60, fit="pad").folder

    def small(seed: int) -> list[BaselineRecipe]:
        return [
            replace(
                recipe,
                encoder=FisherSettings(dimensions=8, components=16, pyramid="1x1", sample_size=400),
                protocol=replace(recipe.protocol, per_class=4),
            )
            for recipe in recipes(seed)
        ]

    recipes = script.recipes
    monkeypatch.setattr(script, "recipes", small)
    words = [
        "--squares",
        str(squares),
        "--whole",
        str(whole),
        "-o",
        str(tmp_path / "out"),
        "--seeds",
        "0",
        "--rows",
        "3",
    ]
    assert script.main(words) == 0
    printed = capsys.readouterr().out
    assert "whole photographs" in printed
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert len(result["rows"]) == 3
    for row in result["rows"]:
        assert len(row["accuracies"]) == len(row["core_s"]) == 1
        assert 0 <= row["accuracies"][0] <= 100 and row["core_s"][0] > 0
    runs = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*-seed0/events.jsonl")}
    assert len(runs) == 3
    assert script.main(words) == 0
    assert {path: path.stat().st_mtime_ns for path in runs} == runs
    swapped = ["--squares", str(whole), "--whole", str(squares), *words[4:]]
    assert script.main(swapped) != 0
    assert "was run with other settings or data; name another folder with -o" in capsys.readouterr().err
    assert script.main([*words[:-1], "9"]) != 0
    assert "--rows is 9; allowed is 1 to 6" in capsys.readouterr().err
