"""Patches of highest activation: by comparing all positions of all images in plain Python, and by masking the rest."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.prepared_files import write_prepared

from alexnet.data.dataset import ClassInfo, PreparedData
from alexnet.errors import RequestError
from alexnet.explore.filter_pictures import filters
from alexnet.explore.top_patches import NO_IMAGE, TopPatches, _Highest
from alexnet.model.network import AlexNet
from alexnet.model.weights import Trained

SIDE, NUM_IMAGES = 36, 14
PLACES = {"device": "cpu", "precision": "float32", "split": "train"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    folder = tmp_path_factory.mktemp("patches") / "data"
    write_prepared(folder, {"train": NUM_IMAGES, "val": 3}, side=SIDE)
    return PreparedData.open(folder)


def trained_on(data: PreparedData, variant: str, crop: int, **changes: Any) -> Trained:
    generator = torch.Generator().manual_seed(3)
    network = AlexNet(2, variant, 0.15, generator=generator).eval()
    with torch.no_grad():
        for name, one in network.named_parameters():
            # As large as trained ones.
            one.mul_(30 if name == "conv1.weight" else 3) if name.endswith("weight") else one.normal_(
                0, 20, generator=generator
            )
    mean = torch.full((SIDE, SIDE, 3), 120.0)
    classes = tuple(ClassInfo(id=one.id, name=one.name) for one in data.classes)
    return Trained(network=network, classes=classes, mean_image=mean, crop=crop, title="t", generated=True, **changes)


def read_input(data: PreparedData, trained: Trained) -> torch.Tensor:
    """What the network reads of the training images: the central crop less the mean."""
    start = (SIDE - trained.crop) // 2
    images = np.array(data.splits["train"].images[:])[:, start:, start:][:, : trained.crop, : trained.crop]
    return torch.from_numpy(images.astype(np.float32) - 120).permute(0, 3, 1, 2).contiguous()


def hooked(network: AlexNet, layer: str, x: torch.Tensor) -> torch.Tensor:
    """The output of a layer's module, (B, C, ...)."""
    found: list[torch.Tensor] = []
    hook = network.get_submodule(layer).register_forward_hook(lambda module, given, output: found.append(output))
    with torch.inference_mode():
        network(x)
    hook.remove()
    return found[0]


def by_definition(activations: np.ndarray, channel: int) -> list[tuple[float, int, tuple[int, ...]]]:
    """The nine best images with their first best position: activation, image, position; zeros do not count."""
    best = []
    for image, maps in enumerate(activations):
        one = maps[channel]
        places = sorted(np.ndindex(one.shape), key=lambda place: (-one[place], place))
        best.append((float(one[places[0]]), image, places[0]))
    return sorted((one for one in best if one[0] != 0), key=lambda one: (-one[0], one[1]))[:9]


def silence(trained: Trained, layer: str, x: torch.Tensor, num_images: int) -> None:
    """Change a layer so that its first channel has positive activations in this many images only."""
    highest = hooked(trained.network, layer, x)[:, 0].flatten(1).amax(1).sort(descending=True).values
    with torch.no_grad():
        trained.network.get_parameter(f"{layer}.bias")[0] -= highest[num_images - 1 : num_images + 1].mean()


CASES = [
    ("quick", 28, "conv1", ("relu1", "pool2", "fc5")),
    ("cifar-11pct", 24, "conv2", ("conv2", "norm2", "local3", "relu4")),
]


@pytest.fixture(scope="module", params=CASES, ids=["quick", "local"])
def found(request: pytest.FixtureRequest, data: PreparedData) -> Iterator[tuple[Trained, dict[str, Any]]]:
    variant, crop, silenced, layers = request.param
    trained = trained_on(data, variant, crop)
    silence(trained, silenced, read_input(data, trained), 5)
    yield trained, filters(trained, layers, data=data.folder, batch_size=5, progress=False, **PLACES).layers


