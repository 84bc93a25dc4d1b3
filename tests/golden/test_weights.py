"""Trained networks and network specifications that earlier versions wrote."""

import json
import math
from dataclasses import fields
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import safetensors
import safetensors.numpy
import torch

from alexnet.errors import RequestError
from alexnet.model.layer_specs import LayerSpec, NetworkSpec
from alexnet.model.spec_file import spec_from_dict, spec_matches, spec_to_dict
from alexnet.model.variants import VARIANTS
from alexnet.model.weights import load_trained, save_trained

LATER_VARIANTS = {"caffenet", "quick-3x3"}
"""Those that no file of version 3 describes."""


def test_specifications_of_version_3_are_todays_variants(golden: Path) -> None:
    described = json.loads((golden / "networks.json").read_text())
    assert [name for name in VARIANTS if name not in LATER_VARIANTS] == list(described)
    for name in described:
        spec = VARIANTS[name]
        assert spec_from_dict(described[name]) == spec and spec_matches(described[name], spec), name
        others = [other for other in VARIANTS if spec_matches(described[name], VARIANTS[other])]
        assert others == [name]


def test_every_setting_of_every_layer_is_written() -> None:
    """A setting that a file omits would take the default of the version that reads it."""
    layers = {type(layer): layer for spec in VARIANTS.values() for layer in spec.layers}
    assert set(layers) == set(get_args(LayerSpec))
    for kind, layer in layers.items():
        (written,) = spec_to_dict(NetworkSpec(image_px=8, layers=(layer,)))["layers"]
        assert len(written) == 1 + len(fields(kind)), f"{kind.__name__} has settings that spec_file.py does not write"


def test_weights_of_version_3_give_the_probabilities_that_were_stored(golden: Path) -> None:
    trained = load_trained(golden / "finished")
    assert (trained.crop, trained.side, trained.mean_at, trained.generated) == (28, 28, "crop", False)
    assert [one.id for one in trained.classes] == ["circle", "n01440764", "square"]
    images = np.load(golden / "pixels" / "val-images.npy")
    with safetensors.safe_open(golden / "finished" / "predictions" / "val-1views.safetensors", "numpy") as stored:
        want = stored.get_tensor("probabilities")
    assert len(images) == len(want) == 6
    with torch.inference_mode():
        batch = torch.from_numpy(images.reshape(6, 28, 28, 3)).float() - trained.mean_image
        got = trained.network(batch.permute(0, 3, 1, 2)).softmax(1)
    np.testing.assert_allclose(got.numpy(), want, atol=1e-5)


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize(("old", "mean_at"), [("own-place", "crop"), ("centre", "center"), (None, "crop")])
def test_old_values_of_mean_at_are_translated(golden: Path, version: int, old: str | None, mean_at: str) -> None:
    path = golden / "finished" / "weights.safetensors"
    with safetensors.safe_open(path, "numpy") as content:
        description = json.loads(content.metadata()["alexnet"])
    assert description["format_version"] == 3 and description["preprocessing"]["mean_at"] == "own-place"
    description["format_version"] = version
    description["preprocessing"]["mean_at"] = old
    if old is None:
        del description["preprocessing"]["mean_at"]
    tensors = safetensors.numpy.load_file(path)
    safetensors.numpy.save_file(tensors, path, {"alexnet": json.dumps(description)})
    assert load_trained(path).mean_at == mean_at


