"""Predictions over views against a NumPy float64 computation written from the description of the views."""

import copy
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.html_page import Page

from alexnet.cli.tables import print_results
from alexnet.data.dataset import ClassInfo, PreparedData, Split, Statistics
from alexnet.errors import RequestError, WorkError
from alexnet.evaluation.evaluate import evaluate_probabilities, evaluate_split, predict_split
from alexnet.evaluation.metrics import METRICS, Metric
from alexnet.model.layer_specs import (
    Convolution,
    Dense,
    Dropout,
    Flatten,
    MaxPool,
    NetworkSpec,
    ReLU,
)
from alexnet.model.network import AlexNet
from alexnet.model.variants import VARIANTS
from alexnet.report.page import write_run_page
from alexnet.runs.folder import RunFolder
from alexnet.runs.recipes import QUICK

SIDE, CROP, NUM_CLASSES = 7, 4, 3


def made_up_data(num=11, seed=0, side=SIDE):
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (num, side, side, 3), dtype=np.uint8)
    images.setflags(write=False)
    labels = np.arange(num, dtype=np.int64) % NUM_CLASSES
    keys = [f"test/{place}" for place in range(num)]
    mean_image = generator.uniform(0, 255, (side, side, 3)).astype(np.float32)
    return PreparedData(
        folder=Path("made-up"),
        title="made up",
        generated=True,
        classes=tuple(ClassInfo(f"c{one}", f"class {one}") for one in range(NUM_CLASSES)),
        splits={"test": Split("test", images, labels, keys)},
        side=side,
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


def small_network(variant):
    """A convolutional network whose scores differ from view to view."""
    network = AlexNet(NUM_CLASSES, variant, 0.25, generator=torch.Generator().manual_seed(2)).eval()
    with torch.no_grad():
        network.get_parameter(f"{network.sized_layers[-1].name}.weight").mul_(10)
    return network


def by_loop(network, data, places, crop, mean_at):
    """Mean over places and mirror images of the softmax, one view at a time; the network in float64."""
    exact = copy.deepcopy(network).double()
    mean_image = data.statistics.mean_image.astype(np.float64)
    first = (data.side - crop) // 2
    center = mean_image[first : first + crop, first : first + crop]
    means = []
    for image in data.splits["test"].images[:].astype(np.float64):
        answers = []
        for mirrored in (False, True):
            for row, column in places:
                cut = image[row : row + crop, column : column + crop]
                own = mean_image[row : row + crop, column : column + crop]
                if mirrored:
                    cut, own = cut[:, ::-1], own[:, ::-1]
                seen = cut - (own if mean_at == "crop" else center)
                with torch.no_grad():
                    scores = exact(torch.from_numpy(seen.transpose(2, 0, 1).copy()[None]))[0].numpy()
                powers = np.exp(scores - scores.max())
                answers.append(powers / powers.sum())
        assert np.std(answers, axis=0).max() > 1e-3
        means.append(sum(answers) / len(answers))
    return np.array(means)


def by_hand(network, data, num_views):
    """Mean over the views of the softmax of the linear layer, in float64."""
    weight = network[2].weight.detach().numpy().astype(np.float64)
    bias = network[2].bias.detach().numpy().astype(np.float64)
    margin = SIDE - CROP
    center = (margin // 2, margin // 2)
    corners = [(0, 0), (0, margin), center, (margin, 0), (margin, margin)]
    grid = [(row, column) for row in (0, margin // 2, margin) for column in (0, margin // 2, margin)]
    places = {
        1: [(center, False)],
        9: [(one, False) for one in grid],
        10: [(one, mirrored) for mirrored in (False, True) for one in corners],
    }[num_views]
    images = data.splits["test"].images[:].astype(np.float64) - data.statistics.mean_image.astype(np.float64)
    total = np.zeros((len(images), NUM_CLASSES))
    for (row, column), mirrored in places:
        cut = images[:, row : row + CROP, column : column + CROP]
        cut = cut[:, :, ::-1] if mirrored else cut
        scores = cut.transpose(0, 3, 1, 2).reshape(len(images), -1) @ weight.T + bias
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        total += powers / powers.sum(axis=1, keepdims=True)
    return total / len(places)


@pytest.mark.parametrize("num_views", [1, 9, 10])
@pytest.mark.parametrize("batch_size", [1, 4, 11, 64])
def test_probabilities_are_the_mean_over_views(num_views, batch_size):
    network, data = tiny_network(), made_up_data()
    network.train()
    seen = []
    got = predict_split(
        network, data, "test", CROP, num_views, batch_size=batch_size, progress=lambda *done: seen.append(done)
    )
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, by_hand(network, data, num_views), rtol=0, atol=1e-6)
    assert network.training and network[1].training
    assert seen[-1] == (11, 11) and len(seen) == -(-11 // batch_size)


@pytest.mark.parametrize("mean_at", ["crop", "center"])
def test_ten_views_of_a_network_are_a_plain_loop_over_them(mean_at):
    network, data = small_network("quick"), made_up_data(num=3, side=33)
    got = predict_split(network, data, "test", 28, 10, mean_at=mean_at, batch_size=2)
    corners = [(0, 0), (0, 5), (2, 2), (5, 0), (5, 5)]
    np.testing.assert_allclose(got, by_loop(network, data, corners, 28, mean_at), rtol=0, atol=1e-6)


def test_dense_views_are_the_mean_over_places_and_mirror_images(monkeypatch):
    # Nothing is padded and no window is cut, so that the places are crops, 4 pixels apart.
    layers = (
        Convolution(name="conv1", out_channels=32, kernel=3, stride=2, init_std=None, bias=0),  # 13 -> 6
        ReLU(),
        MaxPool(size=2, stride=2),  # 6 -> 3
        Flatten(),
        Dropout("drop2"),
        Dense(name="fc2", units=None, init_std=0.01, bias=0),
    )
    variant = NetworkSpec(source="here", image_px=13, input_scale=1 / 64, layers=layers)
    monkeypatch.setitem(VARIANTS, "unpadded", variant)
    network, data = small_network("unpadded"), made_up_data(num=5, side=21)
    places = [(row, column) for row in (0, 4, 8) for column in (0, 4, 8)]
    got = predict_split(network.train(), data, "test", 13, "dense", batch_size=2)
    assert network.training
    np.testing.assert_allclose(got, by_loop(network.eval(), data, places, 13, "crop"), rtol=0, atol=1e-6)
    # With `center` the whole image loses the whole mean image, which is not mirrored with it.
    turned = dataclasses.replace(data.statistics, mean_image=data.statistics.mean_image[:, ::-1].copy())
    both = [
        predict_split(network, dataclasses.replace(data, statistics=one), "test", 13, "dense", mean_at="center")
        for one in (data.statistics, turned)
    ]
    assert not np.allclose(both[0], got, atol=1e-4)
    flipped = data.splits["test"].images[:, :, ::-1]
    mirrored = dataclasses.replace(data, splits={"test": dataclasses.replace(data.splits["test"], images=flipped)})
    again = predict_split(network, mirrored, "test", 13, "dense", mean_at="center")
    np.testing.assert_allclose(again, both[0], rtol=0, atol=1e-6)
    assert not np.allclose(both[1], both[0], atol=1e-4)


def test_dense_views_count_like_others():
    data = made_up_data(num=4, side=32)
    evaluation = evaluate_split(small_network("quick"), data, "test", 28, "dense", batch_size=3)
    content = json.loads(json.dumps(evaluation.to_dict()))
    assert (content["num_views"], content["num_images"]) == ("dense", 4)
    assert evaluate_probabilities(evaluation.probabilities, data, "test", "dense") == evaluation
    np.testing.assert_allclose(evaluation.probabilities.sum(axis=1), 1, atol=1e-6)


def test_networks_that_cannot_slide_are_refused():
    with pytest.raises(RequestError, match=r"this is a Sequential; choose 1, 9 or 10 views"):
        predict_split(tiny_network(), made_up_data(), "test", CROP, "dense")
    local = AlexNet(NUM_CLASSES, "cifar-13pct", 0.125)
    with pytest.raises(RequestError, match="'cifar-13pct' has locally connected layers"):
        predict_split(local, made_up_data(num=2, side=26), "test", 24, "dense")
    with pytest.raises(WorkError, match=r"scores 5 classes .* has 3"):
        predict_split(AlexNet(5, "quick", 0.125), made_up_data(num=2, side=32), "test", 28, "dense")


def test_a_given_mean_image_is_used():
    network, data = tiny_network(), made_up_data()
    own = torch.full((SIDE, SIDE, 3), 99.0)
    other = dataclasses.replace(data, statistics=dataclasses.replace(data.statistics, mean_image=own.numpy()))
    got = predict_split(network, data, "test", CROP, 10, mean_image=own)
    np.testing.assert_allclose(got, by_hand(network, other, 10), rtol=0, atol=1e-6)
    with pytest.raises(RequestError, match="mean image"):
        predict_split(network, data, "test", CROP, 10, mean_image=own[1:])


def test_bfloat16_is_near_float32():
    network, data = tiny_network(), made_up_data()
    got = predict_split(network, data, "test", CROP, 10, precision="bfloat16")
    exact = predict_split(network, data, "test", CROP, 10)
    np.testing.assert_allclose(got, exact, atol=0.05)
    assert not np.array_equal(got, exact)
    np.testing.assert_allclose(got.sum(axis=1), 1, atol=1e-6)


def test_weights_are_rounded_once_and_the_networks_own_stay(monkeypatch):
    network, data = small_network("quick"), made_up_data(num=3, side=33)
    seen, forward = [], AlexNet.forward

    def watched(own, images):
        seen.append({parameter.dtype for parameter in own.parameters()})
        return forward(own, images)

    monkeypatch.setattr(AlexNet, "forward", watched)
    before = [parameter.clone() for parameter in network.parameters()]
    predict_split(network, data, "test", 28, 10, precision="bfloat16")
    assert seen and all(dtypes == {torch.bfloat16} for dtypes in seen)
    for parameter, whole in zip(network.parameters(), before, strict=True):
        assert torch.equal(parameter, whole) and parameter.dtype == torch.float32


def test_evaluation_as_json():
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
    surest = evaluation.probabilities.max(axis=1)
    assert content["calibration"]["expected_error"] == evaluation.calibration.expected_error
    assert sum(one["num_images"] for one in content["calibration"]["bins"]) == 11
    confidences = sum(one["num_images"] * one["confidence"] for one in content["calibration"]["bins"])
    assert confidences / 11 == pytest.approx(surest.mean(), rel=1e-6)
    assert content["classes_absent"] == 0
    again = evaluate_probabilities(evaluation.probabilities, data, "test", 10)
    assert again == evaluation and again.images_per_second is None


def test_a_class_without_images_has_no_error():
    data = made_up_data(num=2)
    content = evaluate_probabilities(np.eye(2, 3, dtype=np.float32), data, "test", 1).to_dict()
    assert [one["top1_error"] for one in content["per_class"]] == [0, 0, None]
    assert content["classes_absent"] == 1


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"split": "val"}, "test"),
        ({"num_views": 5}, "10"),
        ({"num_views": "sparse"}, "10"),
        ({"crop": SIDE + 1}, str(SIDE)),
        ({"crop": 0}, str(SIDE)),
    ],
)
def test_wrong_requests_are_refused(change, word):
    arguments = {"split": "test", "crop": CROP, "num_views": 1, **change}
    with pytest.raises(RequestError, match=word):
        predict_split(tiny_network(), made_up_data(), **arguments)


