"""The pieces of images to which the channels of a layer respond most, cropped to what the layer sees of the image."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from alexnet.data.augment import views
from alexnet.data.dataset_files import NO_LABEL
from alexnet.data.sampler import evenly_spaced
from alexnet.errors import RequestError, WorkError
from alexnet.explore.filter_colors import layer_columns
from alexnet.explore.forward import activation_batches
from alexnet.explore.image_source import ImageSource
from alexnet.model.activations import ActivationReader
from alexnet.model.layer_specs import Flatten
from alexnet.model.receptive_field import ReceptiveField, receptive_fields
from alexnet.model.weights import Trained
from alexnet.storage.arguments import is_whole
from alexnet.storage.paths import described
from alexnet.system.device import Precision

NUM_PATCHES = 9
"""Of a channel, from as many images."""
NUM_CHANNELS = 24
"""Channels that are chosen of a layer that has more: evenly spaced, so that both columns are seen and nobody chose."""
MOST_CHANNELS = 96
"""Channels that can be asked for at once: more are not looked at, and their patches fill the memory."""
NO_IMAGE = -1


@dataclass(frozen=True, eq=False)
class TopPatches:
    """Of some channels of a layer, C: the image patches with the highest activations, the highest first, P <= 9.

    A channel has at most one patch of each image: where its activation is highest there. An activation of exactly 0,
    which is what ReLU leaves of all that does not excite a channel, has no patch, so there may be fewer than nine.
    """

    layer: str
    channels: tuple[int, ...]
    """(C,): numbers of the channels, or units, among those of the layer."""
    headings: tuple[str, ...]
    """(C,): what each is: `channel 3`, with its column where there are any, or `unit 3`, of the last layer with its
    class."""
    num_channels: int
    """Of the layer."""
    field: ReceptiveField
    """What one position of the layer sees."""
    activations: NDArray[np.float32]
    """(C, P); NaN without a patch."""
    images: NDArray[np.int64]
    """(C, P): index of the image among those of the split; -1 without a patch."""
    positions: NDArray[np.int64]
    """(C, P, 2): row and column of the position in the layer; zeros of dense layers, which have none."""
    windows: NDArray[np.int64]
    """(C, P, 4): top, left, bottom, right (the last two exclusive) of the patch, in pixels of the stored image; zeros
    without a patch."""
    patches: NDArray[np.uint8]
    """(C, P, S, S, 3), RGB; 0 outside of the crop that the network sees."""
    is_inside: NDArray[np.bool_]
    """(C, P, S, S): whether a pixel belongs to the crop; others are padding, which the network reads as the mean."""
    keys: tuple[tuple[str, ...], ...]
    """By channel, the names of the images in the data set."""
    class_names: tuple[tuple[str | None, ...], ...]
    """By channel, the classes of the images; None without a label."""
    num_tied: NDArray[np.int64]
    """(C,): images whose activation equals, to the last bit, that of the last patch, if they are more than are shown;
    which of them are shown is then by their order in the data set. 0 without such a tie."""
    num_images: int
    """Images that were compared."""

    def __repr__(self) -> str:
        return (
            f"TopPatches({self.layer}: {len(self.channels)} of {self.num_channels:,} channels, "
            f"{self.field.size_px} x {self.field.size_px} pixels, of {self.num_images:,} images)"
        )

    def describe(self) -> str:
        """What is shown, in a sentence."""
        ties = int((self.num_tied > 0).sum())
        note = f"; more images tie than are shown for {ties} of these" if ties else ""
        return f"{self.choice()}: the {self.what()} with the highest activations in {self.num_images:,} images{note}"

    def what(self) -> str:
        """What a channel is shown by."""
        size = f"{self.field.size_px} x {self.field.size_px} pixels"
        kind, _, _ = self.headings[0].partition(" ")
        return f"{NUM_PATCHES} whole views of {size}" if kind == "unit" else f"{NUM_PATCHES} patches of {size}"

    def choice(self) -> str:
        """Which channels are shown."""
        kind, _, _ = self.headings[0].partition(" ")
        if len(self.channels) == self.num_channels:
            return f"all {self.num_channels:,} {kind}s of {self.layer}"
        how = ", evenly spaced" if self.channels == _evenly_spaced(self.num_channels) else ""
        return f"{len(self.channels)} of the {self.num_channels:,} {kind}s of {self.layer}{how}"

    def to_dict(self) -> dict[str, Any]:
        """A JSON object, without pixels."""
        found = [
            {
                "channel": channel,
                "name": self.headings[row],
                "images_tied": int(self.num_tied[row]),
                "patches": [
                    {
                        "activation": float(self.activations[row, rank]),
                        "image": int(self.images[row, rank]),
                        "key": key,
                        "class": self.class_names[row][rank],
                        "position": self.positions[row, rank].tolist(),
                        "window_px": self.windows[row, rank].tolist(),
                    }
                    for rank, key in enumerate(self.keys[row])
                ],
            }
            for row, channel in enumerate(self.channels)
        ]
        return {
            "channels_in_layer": self.num_channels,
            "receptive_field_px": self.field.size_px,
            "stride_px": self.field.stride_px,
            "images": self.num_images,
            "channels": found,
        }


class _Highest:
    """The highest activations of some channels so far, with their images and positions."""

    def __init__(self, channels: Sequence[int]) -> None:
        self._channels = list(channels)
        self.activations = np.full((len(channels), NUM_PATCHES), -np.inf, np.float32)
        self.images = np.full((len(channels), NUM_PATCHES), NO_IMAGE, np.int64)
        self.places = np.zeros((len(channels), NUM_PATCHES), np.int64)
        self._num_at_last = np.zeros(len(channels), np.int64)

    def add(self, activations: NDArray[np.float32], images: NDArray[np.int64]) -> None:
        """Compare with the activations, (B, channels, ...), of images that come after those before."""
        chosen = activations[:, self._channels].reshape(len(activations), len(self._channels), -1)
        places = chosen.argmax(axis=2)
        highest = np.take_along_axis(chosen, places[..., None], axis=2)[..., 0]
        highest = np.where(highest == 0, np.float32(-np.inf), highest)
        candidates = np.concatenate([self.activations, highest.T], axis=1)
        # Stable: of equal activations those of the earlier image stay.
        order = np.argsort(-candidates, axis=1, kind="stable")[:, :NUM_PATCHES]
        every = np.broadcast_to(images, highest.T.shape)
        before = self.activations[:, -1]
        self.activations = np.take_along_axis(candidates, order, axis=1)
        last = self.activations[:, -1:]
        # Images of the last place's activation: if that has risen, all of them are candidates.
        earlier = np.where(last[:, 0] == before, self._num_at_last, (candidates[:, :NUM_PATCHES] == last).sum(axis=1))
        self._num_at_last = earlier + (candidates[:, NUM_PATCHES:] == last).sum(axis=1)
        self.images = np.take_along_axis(np.concatenate([self.images, every], axis=1), order, axis=1)
        self.places = np.take_along_axis(np.concatenate([self.places, places.T], axis=1), order, axis=1)
        self.images[np.isneginf(self.activations)] = NO_IMAGE

    def num_tied(self) -> NDArray[np.int64]:
        """(channels,): images of the last place's activation, if they are more than have a place; else 0."""
        last = self.activations[:, -1:]
        placed = (self.activations == last).sum(axis=1)
        return np.where(np.isfinite(last[:, 0]) & (self._num_at_last > placed), self._num_at_last, 0)


