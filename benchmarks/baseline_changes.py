"""Where the accuracy of Fisher vectors on Caltech-101 comes from: one change of the pipeline at a time.

Each row is the command `alexnet baseline sift-fisher` with the settings of the row before and one change, from the
recipe's earlier form to today's: 30 training images of each class, drawn with the seed, the others measured, mean over
classes. Rows before the last have 64 Gaussians and patches every 6 pixels, which is a quarter of the work; the last
one is the recipe itself.

Every row and seed is a run folder in -o, so the same command continues where it was stopped.

example: python benchmarks/baseline_changes.py --squares data/caltech-256 --whole data/caltech-300 -o runs/changes
"""

import argparse
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from alexnet.baselines.baseline_run import run_baseline
from alexnet.cli.command_parser import CommandParser
from alexnet.cli.tables import new_table
from alexnet.data.dataset import PreparedData
from alexnet.errors import RequestError
from alexnet.runs.baseline_recipe import BASELINES, BaselineRecipe, baseline_differences
from alexnet.runs.folder import RunFolder
from alexnet.system.machine import machine_summary, source_commit
from alexnet.system.progress import counted
from alexnet.system.terminal import TerminalConsole
from script import logger, run_script

RECIPE = "sift-fisher-caltech101"
Change = tuple[str, str, Mapping[str, Mapping[str, Any]]]
"""Its words, the data (`squares` or `whole`), and the settings that it changes, by group."""
CHANGES: tuple[Change, ...] = (
    (
        "central squares of 256 pixels, cells of 4 pixels on four shrunken images, averaged SGD",
        "squares",
        {
            "descriptors": {
                "cell_px": "4",
                "step_px": 6,
                "scales": 4,
                "scale_factor": 0.75,
                "smoothing_per_cell": 0.0,
                "min_contrast": 0.0,
            },
            "encoder": {"components": 64, "sample_size": 100_000},
            "classifier": {"kind": "sgd"},
        },
    ),
    ("support vector machines, solved to a duality gap", "squares", {"classifier": {"kind": "svm"}}),
    ("whole photographs of up to 300 pixels", "whole", {}),
    (
        "cells of 4, 6, 8 and 10 pixels on the full-size image, each smoothed by a sixth of the cell",
        "whole",
        {
            "descriptors": {
                "cell_px": "4,6,8,10",
                "scales": 1,
                "scale_factor": math.sqrt(0.5),  # of no effect; the recipe's
                "smoothing_per_cell": 1 / 6,
            }
        },
    ),
    ("flat patches left out", "whole", {"descriptors": {"min_contrast": 1.0}}),
    (
        "patches every 3 pixels, 256 Gaussians: the recipe",
        "whole",
        {"descriptors": {"step_px": 3}, "encoder": {"components": 256, "sample_size": 300_000}},
    ),
)


def recipes(seed: int) -> list[BaselineRecipe]:
    """The recipe of each row."""
    recipe, rows = BASELINES[RECIPE], []
    recipe = replace(recipe, protocol=replace(recipe.protocol, seed=seed))
    for _, _, changes in CHANGES:
        recipe = replace(
            recipe,
            **{group: replace(getattr(recipe, group), **settings) for group, settings in changes.items()},
        )
        rows.append(recipe)
    return rows


def require_same_run(run: RunFolder, recipe: BaselineRecipe, data: Path) -> None:
    """Refuse a finished run of other settings or data."""
    before = run.any_recipe()
    assert isinstance(before, BaselineRecipe)
    if baseline_differences(before, recipe) or run.data()["checksum"] != PreparedData.open(data).checksum:
        raise RequestError(f"{run.path} was run with other settings or data; name another folder with -o")


def measure_changes(folders: Mapping[str, Path], seeds: Sequence[int], num_rows: int, out: Path) -> dict[str, Any]:
    """Run the first `num_rows` rows with every seed."""
    rows: list[dict[str, Any]] = []
    for number, (words, data, _) in enumerate(CHANGES[:num_rows]):
        accuracies, core_s = [], []
        for seed in seeds:
            recipe = recipes(seed)[number]
            run = RunFolder(out / f"{number}-seed{seed}")
            if (run.path / "run.json").is_file() and run.state == "finished":
                require_same_run(run, recipe, folders[data])
            else:
                logger.info("%s, seed %d", words, seed)
                # Of its own, or the next row would find features and seem to take no time.
                cache = out / "features" / f"{number}-seed{seed}"
                run = run_baseline(folders[data], recipe, run.path, cache=cache, progress_bar=counted)
            accuracy = run.evaluations()["rest-1views"]["mean_class_accuracy"]
            assert accuracy is not None, "every class has photographs that were not drawn"
            accuracies.append(100 * accuracy)
            core_s.append(run.metadata()["cpu_s"] or 0.0)
        rows.append({"change": words, "accuracies": accuracies, "core_s": core_s})
    return {
        "rows": rows,
        "seeds": list(seeds),
        "data": {name: PreparedData.open(folder).checksum for name, folder in folders.items()},
        "machine": machine_summary(),
        "commit": source_commit(),
    }


def add_arguments(parser: CommandParser) -> None:
    parser.add_argument(
        "--squares", type=Path, metavar="FOLDER", required=True, help="Caltech-101, prepared with --side 256"
    )
    parser.add_argument(
        "--whole", type=Path, metavar="FOLDER", required=True, help="Caltech-101, prepared with --side 300 --fit pad"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="N", help="of the drawings")
    parser.add_argument(
        "--rows", type=int, default=len(CHANGES), metavar="N", help=f"rows to run, 1 to {len(CHANGES)}, all by default"
    )
    parser.add_argument("-o", "--out", type=Path, metavar="FOLDER", required=True, help="run folders and features")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    if not 1 <= options.rows <= len(CHANGES):
        raise RequestError(f"--rows is {options.rows}; allowed is 1 to {len(CHANGES)}")
    folders = {"squares": options.squares, "whole": options.whole}
    options.out.mkdir(parents=True, exist_ok=True)
    result = measure_changes(folders, options.seeds, options.rows, options.out)
    (options.out / "result.json").write_text(json.dumps(result, indent=1))
    return result


def print_table(result: Mapping[str, Any]) -> None:
    columns = ("mean over classes, %", "of each seed", "change", "core-seconds")
    table = new_table(f"seeds {', '.join(map(str, result['seeds']))}", "pipeline", columns)
    before: float | None = None
    for row in result["rows"]:
        mean = statistics.fmean(row["accuracies"])
        table.add_row(
            row["change"],
            f"{mean:.1f}",
            ", ".join(f"{one:.1f}" for one in row["accuracies"]),
            "" if before is None else f"{mean - before:+.1f}",
            f"{statistics.fmean(row['core_s']):,.0f}",
        )
        before = mean
    TerminalConsole().print_table(table)


def main(words: Sequence[str] | None = None) -> int:
    return run_script(__doc__, add_arguments, measure, print_table, words)


if __name__ == "__main__":
    raise SystemExit(main())
