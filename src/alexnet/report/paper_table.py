"""The paper's table of errors with our runs beside it, counted anew from the probabilities in the run folders.

Paper: table 2 (ILSVRC-2012); the row of sparse coding is of table 1 (ILSVRC-2010). Errors are fractions in code and
JSON, percent with one decimal in print, as the paper has them.
"""

import itertools
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from alexnet.data.joined import open_data
from alexnet.data.prepared import PreparedData
from alexnet.data.synsets import synset_words
from alexnet.errors import AlexNetError, RequestError, WorkError
from alexnet.evaluation.metrics import Counts, count_errors, wilson_interval
from alexnet.evaluation.predictions import NumViews, Predictions, load_predictions, predictions_path
from alexnet.report.layout import readable
from alexnet.runs.folder import RunFolder
from alexnet.runs.recipe import Recipe
from alexnet.runs.recipe_file import recipe_differences
from alexnet.runs.recipes import RECIPES

TOP5_CLASSES = 20
"""With fewer classes the top-5 error says little and is not given."""


@dataclass(frozen=True)
class PaperFigures:
    """What the paper says in a row, fractions; None where it says nothing."""

    top1_error: float | None
    top5_error: float | None
    test_top5_error: float | None
    where: str = "table 2, ILSVRC-2012: validation, test"


FISHER, SPARSE, ONE, FIVE, ONE_STARTED, SEVEN = "SIFT + FVs", "Sparse coding", "1 CNN", "5 CNNs", "1 CNN*", "7 CNNs*"
PAPER = {
    FISHER: PaperFigures(None, None, 0.262),
    SPARSE: PaperFigures(0.471, 0.282, None, "table 1, ILSVRC-2010: test"),
    ONE: PaperFigures(0.407, 0.182, None),
    FIVE: PaperFigures(0.381, 0.164, 0.164),
    ONE_STARTED: PaperFigures(0.390, 0.166, None),
    SEVEN: PaperFigures(0.367, 0.154, 0.153),
}
"""The rows by the paper's own label, in its order."""
_BASELINES = {"sift-fisher": FISHER, "sparse-coding": SPARSE}
_AVERAGES = {FIVE: (5, ""), SEVEN: (7, "*")}


@dataclass(frozen=True)
class Figure:
    """An error of ours, a fraction."""

    error: float
    """Of several networks that are not averaged: the mean."""
    interval: tuple[float, float]
    """95 %, Wilson's, over the images."""
    lowest: float | None = None
    """Of several networks that are not averaged; None of one."""
    highest: float | None = None


@dataclass(frozen=True)
class Row:
    """One row: the runs behind it, and the figures that follow from them."""

    name: str
    """The paper's label."""
    label: str
    """What is printed: it says how many networks there are where that is not the paper's number."""
    how: str
    """How the runs became one figure, in words."""
    runs: tuple[str, ...]
    """None where no such run was given; then there is no figure of ours."""
    top1: Figure | None
    top5: Figure | None
    """None with fewer than 20 classes, too."""
    paper: PaperFigures


@dataclass(frozen=True)
class RunBehind:
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
    is_the_papers: bool
    """Whether the images are the 50,000 of ILSVRC-2012's validation."""
    rows: tuple[Row, ...]
    runs: tuple[RunBehind, ...]


