"""The page of `alexnet compare`: one HTML file that needs no network and no other file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from alexnet.data.dataset import PreparedData
from alexnet.data.shards import UnreadableSample
from alexnet.errors import RequestError, WorkError
from alexnet.evaluation.compare import Comparison
from alexnet.figures.contact_sheet import CONTACT_SHEET_STYLE, shrink, thumbnail_html
from alexnet.report.formatting import jinja_environment, printable
from alexnet.storage.atomic import write_text

NUM_PICTURES = 30
"""At most, in each of the two groups."""
MOST_CLASSES = 20
_GROUPS = {"only_first": "Only the first is right", "only_second": "Only the second is right"}


@dataclass(frozen=True)
class _OutcomeImages:
    """Images that one of the two names rightly."""

    heading: str
    num_images: int
    shown: Sequence[tuple[dict[str, Any], Markup | None]]
    """Each as `Comparison.to_dict` has it, and its picture; None where that cannot be read."""


def write_comparison(comparison: Comparison, data: PreparedData | None, path: Path) -> Path:
    """Write the page on two runs: their errors, the test, and the images that only one of them names rightly.

    The same comparison of the same data gives the same page; an older one is replaced whole.

    Args:
        data: the data set that the runs were compared on, for the pictures; None leaves them out.
        path: the file to write, in a folder that exists.

    Returns:
        `path`.

    Raises:
        RequestError: `data` is another data set than the comparison's.
        WorkError: the page cannot be written, or the machine is short of something.
    """
    if data is not None and data.checksum != comparison.data_checksum:
        raise RequestError(
            f"{data.folder} is not the data set that {comparison.first} and {comparison.second} were compared on: its "
            f"checksum is {data.checksum[:12]}, theirs {comparison.data_checksum[:12]}; name that one"
        )
    facts = printable(comparison.to_dict())
    by_difference = sorted(
        (one for one in facts["per_class"] if one["difference"]), key=lambda one: -abs(one["difference"])
    )
    template = jinja_environment().get_template("comparison.html.j2")
    page = template.render(
        facts=facts,
        measures=[(name, facts[name]) for name in ("top1", "top5") if facts[name]],
        groups=[] if data is None else [_group(facts, data, outcome) for outcome in _GROUPS],
        has_data=data is not None,
        num_pictures=NUM_PICTURES,
        classes=by_difference[:MOST_CLASSES],
        num_unequal=len(by_difference),
        style=Markup(CONTACT_SHEET_STYLE),
    )
    try:
        write_text(path, page)
    except OSError as error:
        raise WorkError(f"cannot write {path}: {error.strerror or error}; make room or name another file") from error
    return path


def _group(facts: dict[str, Any], data: PreparedData, outcome: str) -> _OutcomeImages:
    """The most confident disagreements of one outcome with their pictures."""
    found = [one for one in facts["images"] if one["outcome"] == outcome]
    shown = [(one, _picture(one, data, facts["split"])) for one in found[:NUM_PICTURES]]
    return _OutcomeImages(_GROUPS[outcome], len(found), shown)


def _picture(one: dict[str, Any], data: PreparedData, split: str) -> Markup | None:
    """A small picture of an image, or None where the data set has lost it since."""
    try:
        image = np.asarray(data.splits[split].images[one["index"]])
    except UnreadableSample:
        return None
    except OSError as error:
        raise WorkError(f"{error}; the machine is short of something: run the same again") from error
    alt = f"Picture {one['key']}, right label {one['right']['name']}"
    return Markup(thumbnail_html(shrink(image), alt, one["key"]))