def chosen_channels(trained: Trained, layer: str, num_channels: int, asked: Sequence[int] | None) -> tuple[int, ...]:
    """The channels to show of a layer: those that are asked for, or else all, or evenly spaced ones of many.

    Raises:
        RequestError: a layer without channels, or channels that it does not have.
    """
    specs = {one.name: one.spec for one in trained.network.spec.named_layers}
    if isinstance(specs[layer], Flatten):
        raise RequestError(f"{layer} only arranges channels in a row; name the layer before it")
    if asked is None:
        return _evenly_spaced(num_channels)
    if not 0 < len(asked) <= MOST_CHANNELS:
        raise RequestError(f"{len(asked)} channels are requested; allowed are 1 to {MOST_CHANNELS} at once")
    for number, one in enumerate(asked):
        if not is_whole(one, 0) or one >= num_channels:
            raise RequestError(f"{layer} has no channel {described(one)}; it has 0 to {num_channels - 1}")
        if one in asked[:number]:
            raise RequestError(f"channel {one} is requested twice; name each once")
    return tuple(map(int, asked))


def _evenly_spaced(num_channels: int) -> tuple[int, ...]:
    return tuple(evenly_spaced(np.arange(num_channels), NUM_CHANNELS).tolist())


def top_patches(
    trained: Trained,
    layers: Mapping[str, Sequence[int]],
    source: ImageSource,
    batch_size: int | None,
    device: torch.device,
    precision: Precision,
    progress: Callable[[int, int], None],
) -> dict[str, TopPatches]:
    """The patches of highest activation of several layers, by layer; the images are read once for all of them.

    Args:
        layers: the channels of each, see `chosen_channels`.
        source: a split; images are read again where they have patches.

    Raises:
        RequestError: an unknown layer, or a batch size below 1.
        WorkError: activations that are not finite, or no image that can be read.
    """
    reader = ActivationReader(trained.network, list(layers))
    highest = {name: _Highest(channels) for name, channels in layers.items()}
    num_images, num_read, first = len(source.paths), 0, 0
    batches = activation_batches(trained, reader, source.read, 0, num_images, batch_size, device, precision)
    with closing(batches):
        for batch in batches:
            refused = {number for number, _ in batch.refused}
            images = np.array([one for one in range(first, batch.stop) if one not in refused], np.int64)
            for name, activations in batch.activations.items():
                highest[name].add(activations, images)
            num_read, first = num_read + len(images), batch.stop
            progress(batch.stop, num_images)
    if not num_read:
        raise WorkError("none of the images can be read, so there are no patches")
    return {name: _cut(trained, reader, name, one, layers[name], source, num_read) for name, one in highest.items()}


