"""The paper's table of errors with our runs beside it, counted anew from the probabilities in the run folders.

Paper: table 2 (ILSVRC-2012); the row of sparse coding is of table 1 (ILSVRC-2010). Errors are fractions in code and
JSON, percent with one decimal in print, as the paper has them.
"""

import itertools
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from alexnet.data.concatenated import open_data
from alexnet.data.dataset import PreparedData
from alexnet.data.synsets import synset_words
from alexnet.errors import AlexNetError, RequestError, WorkError
from alexnet.evaluation.metrics import ErrorCounts, count_errors, wilson_interval
from alexnet.evaluation.paired import TOP5_CLASSES
from alexnet.evaluation.predictions import (
    NumViews,
    Predictions,
    available_views,
    describe_views,
    load_predictions,
    predictions_folder,
    predictions_path,
)
from alexnet.runs.baseline_recipe import BaselineRecipe
from alexnet.runs.folder import RunFolder
from alexnet.runs.overview import changes_of
from alexnet.runs.recipe import Recipe


@dataclass(frozen=True)
class PublishedErrors:
    """What the paper says in a row, fractions; None where it says nothing."""

    top1_error: float | None
    top5_error: float | None
    test_top5_error: float | None
    where: str = "table 2, ILSVRC-2012: validation, test"


FISHER, SPARSE, ONE, FIVE, ONE_STARTED, SEVEN = "SIFT + FVs", "Sparse coding", "1 CNN", "5 CNNs", "1 CNN*", "7 CNNs*"
PAPER = {
    FISHER: PublishedErrors(None, None, 0.262),
    SPARSE: PublishedErrors(0.471, 0.282, None, "table 1, ILSVRC-2010: test"),
    ONE: PublishedErrors(0.407, 0.182, None),
    FIVE: PublishedErrors(0.381, 0.164, 0.164),
    ONE_STARTED: PublishedErrors(0.390, 0.166, None),
    SEVEN: PublishedErrors(0.367, 0.154, 0.153),
}
"""The rows by the paper's own label, in its order."""
_BASELINES = {"sift-fisher": FISHER, "sparse-coding": SPARSE}
_AVERAGES = {FIVE: (5, ""), SEVEN: (7, "*")}


@dataclass(frozen=True)
class MeasuredError:
    """An error of ours, a fraction."""

    error: float
    """Of several networks that are not averaged: the mean."""
    interval: tuple[float, float]
    """95 %, Wilson's, over the images."""
    lowest: float | None = None
    """Of several networks that are not averaged; None of one."""
    highest: float | None = None


@dataclass(frozen=True)
class TableRow:
    """One row: the runs behind it, and the figures that follow from them."""

    name: str
    """The paper's label."""
    label: str
    """What is printed: it says how many networks there are where that is not the paper's number."""
    how: str
    """How the runs became one figure, in words."""
    runs: tuple[str, ...]
    """None where no such run was given; then there is no figure of ours."""
    top1: MeasuredError | None
    top5: MeasuredError | None
    """None with fewer than 20 classes, too."""
    paper: PublishedErrors


@dataclass(frozen=True)
class TableRun:
    """A run folder that stands behind figures, and its cost."""

    run: str
    recipe: str
    variant: str | None
    """None of a baseline."""
    changes: tuple[str, ...]
    """Settings in which its recipe differs from the named one."""
    start_from: str | None
    state: str
    hours: float | None
    """Of training, without those of the network it started from."""
    machine: str
    commit: str | None


@dataclass(frozen=True)
class PaperTable:
    """The whole table and what it was counted on."""

    data_title: str
    data_folder: str
    data_checksum: str
    generated: bool
    split: str
    num_images: int
    num_classes: int
    """What the networks choose among."""
    num_views: NumViews
    is_ilsvrc2012_val: bool
    """Whether the images are the 50,000 of ILSVRC-2012's validation."""
    rows: tuple[TableRow, ...]
    runs: tuple[TableRun, ...]


