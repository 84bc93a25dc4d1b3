"""Two columns compute what the whole network computes: scores, gradients, weights, dropout masks."""

import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet.errors import RequestError
from alexnet.model.columns import ColumnNetwork, GatherColumns, GatherRows, SplitRows, column_steps
from alexnet.model.network import AlexNet
from alexnet.model.variants import VARIANTS
from alexnet.parallel.layout import ColumnLayers
from alexnet.parallel.pair import ColumnPair

IN_COLUMNS = [
    "paper",
    "original",
    "no-norm",
    "non-overlapping",
    "no-communication",
    "six-conv",
    "six-conv-22k",
    "tanh",
    "sigmoid",
    *(f"minus-{name}" for name in ("conv2", "conv3", "conv4", "conv5", "fc6", "fc7")),
    "torchvision",
    "cifar-80sec",
    "cifar-18pct",
    "cifar-four-layer",
    "cifar-four-layer-tanh",
]
"""Variants whose normalization, if they have one, stays within two columns."""
ONE_COLUMN = ["one-gpu", "caffe", "caffenet", "cifar-13pct", "cifar-11pct", "quick", "quick-3x3"]


class Done:
    """A transfer that is complete when its tensor has arrived."""

    def __init__(self, received: torch.Tensor, inbox: "queue.Queue[torch.Tensor]") -> None:
        self.received, self.inbox = received, inbox

    def wait(self) -> None:
        self.received.copy_(self.inbox.get(timeout=60))


class ThreadPair(ColumnPair):
    """A pair of threads of one process: tensors are copied, and arrive when they are waited for."""

    def __init__(self, column: int, boxes: "Sequence[queue.Queue[torch.Tensor]]") -> None:
        self.column = column
        self.waited_s = 0.0
        self.boxes = boxes
        self.swapped: list[tuple[str, str]] = []

    def swap(
        self, x: torch.Tensor, other_shape: Sequence[int], what: tuple[str, str]
    ) -> tuple[torch.Tensor, list[Any]]:
        self.swapped.append(what)
        # Nothing may compute with a received tensor before it has waited for it.
        received = x.new_full(tuple(other_shape), torch.nan)
        self.boxes[1 - self.column].put(x.detach().clone())
        return received, [Done(received, self.boxes[self.column])]


