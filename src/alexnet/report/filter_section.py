"""The first layer's filters on a page: by column, with their color and the test of the columns' difference."""

import logging

import numpy as np
from markupsafe import Markup

from alexnet.errors import AlexNetError
from alexnet.explore.filter_colors import RANDOM_COLOR, color_test, spec_filters
from alexnet.figures.figure_style import svg_element
from alexnet.figures.filter_columns import filter_columns_figure
from alexnet.model.variants import named_variant
from alexnet.report.contents import Section
from alexnet.runs.baseline_recipe import BaselineRecipe
from alexnet.runs.folder import RunFolder
from alexnet.storage.tensors import read_tensors

_logger = logging.getLogger(__name__)


def filters_section(run: RunFolder, name: str = "filters", *, with_colors: bool = True) -> Section | None:
    """The filters of a run's first layer. Paper: figure 3.

    Args:
        run: of a network or a baseline, which has no filters: then the result is None.
        name: letters and hyphens, unique in the page: the prefix of every id in the figure.
        with_colors: draw the color of each filter too.
    """
    recipe = run.any_recipe()
    if isinstance(recipe, BaselineRecipe):
        return None
    if not run.weights.is_file():
        return Section(missing="The run has no stored weights yet, so there are no filters to show.")
    try:
        tensors, _ = read_tensors(run.weights, "numpy", "restore it from a copy, or train again")
        found = spec_filters(named_variant(recipe.network.variant), tensors.__getitem__)
        test = color_test(found.weights, found.columns)
        figure = filter_columns_figure(
            found.weights,
            found.columns,
            colors=test.colors if with_colors else None,
            random_color=RANDOM_COLOR if with_colors else None,
        )
    except KeyError as error:
        return Section(missing=f"The stored network has no {error.args[0]}, so there are no filters to show.")
    except (AlexNetError, ValueError) as error:
        _logger.warning(f"the report shows no filters: {error}")
        return Section(missing=f"The filters cannot be shown: {error}.")
    num, _, height, width = found.weights.shape
    by_column = "" if found.columns == 1 else f", in {found.columns} columns"
    description = (
        f"The {num} filters of the first layer{by_column}, {height} by {width} pixels each. {test.describe()}."
    )
    wrapped = Markup('<div class="scroll matrix" role="region" aria-label="First-layer filters" tabindex="0">{}</div>')
    note = (
        f"The {num} filters of {found.layer}{by_column}, {height} by {width} weights in each of red, green and blue. "
        f"All share one scale: 0 is middle gray, the strongest weight ({np.abs(found.weights).max():.3g}) the most or "
        f"the least light of its color."
    )
    if with_colors:
        note += (
            f" The color of a filter is the share of its squared weights outside of gray; random weights have "
            f"{RANDOM_COLOR:.2f} on average."
        )
    tested = test.describe()
    note += f" {tested[0].upper()}{tested[1:]}."
    return Section(wrapped.format(Markup(svg_element(figure, name, description))), note=note)
