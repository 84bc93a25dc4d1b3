"""What `alexnet.preprocess` does to pixels, as nodes of an ONNX graph: resizing, cropping, subtracting the mean image.

The formulas are those of `exact_resizing`, in ONNX's text form. ONNX's own `Resize` rounds differently
(docs/decisions/025-onnx-from-specifications.md). Pictures without pixels, and those that `make_square` refuses, end in
an error of the node `LENGTHS_NODE`: ONNX has no assertions, but runtimes refuse an index outside of a list.
"""

import numpy as np

from alexnet.data.augment import center_crop, crop_margin
from alexnet.data.decode import MAX_ELONGATION, PAD_COLOR, Fit
from alexnet.exchange.exact_resizing import UNITS, WEIGHT_LIMIT
from alexnet.exchange.onnx_graph import OnnxGraph
from alexnet.model.weights import Trained

LENGTHS_NODE = f"the_longer_side_of_images_must_be_1_to_{MAX_ELONGATION}_times_the_shorter"

# `$` is `rows_` or `columns_`; types are 1, float, and 11, double, in which sizes are rounded as Python rounds them.
_SIZES = f"""
    rows_count = Shape <start = 1, end = 2> (images)
    columns_count = Shape <start = 2, end = 3> (images)
    rows_size = Cast <to = 11> (rows_count)
    columns_size = Cast <to = 11> (columns_count)
    longer_side = Max (rows_size, columns_size, one)
    shorter_side = Min (rows_size, columns_size)
    longest_side = Mul (shorter_side, max_elongation)
    is_too_long = Greater (longer_side, longest_side)
    is_too_long_scalar = Squeeze (is_too_long)
    index_beyond_if_too_long = Cast <to = 7> (is_too_long_scalar)
    {LENGTHS_NODE} = Gather (range_starts, index_beyond_if_too_long)
"""
_FITTED_SIDE: dict[Fit, str] = {
    "crop": "fitted_side = Min (rows_size, columns_size)",
    "pad": "fitted_side = Max (rows_size, columns_size)",
    "squash": "",
}
_SCALED = """
    $size_times_side = Mul ($size, side)
    $exact = Div ($size_times_side, fitted_side)
    $rounded = Round ($exact)
"""
_RESIZED: dict[Fit, str] = {
    "crop": _SCALED + "$resized = Max ($rounded, side)",
    "pad": _SCALED + "$resized = Max ($rounded, one)",
    "squash": "$resized = Identity (side)",
}
_FIRST: dict[Fit, str] = {
    "crop": "$first = Floor ($beyond_half)",
    "pad": "$first = Ceil ($beyond_half)",
    "squash": "$first = Identity ($beyond_half)",
}
_BEYOND = """
    $beyond = Sub ($resized, side)
    $beyond_half = Div ($beyond, two)
"""
_WEIGHTS = f"""
    $places = Add ($first, crop_places)
    $scale = Div ($size, $resized)
    $last = Sub ($resized, one)
    $places_from_0 = Max ($places, zero)
    $places_inside = Min ($places_from_0, $last)
    $places_and_0 = Concat <axis = 0> (zero, $places_inside)
    $places_middle = Add ($places_and_0, half)
    $centers = Mul ($places_middle, $scale)
    $centers_column = Unsqueeze ($centers, second_axis)
    $end = Squeeze ($count)
    $indices = Range ({LENGTHS_NODE}, $end, range_step)
    $pixels = Cast <to = 11> ($indices)
    $pixels_middle = Add ($pixels, half)
    $differences = Sub ($pixels_middle, $centers_column)
    $distances = Abs ($differences)
    $reach = Max ($scale, one)
    $inverse_reach = Div (one, $reach)
    $relative = Mul ($distances, $inverse_reach)
    $falling = Sub (one, $relative)
    $triangle = Max ($falling, zero)
    $total = ReduceSum <keepdims = 1> ($triangle, second_axis)
    $weights = Div ($triangle, $total)
    $largest = ReduceMax <keepdims = 0> ($weights)
    $largest_times_units = Mul ($largest, units)
    $largest_rounded = Add ($largest_times_units, half)
    $is_allowed = Less ($largest_rounded, weight_limit)
    $allowed = Where ($is_allowed, units, zero)
    $unit = ReduceMax <keepdims = 0> ($allowed)
    $crop_weights = Slice ($weights, first_place, places_end, first_axis)
    $weights_times_unit = Mul ($crop_weights, $unit)
    $weights_half_up = Add ($weights_times_unit, half)
    $whole_weights = Floor ($weights_half_up)
    $matrix = Cast <to = 1> ($whole_weights)
    $unit_float = Cast <to = 1> ($unit)
"""
_SUMS = {
    "columns_": """
        planes_uint8 = Transpose <perm = [0, 3, 1, 2]> (images)
        planes = Cast <to = 1> (planes_uint8)
        columns_matrix_transposed = Transpose <perm = [1, 0]> (columns_matrix)
        columns_sums = MatMul (planes, columns_matrix_transposed)
    """,
    "rows_": "rows_sums = MatMul (rows_matrix, columns_done)",
}
_ROUNDED = """
    $quotients = Div ($sums, $unit_float)
    $quotients_half_up = Add ($quotients, half_float)
    $floors = Floor ($quotients_half_up)
    $done = Clip ($floors, darkest, brightest)
"""
_INSIDE = """
    $is_after_bar = GreaterOrEqual ($places, zero)
    $is_before_bar = Less ($places, $resized)
    $is_inside = And ($is_after_bar, $is_before_bar)
"""
_BARS = """
    rows_is_inside_column = Unsqueeze (rows_is_inside, second_axis)
    is_inside = And (rows_is_inside_column, columns_is_inside)
    pixels = Where (is_inside, rows_done, pad_color)
"""


