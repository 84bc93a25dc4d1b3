"""Pictures of neighbors and bars of classes: everything that is given is on them, marked, and within the edges."""

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from alexnet.figures.class_bars import ClassBar, class_bars_figure
from alexnet.figures.figure_style import figure_bytes
from alexnet.figures.neighbor_rows import NeighborRows, NeighborTile, neighbor_rows_figure

IMAGE = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)


def tile(name: str, **marks: bool) -> NeighborTile:
    return NeighborTile(IMAGE, name, "distance 1.5", **marks)


def query(num: int, **marks: bool) -> NeighborRows:
    tiles = [tile(f"class {number}", **marks) for number in range(num)]
    return NeighborRows(
        NeighborTile(IMAGE, "dog", "query"), [("by features", "relu7", tiles), ("by pixels", "", tiles)]
    )


def test_each_picture_has_its_caption_and_marks() -> None:
    tiles = [tile("tench", is_same_class=True), tile("tench", is_same_class=True, is_duplicate=True), tile("church")]
    rows = NeighborRows(NeighborTile(IMAGE, "fish.jpg", "query"), [("by features", "relu7", tiles)])
    figure = neighbor_rows_figure([rows], title="What <is> $seen$\n", note="first\nsecond")
    svg = figure_bytes(figure, "svg").decode()
    assert svg.count("<image") == 4 and len(figure.axes) == 4
    texts = [one.get_text() for one in figure.texts]
    assert texts == [
        "What <is> $seen$\\n", "first\nsecond", "fish.jpg", "query", "by features", "relu7", "✓ tench", "distance 1.5",
        "= tench", "distance 1.5", "church", "distance 1.5", "✓ the query's class",
        "= the same image as the query, byte for byte",
    ]  # fmt: skip
    # Not by color alone: lines of another width and style.
    lines = [axes.spines["left"] for axes in figure.axes]
    assert [one.get_linewidth() for one in lines] == [0.8, 2.6, 2.6, 0.8]
    assert lines[2].get_linestyle() != lines[1].get_linestyle()
    assert len({str(one.get_edgecolor()) for one in lines}) == 3


@pytest.mark.parametrize(("num_queries", "num"), [pytest.param(1, 12, marks=pytest.mark.slow), (3, 2)])
def test_nothing_overlaps_or_leaves_the_picture(num_queries: int, num: int) -> None:
    figure = neighbor_rows_figure([query(num, is_same_class=True)] * num_queries, title="t", note="n")
    renderer = FigureCanvasAgg(figure).get_renderer()
    width, height = figure.get_size_inches()
    boxes = [axes.get_position() for axes in figure.axes]
    assert len(boxes) == num_queries * (1 + 2 * num)
    for number, box in enumerate(boxes):
        assert box.width * width == pytest.approx(box.height * height)
        assert box.x0 >= 0 and box.x1 <= 1 and box.y0 >= 0 and box.y1 <= 1
        assert not any(box.overlaps(other) for other in boxes[:number])
    for text in figure.texts[2:]:
        extent = text.get_window_extent(renderer).transformed(figure.transFigure.inverted())
        assert extent.x0 > -0.02 and extent.y0 >= 0 and not any(extent.overlaps(box) for box in boxes), text.get_text()


def test_title_and_note_fit_above_one_neighbor() -> None:
    title, note = (
        "caffe25: the nearest of 9,469 images of train",
        "Euclidean distance of relu7 (4,096 values) of pixels",
    )
    figure = neighbor_rows_figure([query(1)], title=title, note=f"{note}\nx")
    renderer = FigureCanvasAgg(figure).get_renderer()
    for text in figure.texts[:2]:
        assert text.get_window_extent(renderer).x1 < figure.bbox.width


def test_long_and_hostile_names() -> None:
    one = NeighborRows(tile("n02979186_16142_and_more.JPEG"), [("by features", "", [tile("a\u202eb")])])
    texts = [one.get_text() for one in neighbor_rows_figure([one], title="", note="").texts]
    assert "n02979186…ore.JPEG" in texts and "a\\u202eb" in texts


def test_bars_are_sorted_and_many_are_cut() -> None:
    bars = [ClassBar(f"class {number}", number / 100) for number in range(100)]
    figure = class_bars_figure(bars, title="t", note="n", x_title="precision", lines=[("all", 0.5)])
    (axes,) = figure.axes
    widths = [bar.get_width() for bar in axes.patches]  # type: ignore[attr-defined]
    assert widths == [number / 100 for number in [*range(99, 79, -1), *range(19, -1, -1)]]
    assert next(one.get_text() for one in axes.get_yticklabels()) == "class 99"
    texts = [one.get_text() for one in axes.texts]
    assert "0.99" in texts and "all 0.50" in texts and axes.get_xlabel() == "precision"
    assert [one.get_text() for one in figure.texts] == ["t", "n; the best 20 and the worst 20 of 100 classes"]
    few = class_bars_figure(bars[:3], title="t", note="n", x_title="precision")
    assert len(few.axes[0].patches) == 3 and few.texts[1].get_text() == "n"


@pytest.mark.parametrize("value", [0.0, 0.24, 0.25, 1.0])
def test_texts_of_bars_do_not_overlap_leave_the_picture_or_lose_their_counts(value: float) -> None:
    bars = [ClassBar("tench" * 20, 0.3, " (1,234)"), ClassBar("church", 0.2, " (2)")]
    lines = [("all queries", 0.25), ("random order", value)]
    figure = class_bars_figure(
        bars, title="Title", note="3,925 queries among 9,469 images; " * 5, x_title="precision", lines=lines
    )
    FigureCanvasAgg(figure).draw()
    (axes,) = figure.axes
    texts = [one for one in axes.texts if one.get_text() in ("all queries 0.25", f"random order {value:.2f}")]
    names = list(axes.get_yticklabels())
    assert len(texts) == 2 and [one.get_text() for one in names] == [
        "tenchtenchtenchtenchtenchtenc… (1,234)",
        "church (2)",
    ]
    boxes = [one.get_window_extent() for one in [*texts, *figure.texts, *names, axes.xaxis.label]]
    for number, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:number])
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.width and box.y1 <= figure.bbox.height
