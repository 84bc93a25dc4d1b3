"""How a network reads pixels, by its errors on labeled images under each way of reading them."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from alexnet.data.augment import crop_view, views
from alexnet.data.dataset import PreparedData
from alexnet.data.dataset_files import NO_LABEL
from alexnet.data.shards import UnreadableSample
from alexnet.errors import RequestError
from alexnet.evaluation.metrics import count_errors, wilson_interval
from alexnet.evaluation.run_evaluation import remap_classes
from alexnet.exchange.foreign_network import ColorOrder, ForeignNetwork, InputConvention, InputScale, own_scale
from alexnet.exchange.weight_structure import shuffled_copy
from alexnet.model.inference import inference_network
from alexnet.model.layer_specs import Dense, Flatten, ReLU, SizedLayer, WeightedSpec
from alexnet.model.weights import Trained
from alexnet.system.device import arithmetic

Mean = Literal["claimed", "none", "data set"]
"""What is subtracted: the claimed mean image, nothing, or, where that claims nothing or a color far from it, the data
set's mean color."""
Layout = Literal["as given", "height and width exchanged", "filters rotated", "height, width, channels"]
"""How the file's tensors are laid out: as the import took them; with the axes of images exchanged; with filters rotated
by 180 degrees, as libraries store them that convolve instead of correlate; with the features that the first dense layer
reads in the order (H, W, C)."""
IMAGES_PER_CLASS = 5
"""Fewest images of a class, if it has as many: of single images nobody can tell whether classes are exchanged."""
_GRAY_LEVELS = 1.0
"""Mean difference of the colors of a gray image at most: JPEG rounds."""
_FAR_MEAN = 32.0
"""Difference of a claimed mean color from the data set's, in one color at least, from which on that is tried too."""
_BATCH_SIZE = 50


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A way of reading pixels and tensors."""

    color_order: ColorOrder
    scale: InputScale
    mean: Mean
    layout: Layout = "as given"


@dataclass(frozen=True, kw_only=True, eq=False)
class Combination:
    """The errors under one reading."""

    reading: Reading
    is_claimed: bool
    top1_error: float
    top1_interval: tuple[float, float]
    top5_error: float
    top5_interval: tuple[float, float]
    answers: NDArray[np.int64]
    """(N,), the most probable class of each image."""
    p_value: float | None = None
    """Of McNemar's exact test against the claimed reading; None for that itself."""

    def to_dict(self) -> dict[str, Any]:
        """As `StoredCombination` has it."""
        return {
            "color_order": self.reading.color_order,
            "scale": self.reading.scale,
            "mean": self.reading.mean,
            "layout": self.reading.layout,
            "is_claimed": self.is_claimed,
            "top1_error": self.top1_error,
            "top1_interval": list(self.top1_interval),
            "top5_error": self.top5_error,
            "top5_interval": list(self.top5_interval),
            "p_value": self.p_value,
        }


@dataclass(frozen=True, eq=False)
class Sample:
    """Some images of a split, balanced over its classes."""

    data: PreparedData
    """With labels in the network's classes."""
    split: str
    indices: NDArray[np.int64]
    labels: NDArray[np.int64]

    @property
    def num_classes(self) -> int:
        """Classes that have images in the sample."""
        return len(np.unique(self.labels))

    def batches(self) -> Iterator[NDArray[np.uint8]]:
        """The images, uint8 (B, S, S, 3).

        Raises:
            UnreadableSample: an image cannot be read.
        """
        split = self.data.splits[self.split]
        for start in range(0, len(self.indices), _BATCH_SIZE):
            try:
                yield np.stack([split.images[one] for one in self.indices[start : start + _BATCH_SIZE].tolist()])
            except UnreadableSample as error:
                raise split.with_key(error) from error


@dataclass(frozen=True, eq=False)
class Measurement:
    """What the network answers on a sample."""

    sample: Sample
    num_gray: int
    combinations: tuple[Combination, ...]
    """The claimed one first."""
    answers_without: Mapping[str, NDArray[np.int64]]
    """By layer, (N,): the answers with its weights shuffled, of the layers that were asked for."""
    silent_channels: Mapping[str, int]
    """By layers with weights that a ReLU follows: channels that are 0 after it for all images."""

    def to_dict(self) -> dict[str, Any]:
        """The sample, as `StoredSample` has it."""
        sample = self.sample
        return {
            "data_checksum": sample.data.checksum,
            "title": sample.data.title,
            "split": sample.split,
            "num_images": len(sample.indices),
            "num_gray": self.num_gray,
            "num_classes": sample.num_classes,
        }


