"""The paper's table of errors with our runs' errors, recomputed from the probabilities in the run folders.

Paper: table 2 (ILSVRC-2012); the sparse-coding row is from table 1 (ILSVRC-2010). Errors are fractions in code and
JSON, and percent with one decimal in Markdown and LaTeX, as in the paper.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from alexnet.data.dataset import PreparedData
from alexnet.data.synsets import synset_words
from alexnet.errors import RequestError
from alexnet.evaluation.metrics import ErrorCounts, count_errors, wilson_interval
from alexnet.evaluation.paired import TOP5_CLASSES, iterate_predictions, open_common_data, open_runs
from alexnet.evaluation.predictions import (
    NumViews,
    available_views,
)
from alexnet.report.published_errors import FISHER, FIVE, ONE, ONE_STARTED, PAPER_ROWS, SEVEN, SPARSE, PublishedErrors
from alexnet.runs.baseline_recipe import BaselineRecipe, baseline_differences
from alexnet.runs.folder import AnyRecipe, RunFolder
from alexnet.runs.import_recipe import ImportRecipe
from alexnet.runs.overview import changes_of
from alexnet.runs.recipe_file import recipe_differences

_BASELINES = {"sift-fisher": FISHER, "sparse-coding": SPARSE}
_AVERAGES = {FIVE: (5, ""), SEVEN: (7, "*")}


@dataclass(frozen=True)
class MeasuredError:
    """An error of our runs, a fraction."""

    error: float
    """For several networks that are not averaged, the mean of their errors."""
    interval: tuple[float, float]
    """95 % Wilson interval over the images."""
    lowest: float | None = None
    """Over several networks that are not averaged; None for one."""
    highest: float | None = None


@dataclass(frozen=True)
class TableRow:
    """One row: its runs and their errors."""

    name: str
    """The paper's label."""
    label: str
    """The printed label: it names the number of networks if that differs from the paper's, and what distinguishes
    this row from others of the same name."""
    method: str
    """How the runs' results were combined, as text."""
    runs: tuple[str, ...]
    """Empty if no such run was given; then there is no error of ours."""
    top1: MeasuredError | None
    top5: MeasuredError | None
    """None also with fewer than 20 classes."""
    paper: PublishedErrors


@dataclass(frozen=True)
class TableRun:
    """A run in the table, and its cost."""

    run: str
    recipe: str
    variant: str | None
    """None for a baseline."""
    changes: tuple[str, ...]
    """Settings that differ from the named recipe."""
    start_from: str | None
    state: str
    hours: float | None
    """Of training, excluding the network it started from."""
    machine: str
    commit: str | None


@dataclass(frozen=True)
class PaperTable:
    """The whole table and the data behind it; its JSON has the same names."""

    data_title: str
    data_folder: str
    data_checksum: str
    generated: bool
    split: str
    num_images: int
    num_classes: int
    """Classes that the networks choose among."""
    num_views: NumViews
    is_ilsvrc2012_val: bool
    """Whether the images are the 50,000 validation images of ILSVRC-2012."""
    rows: tuple[TableRow, ...]
    runs: tuple[TableRun, ...]


