"""The page of `alexnet inspect`: one HTML file that needs no network and no other file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from alexnet.data.dataset import PreparedData
from alexnet.errors import WorkError
from alexnet.figures.contact_sheet import CONTACT_SHEET_STYLE, SheetRow, contact_sheet_html, shrink
from alexnet.figures.histogram import HISTOGRAM_STYLE
from alexnet.figures.swatches import SWATCHES_STYLE
from alexnet.report import inspection_figures as figures
from alexnet.report.formatting import evenly_spaced, jinja_environment, printable
from alexnet.report.inspection import summarize_data
from alexnet.storage.atomic import write_text

MOST_CLASSES = 100
"""With more classes the page shows the pictures of so many, and lists only the largest and the smallest."""
NUM_PICTURES = 10
"""Of each class."""
NUM_EXTREMES = 15
NUM_REASONS = 15
SHEET_BYTES = 4_000_000
_SECTIONS = {
    "leak": "duplicates",
    "labels": "duplicates",
    "missing": "classes",
    "few": "classes",
    "imbalance": "classes",
    "refused": "refused",
}


def write_inspection(
    data: PreparedData, path: Path, *, facts: Mapping[str, Any] | None = None, most_classes: int = MOST_CLASSES
) -> Path:
    """Write the page that shows what is in a prepared data set; an older page is replaced whole.

    The same data set gives the same page, of about 5 MB at most.

    Args:
        path: the file to write, in a folder that exists.
        facts: what `summarize_data` says of `data`, where that is known already.
        most_classes: with more classes, so many are chosen evenly for the contact sheet; 1 or more.

    Returns:
        `path`.

    Raises:
        RequestError: a file of the data set is missing or damaged.
        WorkError: an image cannot be read, or the page cannot be written.
    """
    try:
        page = _render(data, summarize_data(data) if facts is None else facts, most_classes)
    except OSError as error:
        raise WorkError(f"{error}; prepare the data set again from its source") from error
    try:
        write_text(path, page)
    except OSError as error:
        raise WorkError(f"cannot write {path}: {error.strerror or error}; make room or name another file") from error
    return path


def _render(data: PreparedData, facts: Mapping[str, Any], most_classes: int) -> str:
    """The page's HTML."""
    shown = evenly_spaced(np.arange(data.num_classes), most_classes)
    rows = _sheet_rows(data, facts, shown)
    by_size = sorted(facts["classes"], key=lambda one: -one["images"]["train"])  # equal ones stay in label order
    is_long = len(by_size) > MOST_CLASSES
    class_tables = {"Images by class, most training images first": by_size}
    if is_long:
        largest, smallest = by_size[:NUM_EXTREMES], by_size[-NUM_EXTREMES:]
        class_tables = {f"The {NUM_EXTREMES} largest": largest, f"The {NUM_EXTREMES} smallest": smallest}
    template = jinja_environment().get_template("inspection.html.j2")
    return template.render(
        facts=facts,
        num_images=sum(split["images"] for split in facts["splits"].values()),
        num_listed=sum(split["listed"] for split in facts["splits"].values()),
        num_refused=facts["refused"]["images"],
        leaks=[one for one in facts["warnings"] if one["about"] == "leak"],
        warnings=[one for one in facts["warnings"] if one["about"] != "leak"],
        section_of=_SECTIONS,
        class_tables=class_tables,
        most_images=by_size[0]["images"]["train"],
        names={one["id"]: one["name"] for one in facts["classes"]},
        class_histogram=Markup(figures.class_histogram(by_size)) if is_long else "",
        mean_image=Markup(figures.mean_image(data)),
        ramps=[Markup(figures.component_ramp(facts["color"], one)) for one in facts["color"]["components"]],
        uniform=figures.uniform_size(facts["sizes"]),
        size_histogram=Markup(figures.size_histogram(facts["sizes"], data.side)),
        side_is_marked=figures.position(facts["sizes"]["shorter_side"]["edges"], data.side) is not None,
        ratio_histogram=Markup(figures.ratio_histogram(facts["sizes"])),
        reasons=facts["refused"]["reasons"][:NUM_REASONS],
        duplicate_pictures=[Markup(figures.duplicate_picture(data, one)) for one in facts["duplicates"]["groups"]],
        sheet=Markup(contact_sheet_html(rows, most_bytes=SHEET_BYTES)),
        num_pictures=NUM_PICTURES,
        num_shown=sum(len(row.images) for row in rows),
        num_classes_shown=len(rows),
        made=_made(facts),
        style=Markup(CONTACT_SHEET_STYLE + HISTOGRAM_STYLE + SWATCHES_STYLE),
    )


def _sheet_rows(data: PreparedData, facts: Mapping[str, Any], shown: npt.NDArray[np.int64]) -> list[SheetRow]:
    """The training pictures of the classes `shown`, evenly spread over each, scaled down as they are read."""
    train = data.splits["train"]
    is_shown = np.zeros(data.num_classes, np.bool_)
    is_shown[shown] = True
    places = np.flatnonzero(is_shown[train.labels])
    labels = train.labels[places]
    places = places[np.argsort(labels, kind="stable")]
    ends = np.cumsum(np.bincount(labels, minlength=data.num_classes))
    rows = []
    for label in shown.tolist():
        members = places[ends[label - 1] if label else 0 : ends[label]]
        chosen = evenly_spaced(members, NUM_PICTURES).tolist()
        described = facts["classes"][label]
        count = f"{len(members):,} {'image' if len(members) == 1 else 'images'}"
        has_name = described["id"] != described["name"]
        rows.append(
            SheetRow(
                heading=described["name"],
                note=f"{described['id']}, {count}" if has_name else count,
                images=[shrink(np.asarray(train.images[one])) for one in chosen],
                names=[printable(train.keys[one]) for one in chosen],
            )
        )
    return rows


def _made(facts: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """How the data set was prepared, as text, by heading."""
    plan = facts["made"]
    held_out = f"{100 * plan['hold_out']:g} % of each class, seed {plan['seed']}" if plan["hold_out"] else "none"
    how = {
        "source": plan["source"],
        "kind": plan["kind"],
        "held out for validation": held_out,
        "EXIF orientation": "applied" if plan["exif"] == "apply" else "ignored, pictures as stored",
        "stored as": (
            f"{facts['side']} × {facts['side']} pixels, "
            + ("uncompressed" if facts["store"] == "pixels" else f"JPEG, quality {plan['jpeg_quality']}")
        ),
        "made with": ", ".join(f"{name} {version}" for name, version in plan["made_with"].items()),
    }
    which = {
        "folder": facts["folder"],
        "checksum": facts["checksum"],
        "source's list of files": plan["source_sha256"],
        "format version": str(plan["format_version"]),
    }
    return {"Preparation": how, "Data set": which}
