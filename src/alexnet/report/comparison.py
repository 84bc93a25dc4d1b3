"""The page of `alexnet compare`: one self-contained HTML file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from alexnet.data.dataset import PreparedData
from alexnet.data.shards import UnreadableSample
from alexnet.errors import RequestError
from alexnet.evaluation.compare import Comparison
from alexnet.figures.contact_sheet import CONTACT_SHEET_STYLE, shrink, thumbnail_html
from alexnet.report.formatting import jinja_environment
from alexnet.storage.own_pictures import write_picture
from alexnet.storage.read_errors import raise_unless_damage

NUM_IMAGES = 30
"""At most, for each of the two outcomes."""
MOST_CLASSES = 20
_HEADINGS = {"only_first": "Only the first is right", "only_second": "Only the second is right"}


@dataclass(frozen=True)
class _OutcomeImages:
    """Images that only one of the two runs classifies correctly."""

    heading: str
    num_images: int
    shown: Sequence[tuple[dict[str, Any], Markup | None]]
    """Each as in `Comparison.to_dict`, with its thumbnail; None if it cannot be read."""


def write_comparison(comparison: Comparison, data: PreparedData | None, path: Path) -> Path:
    """Write the page on two runs: their errors, the test, and the images that only one of them classifies correctly.

    The same comparison of the same data gives the same page. An older page is replaced.

    Args:
        data: the data set that the runs were compared on, to show images from; None omits them.
        path: the file to write.

    Returns:
        `path`.

    Raises:
        RequestError: `data` is not the comparison's data set, or the page cannot be written there.
        WorkError: the disk is full, or an image cannot be read for lack of a resource.
    """
    if data is not None and data.checksum != comparison.data_checksum:
        raise RequestError(
            f"{data.folder} is not the data set that {comparison.first} and {comparison.second} were compared on: its "
            f"checksum is {data.checksum[:12]}, theirs {comparison.data_checksum[:12]}; name that one"
        )
    summary = comparison.to_dict()
    by_difference = sorted(
        (one for one in summary["per_class"] if one["difference"]), key=lambda one: -abs(one["difference"])
    )
    template = jinja_environment().get_template("comparison.html.j2")
    page = template.render(
        summary=summary,
        tests=[(name, summary[name]) for name in ("top1", "top5") if summary[name]],
        outcomes=[] if data is None else [_outcome_images(summary, data, outcome) for outcome in _HEADINGS],
        has_data=data is not None,
        classes=by_difference[:MOST_CLASSES],
        num_different=len(by_difference),
        style=Markup(CONTACT_SHEET_STYLE),
    )
    return write_picture(path, page)


def _outcome_images(summary: dict[str, Any], data: PreparedData, outcome: str) -> _OutcomeImages:
    images = [one for one in summary["images"] if one["outcome"] == outcome]
    shown = [(one, _thumbnail(one, data, summary["split"])) for one in images[:NUM_IMAGES]]
    return _OutcomeImages(_HEADINGS[outcome], len(images), shown)


def _thumbnail(one: dict[str, Any], data: PreparedData, split: str) -> Markup | None:
    """The thumbnail of an image, or None if the data set has lost it since."""
    try:
        image = np.asarray(data.splits[split].images[one["index"]])
    except UnreadableSample:
        return None
    except OSError as error:
        raise_unless_damage(error, data.folder)
        raise
    alt = f"Image {one['key']}, true label {one['right']['name']}"
    return Markup(thumbnail_html(shrink(image), alt, one["key"]))