@dataclass
class _RunGroup:
    """The runs of one kind as they are read, so that no more than one run's probabilities are held."""

    runs: list[str] = field(default_factory=list)
    counts: list[ErrorCounts] = field(default_factory=list)
    total: npt.NDArray[np.float64] | None = None
    """Sum of their probabilities, (N, K)."""
    labels: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    """(N,), columns of these; the same for all runs."""

    def add(self, run: str, probabilities: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> None:
        self.runs.append(run)
        self.counts.append(count_errors(probabilities, labels))
        self.labels = labels
        wide = probabilities.astype(np.float64)
        self.total = wide if self.total is None else self.total + wide


def paper_table(
    run_folders: Sequence[Path], *, num_views: NumViews = 10, data_folder: Path | Sequence[Path] | None = None
) -> PaperTable:
    """Put runs into the rows of the paper's table; every error is counted here, from saved probabilities.

    `1 CNN` are the networks that started from random weights, `1 CNN*` those that started from another network: the
    mean of their errors. `5 CNNs` is the average of the probabilities of the former, `7 CNNs*` of all, in float64.

    Args:
        run_folders: runs of one data set, in any order.
        num_views: of the saved probabilities, or `dense`; a baseline has one view, whatever is asked for.
        data_folder: the prepared data set they were measured on, or several joined; None is what they were trained on.

    Raises:
        RequestError: no runs, one stands there twice, one has no probabilities of so many views, they belong to
            different data, or the paper has no row for one.
        WorkError: saved probabilities are damaged.
    """
    runs = [RunFolder.open(folder) for folder in run_folders]
    if not runs:
        raise RequestError("a table needs one run or more; name their folders")
    num_views = available_views(runs, num_views)
    if len({run.path.resolve() for run in runs}) < len(runs):
        raise RequestError(f"{', '.join(str(run.path) for run in runs)}: a run stands there twice; name each once")
    named = [data_folder] if isinstance(data_folder, Path) else data_folder
    data = _data_of_all(runs) if named is None else open_data(named)
    split = data.evaluation_split
    if split not in data.splits or not len(data.splits[split]) or data.splits[split].labels.min() < 0:
        raise RequestError(f"split {split!r} of {data.folder} is missing, empty or without labels: no errors to count")
    groups = {name: _RunGroup() for name in (FISHER, SPARSE, ONE, ONE_STARTED)}
    behind: list[TableRun] = []
    class_ids: tuple[str, ...] = ()
    for run in runs:
        facts, recipe = run.facts(), run.any_recipe()
        group = groups[_row_of(run, recipe, facts)]
        found = _predictions(run, data, split, num_views, named or [])
        class_ids = class_ids or found.class_ids
        if different := _class_difference(class_ids, found.class_ids):
            raise RequestError(f"{runs[0].path} and {run.path} know different classes: {different[0]}")
        group.add(str(run.path), found.probabilities, found.labels(data))
        behind.append(_behind(run, recipe, facts))
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
        rows=tuple(_row(name, groups, num_classes) for name in PAPER),
        runs=tuple(behind),
    )


def _data_of_all(runs: Sequence[RunFolder]) -> PreparedData:
    """The data set that all the runs were trained on."""
    first, checksum = runs[0], _checksum(runs[0])
    data = open_data(first.data_folders())
    if data.checksum != checksum:
        raise RequestError(
            f"{data.folder} holds other data (checksum {data.checksum[:12]}) than {first.path} was trained on "
            f"({checksum[:12]}); put the data back, or evaluate the runs again on one data set"
        )
    for run in runs[1:]:
        if _checksum(run) != data.checksum:
            raise RequestError(
                f"{first.path} and {run.path} belong to different data: {_difference(data, run)}; "
                "a table holds runs of one data set"
            )
    return data


def _checksum(run: RunFolder) -> str:
    """Of the data that the run was trained on."""
    try:
        checksum: str = run.facts()["data"]["checksum"]
    except KeyError as error:
        raise WorkError(f"{run.path / 'run.json'} does not say which data the run is of; train again") from error
    return checksum


def _difference(data: PreparedData, run: RunFolder) -> str:
    """In what the data of a run differ from `data`, in words."""
    other = run.facts()["data"]
    words = [f"{data.title!r} and {other['title']!r} (checksums {data.checksum[:12]} and {other['checksum'][:12]})"]
    split, counts = data.evaluation_split, other["splits"]
    other_split = "val" if "val" in counts else "test"
    num, other_num = len(data.splits[split]), counts.get(other_split, 0)
    if (split, num) != (other_split, other_num):
        words.append(f"{num:,} images of split {split!r} and {other_num:,} of {other_split!r}")
    if data.num_classes != other["num_classes"]:
        words.append(f"{data.num_classes:,} classes and {other['num_classes']:,}")
    try:
        ids = [one.id for one in open_data(run.data_folders()).classes]
    except AlexNetError:  # they are gone: what the run noted must do
        return ", ".join(words)
    return ", ".join([*words, *_class_difference([one.id for one in data.classes], ids)])


def _class_difference(own: Sequence[str], other: Sequence[str]) -> list[str]:
    """The first place at which two lists of class ids differ, in words; nothing where they do not."""
    pairs = enumerate(itertools.zip_longest(own, other, fillvalue="none"))
    return [f"class number {place} is {mine!r} and {theirs!r}" for place, (mine, theirs) in pairs if mine != theirs][:1]