@dataclass
class _Group:
    """The runs of one kind as they are read, so that no more than one run's probabilities are held."""

    runs: list[str] = field(default_factory=list)
    counts: list[Counts] = field(default_factory=list)
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
        num_views: of the saved probabilities, or `dense`.
        data_folder: the prepared data set they were measured on, or several joined; None is what they were trained on.

    Raises:
        RequestError: no runs, one stands there twice, one has no probabilities of so many views, they belong to
            different data, or the paper has no row for one.
        WorkError: saved probabilities are damaged.
    """
    runs = [RunFolder.open(folder) for folder in run_folders]
    if not runs:
        raise RequestError("a table needs one run or more; name their folders")
    if len({run.path.resolve() for run in runs}) < len(runs):
        raise RequestError(f"{', '.join(str(run.path) for run in runs)}: a run stands there twice; name each once")
    named = [data_folder] if isinstance(data_folder, Path) else data_folder
    data = _data_of_all(runs) if named is None else open_data(named)
    split = data.evaluation_split
    if split not in data.splits or not len(data.splits[split]) or data.splits[split].labels.min() < 0:
        raise RequestError(f"split {split!r} of {data.folder} is missing, empty or without labels: no errors to count")
    groups = {name: _Group() for name in (FISHER, SPARSE, ONE, ONE_STARTED)}
    behind: list[RunBehind] = []
    class_ids: tuple[str, ...] = ()
    for run in runs:
        facts, recipe = run.facts(), run.recipe()
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
        is_the_papers=is_the_papers(data, split) and num_classes == data.num_classes,
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


def _row_of(run: RunFolder, recipe: Recipe, facts: Mapping[str, Any]) -> str:
    """Which row a run belongs to by itself."""
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
    own = data.checksum == _checksum(run)
    folder = run.path / "predictions" / ("" if own else data.checksum[:12])
    if not predictions_path(folder, split, num_views).is_file():
        words = ["alexnet", "evaluate", str(run.path), "--views", str(num_views)]
        words += ["--data", *map(str, named)] if named else []
        raise RequestError(
            f"{run.path} has no saved probabilities of {_views(num_views)} of split {split!r} of {data.title}; "
            f"`{shlex.join(words)}` makes them"
        )
    found = load_predictions(folder, split, num_views, data)
    if not np.array_equal(found.samples, np.arange(len(found.probabilities))):
        raise WorkError(f"the probabilities of {run.path} are not in the order of split {split!r}; evaluate again")
    return found


def _behind(run: RunFolder, recipe: Recipe, facts: Mapping[str, Any]) -> RunBehind:
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
    return RunBehind(
        run=str(run.path),
        recipe=recipe.name,
        variant=None if recipe.name in _BASELINES else recipe.network.variant,
        changes=tuple(recipe_differences(RECIPES[recipe.name], recipe)) if recipe.name in RECIPES else (),
        start_from=facts.get("start_from"),
        state=str(facts.get("state")),
        hours=None if seconds is None else seconds / 3600,
        machine=", ".join(words),
        commit=facts.get("commit"),
    )


def is_the_papers(data: PreparedData, split: str) -> bool:
    """Whether these are ILSVRC-2012's validation images: its 1,000 classes, 50 images of each."""
    if split != "val" or {one.id for one in data.classes} != set(synset_words()):
        return False
    return bool((np.bincount(data.splits[split].labels, minlength=data.num_classes) == 50).all())


def _row(name: str, groups: Mapping[str, _Group], num_classes: int) -> Row:
    """The row of that name, without figures where there are no runs for it."""
    label, how = name, ""
    if name in _AVERAGES:
        papers_number, star = _AVERAGES[name]
        parts = [groups[ONE], groups[ONE_STARTED]] if star else [groups[ONE]]
        runs = [run for group in parts for run in group.runs]
        totals = [group.total for group in parts if group.total is not None]
        if len(runs) < 2 or len(totals) < len(parts):
            return Row(name, name, "", (), None, None, PAPER[name])
        counts = [count_errors(sum(totals[1:], start=totals[0]) / len(runs), parts[0].labels)]
        how = "average of the probabilities of"
        label = f"{len(runs)} CNNs{star}" + ("" if len(runs) == papers_number else f" (paper: {papers_number})")
    else:
        runs, counts = groups[name].runs, groups[name].counts
        if not runs:
            return Row(name, name, "", (), None, None, PAPER[name])
        if len(runs) > 1:
            label, how = f"{name} (mean of {len(runs)})", "mean of the errors of"
        else:
            how = "the error of"
    top1 = _figure([one.top1_wrong for one in counts], counts[0].num)
    top5 = _figure([one.top5_wrong for one in counts], counts[0].num) if num_classes >= TOP5_CLASSES else None
    return Row(name, label, how, tuple(runs), top1, top5, PAPER[name])


def _figure(wrong: Sequence[Fraction], num: int) -> Figure:
    """The figure of one network, or of several by their mean, from the images that each got wrong."""
    mean = sum(wrong, start=Fraction(0)) / len(wrong)
    extremes = (float(min(wrong) / num), float(max(wrong) / num)) if len(wrong) > 1 else (None, None)
    return Figure(float(mean / num), wilson_interval(mean, num), *extremes)


def as_json(table: PaperTable) -> dict[str, Any]:
    """The table as one JSON object: what `PaperTable` holds, and as `notes` the lines that stand under it."""
    content: dict[str, Any] = json.loads(json.dumps({**asdict(table), "notes": notes(table)}))
    return content


def as_markdown(table: PaperTable) -> str:
    """The table in GitHub's Markdown, and under it a list of what it was counted on."""
    heads = [f"top-{k} ({table.split}), %" for k in (1, 5)]
    heads += [f"paper: {what}, %" for what in ("top-1 (val)", "top-5 (val)", "top-5 (test)")]
    lines = ["| model | " + " | ".join(heads) + " |", "| --- |" + " ---: |" * len(heads)]
    lines += [f"| {markdown_text(row.label)} | " + " | ".join(_cells(row)) + " |" for row in table.rows]
    return "\n".join([*lines, "", *(f"- {markdown_text(note)}" for note in notes(table))])


