"""What an import found out about its weights, from proof.json: rows of text for the page, without layout."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from alexnet.errors import RequestError
from alexnet.runs.folder import RunFolder
from alexnet.runs.import_recipe import SCALES
from alexnet.runs.run_files import StoredCombination, StoredLayerProof, StoredProof
from alexnet.storage.typed_files import DamagedFile

_logger = logging.getLogger(__name__)

_MEANS = {"claimed": "minus the claimed mean", "none": "no mean", "data set": "minus the data set's mean color"}
_MOST_MOVED = 10
SMALL_P = 0.0001
"""Smaller p-values are not told apart."""


@dataclass(frozen=True)
class WeightOrigin:
    """The section of the page."""

    proof: StoredProof | None
    """None if it cannot be shown."""
    missing: str = ""
    """Why it cannot."""

    @property
    def layers(self) -> list[dict[str, str]]:
        """A row per layer, by the headings of the table."""
        return [] if self.proof is None else [_layer_row(one) for one in self.proof["layers"]]

    @property
    def combinations(self) -> list[dict[str, str]]:
        """A row per way of reading pixels, the lowest error first."""
        if self.proof is None:
            return []
        return [_combination_row(one) for one in sorted(self.proof["combinations"], key=lambda one: one["top1_error"])]

    @property
    def moved_classes(self) -> list[dict[str, str]]:
        """Classes that the network takes for others."""
        moved = [] if self.proof is None else self.proof["moved_classes"][:_MOST_MOVED]
        return [
            {
                "images of": one["name"],
                "taken for": one["read_as_name"],
                "images": f"{one['num_read']:,} of {one['num_images']:,}",
            }
            for one in moved
        ]


def weight_origin(run: RunFolder) -> WeightOrigin | None:
    """The section of an imported run; None for other runs."""
    try:
        proof = run.proof()
    except (DamagedFile, RequestError) as error:
        _logger.warning(f"the report does not show where the weights come from: {error}")
        return WeightOrigin(None, f"What the import found out about the weights cannot be shown: {error}.")
    return None if proof is None else WeightOrigin(proof)


def _layer_row(layer: StoredLayerProof) -> dict[str, str]:
    silent = "" if layer["silent_channels"] is None else f"{layer['silent_channels']:,}"
    return {
        "layer": layer["name"],
        "verdict": layer["verdict"],
        "weights": layer["distribution"],
        "largest singular value": _times(layer["top_singular_value"]),
        "spread of units": _times(layer["unit_spread"]),
        "spread of inputs": _times(layer["input_spread"]),
        "smoothness": "" if layer["smoothness"] is None else f"{layer['smoothness']:.2f}",
        "biases": layer["biases"],
        "dead units": f"{layer['dead_units']:,}",
        "silent channels": silent,
    }


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f} x"


def _combination_row(one: StoredCombination) -> dict[str, str]:
    layout = "" if one["layout"] == "as given" else f", {one['layout']}"
    p_value = one["p_value"]
    return {
        "reads": f"{one['color_order'].upper()}, {SCALES[one['scale']]}, {_MEANS[one['mean']]}{layout}",
        "claimed": "claimed" if one["is_claimed"] else "",
        "top-1 error": f"{_percent(one['top1_error'])} %",
        "interval, %": _interval(one["top1_interval"]),
        "p": "" if p_value is None else f"below {SMALL_P:g}" if p_value < SMALL_P else f"{p_value:.2g}",
    }


def _interval(ends: Sequence[float]) -> str:
    return f"[{_percent(ends[0])}, {_percent(ends[1])}]"


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}"
