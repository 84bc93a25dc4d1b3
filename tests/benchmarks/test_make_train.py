"""`make train` runs its stages in order, each measured with its child processes, and ends where one fails."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.test_packaging import ROOT

COMMAND = """#!/bin/sh
echo "$@" >> calls
case $1 in
  fetch) mkdir -p $3; echo > $3/SOURCE.json;;
  prepare) mkdir -p $3; echo > $3/dataset.json;;
  train) python3 -c 'sum(range(10_000_000))'; exit $TRAIN_CODE;;
  report) echo "report: runs/quick/report.html";;
esac
"""


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
def test_the_stages_of_make_train_are_measured(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("pyproject.toml", "constraints.txt", ".venv/bin/python", ".venv/bin/alexnet", ".venv/.installed"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(COMMAND if name.endswith("alexnet") else "")
        path.chmod(0o755)

    def made(code: int, *words: str) -> subprocess.CompletedProcess[str]:
        script = ROOT / "benchmarks" / "make_train.py"
        environment = {**os.environ, "TRAIN_CODE": str(code)}
        return subprocess.run(
            [sys.executable, script, *words], cwd=tmp_path, env=environment, capture_output=True, text=True
        )

    failed = made(3, "--json")
    assert failed.returncode != 0
    stages = json.loads(failed.stdout)["stages"]
    assert [one["stage"] for one in stages] == ["fetch cifar10", "prepare", "train"]
    busy = stages[2]
    assert busy["core_s"] > 0.05 and busy["wall_s"] >= 0.9 * busy["core_s"], "its child process computes"
    assert busy["peak_bytes"] > 1e6
    again = made(0, "RUN=runs/other")  # what is there is skipped, as by make
    assert again.returncode == 0
    printed = again.stdout.splitlines()
    assert [line.split()[0] for line in printed if " MB" in line] == ["train", "evaluate", "report", "all"]
    lines = [line for line in printed if line.startswith(("report: ", "to use these commands: "))]
    assert lines[0] == "report: runs/quick/report.html" and "alexnet fetch imagenette" in lines[1]
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls[-3:] == [
        "train data/cifar10-prepared --recipe quick --run runs/other",
        "evaluate runs/other --json",
        "report runs/other",
    ]