def test_the_file_describes_the_network_in_full(golden: Path, tmp_path: Path) -> None:
    trained = load_trained(golden / "finished")
    save_trained(tmp_path / "weights.safetensors", trained)
    with safetensors.safe_open(tmp_path / "weights.safetensors", "numpy") as content:
        description = json.loads(content.metadata()["alexnet"])
    assert description["format_version"] == 4
    assert description["preprocessing"]["mean_at"] == "crop"
    # fmt: off
    assert description["network"] == {
        "image_px": 28,
        "input_scale": 0.015625,
        "layers": [
            {"type": "convolution", "name": "conv1", "out_channels": 32, "kernel": 5, "stride": 1, "padding": 2,
             "end_padding": 0, "columns": 1, "init_std": None, "bias": 0},
            {"type": "max_pool", "size": 3, "stride": 2, "ties": "one"},
            {"type": "relu"},
            {"type": "response_norm", "size": 9, "alpha": 0.05, "beta": 0.75, "k": 1, "columns": 1,
             "alpha_per_element": True},
            {"type": "convolution", "name": "conv2", "out_channels": 64, "kernel": 3, "stride": 1, "padding": 1,
             "end_padding": 0, "columns": 1, "init_std": None, "bias": 0},
            {"type": "max_pool", "size": 3, "stride": 2, "ties": "one"},
            {"type": "relu"},
            {"type": "response_norm", "size": 9, "alpha": 0.05, "beta": 0.75, "k": 1, "columns": 1,
             "alpha_per_element": True},
            {"type": "convolution", "name": "conv3", "out_channels": 128, "kernel": 3, "stride": 1, "padding": 1,
             "end_padding": 0, "columns": 1, "init_std": None, "bias": 0},
            {"type": "max_pool", "size": 3, "stride": 2, "ties": "one"},
            {"type": "relu"},
            {"type": "convolution", "name": "conv4", "out_channels": 256, "kernel": 3, "stride": 1, "padding": 1,
             "end_padding": 0, "columns": 1, "init_std": None, "bias": 0},
            {"type": "relu"},
            {"type": "flatten"},
            {"type": "dropout", "name": "drop5", "inverted": False},
            {"type": "dense", "name": "fc5", "units": None, "columns": 1, "init_std": 0.01, "bias": 0},
        ],
    }
    # fmt: on


# A layer of every other type, as the file has it.
OTHERS = [
    {"type": "locally_connected", "name": "local3", "out_channels": 32, "kernel": 3, "padding": 1, "init_std": 0.04,
     "bias": 0},
    {"type": "tanh"},
    {"type": "sigmoid"},
    {"type": "same_map_norm", "size": 5, "alpha": 1e-3, "beta": 0.75},
    {"type": "average_pool", "size": 3, "stride": 2, "divisor": "whole"},
]  # fmt: skip


@pytest.mark.parametrize("content", OTHERS, ids=lambda content: content["type"])
def test_layers_that_quick_does_not_have(content: dict[str, object]) -> None:
    def layers(spec_name: str) -> tuple[LayerSpec, ...]:
        return VARIANTS[spec_name].layers

    written = [one for name in VARIANTS for one in spec_to_dict(VARIANTS[name])["layers"]]
    assert content in written
    read = spec_from_dict({"image_px": 8, "input_scale": 1.0, "layers": [content]}).layers[0]
    assert any(read in layers(name) for name in VARIANTS)


def test_every_variant_is_read_as_it_was_written() -> None:
    for spec in VARIANTS.values():
        assert spec_from_dict(json.loads(json.dumps(spec_to_dict(spec)))) == spec


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ({"type": "hologram"}, "layer type 'hologram' is unknown; known are convolution, "),
        ({"layer": "Hologram"}, "layer 'Hologram' is unknown"),
        ({"type": "relu", "slope": 0.1}, "a relu layer has the settings slope; expected are "),
        ({"type": "max_pool", "size": 3}, "a max_pool layer has the settings size; expected are size, stride, ties"),
    ],
)
def test_unknown_layers_are_refused(layer: dict[str, object], message: str) -> None:
    content = {"image_px": 8, "input_scale": 1.0, "layers": [layer]}
    with pytest.raises(RequestError, match=message):
        spec_from_dict(content)
    assert not spec_matches(content, VARIANTS["quick"])


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ({"size": 2.5}, "size is 2.5"),
        ({"alpha": math.nan}, "alpha of response normalization is nan"),
        ({"beta": math.inf}, "beta of response normalization is inf"),
        ({"k": 0}, "k is 0"),
        ({"columns": True}, "columns is True"),
    ],
)
def test_normalization_out_of_range_is_refused(layer: dict[str, object], message: str) -> None:
    norm = {"type": "response_norm", "size": 5, "alpha": 1e-4, "beta": 0.75, "k": 2, "columns": 1}
    content = {"image_px": 8, "input_scale": 1.0, "layers": [{**norm, "alpha_per_element": True, **layer}]}
    with pytest.raises(RequestError, match=message):
        spec_from_dict(content)
