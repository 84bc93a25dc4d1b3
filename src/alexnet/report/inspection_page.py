"""The page of `alexnet inspect`: one self-contained HTML file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from alexnet.data.dataset import PreparedData
from alexnet.data.decode import Fit
from alexnet.data.sampler import evenly_spaced
from alexnet.errors import WorkError
from alexnet.figures.contact_sheet import CONTACT_SHEET_STYLE, SheetRow, contact_sheet_html, shrink
from alexnet.figures.histogram import HISTOGRAM_STYLE
from alexnet.figures.swatches import SWATCHES_STYLE
from alexnet.report import inspection_figures as figures
from alexnet.report.formatting import count_noun, jinja_environment
from alexnet.report.inspection import summarize_data
from alexnet.storage.own_pictures import write_picture

MOST_CLASSES = 100
"""With more classes the page shows the images of this many, and lists only the largest and the smallest."""
NUM_IMAGES = 10
"""Images shown per class."""
NUM_LARGEST = 15
NUM_REASONS = 15
SHEET_BYTES = 4_000_000
_MADE_SQUARE: dict[Fit, str] = {
    "crop": "shorter side resized, central square (crop)",
    "pad": "longer side resized, with gray bars (pad)",
    "squash": "both sides resized (squash)",
}
_SECTIONS = {
    "leak": "duplicates",
    "labels": "duplicates",
    "missing": "classes",
    "few": "classes",
    "imbalance": "classes",
    "refused": "refused",
}


def write_inspection(
    data: PreparedData, path: Path, *, summary: Mapping[str, Any] | None = None, most_classes: int = MOST_CLASSES
) -> Path:
    """Write the page that shows what a prepared data set contains, replacing an older page.

    The same data set gives the same page, of about 5 MB at most.

    Args:
        path: the file to write.
        summary: the result of `summarize_data(data)`, if it is known already.
        most_classes: with more classes, this many are chosen evenly for the contact sheet; 1 or more.

    Returns:
        `path`.

    Raises:
        RequestError: a file of the data set is missing or damaged, or the page cannot be written there.
        WorkError: an image cannot be read, or the disk is full.
    """
    try:
        page = _render(data, summarize_data(data) if summary is None else summary, most_classes)
    except OSError as error:
        raise WorkError(f"{error}; prepare the data set again from its source") from error
    return write_picture(path, page)


def _render(data: PreparedData, summary: Mapping[str, Any], most_classes: int) -> str:
    shown = evenly_spaced(np.arange(data.num_classes), most_classes)
    rows = _sheet_rows(data, summary, shown)
    by_size = sorted(summary["classes"], key=lambda one: -one["images"]["train"])  # stable: ties stay in label order
    is_long = len(by_size) > MOST_CLASSES
    class_tables = {"Images by class, most training images first": by_size}
    if is_long:
        largest, smallest = by_size[:NUM_LARGEST], by_size[-NUM_LARGEST:]
        class_tables = {f"The {NUM_LARGEST} largest": largest, f"The {NUM_LARGEST} smallest": smallest}
    sizes, color, duplicates = summary["sizes"], summary["color"], summary["duplicates"]
    template = jinja_environment().get_template("inspection.html.j2")
    return template.render(
        summary=summary,
        num_images=sum(split["images"] for split in summary["splits"].values()),
        num_listed=sum(split["listed"] for split in summary["splits"].values()),
        num_refused=summary["refused"]["images"],
        leaks=[one for one in summary["warnings"] if one["topic"] == "leak"],
        warnings=[one for one in summary["warnings"] if one["topic"] != "leak"],
        section_of=_SECTIONS,
        class_tables=class_tables,
        most_images=by_size[0]["images"]["train"],
        labeled=[name for name, split in summary["splits"].items() if split["largest"]],
        names={one["id"]: one["name"] for one in summary["classes"]},
        class_histogram=Markup(figures.class_histogram(by_size)) if is_long else "",
        mean_image=Markup(figures.mean_image(data)),
        ramps=[Markup(figures.component_ramp(color, one)) for one in color["components"]],
        uniform=figures.uniform_size(sizes),
        size_histogram=Markup(figures.size_histogram(sizes, data)),
        resized_side="longer" if data.fit == "pad" else "shorter",
        side_is_marked=figures.size_marker(sizes, data) is not None,
        ratio_histogram=Markup(figures.ratio_histogram(sizes)),
        most_reasons=NUM_REASONS,
        duplicate_thumbnails=[Markup(figures.duplicate_thumbnail(data, one)) for one in duplicates["groups"]],
        sheet=Markup(contact_sheet_html(rows, most_bytes=SHEET_BYTES)),
        num_images_per_class=NUM_IMAGES,
        num_shown=sum(len(row.images) for row in rows),
        num_classes_shown=len(rows),
        preparation=_preparation(summary),
        style=Markup(CONTACT_SHEET_STYLE + HISTOGRAM_STYLE + SWATCHES_STYLE),
    )


def _sheet_rows(data: PreparedData, summary: Mapping[str, Any], shown: npt.NDArray[np.int64]) -> list[SheetRow]:
    """Training images of the classes `shown`, evenly spaced in each, scaled down as they are read."""
    train = data.splits["train"]
    is_shown = np.zeros(data.num_classes, np.bool_)
    is_shown[shown] = True
    indices = np.flatnonzero(is_shown[train.labels])
    labels = train.labels[indices]
    indices = indices[np.argsort(labels, kind="stable")]
    ends = np.cumsum(np.bincount(labels, minlength=data.num_classes))
    rows = []
    for label in shown.tolist():
        members = indices[ends[label - 1] if label else 0 : ends[label]]
        chosen = evenly_spaced(members, NUM_IMAGES).tolist()
        one_class = summary["classes"][label]
        count = count_noun(len(members), "image")
        has_name = one_class["id"] != one_class["name"]
        rows.append(
            SheetRow(
                heading=one_class["name"],
                note=f"{one_class['id']}, {count}" if has_name else count,
                images=[shrink(np.asarray(train.images[one])) for one in chosen],
                names=[train.keys[one] for one in chosen],
            )
        )
    return rows


def _preparation(summary: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """How the data set was prepared, as text, by heading."""
    plan = summary["preparation"]
    held_out = f"{100 * plan['hold_out']:g} % of each class, seed {plan['seed']}" if plan["hold_out"] else "none"
    folders = plan.get("split_folders")
    named = ", ".join(f"{split} {path}" for split, path in (folders or {}).items()) or "none"
    settings = {
        "source": plan["source"],
        "format": plan["kind"],
        "split folders": "recognized" if folders is None else named,
        "held out for validation": held_out,
        "EXIF orientation": "applied" if plan["exif"] == "apply" else "ignored",
        "made square": _MADE_SQUARE[summary["fit"]],
        "stored as": (
            f"{summary['side']} × {summary['side']} pixels, "
            + ("uncompressed" if summary["store"] == "pixels" else f"JPEG, quality {plan['jpeg_quality']}")
        ),
        "software": ", ".join(f"{name} {version}" for name, version in plan["made_with"].items()),
    }
    identity = {
        "folder": summary["folder"],
        "checksum": summary["checksum"],
        "source's file list": plan["source_sha256"],
        "format version": str(plan["format_version"]),
    }
    return {"Preparation": settings, "Data set": identity}
