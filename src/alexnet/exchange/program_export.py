"""A trained network as a program of torch's own operators: from pixels of any size to probabilities.

The file is one of `torch.export.save`; `torch.export.load(path).module()` runs where this package is not installed, on
the CPU. Input `images`: uint8 (N, H, W, 3), RGB; output: float32 (N, K). Extra files: `class_names.json`, a list, and
`description.json`, the description in a weights file.
"""

import json
from io import BytesIO
from pathlib import Path

import torch
from torch import nn

from alexnet.data.augment import center_crop
from alexnet.exchange.exact_resizing import exact_crops
from alexnet.model.layer_modules import EveryTieMaxPool2d, ResponseNorm2d, SameMapNorm2d
from alexnet.model.layer_specs import ResponseNorm, SameMapNorm
from alexnet.model.network import AlexNet
from alexnet.model.response_norm import normalize_channels, normalize_positions
from alexnet.model.weights import Trained, describe, float32_parameters
from alexnet.storage.atomic import write_bytes


def write_program(trained: Trained, path: Path) -> None:
    """Write a network with its preprocessing and a softmax as an exported program, atomically.

    Args:
        trained: what `require_describable` accepts.
        path: the file, usually `*.pt2`.

    Raises:
        OSError: the file cannot be written; nothing is left behind.
    """
    content = BytesIO()
    names = [one.name for one in trained.classes]
    extra_files = {"class_names.json": json.dumps(names), "description.json": json.dumps(describe(trained))}
    torch.export.save(export_program(trained), content, extra_files=extra_files)
    write_bytes(path, content.getvalue())


def export_program(trained: Trained) -> torch.export.ExportedProgram:
    """The network as an exported program, see the module's docstring."""
    module = _Program(trained).eval()
    sizes = {"images": {axis: torch.export.Dim(name, min=1) for axis, name in enumerate("NHW")}}
    images = torch.zeros(2, trained.side + 1, trained.side + 3, 3, dtype=torch.uint8)
    with torch.no_grad():
        program = torch.export.export(module, (images,), dynamic_shapes=sizes, strict=False)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of this machine
    return program


class _Program(nn.Module):
    """Preprocessing, network and softmax. The network's tensors have their own names."""

    mean_crop: torch.Tensor

    def __init__(self, trained: Trained) -> None:
        super().__init__()
        self.side, self.crop, self.fit = trained.side, trained.crop, trained.fit
        mean_crop = center_crop(trained.mean_image.cpu(), trained.crop)
        self.register_buffer("mean_crop", mean_crop.permute(2, 0, 1).contiguous())
        children = dict(_copied(trained.network).named_children())
        self._layers = [*children]
        for name, module in children.items():
            self.add_module(name, _plain(module))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = exact_crops(images, self.side, self.crop, self.fit) - self.mean_crop
        for name in self._layers:
            x = self.get_submodule(name)(x)
        return x.softmax(dim=1)


def _copied(network: AlexNet) -> AlexNet:
    """The network on the CPU, without copying tensors that are there."""
    with torch.device("meta"), float32_parameters():
        copied = AlexNet(network.num_classes, network.variant, network.width, dropout=network.dropout)
    tensors = {name: tensor.detach().to("cpu", torch.float32) for name, tensor in network.state_dict().items()}
    copied.load_state_dict(tensors, assign=True)
    return copied.requires_grad_(False)


def _plain(module: nn.Module) -> nn.Module:
    """A module that computes the same by torch's own operators."""
    match module:
        case EveryTieMaxPool2d():
            return nn.MaxPool2d(module.kernel_size, module.stride, ceil_mode=True)
        case ResponseNorm2d():
            return _ChannelNorm(module.spec)
        case SameMapNorm2d():
            return _PositionNorm(module.spec)
        case _:
            return module


class _ChannelNorm(nn.Module):
    def __init__(self, spec: ResponseNorm) -> None:
        super().__init__()
        self.spec = spec

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return normalize_channels(x, self.spec)


class _PositionNorm(nn.Module):
    def __init__(self, spec: SameMapNorm) -> None:
        super().__init__()
        self.spec = spec

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return normalize_positions(x, self.spec.size, self.spec.alpha, self.spec.beta)
