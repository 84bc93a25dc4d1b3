"""A trained network in one file: tensors, class names and preprocessing together, without pickled code.

safetensors with the network's tensors under their own names, `mean_image`, and one JSON string in the
metadata that says how images become the network's input.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch

from alexnet.data.augment import MeanAt
from alexnet.data.dataset import ClassInfo
from alexnet.errors import RequestError, WorkError
from alexnet.model.network import AlexNet
from alexnet.storage.atomic import write_bytes

FORMAT_VERSION = 3
READABLE = (2, 3)
"""Version 2 did not say where the mean image is taken: at the crop's own place."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A network with all that is needed to use it on a photograph."""

    network: AlexNet
    classes: tuple[ClassInfo, ...]
    mean_image: torch.Tensor
    """float32 (side, side, 3), 0..255."""
    crop: int
    """Side of the network's crop, pixels."""
    title: str
    """Title of the data set it learned from."""
    generated: bool
    """Whether that data set was generated, not photographed."""
    mean_at: MeanAt = "crop"
    """Which part of the mean image a crop loses."""

    @property
    def side(self) -> int:
        """Side to which photographs are brought before they are cropped, pixels."""
        return int(self.mean_image.shape[0])


def save_trained(path: Path, trained: Trained) -> None:
    """Write `trained` to `path`, atomically."""
    network = trained.network
    description = {
        "format_version": FORMAT_VERSION,
        "variant": network.variant,
        "network": network.description.as_json(),
        "width": network.width,
        "dropout": network.dropout,
        "num_classes": network.num_classes,
        "classes": [asdict(one) for one in trained.classes],
        "preprocessing": {
            "side": trained.side,
            "crop": trained.crop,
            "resize": "shorter side to `side`, antialiased bilinear, central square",
            "range": "0..255 RGB minus mean_image",
            "mean_at": trained.mean_at,
        },
        "title": trained.title,
        "generated": trained.generated,
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    tensors["mean_image"] = trained.mean_image.cpu().contiguous()
    write_bytes(path, safetensors.torch.save(tensors, metadata={"alexnet": json.dumps(description)}))


def weights_file(path: Path) -> Path:
    """The file that `load_trained` reads for a path: itself, or that of a run folder."""
    return path / "weights.safetensors" if path.is_dir() else path


def load_trained(path: Path | str) -> Trained:
    """The network that `save_trained` wrote, on the CPU, in evaluation mode.

    Args:
        path: a weights file, or a run folder that holds `weights.safetensors`.

    Raises:
        RequestError: there is no such file, or it is not one of ours, or of another format version, or the
            variant of its name computes something else in this version of alexnet.
        WorkError: the file is damaged.
    """
    path = Path(path)
    file = weights_file(path)
    if not file.is_file():
        if path.is_dir() and (path / "baseline.safetensors").is_file():
            raise RequestError(f"{path} holds a baseline, which is no network; `alexnet evaluate {path}` measures it")
        raise RequestError(
            f"{path} holds no trained network ({file.name} is missing); `alexnet train DATA --run {path}` makes one"
        )
    try:
        with safetensors.safe_open(file, framework="pt") as content:
            metadata = content.metadata() or {}
            tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118 (not a dictionary)
    except safetensors.SafetensorError as error:
        raise WorkError(f"{file} is damaged ({error}); train again or restore it") from error
    if "alexnet" not in metadata:
        raise RequestError(
            f"{file} was not written by alexnet (no description inside); only weights of a run can be loaded"
        )
    description = json.loads(metadata["alexnet"])
    if description["format_version"] not in READABLE:
        raise RequestError(
            f"{file} has weights format {description['format_version']}, this version reads {READABLE[0]} to "
            f"{READABLE[-1]}; "
            "load it with the version of alexnet that wrote it"
        )
    network = AlexNet(
        description["num_classes"], description["variant"], description["width"], dropout=description["dropout"]
    )
    if description["network"] != network.description.as_json():
        raise RequestError(
            f"{file} holds variant {network.variant!r} in a form that this version of alexnet no longer has; "
            "load it with the version that wrote it (run.json names the commit), or train again"
        )
    mean_image = tensors.pop("mean_image")
    network.load_state_dict(tensors)
    return Trained(
        network=network.eval(),
        classes=tuple(ClassInfo(**one) for one in description["classes"]),
        mean_image=mean_image,
        crop=description["preprocessing"]["crop"],
        title=description["title"],
        generated=description["generated"],
        mean_at=description["preprocessing"].get("mean_at", "crop"),
    )
