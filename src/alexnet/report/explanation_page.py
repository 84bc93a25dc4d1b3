"""The page of `alexnet explain`: one self-contained HTML file."""

from typing import Any

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from alexnet.explore.explanation import Explanations
from alexnet.figures.contact_sheet import CONTACT_SHEET_STYLE, thumbnail_html
from alexnet.figures.explanation_figure import (
    ExplainedImage,
    drop_scale,
    gradient_picture,
    guided_picture,
    occlusion_picture,
)
from alexnet.figures.panel import PANEL_STYLE
from alexnet.report.formatting import jinja_environment
from alexnet.system.number_text import significant


def explanation_page(found: Explanations) -> str:
    """The page with all images; it needs nothing outside."""
    return (
        jinja_environment()
        .get_template("explanation.html.j2")
        .render(
            title=found.title,
            network=found.network,
            images=[_contents(found.drawn(one)) for one in found],
            refused=found.refused,
            near_title=found.near_title,
            notes=found.notes(),
            style=Markup(CONTACT_SHEET_STYLE + PANEL_STYLE),
        )
    )


def _contents(one: ExplainedImage) -> dict[str, Any]:
    side, view_px = len(one.image), len(one.drops)

    def square(top: int, left: int, size: int, of: int) -> str:
        return f"top: {100 * top / of:.3f}%; left: {100 * left / of:.3f}%; width: {100 * size / of:.3f}%"

    view_square = "" if view_px == side else square(*one.corner, view_px, side)
    view_caption = f"{'outlined: ' if view_square else ''}the view, {view_px} × {view_px} pixels"
    occluded = occlusion_picture(one.view, one.drops)
    guided, guided_caption = one.guided_gradient, "gray: 0; bright: brighter adds to the score"
    pictures = [
        _picture("Image", one.image, one.name, view_caption, square=view_square, kind="view"),
        _picture(
            "Occlusion",
            occluded,
            f"occlusion of {one.name}",
            f"dashed patch hidden: {one.patch_effect}",
            square=square(*one.patch, view_px),
            kind="patch",
            points=significant(100 * drop_scale(one.drops), 2),
        ),
        _picture(
            "Gradient of the score",
            gradient_picture(one.gradient),
            f"gradient of {one.name}",
            "dark: the score changes most here",
        ),
        _picture(
            "Guided gradient",
            None if guided is None else guided_picture(guided),
            f"guided gradient of {one.name}",
            f"None: {one.unguided_reason}." if guided is None else guided_caption,
        ),
    ]
    return {
        "name": one.name,
        "class_name": one.class_name,
        "standing": one.standing,
        "pictures": pictures,
        "bars": one.bars,
        "near": [
            {
                "picture": Markup(thumbnail_html(near.image, f"near image, {near.class_name}", "")),
                "class_name": near.class_name,
                "note": near.note,
                "is_explained_class": near.is_explained_class,
            }
            for near in one.near
        ],
    }


def _picture(
    title: str,
    image: npt.NDArray[np.uint8] | None,
    alt: str,
    caption: str,
    *,
    square: str = "",
    kind: str = "",
    points: str = "",
) -> dict[str, Any]:
    """A picture with what is drawn over it: a square by its style sheet, and the ends of its scale."""
    html = "" if image is None else Markup(thumbnail_html(image, alt, alt))
    return {"title": title, "picture": html, "caption": caption, "square": square, "kind": kind, "points": points}
