"""The report of a run: one self-contained HTML file."""

from pathlib import Path
from typing import Any

from markupsafe import Markup

from alexnet.data.dataset import PreparedData
from alexnet.errors import RequestError
from alexnet.evaluation.metrics import METRICS
from alexnet.figures.panel import PANEL_STYLE
from alexnet.report import contents
from alexnet.report.formatting import jinja_environment, write_page
from alexnet.report.published_errors import published_errors
from alexnet.report.weight_origin import weight_origin
from alexnet.runs.baseline_recipe import BaselineRecipe
from alexnet.runs.folder import RunFolder
from alexnet.runs.import_recipe import ImportRecipe
from alexnet.runs.overview import changes_of
from alexnet.runs.recipe import Recipe, epochs_of
from alexnet.system.visible_text import shell_words

_STATES = {
    "running": (
        "This training had not finished when the page was written: it was still running, or its process was killed. "
        "The page shows what was in the run folder."
    ),
    "interrupted": "This training was interrupted before it finished. The page shows its state at that time.",
    "failed": "This training failed before it finished. The page shows its state at that time.",
}


def write_report(run_folder: Path, data: PreparedData | None) -> Path:
    """Write `report.html` to a run folder, from that folder's files alone, replacing an older page.

    The page says which parts are missing, such as evaluations or weights that do not exist yet.

    Args:
        run_folder: the run.
        data: the data set that the run was trained on, or any on which an imported network was evaluated, to show
            images from; None omits them.

    Returns:
        The page's path.

    Raises:
        RequestError: no run folder, or `data` is not the run's data set.
        WorkError: the page cannot be written.
    """
    return write_page(run_folder / "report.html", _render(RunFolder.open(run_folder), data))


def _render(run: RunFolder, data: PreparedData | None) -> str:
    metadata, recipe = run.metadata(), run.any_recipe()
    network = None if isinstance(recipe, BaselineRecipe) else recipe.network
    imported = recipe if isinstance(recipe, ImportRecipe) else None
    described = contents.data_of(run)
    if imported is not None and data is not None:
        described = {"checksum": data.checksum}
    if data is not None and described.get("checksum") not in (None, data.checksum):
        raise RequestError(
            f"{data.folder} is not the data set that {run.path} was trained on: its checksum is {data.checksum[:12]}, "
            f"the run's {described['checksum'][:12]}; name the data set at {' and '.join(map(str, run.data_folders()))}"
        )
    events = run.events()
    evaluations = contents.sort_evaluations(contents.on_own_data(run.evaluations(), described.get("checksum")))
    best = contents.headline_evaluation(evaluations)
    validations = [event for event in events if event["event"] == "validation"]
    loss_curve, error_curve = contents.learning_curves(
        events, f"{validations[-1]['split']} images, one view" if validations else "validation"
    )
    correct, incorrect = contents.image_panels(run, data, best)
    classes, num_classes = contents.class_rows(best) if best else ([], 0)
    template = jinja_environment().get_template("report.html.j2")
    return template.render(
        name=metadata.get("name", run.path.name),
        recipe=recipe,
        data_title=described.get("title") or (data.title if data else "unknown data"),
        generated=bool(described.get("generated") or (data is not None and data.generated)),
        state=metadata.get("state"),
        state_note=_STATES.get(metadata.get("state", ""), "") if imported is None else _import_note(run),
        baseline=network is None,
        imported=imported,
        notes=metadata.get("notes", []),
        network=network,
        progress=_describe_progress(events, epochs_of(recipe.schedule)) if isinstance(recipe, Recipe) else "",
        rows=[(one, published_errors(one, network.variant) if network else None) for one in evaluations],
        best=best,
        metrics=METRICS,
        last_validation=validations[-1] if validations else None,
        loss_curve=loss_curve,
        error_curve=error_curve,
        epochs=contents.epoch_rows(events),
        origin=weight_origin(run),
        filters=None if network is None else contents.first_layer_filters(run),
        correct=correct,
        incorrect=incorrect,
        num_panel_images=contents.NUM_PANEL_IMAGES,
        classes=classes,
        num_classes=num_classes,
        confused=contents.confused_rows(best) if best else [],
        claimed_on=contents.data_of_claim(recipe.claim),
        changes=changes_of(recipe),
        settings=contents.settings(recipe),
        run_environment=contents.run_environment(metadata, data),
        commands=contents.next_commands(run),
        report_command=shell_words("alexnet", "report", run.path),
        panel_style=Markup(PANEL_STYLE),
    )


def _import_note(run: RunFolder) -> str:
    return "" if run.state == "finished" else f"This import was not finished; {run.how_to_continue()}."


def _describe_progress(events: list[dict[str, Any]], epochs: float) -> str:
    positions = [event for event in events if "step" in event and "epoch" in event]
    if not positions:
        return f"Its log has no steps yet; the recipe has {epochs:g} epochs."
    last = max(positions, key=lambda event: int(event["step"]))
    return f"Its log ends at step {last['step']:,}, epoch {last['epoch']:.4g} of {epochs:g}."
