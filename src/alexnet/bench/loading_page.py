"""What `bench_data` found as one self-contained page: the table, and memory over time."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from alexnet.figures.curves import Series, curve_svg
from alexnet.report.formatting import jinja_environment
from alexnet.storage.atomic import write_text


def write_data_page(measured: Mapping[str, Any], path: Path) -> None:
    """Write the page to `path`, replacing it whole."""
    curves = {store: _memory_curve(store, watched) for store, watched in measured["memory"].items()}
    page = jinja_environment().get_template("loading.html.j2").render(measured=measured, curves=curves)
    write_text(path, page)


def _memory_curve(store: str, watched: Mapping[str, Any]) -> Markup:
    """Anonymous memory of this process over time, one curve for each number of images."""
    series = []
    for num, one in watched.items():
        points = np.array(one["seconds_and_bytes"], np.float64).reshape(-1, 2)
        series.append(Series(f"{int(num):,} images", points[:, 0], points[:, 1] / 1e6))
    described = f"Anonymous memory over the epochs, {store} store"
    svg = curve_svg(series, name=f"memory-{store}", description=described, x_title="seconds", y_title="MB")
    return Markup(svg)