def _row_of(run: RunFolder, recipe: Recipe | BaselineRecipe, facts: Mapping[str, Any]) -> str:
    """Which row a run belongs to by itself."""
    if isinstance(recipe, BaselineRecipe):
        return _BASELINES[recipe.kind]
    if recipe.name in _BASELINES:
        return _BASELINES[recipe.name]
    if facts.get("start_from") or facts.get("copied_layers"):
        return ONE_STARTED
    if recipe.network.variant.startswith("six-conv"):
        raise RequestError(
            f"{run.path} has six convolutions and did not start from another network; the paper's table has no row "
            "for it: leave it out, or name the run that started from it"
        )
    return ONE


def _predictions(
    run: RunFolder, data: PreparedData, split: str, num_views: NumViews, named: Sequence[Path]
) -> Predictions:
    """What the run saved of the split, in the split's order."""
    folder = predictions_folder(run.path, _checksum(run), data.checksum)
    num_views = available_views([run], num_views)
    if not predictions_path(folder, split, num_views).is_file():
        words = ["alexnet", "evaluate", str(run.path), "--views", str(num_views)]
        words += ["--data", *map(str, named)] if named else []
        raise RequestError(
            f"{run.path} has no saved probabilities of {describe_views(num_views)} of split {split!r} of {data.title}; "
            f"`{shlex.join(words)}` makes them"
        )
    found = load_predictions(folder, split, num_views, data)
    if not np.array_equal(found.samples, np.arange(len(found.probabilities))):
        raise WorkError(f"the probabilities of {run.path} are not in the order of split {split!r}; evaluate again")
    return found


def _behind(run: RunFolder, recipe: Recipe | BaselineRecipe, facts: Mapping[str, Any]) -> TableRun:
    events = run.events()
    seconds = facts.get("duration_s")
    if seconds is None:  # it has not finished
        seconds = next((event["elapsed_s"] for event in reversed(events) if "elapsed_s" in event), None)
    machine = facts.get("machine") or {}
    words = [str(machine.get("processor") or "an unknown processor")]
    words += [f"{machine['cores']} cores"] if machine.get("cores") else []
    accelerators = {str(event.get("device", "cpu")) for event in events if event["event"] == "start"} - {"cpu"}
    if accelerators:
        words.append(str(machine.get("gpu") or f"{' and '.join(sorted(accelerators))}, its name not recorded"))
    return TableRun(
        run=str(run.path),
        recipe=recipe.name,
        variant=None if isinstance(recipe, BaselineRecipe) or recipe.name in _BASELINES else recipe.network.variant,
        changes=tuple(changes_of(recipe)),
        start_from=facts.get("start_from"),
        state=str(facts.get("state")),
        hours=None if seconds is None else seconds / 3600,
        machine=", ".join(words),
        commit=facts.get("commit"),
    )


def is_ilsvrc2012_val(data: PreparedData, split: str) -> bool:
    """Whether these are ILSVRC-2012's validation images: its 1,000 classes, 50 images of each."""
    if split != "val" or {one.id for one in data.classes} != set(synset_words()):
        return False
    return bool((np.bincount(data.splits[split].labels, minlength=data.num_classes) == 50).all())


def _row(name: str, groups: Mapping[str, _RunGroup], num_classes: int) -> TableRow:
    """The row of that name, without figures where there are no runs for it."""
    label, how = name, ""
    if name in _AVERAGES:
        papers_number, star = _AVERAGES[name]
        parts = [groups[ONE], groups[ONE_STARTED]] if star else [groups[ONE]]
        runs = [run for group in parts for run in group.runs]
        totals = [group.total for group in parts if group.total is not None]
        if len(runs) < 2 or len(totals) < len(parts):
            return TableRow(name, name, "", (), None, None, PAPER[name])
        counts = [count_errors(sum(totals[1:], start=totals[0]) / len(runs), parts[0].labels)]
        how = "average of the probabilities of"
        label = f"{len(runs)} CNNs{star}" + ("" if len(runs) == papers_number else f" (paper: {papers_number})")
    else:
        runs, counts = groups[name].runs, groups[name].counts
        if not runs:
            return TableRow(name, name, "", (), None, None, PAPER[name])
        if len(runs) > 1:
            label, how = f"{name} (mean of {len(runs)})", "mean of the errors of"
        else:
            how = "the error of"
    top1 = _figure([one.top1_wrong for one in counts], counts[0].num)
    top5 = _figure([one.top5_wrong for one in counts], counts[0].num) if num_classes >= TOP5_CLASSES else None
    return TableRow(name, label, how, tuple(runs), top1, top5, PAPER[name])


def _figure(wrong: Sequence[Fraction], num: int) -> MeasuredError:
    """The figure of one network, or of several by their mean, from the images that each got wrong."""
    mean = sum(wrong, start=Fraction(0)) / len(wrong)
    extremes = (float(min(wrong) / num), float(max(wrong) / num)) if len(wrong) > 1 else (None, None)
    return MeasuredError(float(mean / num), wilson_interval(mean, num), *extremes)