def add_preprocessing(graph: OnnxGraph, trained: Trained) -> str:
    """Add the preprocessing of `images`, uint8 (N, H, W, 3); returns the name of what the network reads.

    It is float32 (N, 3, C, C), RGB, 0..255, minus the mean image.
    """
    fit = trained.fit
    _add_constants(graph, trained)
    graph.add_text(_SIZES + _FITTED_SIDE[fit])
    for side, sums in _SUMS.items():
        graph.add_text((_RESIZED[fit] + _BEYOND + _FIRST[fit] + _WEIGHTS + sums + _ROUNDED).replace("$", side))
    if fit == "pad":
        graph.add_text(_INSIDE.replace("$", "rows_") + _INSIDE.replace("$", "columns_") + _BARS)
    else:
        graph.add_text("pixels = Identity (rows_done)")
    return graph.add("Sub", ["pixels", "mean_crop"], "network_input")


def _add_constants(graph: OnnxGraph, trained: Trained) -> None:
    side, crop = trained.side, trained.crop
    numbers = {
        "zero": [0], "half": [0.5], "one": [1], "two": [2], "side": [side], "units": UNITS,
        "weight_limit": [WEIGHT_LIMIT], "max_elongation": [MAX_ELONGATION],
        "crop_places": np.arange(crop) + crop_margin(side, crop) // 2,
    }  # fmt: skip
    for name, values in numbers.items():
        graph.constant(name, values, np.float64)
    for name, number in (("half_float", 0.5), ("darkest", 0), ("brightest", 255)):
        graph.constant(name, number, np.float32)
    graph.constant("range_step", 1)
    graph.constant("range_starts", [0])
    for name, number in (("first_axis", 0), ("second_axis", 1), ("first_place", 1), ("places_end", crop + 1)):
        graph.constant(name, [number])
    mean = center_crop(trained.mean_image.cpu(), crop).permute(2, 0, 1).numpy()
    graph.constant("mean_crop", mean, np.float32)
    if trained.fit == "pad":
        graph.constant("pad_color", np.reshape(PAD_COLOR, (3, 1, 1)), np.float32)
