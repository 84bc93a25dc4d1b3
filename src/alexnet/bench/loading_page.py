"""The results of `measure_loading` as one self-contained page: the table, and memory over time."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from alexnet.figures.curves import Series, curve_svg
from alexnet.report.formatting import jinja_environment
from alexnet.storage.atomic import write_text


def write_loading_page(result: Mapping[str, Any], path: Path) -> None:
    """Write the page to `path`, atomically."""
    curves = {store: _memory_curve(store, runs) for store, runs in result["memory_over_epochs"].items()}
    page = jinja_environment().get_template("loading.html.j2").render(result=result, curves=curves)
    write_text(path, page)


def _memory_curve(store: str, runs: Mapping[str, Any]) -> Markup:
    """Anonymous memory of the loader's process over time, one curve per number of images."""
    series = []
    for num_images, run in runs.items():
        points = np.array(run["seconds_and_bytes"], np.float64).reshape(-1, 2)
        series.append(Series(f"{int(num_images):,} images", points[:, 0], points[:, 1] / 1e6))
    description = f"Anonymous memory over the epochs, {store} store"
    svg = curve_svg(series, name=f"memory-{store}", description=description, x_title="seconds", y_title="MB")
    return Markup(svg)