def test_a_split_without_images_is_refused():
    with pytest.raises(RequestError, match="no images"):
        predict_split(tiny_network(), made_up_data(num=0), "test", CROP, 1)


def test_a_diverged_network_is_reported_and_keeps_its_mode():
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


def test_a_new_metric_is_one_function_and_one_line(monkeypatch, tmp_path, capsys):
    """Evaluation files, the terminal's table and the report contain it."""

    def error_of_the_first_class(inputs):
        return inputs.per_class[0].top1_error

    entry = Metric(
        "first-class error",
        "percent",
        error_of_the_first_class,
        interval_key="first_class_interval",
        interval=lambda inputs: (0.25, 0.75),
        is_headline=True,
    )
    probabilities = np.array([[0.2, 0.8, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0]], np.float32)
    older = {"run": "r", **evaluate_probabilities(probabilities, made_up_data(num=4), "test", 10).to_dict()}
    monkeypatch.setitem(METRICS, "first_class_error", entry)
    content = {"run": "r", **evaluate_probabilities(probabilities, made_up_data(num=4), "test", 1).to_dict()}
    assert content["first_class_error"] == 0.5
    print_results([content, older])
    assert "first-class error" in (printed := capsys.readouterr().out) and "50.00" in printed
    run = RunFolder.create(tmp_path / "run", QUICK, {})
    run.save_evaluation("test-1views", content)
    run.save_evaluation("test-10views", older)  # stored before the metric existed
    page = write_run_page(run.path, None).read_text()
    assert Page(page).text.count("irst-class error") == 2 and "50.00 %" in page
