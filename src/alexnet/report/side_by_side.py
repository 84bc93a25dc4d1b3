"""The page on several runs: a column for each, with errors only where they were measured on the same images."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from alexnet.data.dataset import PreparedData
from alexnet.errors import AlexNetError
from alexnet.evaluation.compare import PairedTest
from alexnet.evaluation.metrics import top_k_credits
from alexnet.evaluation.paired import TOP5_CLASSES, iterate_predictions, mcnemar, paired_difference, reported_errors
from alexnet.evaluation.predictions import describe_views
from alexnet.report.contents import Section, data_of, headline_evaluation, next_commands, sort_evaluations
from alexnet.report.filter_section import filters_section
from alexnet.report.formatting import format_percent, jinja_environment
from alexnet.report.opening import chance_error, describe_split
from alexnet.report.run_tables import settings
from alexnet.report.training_course import training_cost
from alexnet.runs.baseline_recipe import BaselineRecipe
from alexnet.runs.folder import AnyRecipe, RunFolder
from alexnet.runs.import_recipe import ImportRecipe
from alexnet.runs.learning_curves import curves_of_runs
from alexnet.storage.own_pictures import write_picture
from alexnet.system.number_text import percent_text
from alexnet.system.visible_text import visible

MOST_CLASSES = 20
_MOST_RUNS_FOR_ALL_PAIRS = 5
_COSTS = (
    "parameters",
    "multiply-adds for an image",
    "passes over the training images",
    "multiply-adds of the training",
    "training throughput",
    "training time",
    "peak memory",
    "machine",
)

Evaluation = Mapping[str, Any]


@dataclass(frozen=True)
class ComparedRun:
    """A run of the page."""

    label: str
    """Unique in the page."""
    run: RunFolder
    recipe: AnyRecipe
    events: Sequence[Mapping[str, Any]]
    evaluations: Sequence[Evaluation]
    data: PreparedData | None
    """The data set to read images and labels from."""


@dataclass(frozen=True)
class RunPair:
    """Two runs on the same images."""

    first: str
    second: str
    tests: Mapping[str, PairedTest]
    """By error: `top1`, and with 20 classes or more `top5`."""


def write_side_by_side(runs: Sequence[RunFolder], data: Sequence[PreparedData | None], path: Path) -> Path:
    """Write the page on several runs, replacing an older page.

    Args:
        runs: two or more.
        data: for each run the data set that it was evaluated on; None leaves out the paired tests.
        path: the file to write.

    Returns:
        `path`.

    Raises:
        RequestError: the page cannot be written there.
        WorkError: a file of a run is damaged, or the disk is full.
    """
    compared = _compared_runs(runs, data)
    shared = shared_evaluations(compared)
    group, common = [compared[number] for number in shared], list(shared.values())
    left_out = [one for number, one in enumerate(compared) if number not in shared]
    pairs = _paired_tests(group, common) if common else []
    template = jinja_environment().get_template("side_by_side.html.j2")
    logs = {visible(one.label): one.events for one in compared}
    curves = [
        curves_of_runs(logs, "top1_error", name="curve-error"),
        curves_of_runs(logs, "loss", name="curve-loss"),
        curves_of_runs(logs, "loss", name="curve-training", of_training=True),
    ]
    checksums = {data_of(one.run).get("checksum") for one in compared}
    page = template.render(
        runs=compared,
        opening=_opening(group, common, pairs) if common else _not_comparable(compared),
        unfinished=[one.label for one in compared if one.run.state != "finished"],
        why_not=_why_not(left_out),
        group=group,
        common=common,
        views="" if not common else _views(group, common),
        rows=_rows(compared, shared),
        least_top5=TOP5_CLASSES if common and common[0]["num_classes"] < TOP5_CLASSES else 0,
        generated=any(data_of(one.run).get("generated") for one in compared),
        pairs=pairs,
        is_all_pairs=len(group) <= _MOST_RUNS_FOR_ALL_PAIRS,
        curves=[Section(Markup(one)) for one in curves if one is not None],
        same_data=len(checksums) == 1,
        filters=[
            (one.label, section)
            for number, one in enumerate(compared)
            if (section := filters_section(one.run, f"filters-{number}", with_colors=False)) is not None
        ],
        classes=_class_rows(common),
        num_classes=len(common[0]["per_class"]) if common else 0,
        settings=_differing_settings(compared),
        folders=[(one.label, str(one.run.path)) for one in compared],
    )
    return write_picture(path, page)


def _compared_runs(runs: Sequence[RunFolder], data: Sequence[PreparedData | None]) -> list[ComparedRun]:
    names = [run.metadata().get("name", run.path.name) for run in runs]
    return [
        ComparedRun(
            label=name if names.count(name) == 1 else str(run.path),
            run=run,
            recipe=run.any_recipe(),
            events=run.events(),
            evaluations=list(run.evaluations().values()),
            data=one,
        )
        for name, run, one in zip(names, runs, data, strict=True)
    ]


def shared_evaluations(runs: Sequence[ComparedRun]) -> dict[int, Evaluation]:
    """One evaluation of each run, by its number, all of the same images; of as many runs as have one, at least two.

    Empty if no two runs were measured on the same images.

    Networks must have used the same number of views, baselines have one of their own. Of several, it is the one
    that the pages of single runs show too, of the data set that the runs were trained on or that is named, if there is
    one.
    """
    found: dict[str, dict[int, Evaluation]] = {}
    measured: dict[str, Evaluation] = {}
    own = {data_of(one.run).get("checksum") if one.data is None else one.data.checksum for one in runs}
    candidates = {(one["data_checksum"], one["split"], one["num_views"]) for run in runs for one in run.evaluations}
    for checksum, split, views in sorted(candidates, key=lambda one: (one[0] not in own, *map(str, one))):
        chosen: dict[int, Evaluation] = {}
        for number, run in enumerate(runs):
            is_baseline = isinstance(run.recipe, BaselineRecipe)
            for one in run.evaluations:
                is_same = (one["data_checksum"], one["split"]) == (checksum, split)
                if is_same and (is_baseline or one["num_views"] == views):
                    chosen.setdefault(number, one)
        if len(chosen) > 1:
            name = f"{checksum} {split} {views}"
            found[name] = chosen
            measured[name] = {"name": name, "data_checksum": checksum, "split": split, "num_views": views}
    most = max(map(len, found.values()), default=0)
    measured = {name: one for name, one in measured.items() if len(found[name]) == most}
    of_own = {name: one for name, one in measured.items() if one["data_checksum"] in own} or measured
    best = headline_evaluation(sort_evaluations(of_own))
    return found[best["name"]] if best else {}


def _views(runs: Sequence[ComparedRun], common: Sequence[Evaluation]) -> str:
    of_networks = [
        one["num_views"] for run, one in zip(runs, common, strict=True) if not isinstance(run.recipe, BaselineRecipe)
    ]
    if not of_networks:
        return ""
    return describe_views(of_networks[0]) + (" (of baselines 1)" if len(of_networks) < len(runs) else "")


def _why_not(runs: Sequence[ComparedRun]) -> list[str]:
    """What each run was measured on, and how to measure it."""
    lines = []
    for one in runs:
        own = data_of(one.run)
        titles = {own.get("checksum"): own.get("title")}
        measured = [
            f"{describe_views(found['num_views'])} of split {found['split']} of "
            f"{titles.get(found['data_checksum']) or 'data'} ({found['data_checksum'][:12]})"
            for found in one.evaluations
        ]
        command = next_commands(one.run)["evaluate"]
        lines.append(
            f"{one.label}: {'; '.join(measured) or 'not evaluated'}"
            + (f". Evaluate it with: {command}" if command and not measured else ".")
        )
    return lines


def _rows(runs: Sequence[ComparedRun], shared: Mapping[int, Evaluation]) -> list[tuple[str, list[tuple[str, str]]]]:
    """The first table: for each row its name and a cell for each run, of text and a note."""
    found = [shared.get(number) for number in range(len(runs))]
    rows: list[tuple[str, list[tuple[str, str]]]] = [
        ("kind", [(_kind(one.recipe), "") for one in runs]),
        ("state", [(one.run.state, "") for one in runs]),
        (
            "trained on",
            [
                ("unknown" if one.run.is_imported else str(data_of(one.run).get("title") or "unknown"), "")
                for one in runs
            ],
        ),
    ]
    for key, name in (("top1", "top-1 error"), ("top5", "top-5 error")):
        if any(one and key in reported_errors(one["num_classes"]) for one in found):
            rows.append((name, [_error_cell(one, key) for one in found]))
    if shared:
        rows.append(("loss, nats", [(f"{one['loss']:.4f}" if one else "–", "") for one in found]))
        rows.append(("expected calibration error", [(_calibration_cell(one), "") for one in found]))
    newest = [one or (run.evaluations[-1] if run.evaluations else None) for one, run in zip(found, runs, strict=True)]
    costs = [training_cost(one.run, one.events, evaluation) for one, evaluation in zip(runs, newest, strict=True)]
    for cost in costs:
        if so_far := cost.pop("training time so far", None):
            cost["training time"] = f"{so_far} so far"
    rows += [
        (name, [(cost.get(name, "–"), "") for cost in costs]) for name in _COSTS if any(name in cost for cost in costs)
    ]
    return rows


def _error_cell(one: Evaluation | None, key: str) -> tuple[str, str]:
    if one is None:
        return "–", "left out"
    low, high = map(format_percent, one[f"{key}_interval"])
    return format_percent(one[f"{key}_error"]), f"[{low}, {high}]"


def _calibration_cell(one: Evaluation | None) -> str:
    if one is None:
        return "–"
    found = one.get("calibration")
    return format_percent(found["expected_error"]) if found else "unknown"


def _kind(recipe: AnyRecipe) -> str:
    if isinstance(recipe, BaselineRecipe):
        return f"baseline {recipe.kind}"
    how = f"imported from {recipe.imported.name}" if isinstance(recipe, ImportRecipe) else f"recipe {recipe.name}"
    width = "" if recipe.network.width == 1 else f", width {recipe.network.width:g}"
    return f"network {recipe.network.variant}{width}, {how}"


def _paired_tests(runs: Sequence[ComparedRun], common: Sequence[Evaluation]) -> list[RunPair] | Section:
    """The tests of all pairs of runs, or, of more than five runs, of the first run with each other one."""
    checksum, split = common[0]["data_checksum"], common[0]["split"]
    data = next((one.data for one in runs if one.data is not None and one.data.checksum == checksum), None)
    if data is None:
        return Section(missing="The data set was not found, so the paired tests are missing; name it with --data.")
    num_views = next((one["num_views"] for one, run in zip(common, runs, strict=True) if not run.run.is_baseline), 1)
    try:
        predictions = list(iterate_predictions([one.run for one in runs], data, split, num_views, data.folder))
    except AlexNetError as error:
        return Section(missing=f"The paired tests are missing: {error}.")
    labels = predictions[0].labels(data)
    errors = reported_errors(len(predictions[0].class_ids))
    credits = [{name: top_k_credits(one.probabilities, labels, k) for name, k in errors.items()} for one in predictions]
    numbers = list(itertools.combinations(range(len(runs)), 2))
    if len(runs) > _MOST_RUNS_FOR_ALL_PAIRS:
        numbers = [pair for pair in numbers if pair[0] == 0]
    return [
        RunPair(
            first=runs[first].label,
            second=runs[second].label,
            tests={
                name: PairedTest(
                    mcnemar(credits[first][name] < 1, credits[second][name] < 1),
                    paired_difference(credits[first][name], credits[second][name]),
                )
                for name in errors
            },
        )
        for first, second in numbers
    ]


def _opening(runs: Sequence[ComparedRun], common: Sequence[Evaluation], pairs: Sequence[RunPair] | Section) -> str:
    """What the comparison shows, and how sure that is."""
    order = sorted(range(len(runs)), key=lambda number: float(common[number]["top1_error"]))
    best, second = runs[order[0]].label, runs[order[1]].label
    found = common[order[0]]
    first = [runs[number].label for number in order if common[number]["top1_error"] == found["top1_error"]]
    who = f"{best} misclassifies" if len(first) == 1 else f"{', '.join(first[:-1])} and {first[-1]} misclassify"
    low, high = found["top1_interval"]
    chance, how = chance_error(found)
    title = data_of(runs[0].run).get("title") or "the data set"
    start = (
        f"Of {len(runs)} runs measured on the same {found['num_images']:,} {describe_split(found['split'])} images of "
        f"{title}, {who} the fewest: {100 * found['top1_error']:.1f} % (95 % interval {100 * low:.1f} to "
        f"{100 * high:.1f} %); {how} would misclassify {percent_text(chance, 3)}"
    )
    if high >= chance:
        return start + ", so these images do not show that any of them has learned anything."
    if len(first) > 1:
        return start + "."
    test = None
    if not isinstance(pairs, Section):
        test = next((one for one in pairs if {one.first, one.second} == {best, second}), None)
    if test is None:
        return start + "."
    difference = test.tests["top1"].difference
    ends = sorted(abs(end) for end in difference.interval)
    if difference.interval[0] <= 0 <= difference.interval[1]:
        return start + f". These images do not show that it is better than {second}."
    return start + (
        f". It is better than {second} by {100 * abs(difference.difference):.1f} points (95 % interval "
        f"{100 * ends[0]:.1f} to {100 * ends[1]:.1f})."
    )


def _not_comparable(runs: Sequence[ComparedRun]) -> str:
    return (
        f"These {len(runs)} runs have not been measured on the same images in the same way, so their errors cannot be "
        "compared."
    )


def _class_rows(common: Sequence[Evaluation]) -> list[tuple[str, int, list[float]]]:
    """The classes whose errors differ most: name, images, and the error of each run."""
    if not common:
        return []
    by_id = [{one["id"]: one for one in found["per_class"]} for found in common]
    rows = []
    for one in common[0]["per_class"]:
        if one["num_images"] and all(one["id"] in found for found in by_id):
            errors = [float(found[one["id"]]["top1_error"]) for found in by_id]
            rows.append((one["name"], one["num_images"], errors))
    return sorted(rows, key=lambda row: min(row[2]) - max(row[2]))[:MOST_CLASSES]


def _differing_settings(runs: Sequence[ComparedRun]) -> list[tuple[str, list[str]]]:
    """The settings in which the recipes differ, with the value of each run."""
    flat = [
        {f"{group}.{key}": value for group, table in settings(one.recipe).items() for key, value in table.items()}
        for one in runs
    ]
    names = list(dict.fromkeys(itertools.chain.from_iterable(flat)))
    rows = [(name, [one.get(name, "–") or "none" for one in flat]) for name in names]
    return [row for row in rows if len(set(row[1])) > 1]
