"""The confusion matrix says what went where; cells, colors and text agree with the counts."""

import numpy as np
import pytest
from matplotlib.collections import PatchCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from alexnet.figures.confusion_matrix import confusion_figure
from alexnet.figures.figure_style import COLORS

COUNTS = np.array([[90, 10, 0], [2, 48, 0], [1, 0, 299]])


def cells(figure: Figure) -> PatchCollection:
    (found,) = (one for one in figure.axes[0].collections if isinstance(one, PatchCollection))
    return found


def written(figure: Figure) -> list[str]:
    return [one.get_text() for one in figure.axes[0].texts]


def test_cells_have_the_percentage_of_the_true_class() -> None:
    figure = confusion_figure(COUNTS, ["a", "b", "c"])
    assert written(figure) == ["90", "10", "4", "96", "<1", "100"]
    axes = figure.axes[0]
    assert [one.get_text() for one in axes.get_yticklabels()] == ["a (100)", "b (50)", "c (300)"]
    assert [one.get_text() for one in axes.get_xticklabels()] == ["a", "b", "c"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted class", "true class (images)")


def test_right_cells_are_blue_and_the_strongest_confusion_has_full_color() -> None:
    colors = cells(confusion_figure(COUNTS, ["a", "b", "c"])).get_facecolor()
    expected = [(0, 0.9), (1, 1.0), (1, 0.4), (0, 0.96), (1, 0.06), (0, 299 / 300)]
    for found, (hue, strength) in zip(np.asarray(colors), expected, strict=True):
        np.testing.assert_allclose(found, [*to_rgb(COLORS[hue]), strength], atol=1e-6)


def test_the_legend_says_what_full_color_is() -> None:
    for counts, share in ((COUNTS, "10 %"), (COUNTS[::-1], "100 %")):
        (legend,) = confusion_figure(counts, ["a", "b", "c"]).legends
        assert legend.get_texts()[1].get_text() == f"confused (full color: {share})"


def test_a_block_has_a_column_for_the_others() -> None:
    figure = confusion_figure(COUNTS, ["a", "b", "c"], num_images=[200, 50, 300], others=np.array([100, 0, 0]))
    assert [one.get_text() for one in figure.axes[0].get_xticklabels()][-1] == "other classes"
    assert written(figure)[:3] == ["45", "5", "50"]


def test_many_classes_have_no_text_and_long_names_are_cut() -> None:
    figure = confusion_figure(np.eye(21, dtype=int), ["x" * 60, *map(str, range(20))])
    assert written(figure) == []
    assert figure.axes[0].get_xticklabels()[0].get_text() == "x" * 23 + "…"


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="allowed is"):
        confusion_figure(COUNTS, ["a", "b"])
    with pytest.raises(ValueError, match="allowed is"):
        confusion_figure(np.zeros((0, 0), int), [])


def test_an_empty_class_is_an_empty_row() -> None:
    figure = confusion_figure(np.array([[0, 0], [1, 1]]), ["a", "b"])
    assert written(figure) == ["50", "50"]
