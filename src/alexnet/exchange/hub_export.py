"""A folder as Hugging Face's hub expects one: model card, weights, configuration and preprocessing.

README.md                   the model card
model.safetensors           a weights file of this package
config.json                 the network and its classes, in the keys of timm
preprocessor_config.json    how a photograph becomes input, in the keys of transformers' image processors
"""

from pathlib import Path
from typing import Any

from alexnet.exchange.model_card import model_card, read_record
from alexnet.exchange.torchvision_export import color_statistics
from alexnet.model.spec_file import spec_to_dict
from alexnet.model.weights import Trained, save_trained
from alexnet.runs.folder import RunFolder
from alexnet.storage.atomic import staged_folder, write_json, write_text

_CROP_MODES = {"crop": "center", "pad": "border", "squash": "squash"}
"""timm's names of the fits."""
_BILINEAR = 2
"""Pillow's number of the filter, as transformers name it."""
_MEAN_IMAGE = "mean_image in model.safetensors, float32 (side, side, 3), RGB, 0..255"


def write_hub(trained: Trained, path: Path, run: RunFolder | None = None) -> None:
    """Write the folder, atomically.

    Args:
        run: the run of the network, from which the card is written; None of a network without one.

    Raises:
        RequestError: `path` exists, or cannot be created.
        WorkError: the disk is full, or a file of the run is damaged.
    """
    record = None if run is None else read_record(run)
    name = path.name if record is None else record.metadata["name"]
    with staged_folder(path) as stage:
        save_trained(stage / "model.safetensors", trained)
        write_json(stage / "config.json", hub_config(trained))
        write_json(stage / "preprocessor_config.json", _preprocessor(trained))
        write_text(stage / "README.md", model_card(trained, name, record))


def hub_config(trained: Trained) -> dict[str, Any]:
    """config.json: the keys of timm's configurations, with the variant and its layers in place of a model of timm."""
    network, (mean, _, _) = trained.network, color_statistics(trained)
    layers = [layer for layer in network.sized_layers if layer.weight_shape]
    return {
        "architecture": "alexnet",
        "model_args": {"variant": network.variant, "width": network.width, "dropout": network.dropout},
        "num_classes": len(trained.classes),
        "num_features": layers[-1].in_channels,
        "label_names": [one.name for one in trained.classes],
        "label_ids": [one.id for one in trained.classes],
        "pretrained_cfg": {
            "input_size": [3, trained.crop, trained.crop],
            "fixed_input_size": True,
            "interpolation": "bilinear",
            "crop_pct": trained.crop / trained.side,
            "crop_mode": _CROP_MODES[trained.fit],
            # timm divides colors by 255, subtracts and divides: so the network reads 0..255 minus the mean.
            "mean": mean,
            "std": [1 / 255] * 3,
            "mean_image": _MEAN_IMAGE,
            "num_classes": len(trained.classes),
            "first_conv": layers[0].name,
            "classifier": layers[-1].name,
        },
        "network": spec_to_dict(network.spec),
    }


def _preprocessor(trained: Trained) -> dict[str, Any]:
    """preprocessor_config.json, also of a fit that transformers lack: what it does is in `fit`."""
    side, (mean, _, _) = trained.side, color_statistics(trained)
    sizes: dict[str, dict[str, int]] = {
        "crop": {"shortest_edge": side},
        "pad": {"longest_edge": side},
        "squash": {"height": side, "width": side},
    }
    return {
        "do_convert_rgb": True,
        "do_resize": True,
        "size": sizes[trained.fit],
        "resample": _BILINEAR,
        "fit": trained.fit,
        "do_center_crop": True,
        "crop_size": {"height": trained.crop, "width": trained.crop},
        "do_rescale": False,
        "do_normalize": True,
        "image_mean": [255 * color for color in mean],
        "image_std": [1.0, 1.0, 1.0],
        "mean_image": _MEAN_IMAGE,
    }
