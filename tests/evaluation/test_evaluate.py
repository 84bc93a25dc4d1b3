"""Predictions over views against a NumPy float64 computation written from the description of the views."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from alexnet.data.prepared import ClassInfo, PreparedData, Split, Statistics
from alexnet.errors import RequestError, WorkError
from alexnet.evaluation.evaluate import evaluate_split, measure, predict_split

SIDE, CROP, NUM_CLASSES = 7, 4, 3


def made_up_data(num=11, seed=0):
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (num, SIDE, SIDE, 3), dtype=np.uint8)
    images.setflags(write=False)
    labels = np.arange(num, dtype=np.int64) % NUM_CLASSES
    keys = [f"test/{place}" for place in range(num)]
    mean_image = generator.uniform(0, 255, (SIDE, SIDE, 3)).astype(np.float32)
    return PreparedData(
        folder=Path("made-up"),
        title="made up",
        generated=True,
        classes=tuple(ClassInfo(f"c{one}", f"class {one}") for one in range(NUM_CLASSES)),
        splits={"test": Split("test", images, labels, keys)},
        side=SIDE,
        statistics=Statistics(mean_image, np.eye(3), np.ones(3), np.eye(3)),
        checksum="ab" * 32,
    )


def tiny_network():
    generator = torch.Generator().manual_seed(3)
    linear = torch.nn.Linear(3 * CROP * CROP, NUM_CLASSES)
    with torch.no_grad():
        linear.weight.copy_(0.02 * torch.randn(linear.weight.shape, generator=generator))
        linear.bias.copy_(torch.randn(NUM_CLASSES, generator=generator))
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(0.5), linear)


def by_hand(network, data, num_views):
    """Mean over the views of the softmax of the linear layer, in float64."""
    weight = network[2].weight.detach().numpy().astype(np.float64)
    bias = network[2].bias.detach().numpy().astype(np.float64)
    margin = SIDE - CROP
    centre = (margin // 2, margin // 2)
    corners = [(0, 0), (0, margin), centre, (margin, 0), (margin, margin)]
    places = [(centre, False)] if num_views == 1 else [(one, mirrored) for mirrored in (False, True) for one in corners]
    images = data.splits["test"].images.astype(np.float64) - data.statistics.mean_image.astype(np.float64)
    total = np.zeros((len(images), NUM_CLASSES))
    for (row, column), mirrored in places:
        cut = images[:, row : row + CROP, column : column + CROP]
        cut = cut[:, :, ::-1] if mirrored else cut
        scores = cut.transpose(0, 3, 1, 2).reshape(len(images), -1) @ weight.T + bias
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        total += powers / powers.sum(axis=1, keepdims=True)
    return total / len(places)


@pytest.mark.parametrize("num_views", [1, 10])
@pytest.mark.parametrize("batch_size", [1, 4, 11, 64])
def test_probabilities_are_the_mean_over_views(num_views, batch_size):
    network, data = tiny_network(), made_up_data()
    network.train()
    seen = []
    got = predict_split(
        network, data, "test", CROP, num_views, batch_size=batch_size, progress=lambda *done: seen.append(done)
    )
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, by_hand(network, data, num_views), rtol=2e-5, atol=1e-6)
    assert network.training and network[1].training
    assert seen[-1] == (11, 11) and len(seen) == -(-11 // batch_size)


def test_the_networks_own_mean_image_is_taken_where_given():
    network, data = tiny_network(), made_up_data()
    own = torch.full((SIDE, SIDE, 3), 99.0)
    other = dataclasses.replace(data, statistics=dataclasses.replace(data.statistics, mean_image=own.numpy()))
    got = predict_split(network, data, "test", CROP, 10, mean_image=own)
    np.testing.assert_allclose(got, by_hand(network, other, 10), rtol=2e-5, atol=1e-6)
    with pytest.raises(RequestError, match="mean image"):
        predict_split(network, data, "test", CROP, 10, mean_image=own[1:])


def test_bfloat16_is_near_float32():
    network, data = tiny_network(), made_up_data()
    got = predict_split(network, data, "test", CROP, 10, precision="bfloat16")
    exact = predict_split(network, data, "test", CROP, 10)
    np.testing.assert_allclose(got, exact, atol=0.05)
    assert not np.array_equal(got, exact)
    np.testing.assert_allclose(got.sum(axis=1), 1, atol=1e-6)


def test_evaluation_counts_and_turns_into_json():
    network, data = tiny_network(), made_up_data()
    evaluation = evaluate_split(network, data, "test", CROP, 10, batch_size=4)
    expected = by_hand(network, data, 10).argmax(axis=1) != data.splits["test"].labels
    assert evaluation.top1_error == expected.sum() / 11
    assert evaluation.top5_error == 0
    content = json.loads(json.dumps(evaluation.to_dict(), allow_nan=False))
    assert content["top1_interval"][0] < content["top1_error"] < content["top1_interval"][1]
    assert (content["split"], content["num_views"], content["num_images"]) == ("test", 10, 11)
    assert [one["num_images"] for one in content["per_class"]] == [4, 4, 3]
    assert sum(pair["num_images"] for pair in content["confused_pairs"]) == expected.sum()
    counts = [pair["num_images"] for pair in content["confused_pairs"]]
    assert counts == sorted(counts, reverse=True)
    assert content["images_per_second"] > 0
    again = measure(evaluation.probabilities, data, "test", 10)
    assert again == evaluation and again.images_per_second is None


def test_a_class_without_images_has_no_error():
    data = made_up_data(num=2)
    content = measure(np.eye(2, 3, dtype=np.float32), data, "test", 1).to_dict()
    assert [one["top1_error"] for one in content["per_class"]] == [0, 0, None]


@pytest.mark.parametrize(
    ("change", "word"),
    [({"split": "val"}, "test"), ({"num_views": 5}, "10"), ({"crop": SIDE + 1}, str(SIDE)), ({"crop": 0}, str(SIDE))],
)
def test_wrong_requests_are_refused(change, word):
    arguments = {"split": "test", "crop": CROP, "num_views": 1, **change}
    with pytest.raises(RequestError, match=word):
        predict_split(tiny_network(), made_up_data(), **arguments)


def test_a_split_without_images_is_refused():
    with pytest.raises(RequestError, match="no images"):
        predict_split(tiny_network(), made_up_data(num=0), "test", CROP, 1)


def test_a_diverged_network_is_named_as_such_and_keeps_its_mode():
    network = tiny_network()
    with torch.no_grad():
        network[2].bias.fill_(torch.nan)
    with pytest.raises(WorkError, match="11 of 11 images"):
        predict_split(network.eval(), made_up_data(), "test", CROP, 1)
    assert not network.training


def test_a_network_of_other_classes_is_refused():
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * CROP * CROP, 5)).train()
    with pytest.raises(WorkError, match="5 classes"):
        predict_split(network, made_up_data(), "test", CROP, 1)
    assert network.training