def test_patches_are_the_best_of_all_positions_of_all_images(
    found: tuple[Trained, dict[str, Any]], data: PreparedData
) -> None:
    trained, layers = found
    num_patches = set()
    for layer, shown in layers.items():
        assert isinstance(shown, TopPatches)
        activations = hooked(trained.network, layer, read_input(data, trained)).numpy()
        assert shown.channels == tuple(range(activations.shape[1])) and shown.num_images == NUM_IMAGES
        for row in shown.channels:
            expected = by_definition(activations, row)
            num_patches.add(len(expected))
            images = shown.images[row, : len(expected)].tolist()
            assert len({*images}) == len(images) and (shown.images[row, len(expected) :] == NO_IMAGE).all()
            np.testing.assert_allclose(shown.activations[row, : len(expected)], [one[0] for one in expected], rtol=1e-4)
            assert np.isnan(shown.activations[row, len(expected) :]).all()
            # By value: other batches round otherwise, so that what is closer than that may be in another order.
            places = shown.positions[row, : len(expected), : activations.ndim - 2].tolist()
            there = [activations[(image, row, *place)] for image, place in zip(images, places, strict=True)]
            np.testing.assert_allclose(there, [one[0] for one in expected], rtol=1e-5)
            assert activations.ndim > 2 or not shown.positions[row].any()
            assert shown.keys[row] == tuple(f"train/é/{one}" for one in images)
            assert shown.class_names[row] == tuple(("first", "second")[one % 2] for one in images)
            assert not shown.is_inside[row, len(expected) :].any() and not shown.patches[row, len(expected) :].any()
    assert {5, 9} <= num_patches


@pytest.mark.parametrize("batch_size", [1, 4, 30])
def test_of_equal_activations_the_first_image_and_position_count(batch_size: int) -> None:
    activations = np.random.default_rng(0).integers(0, 4, (30, 3, 2, 2)).astype(np.float32)
    activations[:, 1] *= np.random.default_rng(1).integers(0, 5, (30, 1, 1)) == 0
    highest = _Highest([1, 2])
    for first in range(0, 30, batch_size):
        images = np.arange(first, min(first + batch_size, 30))
        highest.add(activations[images], images)
    for row, channel in enumerate((1, 2)):
        expected = by_definition(activations, channel)
        peaks = activations[:, channel].max(axis=(1, 2))
        assert highest.num_tied()[row] == ((peaks == 3).sum() if channel == 2 else 0)
        assert highest.images[row].tolist() == [one[1] for one in expected] + [NO_IMAGE] * (9 - len(expected))
        places = [np.unravel_index(one, (2, 2)) for one in highest.places[row, : len(expected)]]
        assert [tuple(map(int, one)) for one in places] == [one[2] for one in expected]


@given(st.lists(st.integers(-1, 2), max_size=60), st.integers(1, 12))
@example([1, 2] * 20, 3)
@example([1] * 30 + [2] * 9, 4)
@settings(max_examples=25, deadline=None)
def test_images_that_tie_for_the_last_place_are_counted(values: list[int], batch_size: int) -> None:
    peaks, highest = np.array(values, np.float32), _Highest([0])
    for first in range(0, len(peaks), batch_size):
        images = np.arange(first, min(first + batch_size, len(peaks)))
        highest.add(peaks[images, None, None, None], images)
    ordered = sorted((one for one in values if one != 0), reverse=True)
    is_tie = len(ordered) > 9 and ordered[8] == ordered[9]
    assert highest.num_tied().tolist() == [ordered.count(ordered[8]) if is_tie else 0]


def test_patches_are_all_that_their_positions_see(found: tuple[Trained, dict[str, Any]], data: PreparedData) -> None:
    """An image with nothing but the patch, at its place, has the same activation there; the patch is as stored."""
    trained, layers = found
    images = np.array(data.splits["train"].images[:])
    start = (SIDE - trained.crop) // 2
    for layer, shown in layers.items():
        side = shown.field.size_px
        for row, rank in [(0, 0), (1, 3), (len(shown.channels) - 1, 0)]:
            if shown.images[row, rank] == NO_IMAGE:
                continue
            top, left, bottom, right = shown.windows[row, rank].tolist()
            assert (bottom - top, right - left) == (side, side)
            alone = np.full((SIDE, SIDE, 3), 120.0, np.float32)
            for y, x in np.argwhere(shown.is_inside[row, rank]).tolist():
                alone[top + y, left + x] = shown.patches[row, rank, y, x]
                assert (shown.patches[row, rank, y, x] == images[shown.images[row, rank], top + y, left + x]).all()
            crop = torch.from_numpy(alone[start:, start:][: trained.crop, : trained.crop] - 120).permute(2, 0, 1)
            activation = hooked(trained.network, layer, crop[None].contiguous())[0, row]
            place = tuple(shown.positions[row, rank].tolist())[: activation.ndim]
            assert float(activation[place]) == pytest.approx(shown.activations[row, rank], rel=1e-3, abs=1e-2)
            inside = np.zeros((side, side), bool)
            ends = (start - top, start + trained.crop - top, start - left, start + trained.crop - left)
            inside[max(0, ends[0]) : max(0, ends[1]), max(0, ends[2]) : max(0, ends[3])] = True
            np.testing.assert_array_equal(shown.is_inside[row, rank], inside)