def in_both(work: Callable[[ThreadPair], Any]) -> list[Any]:
    """What a function returns for each of the two processes of a pair."""
    boxes: list[queue.Queue[torch.Tensor]] = [queue.Queue(), queue.Queue()]
    found: list[Any] = [None, None]

    def run(column: int) -> None:
        try:
            found[column] = work(ThreadPair(column, boxes))
        except BaseException as error:
            found[column] = error

    threads = [threading.Thread(target=run, args=(column,)) for column in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one in found:
        if isinstance(one, BaseException):
            raise one
    return found


def network_of(variant: str, num_classes: int = 7, width: float = 0.0625) -> AlexNet:
    return AlexNet(num_classes, variant, width, generator=torch.Generator().manual_seed(3)).double()


def batch_of(network: AlexNet, num: int) -> tuple[torch.Tensor, torch.Tensor]:
    random, side = torch.Generator().manual_seed(5), network.spec.image_px
    images = 50 * torch.randn(num, 3, side, side, generator=random, dtype=torch.float64)
    return images, torch.randint(0, network.num_classes, (num,), generator=random)


def derived(network: AlexNet, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, dict[str, Any]]:
    """Scores of some images, rows 2 and on of a batch that has three more, and the gradients by parameter."""
    network.train()
    dropout = torch.Generator().manual_seed(11)
    network.seed_dropout(dropout)
    network.set_microbatch(slice(2, 2 + len(images)), len(images) + 3)
    scores = network(images)
    F.cross_entropy(scores, labels, reduction="sum").backward()
    network.set_microbatch(None)
    return scores.detach(), {name: one.grad for name, one in network.named_parameters()}


def assert_alike(found: torch.Tensor, expected: torch.Tensor, what: str) -> None:
    assert found.shape == expected.shape, what
    assert (found - expected).norm() <= 1e-12 * expected.norm(), what


def compare(
    variant: str, column_layers: ColumnLayers, num: int = 3, num_classes: int = 7, width: float = 0.0625
) -> None:
    whole = network_of(variant, num_classes, width)
    images, labels = batch_of(whole, num)
    scores, gradients = derived(whole, images, labels)

    def one_column(pair: ThreadPair) -> tuple[torch.Tensor, dict[str, Any], ColumnNetwork]:
        column = ColumnNetwork(network_of(variant, num_classes, width), pair, column_layers)
        own_scores, own = derived(column, images, labels)
        return own_scores, column.gather(own), column

    both = in_both(one_column)
    for own_scores, own, _ in both:
        assert_alike(own_scores, scores, "scores")
        assert own.keys() == gradients.keys()
    for name, expected in gradients.items():
        # Tensors that both processes hold have gradients from their own images only; split ones have been gathered.
        if name.rpartition(".")[0] in both[0][2].split_layers:
            assert_alike(both[0][1][name], expected, name)
            assert_alike(both[1][1][name], expected, name)
        else:
            assert_alike(both[0][1][name] + both[1][1][name], expected, name)


@pytest.mark.parametrize("variant", ["paper", "original", "no-communication", "torchvision", "six-conv-22k"])
def test_columns_in_every_layer_give_the_whole_networks_scores_and_gradients(variant: str) -> None:
    compare(variant, "every-layer")


@pytest.mark.parametrize("variant", ["paper", "no-communication", "torchvision", "cifar-11pct", "quick", "quick-3x3"])
def test_columns_in_the_dense_layers_give_the_whole_networks_scores_and_gradients(variant: str) -> None:
    compare(variant, "dense")


@settings(max_examples=8, deadline=None)
@given(
    st.sampled_from(IN_COLUMNS),
    st.sampled_from(["every-layer", "dense"]),
    st.integers(1, 4),
    st.integers(2, 9),
    st.sampled_from([0.02, 0.05, 0.07]),
)
def test_any_numbers_of_images_classes_and_channels(
    variant: str, column_layers: ColumnLayers, num: int, num_classes: int, width: float
) -> None:
    compare(variant, column_layers, num, num_classes, width)


def test_split_and_gather_are_inverse() -> None:
    for column_layers in ("every-layer", "dense"):
        whole = network_of("paper", num_classes=5)
        state = whole.state_dict()

        def part(
            pair: ThreadPair, column_layers: ColumnLayers = column_layers
        ) -> tuple[dict[str, Any], dict[str, Any]]:
            column = ColumnNetwork(network_of("paper", num_classes=5), pair, column_layers)
            own = column.state_dict()
            cut = column.split(network_of("paper", num_classes=5).state_dict())
            assert all(torch.equal(cut[name], own[name]) for name in own)
            return own, column.gather(own)

        (first, joined), (second, joined_too) = in_both(part)
        for name, tensor in state.items():
            assert torch.equal(joined[name], tensor) and torch.equal(joined_too[name], tensor), name
            times = 1 if column_layers == "every-layer" or name.startswith("fc") else 2
            assert len(first[name]) + len(second[name]) == times * len(tensor), name


def test_evaluation_exchanges_no_more_than_training() -> None:
    whole = network_of("paper").eval()
    images, _ = batch_of(whole, 3)
    expected = whole(images).detach()
    for column_layers in ("every-layer", "dense"):

        def scores(pair: ThreadPair, column_layers: ColumnLayers = column_layers) -> torch.Tensor:
            with torch.inference_mode():
                return ColumnNetwork(network_of("paper").eval(), pair, column_layers)(images).clone()

        for found in in_both(scores):
            assert_alike(found, expected, column_layers)


@pytest.mark.parametrize("column_layers", ["every-layer", "dense"])
def test_the_masks_are_those_of_the_whole_batch_and_layer(column_layers: ColumnLayers) -> None:
    # torchvision has dropout before its first dense layer, where in `dense` each process has its own images.
    whole = network_of("torchvision")
    images, labels = batch_of(whole, 4)
    expected = derived(whole, images, labels)[0]
    for found in in_both(
        lambda pair: derived(ColumnNetwork(network_of("torchvision"), pair, column_layers), images, labels)
    ):
        assert_alike(found[0], expected, "scores")
    undropped = network_of("torchvision").eval()(images).detach()
    assert (undropped - expected).norm() > 1e-3 * expected.norm()  # the masks matter


def test_the_paper_exchanges_before_conv3_and_the_dense_layers_only() -> None:
    steps = column_steps(AlexNet(10, "paper", 0.0625).fused_ops, "every-layer", "paper")
    assert [step.layer.name for step in steps if isinstance(step, GatherColumns)] == ["conv3", "fc6", "fc7", "fc8"]
    assert not any(isinstance(step, SplitRows | GatherRows) for step in steps)


def test_no_communication_exchanges_before_the_last_layer_only() -> None:
    steps = column_steps(AlexNet(10, "no-communication", 0.0625).fused_ops, "every-layer", "no-communication")
    assert [step.layer.name for step in steps if isinstance(step, GatherColumns)] == ["fc8"]


def test_dense_columns_split_the_images_up_to_the_first_dense_layer() -> None:
    steps = column_steps(AlexNet(10, "paper", 0.0625).fused_ops, "dense", "paper")
    assert steps[0] == SplitRows()
    assert [step.layer.name for step in steps if isinstance(step, GatherRows)] == ["fc6"]
    assert [step.layer.name for step in steps if isinstance(step, GatherColumns)] == ["fc7", "fc8"]


def test_every_variant_has_columns_or_is_refused() -> None:
    assert {*IN_COLUMNS, *ONE_COLUMN} == set(VARIANTS)
    for variant in IN_COLUMNS:
        assert column_steps(AlexNet(10, variant, 0.0625).fused_ops, "every-layer", variant)
    for variant in ONE_COLUMN:
        with pytest.raises(RequestError, match="--columns 1"):
            column_steps(AlexNet(10, variant, 0.0625).fused_ops, "every-layer", variant)
    for variant in VARIANTS:
        assert column_steps(AlexNet(10, variant, 0.0625).fused_ops, "dense", variant)


def test_a_gradient_is_not_counted_twice() -> None:
    """Both processes compute the loss: a gather that sums over processes would count each gradient twice."""

    def gradient(pair: ThreadPair) -> torch.Tensor:
        column = ColumnNetwork(network_of("paper").eval(), pair)
        images, labels = batch_of(column, 2)
        F.cross_entropy(column(images), labels).backward()
        grad = column.get_parameter("fc8.bias").grad
        assert grad is not None
        return grad

    whole = network_of("paper").eval()
    images, labels = batch_of(whole, 2)
    F.cross_entropy(whole(images), labels).backward()
    expected = whole.get_parameter("fc8.bias").grad
    assert expected is not None
    assert_alike(torch.cat(in_both(gradient)), expected, "fc8.bias")
