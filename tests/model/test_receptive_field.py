"""Receptive fields: a pixel that is not a number reaches exactly the positions whose windows hold it."""

import pytest
import torch
from tests.model.varied_networks import varied_network

from alexnet.model.activations import ActivationReader
from alexnet.model.layer_specs import sized_layers
from alexnet.model.receptive_field import ReceptiveField, receptive_fields
from alexnet.model.variants import named_variant


@pytest.mark.parametrize("variant", ["paper", "original", "torchvision", "cifar-18pct", "cifar-11pct"])
def test_positions_that_a_pixel_reaches(variant: str) -> None:
    network, images, _ = varied_network(variant, torch.float64)
    fields = receptive_fields(network.spec)
    names = [layer.name for layer in sized_layers(network.spec, 7, network.width)]
    assert list(fields) == names
    reader = ActivationReader(network, names)
    side = images.shape[-1]
    for row, column in ((0, 0), (side // 2, side // 3), (side - 1, side - 2), (5, side - 7)):
        image = images[:1].clone()
        image[0, :, row, column] = float("nan")
        with torch.no_grad():
            activations = reader(image)
        for name, field in fields.items():
            values = activations[name][0]
            if values.dim() == 1:
                first, end = field.first_px, field.first_px + field.size_px
                is_inside = first <= row < end and first <= column < end
                assert bool(values.isnan().any()) == is_inside, name
                if name.startswith("fc"):  # before the first dense layer, each unit sees one position
                    assert bool(values.isnan().all()) == is_inside, name
                continue
            reached = values.isnan().all(dim=0)  # (H, W)
            assert torch.equal(reached, values.isnan().any(dim=0))
            want = torch.zeros_like(reached)
            for y in range(want.shape[0]):
                for x in range(want.shape[1]):
                    top, left, bottom, right = field.window(y, x)
                    want[y, x] = top <= row < bottom and left <= column < right
            assert torch.equal(reached, want), name


def test_of_the_papers_network() -> None:
    """By hand: each layer adds (window - 1) times the product of the strides before it."""
    fields = receptive_fields(named_variant("paper"))
    assert fields["conv1"] == ReceptiveField(11, 4, 0)
    assert fields["pool1"] == ReceptiveField(11 + 2 * 4, 8, 0)
    assert fields["conv2"] == ReceptiveField(19 + 4 * 8, 8, -2 * 8)
    assert fields["pool5"] == ReceptiveField(195, 32, -64)
    assert fields["fc8"] == ReceptiveField(224, 224, 0)