def test_batches_and_other_layers_change_nothing(data: PreparedData) -> None:
    trained = trained_on(data, "quick", 28)
    (one,) = filters(trained, "relu2", data=data.folder, batch_size=1, **PLACES).layers.values()
    several = filters(trained, ["fc5", "relu2"], data=data.folder, batch_size=14, **PLACES).layers
    assert list(several) == ["fc5", "relu2"] and isinstance(one, TopPatches)
    other = several["relu2"]
    assert isinstance(other, TopPatches)
    np.testing.assert_array_equal(one.images, other.images)
    np.testing.assert_array_equal(one.patches, other.patches)


def test_channels_are_evenly_spaced_or_as_asked(data: PreparedData) -> None:
    trained = trained_on(data, "quick", 28)
    (shown,) = filters(trained, "conv4", data=data.folder, **PLACES).layers.values()
    assert isinstance(shown, TopPatches) and shown.num_channels == 38
    steps = np.diff(shown.channels)
    assert len(shown.channels) == 24 and set(steps) == {1, 2}
    assert shown.channels[0] + shown.channels[-1] in (36, 37, 38)  # as far from one end as from the other
    assert "24 of the 38 channels of conv4, evenly spaced" in shown.describe()
    (asked,) = filters(trained, "conv4", data=data.folder, channels=[30, 2], **PLACES).layers.values()
    assert isinstance(asked, TopPatches) and asked.channels == (30, 2)
    assert "2 of the 38 channels of conv4:" in asked.describe()
    whole = shown.channels.index(30) if 30 in shown.channels else None
    assert whole is None or (shown.images[whole] == asked.images[0]).all()


@pytest.mark.parametrize(
    ("layers", "channels", "message"),
    [
        ("relu2", [64], "relu2 has no channel 64; it has 0 to 9"),
        ("relu2", [-1], "relu2 has no channel -1"),
        ("relu2", [1.5], r"relu2 has no channel 1\.5"),
        ("relu2", [3, 3], "channel 3 is requested twice"),
        ("relu2", [], "0 channels are requested; allowed are 1 to 96"),
        ("flatten", None, "flatten only arranges channels in a row"),
        ("relu9", None, "no layer 'relu9'; it has conv1"),
        (["relu2", "relu2"], None, "requested twice"),
        (7, None, "layers is 7; allowed is the name of a layer"),
        ("conv1", [1], "the filters of conv1 are drawn without images"),
    ],
)
def test_what_cannot_be_shown_is_refused(layers: Any, channels: Any, message: str, data: PreparedData) -> None:
    trained = trained_on(data, "quick", 28)
    with pytest.raises(RequestError, match=message):
        filters(trained, layers, data=data.folder, channels=channels, **PLACES)


def test_layers_that_are_not_trained_are_refused(data: PreparedData) -> None:
    trained = trained_on(data, "quick", 28, untrained_layers=("conv3",))
    assert filters(trained, "relu2", data=data.folder, **PLACES).layers
    with pytest.raises(RequestError, match="relu3"):
        filters(trained, ["relu2", "relu3"], data=data.folder, **PLACES)


def test_a_network_in_memory_needs_a_data_set(data: PreparedData, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"names no data set to take patches from; name one with data=\.\.\."):
        filters(trained_on(data, "quick", 28), "relu2")
