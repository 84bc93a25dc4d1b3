"""A trained network in one file: tensors, class names and preprocessing, without pickled code.

A safetensors file with the network's tensors under their own names and `mean_image`. The metadata key `alexnet` holds
a JSON object with the rest.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict, get_args

import safetensors.torch
import torch
from msgspec import Meta

from alexnet.data.augment import MeanAt
from alexnet.data.dataset import ClassInfo
from alexnet.data.dataset_files import StoredClass
from alexnet.data.decode import PAD_COLOR, Fit
from alexnet.errors import RequestError
from alexnet.model.network import AlexNet
from alexnet.model.spec_file import spec_matches, spec_to_dict
from alexnet.storage.atomic import write_chunks
from alexnet.storage.tensors import read_tensors, seal_tensors
from alexnet.storage.typed_files import Fraction, Size, Versioned, damaged, parse_json
from alexnet.system.visible_text import shell_words

FORMAT_VERSION = 4
READABLE_VERSIONS = (2, 3, 4)
"""Versions 2 and 3 describe networks in a form that `spec_file` still reads; in 2, `mean_at` is always `crop`."""
_OLD_MEAN_AT: dict[str, MeanAt] = {"own-place": "crop", "centre": "center"}
"""Values of `mean_at` up to version 3."""
_RESIZE: dict[Fit, str] = {
    "crop": "shorter side to `side`, antialiased bilinear, central square",
    "pad": f"longer side to `side`, antialiased bilinear, centered on RGB {PAD_COLOR}",
    "squash": "both sides to `side`, antialiased bilinear",
}
"""What each fit does, for readers of the file."""
_PICKLE = re.compile(rb"PK\x03\x04|\x80[\x02-\x05][^\x00]")
"""The beginning of a file of torch.save: a zip of pickles, or a pickle. Safetensors begin with a header's length."""
_ADVICE = "restore it from a copy, or train again"


class _Preprocessing(TypedDict):
    crop: Size
    side: NotRequired[Size]
    mean_at: NotRequired[str]
    fit: NotRequired[Fit]


class _Description(Versioned):
    variant: str
    network: dict[str, Any]
    width: Annotated[float, Meta(gt=0, le=4)]
    dropout: Fraction
    num_classes: Annotated[int, Meta(ge=2, le=1 << 24)]
    classes: list[StoredClass]
    preprocessing: _Preprocessing
    title: str
    generated: bool


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A network with everything needed to apply it to a photograph."""

    network: AlexNet
    classes: tuple[ClassInfo, ...]
    mean_image: torch.Tensor
    """float32 (side, side, 3), 0..255."""
    crop: int
    """Side of the network's crop, pixels."""
    title: str
    """Title of the data set that it was trained on."""
    generated: bool
    """Whether that data set is synthetic."""
    mean_at: MeanAt = "crop"
    """Which part of the mean image is subtracted from a crop."""
    fit: Fit = "crop"
    """How its training images were made square, see `make_square`."""

    @property
    def side(self) -> int:
        """Side to which photographs are resized before they are cropped, pixels."""
        return int(self.mean_image.shape[0])