def choose_sample(trained: Trained, data: PreparedData, num_images: int) -> Sample:
    """At most `num_images` images of the evaluation split, as many of each class, evenly spaced.

    Of many classes only some are taken, evenly spaced too, so that each has `IMAGES_PER_CLASS`.

    Raises:
        RequestError: classes that the network lacks, no labeled images, or images of another side than the network's.
    """
    if num_images < 1:
        raise RequestError(f"the number of images is {num_images}; allowed is 1 or more")
    matched = remap_classes(trained.classes, data)
    if matched.side != trained.side:
        raise RequestError(
            f"the network's mean image has a side of {trained.side} pixels, but {data.folder} stores images of "
            f"{matched.side} pixels; prepare the data with --side {trained.side}"
        )
    split = matched.splits[matched.evaluation_split]
    labels = np.asarray(split.labels)
    present = np.setdiff1d(np.unique(labels), [NO_LABEL])
    if len(present) == 0:
        raise RequestError(f"no image of split {split.name!r} of {data.folder} has a label; name other data")
    chosen = _evenly(present, max(1, num_images // IMAGES_PER_CLASS))
    each = max(1, num_images // len(chosen))
    indices = np.sort(np.concatenate([_evenly(np.flatnonzero(labels == one), each) for one in chosen]))
    return Sample(matched, split.name, indices, labels[indices])


def _evenly(values: NDArray[Any], num: int) -> NDArray[Any]:
    """At most `num` of the values, evenly spaced."""
    return values if len(values) <= num else values[(np.arange(num) * len(values)) // num]


def measure(
    foreign: ForeignNetwork,
    trained: Trained,
    convention: InputConvention,
    sample: Sample,
    suspects: Sequence[str],
    device: torch.device,
    progress: Callable[[int, int], None],
) -> Measurement:
    """Classify a sample under each combination of color order, scale and mean, and under other layouts of tensors.

    Only the first layer's weights and the mean change, so each image is decoded once.

    Args:
        convention: the claimed one, with which `trained` was made of `foreign`.
        suspects: layers that are also shuffled, one at a time.
        progress: called with (images done, total images).
    """
    claimed, others = _readings(trained, convention, sample.data)
    means = {mean: _mean_image(trained, sample.data, mean).to(device) for mean in get_args(Mean)}
    chosen = views(1, trained.side, trained.crop)[0]
    keys: list[Reading | str] = [claimed, *others, *suspects]
    answers: dict[Reading | str, list[NDArray[np.float32]]] = {one: [] for one in keys}
    num_gray = done = 0
    with _networks(foreign, trained, others, suspects, device) as networks, _observed(trained, device) as observed:
        own, recorders = observed
        for batch in sample.batches():
            num_gray += _count_gray(batch)
            images = torch.from_numpy(batch).to(device)
            for reading in answers:
                network = own if reading == claimed else networks(reading)
                mean = means[claimed.mean if isinstance(reading, str) else reading.mean]
                with torch.inference_mode(), arithmetic(device, "float32"):
                    scores = network(crop_view(images, chosen, trained.crop, mean, trained.mean_at))
                answers[reading].append(scores.float().softmax(1).cpu().numpy())
            done += len(batch)
            progress(done, len(sample.indices))
        silent_channels = {name: one.num_silent for name, one in recorders.items()}
    probabilities = {reading: np.nan_to_num(np.concatenate(found)) for reading, found in answers.items()}
    combinations = tuple(
        _combination(one, one == claimed, probabilities[one], sample.labels) for one in (claimed, *others)
    )
    without = {name: probabilities[name].argmax(1) for name in suspects}
    return Measurement(sample, num_gray, combinations, without, silent_channels)


def _readings(trained: Trained, convention: InputConvention, data: PreparedData) -> tuple[Reading, list[Reading]]:
    """The claimed reading, and all others that are tried."""
    has_mean = bool(trained.mean_image.any())
    mean: Mean = "claimed" if has_mean else "none"
    claimed = Reading(color_order=convention.color_order, scale=convention.scale, mean=mean)
    means: list[Mean] = ["claimed", "none"] if has_mean else ["none"]
    if not has_mean or float((trained.mean_image.cpu().mean((0, 1)) - _mean_color(data)).abs().max()) > _FAR_MEAN:
        means.append("data set")
    spec = trained.network.spec
    scales = [one for one in get_args(InputScale) if one != "variant" or own_scale(spec) == "variant"]
    inputs = [
        Reading(color_order=order, scale=scale, mean=mean)
        for order, scale, mean in itertools.product(get_args(ColorOrder), scales, means)
    ]
    layouts = [
        Reading(color_order=claimed.color_order, scale=claimed.scale, mean=claimed.mean, layout=layout)
        for layout in get_args(Layout)
    ]
    return claimed, [one for one in (*inputs, *layouts) if one != claimed]


def _mean_image(trained: Trained, data: PreparedData, mean: Mean) -> torch.Tensor:
    match mean:
        case "claimed":
            return trained.mean_image.cpu()
        case "none":
            return torch.zeros_like(trained.mean_image, device="cpu")
        case "data set":
            return _mean_color(data).expand(trained.side, trained.side, 3).contiguous()


def _mean_color(data: PreparedData) -> torch.Tensor:
    """Float32 (3,)."""
    return torch.from_numpy(np.asarray(data.statistics.mean_image).mean((0, 1))).float()


@contextmanager
def _networks(
    foreign: ForeignNetwork,
    trained: Trained,
    readings: Sequence[Reading],
    suspects: Sequence[str],
    device: torch.device,
) -> Iterator[Callable[[Reading | str], nn.Module]]:
    """Within the block, the network under each reading, or with a layer shuffled: one network, whose weights change
    from call to call."""
    sized = [one for one in trained.network.sized_layers if isinstance(one.spec, WeightedSpec)]
    first = sized[0].name
    with inference_network(trained.network, device, "float32") as network:
        own = {name: parameter.data for name, parameter in network.named_parameters()}
        changes: dict[Reading | str, dict[str, torch.Tensor]] = {
            name: {f"{name}.weight": shuffled_copy(own[f"{name}.weight"]).to(device)} for name in suspects
        }
        for reading in readings:
            if reading.layout == "as given":
                changed = InputConvention(color_order=reading.color_order, scale=reading.scale)
                weight = changed.first_weights(foreign.layers[0].weight.detach().cpu().float(), trained.network.spec)
                changes[reading] = {f"{first}.weight": weight.to(device)}

        def under(reading: Reading | str) -> nn.Module:
            if isinstance(reading, str) or reading.layout == "as given":
                changed = changes[reading]
            else:
                changed = _other_layout(trained, sized, own, reading.layout)
            for name, parameter in network.named_parameters():
                parameter.data = changed.get(name, own[name])
            return network

        yield under


def _other_layout(
    trained: Trained, sized: Sequence[SizedLayer], own: Mapping[str, torch.Tensor], layout: Layout
) -> dict[str, torch.Tensor]:
    """The tensors that change if the file's are laid out in another way than the import took them."""
    after_flatten = _side_before_dense(trained)
    changed = {}
    for layer in sized:
        weight, bias = own[f"{layer.name}.weight"], own[f"{layer.name}.bias"]
        is_first_dense = isinstance(layer.spec, Dense) and layer.name in after_flatten
        if is_first_dense:
            side, units = after_flatten[layer.name], len(weight)
            if layout == "height and width exchanged":
                weight = weight.reshape(units, -1, side, side).transpose(2, 3).reshape(units, -1)
            elif layout == "height, width, channels":
                weight = weight.reshape(units, side, side, -1).permute(0, 3, 1, 2).reshape(units, -1)
        elif weight.dim() > 2 and layout == "height and width exchanged":
            weight = weight.transpose(-1, -2)
            if weight.dim() == 6:
                weight, bias = weight.transpose(0, 1), bias.transpose(-1, -2)
        elif weight.dim() > 2 and layout == "filters rotated":
            weight = weight.flip((-1, -2))
        changed[f"{layer.name}.weight"], changed[f"{layer.name}.bias"] = weight.contiguous(), bias.contiguous()
    return changed


def _side_before_dense(trained: Trained) -> dict[str, int]:
    """The dense layer that reads images, and their side; none where they have a single position."""
    layers = trained.network.sized_layers
    for number, layer in enumerate(layers):
        if isinstance(layer.spec, Flatten):
            dense = next((one for one in layers[number:] if isinstance(one.spec, Dense)), None)
            return {dense.name: layer.in_side} if dense is not None else {}
    return {}


class _RecordingReLU(nn.Module):
    """A ReLU that keeps the largest activation of each channel over all images."""

    largest: torch.Tensor | None = None

    @property
    def num_silent(self) -> int:
        """Channels that were never above 0."""
        return 0 if self.largest is None else int((self.largest <= 0).sum())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output = x.relu()
        found = output.amax(dim=tuple(one for one in range(output.dim()) if one != 1))
        self.largest = found if self.largest is None else torch.maximum(self.largest, found)
        return output


@contextmanager
def _observed(trained: Trained, device: torch.device) -> Iterator[tuple[nn.Module, Mapping[str, _RecordingReLU]]]:
    """Within the block, the network as it is, and by layers with weights the ReLU that follows."""
    recorders: dict[str, _RecordingReLU] = {}
    weighted = ""
    with inference_network(trained.network, device, "float32") as network:
        for layer in trained.network.spec.named_layers:
            if isinstance(layer.spec, WeightedSpec):
                weighted = layer.name
            if isinstance(layer.spec, ReLU):
                recorders[weighted] = _RecordingReLU()
                setattr(network, layer.name, recorders[weighted])
        yield network, recorders


def _count_gray(images: NDArray[np.uint8]) -> int:
    """Images (B, S, S, 3) without color."""
    levels = images.astype(np.int16)
    difference = np.abs(levels[..., :2] - levels[..., 1:]).mean((1, 2, 3))
    return int((difference < _GRAY_LEVELS).sum())


def _combination(
    reading: Reading, is_claimed: bool, probabilities: NDArray[np.float32], labels: NDArray[np.int64]
) -> Combination:
    counts = count_errors(probabilities, labels)
    return Combination(
        reading=reading,
        is_claimed=is_claimed,
        top1_error=counts.top1_error,
        top1_interval=wilson_interval(counts.top1_wrong, counts.num_images),
        top5_error=counts.top5_error,
        top5_interval=wilson_interval(counts.top5_wrong, counts.num_images),
        answers=probabilities.argmax(1),
    )