def as_latex(table: PaperTable) -> str:
    """The table as a LaTeX `table` that needs no package, and under it what it was counted on."""
    split = latex_text(table.split)
    lines = [
        r"\begin{table}",
        r"\centering",
        r"\begin{tabular}{lrrrrr}",
        r"\hline",
        rf" & \multicolumn{{2}}{{c}}{{ours ({split}), \%}} & \multicolumn{{3}}{{c}}{{the paper's, \%}} \\",
        r"Model & Top-1 & Top-5 & Top-1 (val) & Top-5 (val) & Top-5 (test) \\",
        r"\hline",
        *(f"{latex_text(row.label)} & {' & '.join(_cells(row))} " + r"\\" for row in table.rows),
        r"\hline",
        r"\end{tabular}",
        r"\begin{flushleft}\footnotesize",
        *(latex_text(note) + r"\par" for note in notes(table)),
        r"\end{flushleft}",
        r"\end{table}",
    ]
    return "\n".join(lines)


def notes(table: PaperTable) -> list[str]:
    """What must stand under the table, in plain sentences: data, intervals, the paper's task, the runs, their cost."""
    drawn = "; a program drew these images, they are no photographs" if table.generated else ""
    lines = [
        f"Ours: {table.data_title} (checksum {table.data_checksum[:12]}), split {table.split}, {table.num_images:,} "
        f"images, {table.num_classes:,} classes to choose from, {_views(table.num_views)}, counted from the "
        f"probabilities in the run folders{drawn}.",
        "In brackets: 95 % Wilson interval over the images. An empty place: no run of that kind was given.",
    ]
    if any(row.top1 and row.top1.lowest is not None for row in table.rows):
        lines.append(
            "Mean of several: in parentheses the lowest and the highest; the interval is that of one network with that "
            "error."
        )
    if table.num_classes < TOP5_CLASSES:
        lines.append(f"No top-5 error is given with fewer than {TOP5_CLASSES} classes.")
    if not table.is_the_papers:
        lines.append(
            "The paper's figures are of a different task (ILSVRC-2012: 1,000 classes, 50,000 validation images, in the "
            "last column its test images; ten views) and are not to be compared with ours."
        )
    elif table.num_views != 10:
        lines.append(f"The paper's figures are of ten views, ours of {_views(table.num_views)}.")
    lines.append("(table 1): of the test images of ILSVRC-2010; the paper has sparse coding there alone.")
    lines += [f"{row.label}: {row.how} {', '.join(row.runs)}." for row in table.rows if row.runs]
    return lines + [_cost(run) for run in table.runs]


def _cost(run: RunBehind) -> str:
    """A run in a sentence: what it was, how long it took, on what."""
    words = f"Run {run.run}: recipe {run.recipe}"
    words += f" (changed: {'; '.join(run.changes)})" if run.changes else ""
    words += f", variant {run.variant}" if run.variant else ""
    words += f", started from {run.start_from}, whose hours are not counted" if run.start_from else ""
    words += f", {run.state}, not finished" if run.state != "finished" else ""
    hours = "unknown hours" if run.hours is None else f"{run.hours:{',.2f' if run.hours >= 0.1 else '.2g'}} hours"
    return f"{words}; {hours} on {run.machine}; commit {run.commit or 'unknown'}."


def _cells(row: Row) -> list[str]:
    """The five figures of a row as printed; they need no escaping."""
    ours = [_printed(row.top1), _printed(row.top5)] if row.runs else ["", ""]
    mark = " (table 1)" if row.name == SPARSE else ""
    papers = (row.paper.top1_error, row.paper.top5_error, row.paper.test_top5_error)
    return ours + ["-" if one is None else f"{100 * one:.1f}{mark}" for one in papers]


def _printed(figure: Figure | None) -> str:
    """Percent, such as `18.2 [17.9, 18.5]`, with the lowest and the highest of several."""
    if figure is None:
        return "-"
    low, high = figure.interval
    text = f"{100 * figure.error:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
    if figure.lowest is None or figure.highest is None:
        return text
    return f"{text} ({100 * figure.lowest:.1f} to {100 * figure.highest:.1f})"


def _views(num_views: NumViews) -> str:
    return "1 view" if num_views == 1 else f"{num_views} views"  # `dense views`, too


def markdown_text(text: str) -> str:
    """Text of any origin for a cell or a line of Markdown: nothing in it is taken for markup."""
    return re.sub(r"([\\`*_{}\[\]<>#|~&$!@^])", r"\\\1", str(readable(text)))


_LATEX = {
    **{one: f"\\{one}" for one in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    # These are read as something else at some places: options, and pairs that become one sign.
    **{one: f"{{{one}}}" for one in "[]`'"},
    "/": r"/\allowbreak{}",
    "\N{REPLACEMENT CHARACTER}": "?",
}


def latex_text(text: str) -> str:
    """Text of any origin for LaTeX: every character that it would read as a command stands for itself."""
    return re.sub("-(?=-)", "{-}", "".join(_LATEX.get(one, one) for one in str(readable(text))))