def _cut(
    trained: Trained,
    reader: ActivationReader,
    layer: str,
    highest: _Highest,
    channels: Sequence[int],
    source: ImageSource,
    num_read: int,
) -> TopPatches:
    """Read the images of the highest activations again, and cut the patches out."""
    field, shape = receptive_fields(trained.network.spec)[layer], reader.shape(layer)
    side, is_found = field.size_px, highest.images != NO_IMAGE
    positions = np.stack(np.divmod(highest.places, shape[-1] if len(shape) == 3 else 1), axis=-1)
    positions[~is_found] = 0
    (view,) = views(1, trained.side, trained.crop)
    corner = np.array([view.row, view.column])
    starts = field.first_px + positions * field.stride_px  # (C, P, 2), in the crop
    patches = np.zeros((*is_found.shape, side, side, 3), np.uint8)
    is_inside = np.zeros((*is_found.shape, side, side), np.bool_)
    for image in np.unique(highest.images[is_found]).tolist():
        pixels = source.read(image, image + 1)[0][0]
        crop = pixels[corner[0] :, corner[1] :][: trained.crop, : trained.crop]
        for row, rank in np.argwhere(highest.images == image).tolist():
            seen = [slice(max(0, -one), max(0, trained.crop - one)) for one in starts[row, rank].tolist()]
            read = [slice(max(0, one), max(0, one + side)) for one in starts[row, rank].tolist()]
            patches[row, rank][tuple(seen)] = crop[tuple(read)]
            is_inside[row, rank][tuple(seen)] = True
    windows = np.concatenate([starts + corner, starts + corner + side], axis=-1)
    windows[~is_found] = 0
    numbers = [row[found].tolist() for row, found in zip(highest.images, is_found, strict=True)]
    return TopPatches(
        layer=layer,
        channels=tuple(channels),
        headings=tuple(_heading(trained, layer, one, shape) for one in channels),
        num_channels=shape[0],
        field=field,
        activations=np.where(is_found, highest.activations, np.float32(np.nan)),
        images=highest.images,
        positions=positions,
        windows=windows,
        patches=patches,
        is_inside=is_inside,
        keys=tuple(tuple(source.paths[one] for one in row) for row in numbers),
        class_names=tuple(tuple(_class_name(trained, source, one) for one in row) for row in numbers),
        num_tied=highest.num_tied(),
        num_images=num_read,
    )


def _heading(trained: Trained, layer: str, channel: int, shape: tuple[int, ...]) -> str:
    spec = trained.network.spec
    columns = layer_columns(spec, layer)
    column = f", column {channel * columns // shape[0] + 1}" if columns > 1 else ""
    if len(shape) == 3:
        return f"channel {channel}{column}"
    is_last = layer == spec.named_layers[-1].name
    return f"unit {channel}: {trained.classes[channel].name}" if is_last else f"unit {channel}{column}"


def _class_name(trained: Trained, source: ImageSource, image: int) -> str | None:
    label = NO_LABEL if source.labels is None else int(source.labels[image])
    return None if label == NO_LABEL else trained.classes[label].name
