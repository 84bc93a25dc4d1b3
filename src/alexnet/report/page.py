"""The report of a run: one self-contained HTML file."""

from pathlib import Path
from typing import Any

from markupsafe import Markup

from alexnet.data.dataset import PreparedData
from alexnet.errors import RequestError
from alexnet.evaluation.metrics import METRICS
from alexnet.figures.contact_sheet import THUMBNAIL_STYLE
from alexnet.figures.panel import PANEL_STYLE
from alexnet.report import contents
from alexnet.report.answered_images import (
    NUM_PANEL_IMAGES,
    AnsweredImages,
    answered_images,
    certain_mistakes,
    image_panels,
    pair_pictures,
)
from alexnet.report.calibration_plot import calibration_section
from alexnet.report.class_errors import MOST_ROWS, class_rows, confused_rows, confusion_section
from alexnet.report.filter_section import filters_section
from alexnet.report.formatting import jinja_environment
from alexnet.report.neighbor_section import neighbor_section
from alexnet.report.opening import opening
from alexnet.report.published_errors import published_errors
from alexnet.report.run_tables import run_environment, settings
from alexnet.report.training_course import learning_curves, learning_rate_rows, training_cost
from alexnet.report.weight_origin import weight_origin
from alexnet.runs.baseline_recipe import BaselineRecipe
from alexnet.runs.folder import RunFolder
from alexnet.runs.import_recipe import ImportRecipe
from alexnet.runs.overview import changes_of
from alexnet.runs.recipe import Recipe, epochs_of
from alexnet.storage.own_pictures import write_picture
from alexnet.system.visible_text import shell_words

_STATES = {
    "running": (
        "This training had not finished when the page was written: it was still running, or its process was killed. "
        "The page shows what was in the run folder."
    ),
    "interrupted": "This training was interrupted before it finished. The page shows its state at that time.",
    "failed": "This training failed before it finished.",
}


def write_run_page(run_folder: Path, data: PreparedData | None, path: Path | None = None) -> Path:
    """Write the page of a run from its folder's files, replacing an older page.

    The page says which parts are missing, such as evaluations or weights that do not exist yet.

    Args:
        run_folder: the run.
        data: the data set that the run was trained on, or any on which an imported network was evaluated, to show
            images from; None omits them.
        path: the file to write; None is `report.html` in the run folder.

    Returns:
        The page's path.

    Raises:
        RequestError: no run folder, `data` is not the run's data set, or the page cannot be written there.
        WorkError: the disk is full.
    """
    page = _render(RunFolder.open(run_folder), data)
    return write_picture(run_folder / "report.html" if path is None else path, page)


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
    stored = run.evaluations()
    evaluations = contents.sort_evaluations(contents.on_own_data(stored, described.get("checksum")))
    best = contents.headline_evaluation(evaluations)
    validations = [event for event in events if event["event"] == "validation"]
    title = described.get("title") or (data.title if data else "unknown data")
    answers = answered_images(run, data, best)
    confused = confused_rows(best) if best else []
    claimed_on = contents.data_of_claim(recipe.claim)
    curves = learning_curves(events)
    template = jinja_environment().get_template("report.html.j2")
    return template.render(
        name=metadata.get("name", run.path.name),
        recipe=recipe,
        opening=opening(run, best, events, title),
        data_title=title,
        generated=bool(described.get("generated") or (data is not None and data.generated)),
        state=metadata.get("state"),
        state_note=_STATES.get(metadata.get("state", ""), "") if imported is None else _import_note(run),
        failure=contents.failure_reason(run, events),
        not_evaluated="" if best else contents.how_to_evaluate(run),
        baseline=network is None,
        imported=imported,
        notes=metadata.get("notes", []),
        network=network,
        progress=_describe_progress(events, epochs_of(recipe.schedule)) if isinstance(recipe, Recipe) else "",
        rows=[(one, published_errors(one, network.variant) if network else None) for one in evaluations],
        num_on_other_data=len(stored) - len(evaluations),
        best=best,
        metrics=METRICS,
        last_validation=validations[-1] if validations else None,
        curves=curves,
        has_curves=not any(one.missing for one in curves),
        rate_rows=learning_rate_rows(events),
        epochs=contents.epoch_rows(events),
        has_top5=contents.has_top5(described.get("num_classes")),
        origin=weight_origin(run),
        filters=filters_section(run),
        answers=answers,
        panels=image_panels(answers) if isinstance(answers, AnsweredImages) else None,
        certain=certain_mistakes(answers) if isinstance(answers, AnsweredImages) else None,
        num_panel_images=NUM_PANEL_IMAGES,
        classes=class_rows(best) if best else [],
        most_rows=MOST_ROWS,
        confusion=confusion_section(best) if best else None,
        confused=confused,
        pairs=pair_pictures(answers, confused) if isinstance(answers, AnsweredImages) else [],
        neighbors=neighbor_section(run, answers),
        calibration=calibration_section(best) if best else None,
        cost=training_cost(run, events, best),
        claimed_on=claimed_on,
        tests_claim=title.casefold() in map(str.casefold, claimed_on),
        changes=changes_of(recipe),
        settings=settings(recipe),
        run_environment=run_environment(metadata, data),
        commands=contents.next_commands(run),
        report_command=shell_words("alexnet", "report", run.path),
        panel_style=Markup(PANEL_STYLE + THUMBNAIL_STYLE),
    )


def _import_note(run: RunFolder) -> str:
    return "" if run.state == "finished" else f"This import was not finished; {run.how_to_continue()}."


def _describe_progress(events: list[dict[str, Any]], epochs: float) -> str:
    positions = [event for event in events if "step" in event and "epoch" in event]
    if not positions:
        return f"Its log has no steps yet; the recipe has {epochs:g} epochs."
    last = max(positions, key=lambda event: int(event["step"]))
    return f"Its log ends at step {last['step']:,}, epoch {last['epoch']:.4g} of {epochs:g}."