@dataclass
class _RunGroup:
    """Runs that differ in their seeds only, accumulated one by one: only one run's probabilities are in memory at a
    time."""

    recipe: AnyRecipe
    """Of the first of them."""
    trained_on: str
    """Title and checksum of the training data."""
    is_finished: bool
    runs: list[str] = field(default_factory=list)
    counts: list[ErrorCounts] = field(default_factory=list)
    total: npt.NDArray[np.float64] | None = None
    """Sum of their probabilities, (N, K)."""
    labels: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    """(N,), as columns of `total`; the same for all runs."""

    def is_like(self, other: "_RunGroup") -> bool:
        """Whether the runs of both groups are repetitions of one training."""
        return (self.trained_on, self.is_finished) == (other.trained_on, other.is_finished) and not _differences(
            self.recipe, other.recipe
        )

    def add(self, run: str, probabilities: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> None:
        self.runs.append(run)
        self.counts.append(count_errors(probabilities, labels))
        self.labels = labels
        wide = probabilities.astype(np.float64)
        self.total = wide if self.total is None else self.total + wide


def paper_table(
    run_folders: Sequence[Path], *, num_views: NumViews = 10, data_folder: Path | Sequence[Path] | None = None
) -> PaperTable:
    """Arrange runs in the rows of the paper's table; every error is recomputed from saved probabilities.

    `1 CNN` is the mean error of the networks trained from random weights, `1 CNN*` that of the networks fine-tuned from
    another network. Only repetitions are averaged: runs whose recipes, training data or states differ have a row each.
    `5 CNNs` averages the probabilities of all networks of the former kind, `7 CNNs*` those of both, in float64.

    Args:
        run_folders: runs of one data set, in any order.
        num_views: of the saved probabilities, or `dense`; a baseline has one view, whatever is asked for.
        data_folder: the prepared data set the runs were evaluated on, or several to concatenate; None is what they were
            trained on.

    Raises:
        RequestError: no runs, a run named twice, a run without probabilities for this number of views, runs of
            different data, or a run for which the paper has no row.
        WorkError: saved probabilities are damaged.
    """
    runs = open_runs(run_folders)
    if not runs:
        raise RequestError("a table needs at least one run; name run folders")
    num_views = available_views(runs, num_views)
    data, split = open_common_data(runs, data_folder, None)
    groups: dict[str, list[_RunGroup]] = {name: [] for name in (FISHER, SPARSE, ONE, ONE_STARTED)}
    table_runs: list[TableRun] = []
    class_ids: tuple[str, ...] = ()
    loaded = iterate_predictions(runs, data, split, num_views, data_folder)
    for run in runs:
        metadata, recipe = run.metadata(), run.any_recipe()
        group = _group_of(groups[_row_of(run, recipe, metadata)], recipe, metadata)
        predictions = next(loaded)
        class_ids = predictions.class_ids
        group.add(str(run.path), predictions.probabilities, predictions.labels(data))
        table_runs.append(_describe_run(run, recipe, metadata))
    num_images, num_classes = len(data.splits[split]), len(class_ids)
    return PaperTable(
        data_title=data.title,
        data_folder=str(data.folder),
        data_checksum=data.checksum,
        generated=data.generated,
        split=split,
        num_images=num_images,
        num_classes=num_classes,
        num_views=num_views,
        is_ilsvrc2012_val=is_ilsvrc2012_val(data, split) and num_classes == data.num_classes,
        rows=tuple(row for name in PAPER_ROWS for row in _rows(name, groups, num_classes)),
        runs=tuple(table_runs),
    )


def _row_of(run: RunFolder, recipe: AnyRecipe, metadata: Mapping[str, Any]) -> str:
    if isinstance(recipe, BaselineRecipe):
        return _BASELINES[recipe.kind]
    if recipe.name in _BASELINES:
        return _BASELINES[recipe.name]
    if metadata.get("start_from") or metadata.get("copied_layers"):
        return ONE_STARTED
    if recipe.network.variant.startswith("six-conv"):
        raise RequestError(
            f"{run.path} has six convolutions and was not fine-tuned from another network; the paper's table has no "
            "row for it: omit it, or name the run that was fine-tuned from it"
        )
    return ONE


def _group_of(groups: list[_RunGroup], recipe: AnyRecipe, metadata: Mapping[str, Any]) -> _RunGroup:
    """The group of runs like this one, added to `groups` if there is none."""
    if isinstance(recipe, ImportRecipe):
        trained_on = f"unknown data (imported from {recipe.imported.name})"
    else:
        trained_on = "{title} ({checksum:.12})".format(**metadata["data"])
    new = _RunGroup(recipe, trained_on, metadata.get("state") == "finished")
    known = next((group for group in groups if group.is_like(new)), None)
    if known is None:
        groups.append(new)
    return known or new


_SAME_RESULT = (
    *("training.seed", "training.device", "training.workers", "training.micro_batch", "training.checkpoint_every"),
    *("training.evaluate_every", "protocol.seed"),
)
"""Settings in which repetitions of one training may differ."""


def _differences(first: AnyRecipe, second: AnyRecipe) -> list[str]:
    """How two trainings differ, other than as repetitions of each other; empty if they do not."""
    if isinstance(first, ImportRecipe) or isinstance(second, ImportRecipe):
        return [] if first == second else ["an imported network"]
    if isinstance(first, BaselineRecipe) or isinstance(second, BaselineRecipe):
        if not (isinstance(first, BaselineRecipe) and isinstance(second, BaselineRecipe)):
            return ["a baseline"]
        differences = baseline_differences(first, second)
    else:
        differences = recipe_differences(first, second)
    return [one for one in differences if one.split(":")[0] not in _SAME_RESULT]


def _distinctions(groups: Sequence[_RunGroup]) -> list[str]:
    """What distinguishes each of several groups of a row from the others, as text; empty for a single one."""
    facts = []
    for group in groups:
        first = next(one for one in groups if one.recipe.name == group.recipe.name)
        changes = _differences(first.recipe, group.recipe)
        more = f" and {len(changes) - 2} more" if len(changes) > 2 else ""
        facts.append(
            (
                group.recipe.name,
                "; ".join(changes[:2]) + more,
                f"trained on {group.trained_on}",
                "" if group.is_finished else "not finished",
            )
        )
    differing = [number for number, values in enumerate(zip(*facts, strict=True)) if len(set(values)) > 1]
    return [", ".join(fact[number] for number in differing if fact[number]) for fact in facts]


def _describe_run(run: RunFolder, recipe: AnyRecipe, metadata: Mapping[str, Any]) -> TableRun:
    events = run.events()
    seconds = metadata.get("duration_s")
    if seconds is None:  # it has not finished
        seconds = next((event["elapsed_s"] for event in reversed(events) if "elapsed_s" in event), None)
    machine = metadata.get("machine") or {}
    words = [str(machine.get("processor") or "an unknown processor")]
    words += [f"{machine['cores']} cores"] if machine.get("cores") else []
    accelerators = {str(event.get("device", "cpu")) for event in events if event["event"] == "start"} - {"cpu"}
    if accelerators:
        words.append(str(machine.get("gpu") or f"{' and '.join(sorted(accelerators))}, name not recorded"))
    return TableRun(
        run=str(run.path),
        recipe=recipe.name,
        variant=None if isinstance(recipe, BaselineRecipe) or recipe.name in _BASELINES else recipe.network.variant,
        changes=tuple(changes_of(recipe)),
        start_from=metadata.get("start_from"),
        state=str(metadata.get("state")),
        hours=None if seconds is None else seconds / 3600,
        machine=", ".join(words),
        commit=metadata.get("commit"),
    )


def is_ilsvrc2012_val(data: PreparedData, split: str) -> bool:
    """Whether a split is ILSVRC-2012's validation set: its 1,000 classes with 50 images each."""
    if split != "val" or {one.id for one in data.classes} != set(synset_words()):
        return False
    return bool((np.bincount(data.splits[split].labels, minlength=data.num_classes) == 50).all())


def _rows(name: str, groups: Mapping[str, Sequence[_RunGroup]], num_classes: int) -> list[TableRow]:
    """The rows `name`: one without errors of ours if there are no runs for it."""
    if name in _AVERAGES:
        paper_number, star = _AVERAGES[name]
        parts = [groups[ONE], groups[ONE_STARTED]] if star else [groups[ONE]]
        members = [group for part in parts for group in part]
        runs = [run for group in members for run in group.runs]
        if len(runs) < 2 or not all(parts):
            return [TableRow(name, name, "", (), None, None, PAPER_ROWS[name])]
        totals = [group.total for group in members if group.total is not None]
        counts = [count_errors(sum(totals[1:], start=totals[0]) / len(runs), members[0].labels)]
        label = f"{len(runs)} CNNs{star}" + ("" if len(runs) == paper_number else f" (paper: {paper_number})")
        unlike = any(len(part) > 1 for part in parts)
        method = "average of the probabilities of" + (
            " networks that differ in more than their seeds," if unlike else ""
        )
        return [_measured_row(name, label, method, runs, counts, num_classes)]
    rows = []
    for group, distinction in zip(groups[name], _distinctions(groups[name]), strict=True):
        if isinstance(group.recipe, ImportRecipe):
            distinction = distinction or group.trained_on
        label = f"{name}: {distinction}" if distinction else name
        method = "error of"
        if len(group.runs) > 1:
            label, method = f"{label} (mean of {len(group.runs)})", "mean of the errors of"
        rows.append(_measured_row(name, label, method, group.runs, group.counts, num_classes))
    return rows or [TableRow(name, name, "", (), None, None, PAPER_ROWS[name])]


def _measured_row(
    name: str, label: str, method: str, runs: Sequence[str], counts: Sequence[ErrorCounts], num_classes: int
) -> TableRow:
    num = counts[0].num_images
    top1 = _measured_error([one.top1_wrong for one in counts], num)
    top5 = _measured_error([one.top5_wrong for one in counts], num) if num_classes >= TOP5_CLASSES else None
    return TableRow(name, label, method, tuple(runs), top1, top5, PAPER_ROWS[name])


def _measured_error(wrong: Sequence[Fraction], num: int) -> MeasuredError:
    """The error of one network, or the mean of several, from the number of images that each got wrong."""
    mean = sum(wrong, start=Fraction(0)) / len(wrong)
    extremes = (float(min(wrong) / num), float(max(wrong) / num)) if len(wrong) > 1 else (None, None)
    return MeasuredError(float(mean / num), wilson_interval(mean, num), *extremes)
