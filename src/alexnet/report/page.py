"""The report of a run: one HTML file that needs no network and no other file."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from alexnet.data.dataset import PreparedData
from alexnet.errors import RequestError, WorkError
from alexnet.evaluation.metrics import METRICS
from alexnet.figures.panel import PANEL_STYLE
from alexnet.report import contents
from alexnet.report.formatting import jinja_environment
from alexnet.runs.baseline_recipe import BaselineRecipe
from alexnet.runs.folder import RunFolder
from alexnet.runs.overview import changes_of
from alexnet.runs.recipe import epochs_of
from alexnet.storage.atomic import write_text

_STATES = {
    "running": (
        "This training had not ended when the page was written: it was still going on, or its process was killed. "
        "What follows is what its folder held."
    ),
    "interrupted": "This training was interrupted before its end. What follows is what it had reached.",
    "failed": "This training failed before its end. What follows is what it had reached.",
}


def write_report(run_folder: Path, data: PreparedData | None) -> Path:
    """Write `report.html` into a run folder, from that folder's files alone; an older page is replaced whole.

    A piece that is not there (no evaluation yet, no weights yet) is named on the page as missing.

    Args:
        run_folder: the run.
        data: the data set the run was trained on, for the pictures; None leaves them out.

    Returns:
        The page's path.

    Raises:
        RequestError: no run folder, or `data` is another data set than the run's.
        WorkError: the page cannot be written.
    """
    run = RunFolder.open(run_folder)
    page = render(run, data)
    path = run_folder / "report.html"
    try:
        write_text(path, page)
    except OSError as error:
        raise WorkError(f"cannot write {path}: {error.strerror or error}; make room and run the same again") from error
    return path


def render(run: RunFolder, data: PreparedData | None) -> str:
    """The page's HTML; see `write_report`."""
    facts, recipe = run.facts(), run.any_recipe()
    network = None if isinstance(recipe, BaselineRecipe) else recipe
    described: Mapping[str, Any] = facts.get("data") or {}
    if data is not None and described.get("checksum") not in (None, data.checksum):
        raise RequestError(
            f"{data.folder} is not the data set {run.path} was trained on: its checksum is {data.checksum[:12]}, "
            f"the run's {described['checksum'][:12]}; name the data set at {' and '.join(map(str, run.data_folders()))}"
        )
    events = run.events()
    evaluations = contents.ordered(contents.on_own_data(run.evaluations(), described.get("checksum")))
    best = contents.best_of(evaluations)
    measured = [event for event in events if event["event"] == "validation"]
    loss_curve, error_curve = contents.curves(
        events, f"{measured[-1]['split']} images, one view" if measured else "validation"
    )
    right, wrong = contents.panels(run, data, best)
    classes, num_classes = contents.class_rows(best) if best else ([], 0)
    template = jinja_environment().get_template("report.html.j2")
    return template.render(
        name=facts.get("name", run.path.name),
        recipe=recipe,
        data_title=described.get("title") or (data.title if data else "unknown data"),
        generated=bool(described.get("generated") or (data is not None and data.generated)),
        state=facts.get("state"),
        state_note=_STATES.get(facts.get("state", ""), ""),
        baseline=network is None,
        reached="" if network is None else _reached(events, epochs_of(network.schedule)),
        rows=[(one, contents.published(one, network.network.variant) if network else None) for one in evaluations],
        best=best,
        metrics=METRICS,
        last_measured=measured[-1] if measured else None,
        loss_curve=loss_curve,
        error_curve=error_curve,
        epochs=contents.epoch_rows(events),
        filters=contents.first_layer(run),
        right=right,
        wrong=wrong,
        num_pictures=contents.NUM_PICTURES,
        classes=classes,
        num_classes=num_classes,
        confused=contents.confused_rows(best) if best else [],
        changes=changes_of(recipe),
        settings=contents.settings(recipe),
        run_environment=contents.run_environment(facts),
        run_path=shlex.quote(str(run.path)),
        panel_style=Markup(PANEL_STYLE),
    )


def _reached(events: list[dict[str, Any]], epochs: float) -> str:
    """How far the log goes, in words."""
    positions = [event for event in events if "step" in event and "epoch" in event]
    if not positions:
        return f"Its log holds no step of the {epochs:g} epochs."
    last = max(positions, key=lambda event: int(event["step"]))
    return f"Its log goes to step {last['step']:,}, epoch {last['epoch']:.4g} of {epochs:g}."
