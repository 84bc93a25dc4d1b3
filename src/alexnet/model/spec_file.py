"""A network specification as JSON, as weights files and checkpoints hold it.

The layer types and keys written here are the file format: they stay when a class or a field is renamed, and every
field is written, so that a changed default cannot alter what a file means.
"""

from collections.abc import Mapping
from typing import Any

from alexnet.errors import RequestError
from alexnet.model import layer_specs
from alexnet.model.layer_specs import LayerSpec, NetworkSpec

# The layer type of the file -> the class and its keys, which are the names of its fields.
_LAYERS: dict[str, tuple[type[Any], tuple[str, ...]]] = {
    "convolution": (
        layer_specs.Convolution,
        ("name", "out_channels", "kernel", "stride", "padding", "end_padding", "columns", "init_std", "bias"),
    ),
    "locally_connected": (
        layer_specs.LocallyConnected,
        ("name", "out_channels", "kernel", "padding", "init_std", "bias"),
    ),
    "dense": (layer_specs.Dense, ("name", "units", "columns", "init_std", "bias")),
    "relu": (layer_specs.ReLU, ()),
    "tanh": (layer_specs.Tanh, ()),
    "sigmoid": (layer_specs.Sigmoid, ()),
    "response_norm": (layer_specs.ResponseNorm, ("size", "alpha", "beta", "k", "columns", "alpha_per_element")),
    "same_map_norm": (layer_specs.SameMapNorm, ("size", "alpha", "beta")),
    "max_pool": (layer_specs.MaxPool, ("size", "stride", "ties")),
    "average_pool": (layer_specs.AveragePool, ("size", "stride", "divisor")),
    "dropout": (layer_specs.Dropout, ("name", "inverted")),
    "flatten": (layer_specs.Flatten, ()),
}
_TYPES = {kind: name for name, (kind, _) in _LAYERS.items()}


def spec_to_dict(spec: NetworkSpec) -> dict[str, Any]:
    """What the network computes: its input, and its layers in order with all their settings."""
    scale = spec.input_scale
    return {
        "image_px": spec.image_px,
        "input_scale": list(scale) if isinstance(scale, tuple) else scale,
        "layers": [_layer_to_dict(layer) for layer in spec.layers],
    }


def spec_from_dict(content: Mapping[str, Any]) -> NetworkSpec:
    """The specification that `spec_to_dict` wrote, or that a file of an earlier format holds.

    `source` and `num_classes` are the defaults: files do not hold them.

    Raises:
        RequestError: a layer type or a setting that this version does not know.
    """
    scale = content["input_scale"]
    return NetworkSpec(
        image_px=content["image_px"],
        input_scale=tuple(scale) if isinstance(scale, list) else scale,
        layers=tuple(_layer_from_dict(_upgraded(layer)) for layer in content["layers"]),
    )


def spec_matches(content: Mapping[str, Any], spec: NetworkSpec) -> bool:
    """Whether a file's network, of this or an earlier format, computes what `spec` does; damaged content does not."""
    try:
        return spec_from_dict(content) == spec
    except (RequestError, KeyError, TypeError, ValueError, AttributeError):
        return False


def _layer_to_dict(layer: LayerSpec) -> dict[str, Any]:
    name = _TYPES[type(layer)]
    settings = {key: getattr(layer, key) for key in _LAYERS[name][1]}
    if name == "dropout":
        settings["name"] = settings["name"].replace("dropout", "drop")
    return {"type": name, **settings}


def _layer_from_dict(content: Mapping[str, Any]) -> LayerSpec:
    settings = dict(content)
    name = settings.pop("type")
    if name not in _LAYERS:
        raise RequestError(f"layer type {name!r} is unknown; known are {', '.join(_LAYERS)}")
    kind, keys = _LAYERS[name]
    if settings.keys() != set(keys):
        raise RequestError(f"a {name} layer has the settings {', '.join(settings)}; expected are {', '.join(keys)}")
    if name == "dropout":  # the files' names are shorter than the modules'
        settings["name"] = settings["name"].replace("drop", "dropout")
    layer: LayerSpec = kind(**settings)
    return layer


# Weights files of versions 2 and 3, and checkpoints up to version 3, used the class and field names of the code that
# wrote them and omitted default values. These names and defaults must never change.
_OLD_DEFAULTS: dict[str, dict[str, Any]] = {
    "Convolution": {"stride": 1, "padding": 0, "end_padding": 0, "columns": 1, "deviation": 0.01, "bias": 0.0},
    "Local": {"padding": 0, "deviation": 0.01, "bias": 0.0},
    "Dense": {"columns": 1, "deviation": 0.01, "bias": 0.0},
    "Rectify": {},
    "Squash": {"function": "tanh"},
    "Normalise": {"size": 5, "alpha": 1e-4, "beta": 0.75, "k": 2.0, "columns": 1, "alpha_per_element": True},
    "NormaliseSameMap": {"size": 5, "alpha": 1e-3, "beta": 0.75},
    "Pool": {"size": 3, "stride": 2, "kind": "max", "ties": "one", "divisor": "inside"},
    "Drop": {"inverted": False},
    "Flatten": {},
}
_OLD_KEYS = {"maps": "out_channels", "deviation": "init_std"}
_OLD_TYPES = {
    "Convolution": "convolution",
    "Local": "locally_connected",
    "Dense": "dense",
    "Rectify": "relu",
    "Normalise": "response_norm",
    "NormaliseSameMap": "same_map_norm",
    "Drop": "dropout",
    "Flatten": "flatten",
}


def _upgraded(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """A layer of an earlier format in the current one; a layer of the current format unchanged."""
    if "layer" not in content:
        return content
    old = content["layer"]
    if old not in _OLD_DEFAULTS:
        raise RequestError(f"layer {old!r} is unknown; known are {', '.join(_OLD_DEFAULTS)}")
    settings = {**_OLD_DEFAULTS[old], **{key: value for key, value in content.items() if key != "layer"}}
    if old == "Squash":
        return {"type": settings["function"]}
    if old == "Pool":
        kind, key = ("max_pool", "ties") if settings["kind"] == "max" else ("average_pool", "divisor")
        return {"type": kind, "size": settings["size"], "stride": settings["stride"], key: settings[key]}
    return {"type": _OLD_TYPES[old], **{_OLD_KEYS.get(key, key): value for key, value in settings.items()}}