def save_trained(path: Path, trained: Trained) -> None:
    """Write `trained` to `path`, atomically."""
    network = trained.network
    # Not written for crops, whose files are as those of earlier versions.
    fit = {} if trained.fit == "crop" else {"fit": trained.fit}
    description = {
        "format_version": FORMAT_VERSION,
        "variant": network.variant,
        "network": spec_to_dict(network.spec),
        "width": network.width,
        "dropout": network.dropout,
        "num_classes": network.num_classes,
        "classes": [{"id": one.id, "name": one.name} for one in trained.classes],
        "preprocessing": {
            "side": trained.side,
            "crop": trained.crop,
            "resize": _RESIZE[trained.fit],
            **fit,
            "range": "0..255 RGB minus mean_image",
            "mean_at": trained.mean_at,
        },
        "title": trained.title,
        "generated": trained.generated,
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    tensors["mean_image"] = trained.mean_image.cpu().contiguous()
    write_chunks(path, seal_tensors(safetensors.torch.save(tensors, metadata={"alexnet": json.dumps(description)})))


def weights_file(path: Path) -> Path:
    """The file that `load_trained` reads: the path itself, or `weights.safetensors` in a run folder."""
    return path / "weights.safetensors" if path.is_dir() else path


def load_trained(path: Path | str) -> Trained:
    """The network that `save_trained` wrote, on the CPU, in evaluation mode.

    Args:
        path: a weights file, or a run folder that holds `weights.safetensors`.

    Raises:
        RequestError: there is no such file, or alexnet did not write it, or its format version is unknown, or this
            version of alexnet computes something else under the name of its variant.
        WorkError: the file is damaged.
    """
    path = Path(path)
    file = weights_file(path)
    if not file.is_file():
        if path.is_dir() and (path / "baseline.safetensors").is_file():
            raise RequestError(
                f"{path} holds a baseline, not a network; measure it with `{shell_words('alexnet', 'evaluate', path)}`"
            )
        raise RequestError(
            f"{path} holds no trained network ({file.name} is missing); run `alexnet train DATA --run {path}`"
        )
    _require_no_pickle(file)
    tensors, metadata = read_tensors(file, "pt", _ADVICE)
    if "alexnet" not in metadata:
        raise RequestError(
            f"{file} was not written by alexnet (its metadata has no key `alexnet`); give the weights file of a run"
        )
    version = parse_json(metadata["alexnet"], Versioned, file, _ADVICE)["format_version"]
    if version not in READABLE_VERSIONS:
        raise RequestError(
            f"{file} has weights format {version}, but this version reads "
            f"{READABLE_VERSIONS[0]} to {READABLE_VERSIONS[-1]}; load it with the version of alexnet that wrote it"
        )
    description = parse_json(metadata["alexnet"], _Description, file, _ADVICE)
    mean_image, crop = tensors.pop("mean_image", None), description["preprocessing"]["crop"]
    if problem := _inconsistency(description, mean_image):
        raise damaged(file, problem, _ADVICE)
    assert mean_image is not None
    network = AlexNet(
        description["num_classes"], description["variant"], description["width"], dropout=description["dropout"]
    )
    if not spec_matches(description["network"], network.spec):
        raise RequestError(
            f"{file} holds variant {network.variant!r}, which is a different network in this version of alexnet; "
            "load it with the version that wrote it (run.json names the commit), or train again"
        )
    network.load_state_dict(tensors)
    mean_at: Any = description["preprocessing"].get("mean_at", "crop")
    return Trained(
        network=network.eval(),
        classes=tuple(ClassInfo(id=one["id"], name=one["name"]) for one in description["classes"]),
        mean_image=mean_image,
        crop=crop,
        title=description["title"],
        generated=description["generated"],
        mean_at=_OLD_MEAN_AT.get(mean_at, mean_at),
        fit=description["preprocessing"].get("fit", "crop"),
    )


def _require_no_pickle(path: Path) -> None:
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError:  # the reader says why
        return
    if _PICKLE.match(start):
        raise RequestError(
            f"{path} is a pickle, as torch.save writes it; pickles can run code and are not read. Give a weights file "
            "that alexnet wrote, or in Python pass `torch.load(..., weights_only=True)` to `AlexNet.load_state_dict`"
        )


def _inconsistency(description: _Description, mean_image: torch.Tensor | None) -> str | None:
    """What of a description does not fit together; None if all does."""
    preprocessing = description["preprocessing"]
    mean_at = preprocessing.get("mean_at", "crop")
    if mean_at not in (*get_args(MeanAt), *_OLD_MEAN_AT):
        return f"preprocessing.mean_at: it is {mean_at!r}"
    if len({one["id"] for one in description["classes"]}) != description["num_classes"]:
        return "classes: they are not num_classes different ones"
    if mean_image is None:
        return "it has no mean_image"
    side = preprocessing.get("side", mean_image.shape[0] if mean_image.dim() else 0)
    if mean_image.shape != (side, side, 3) or mean_image.dtype != torch.float32 or preprocessing["crop"] > side:
        return f"mean_image: it is {mean_image.dtype} {tuple(mean_image.shape)}, and preprocessing {preprocessing}"
    return None
