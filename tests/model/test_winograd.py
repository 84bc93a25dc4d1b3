"""Winograd convolutions, against sums over windows in float64."""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.model.fast_conv2d import Convolution2d

from alexnet.model import kernels
from alexnet.model.convolution import MIN_WINOGRAD_IMAGES
from alexnet.model.kernels import convolutions, reference_ops
from alexnet.model.layer_specs import Convolution
from alexnet.model.network import AlexNet

pytestmark = pytest.mark.skipif(kernels.fallback_reason("cpu") is not None, reason=str(kernels.fallback_reason("cpu")))

if kernels.fallback_reason("cpu") is None:
    from alexnet.model.kernels import winograd


def windows(x: np.ndarray, kernel: int, padding: int) -> np.ndarray:
    """float64 (B, C, H, W) -> (B, C, H', W', k, k)."""
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (padding,) * 2, (padding,) * 2))
    return np.lib.stride_tricks.sliding_window_view(padded, (kernel, kernel), (2, 3))


def exactly(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray, gradient: np.ndarray, columns: int, padding: int
) -> tuple[np.ndarray, ...]:
    """Results, and the gradients of x, weights and biases, from the formula of a convolution."""
    kernel = weight.shape[2]
    results, of_x, of_weight = [], [], []
    for part, w, g in zip(
        np.split(x, columns, 1), np.split(weight, columns), np.split(gradient, columns, 1), strict=True
    ):
        read = windows(part, kernel, padding)
        results.append(np.einsum("bchwij,dcij->bdhw", read, w, optimize=True))
        of_weight.append(np.einsum("bchwij,bdhw->dcij", read, g, optimize=True))
        # The window that begins (i, j) before a position reads it with weight (i, j).
        wide = np.zeros((*part.shape[:2], *(side + 2 * padding for side in part.shape[2:])))
        for i in range(kernel):
            for j in range(kernel):
                wide[:, :, i : i + g.shape[2], j : j + g.shape[3]] += np.einsum("bdhw,dc->bchw", g, w[:, :, i, j])
        of_x.append(wide[:, :, padding : padding + x.shape[2], padding : padding + x.shape[3]])
    return (
        np.concatenate(results, 1) + bias[:, None, None],
        np.concatenate(of_x, 1),
        np.concatenate(of_weight),
        gradient.sum((0, 2, 3)),
    )


def normwise(got: torch.Tensor | None, want: np.ndarray, of: np.ndarray | None = None) -> float:
    """The norm of the error relative to that of `of`, or of the wanted tensor."""
    assert got is not None
    size = np.linalg.norm(want if of is None else of)
    return float(np.linalg.norm(got.detach().double().numpy() - want) / max(size, 1e-300))


def errors(
    shape: tuple[int, int, int, int],
    outputs: int,
    kernel: int,
    columns: int,
    padding: int,
    seed: int = 0,
    forward: bool | None = None,
    spread: Callable[[np.ndarray], np.ndarray] = lambda numbers: numbers,
    *,
    of_terms: bool = False,
    scales: tuple[float, float] = (1.0, 1.0),
) -> list[float]:
    """Errors of results and gradients of x, weights and biases; `of_terms`: relative to sums whose terms cannot cancel.

    `scales` are factors on what is read, x and biases, and on the gradient of the results.
    """
    random = np.random.default_rng(seed)
    x = (scales[0] * spread(random.standard_normal(shape))).astype(np.float32)
    weight = random.standard_normal((outputs, shape[1] // columns, kernel, kernel)).astype(np.float32)
    bias = (scales[0] * random.standard_normal(outputs)).astype(np.float32)
    height, width = (side + 2 * padding - kernel + 1 for side in shape[2:])
    gradient = (scales[1] * random.standard_normal((shape[0], outputs, height, width))).astype(np.float32)
    leaves = [torch.from_numpy(array).requires_grad_() for array in (x, weight, bias)]
    forward = kernel == 5 if forward is None else forward
    result = convolutions.convolution(*leaves, padding, forward=forward)
    assert result.dtype == torch.float32 and result.is_contiguous(memory_format=torch.channels_last)
    result.backward(torch.from_numpy(gradient))
    arrays = [array.astype(np.float64) for array in (x, weight, bias, gradient)]
    wanted = exactly(*arrays, columns, padding)
    norms = exactly(*map(np.abs, arrays), columns, padding) if of_terms else wanted
    return [
        normwise(got, want, norm)
        for got, want, norm in zip([result, *(leaf.grad for leaf in leaves)], wanted, norms, strict=True)
    ]


@settings(max_examples=20, deadline=None)
@given(
    images=st.integers(1, 20),
    threads=st.integers(1, 3),
    channels=st.integers(1, 70),
    outputs=st.integers(1, 70),
    columns=st.integers(1, 3),
    kernel=st.sampled_from([3, 5]),
    side=st.tuples(st.integers(1, 14), st.integers(1, 14)),
    forward=st.booleans(),
    seed=st.integers(0, 999),
    data=st.data(),
)
def test_any_size_equals_the_sums(
    images: int,
    threads: int,
    channels: int,
    outputs: int,
    columns: int,
    kernel: int,
    side: tuple[int, int],
    forward: bool,
    seed: int,
    data: st.DataObject,
) -> None:
    torch.set_num_threads(threads)
    padding = data.draw(st.integers(max(0, (kernel - min(side)) // 2 + (kernel - min(side)) % 2), kernel - 1))
    shape = (images, channels * columns, *side)
    forward = forward and kernel == 5
    assert max(errors(shape, outputs * columns, kernel, columns, padding, seed, forward, of_terms=True)) < 2e-6


@pytest.mark.parametrize(
    ("channels", "outputs", "kernel", "columns", "side"),
    [(96, 256, 5, 2, 27), (256, 384, 3, 1, 13), (384, 384, 3, 2, 13)],
)
def test_accuracy(channels: int, outputs: int, kernel: int, columns: int, side: int) -> None:
    result, of_x, of_weight, _ = errors(
        (2, channels, side, side), outputs, kernel, columns, kernel // 2, spread=lambda numbers: np.maximum(numbers, 0)
    )
    assert of_weight < 1e-6 and (kernel == 3 or max(result, of_x) < 1e-6)  # the rest of 3 x 3 is the library's


@pytest.mark.parametrize("scales", [(1e-30, 1.0), (1e15, 1.0), (1.0, 1e-30), (1.0, 1e15)])
@pytest.mark.parametrize("kernel", [3, 5])
def test_tiny_and_huge(kernel: int, scales: tuple[float, float]) -> None:
    assert max(errors((9, 10, 9, 10), 12, kernel, 2, kernel // 2, scales=scales)) < 5e-6


def test_threads_change_no_result() -> None:
    generator = torch.Generator().manual_seed(2)
    x, weight = torch.randn(5, 6, 9, 9, generator=generator), torch.randn(8, 3, 5, 5, generator=generator)
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(convolutions.convolution(x, weight, None, 2, forward=True))
        assert torch.get_num_threads() == threads
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])
    alone = convolutions.convolution(x[2:3], weight, None, 2, forward=True)
    assert torch.equal(alone, results[0][2:3])


def test_gradients_are_sums_over_all_threads_and_groups() -> None:
    # 24 images are three ranges of 8; for 3 x 3 over 16 positions, a group has 8 images, and 16 in a single thread.
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        for kernel in (3, 5):
            assert max(errors((25, 4, 9, 10), 6, kernel, 2, kernel // 2)) < 5e-6


def test_other_threads_keep_their_number() -> None:
    seen: list[int] = []

    def born_later() -> None:
        layer = torch.ones(2, 2, 5, 5)
        for _ in range(3):
            convolutions.convolution(torch.ones(9, 2, 6, 6), layer, None, 2, forward=True)
            seen.append(torch.get_num_threads())

    torch.set_num_threads(2)
    convolutions.convolution(torch.ones(9, 2, 6, 6), torch.ones(2, 2, 5, 5), None, 2, forward=True)
    for _ in range(5):
        others = [threading.Thread(target=born_later) for _ in range(2)]
        for thread in others:
            thread.start()
        born_later()
        for thread in others:
            thread.join()
    assert set(seen) == {2} and torch.get_num_threads() == 2


def test_threads_are_usable_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ArithmeticError("no")

    monkeypatch.setattr(winograd, "_rows_to_points", fail)
    torch.set_num_threads(2)
    with pytest.raises(ArithmeticError, match="no"):
        convolutions.convolution(torch.ones(4, 2, 5, 5), torch.ones(2, 2, 5, 5), None, 2, forward=True)
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("what", [float("nan"), float("inf")])
def test_nan_is_kept(what: float) -> None:
    x, weight = torch.ones(2, 4, 9, 9), torch.ones(3, 4, 5, 5)
    x[1, 2, 4, 4] = what
    result = convolutions.convolution(x, weight, None, 2, forward=True)
    assert not result[1, :, 2:7, 2:7].isfinite().any() and result[0].isfinite().all()
    for kernel in (3, 5):
        layer = torch.ones(3, 4, kernel, kernel, requires_grad=True)
        convolutions.convolution(x, layer, None, kernel // 2, forward=False).sum().backward()
        assert layer.grad is not None
        assert not layer.grad[:, 2].isfinite().any() and layer.grad[:, 0].isfinite().all()


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # opcheck's own
def test_operators_are_what_torch_expects() -> None:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(2, 4, 6, 7, generator=generator).requires_grad_()
    three, five = (torch.randn(6, 2, side, side, generator=generator).requires_grad_() for side in (3, 5))
    bias = torch.randn(6, generator=generator).requires_grad_()
    torch.library.opcheck(convolutions.convolution, (x, three, bias, 1, False))
    torch.library.opcheck(convolutions.convolution, (x, five, bias, 2, True))
    torch.library.opcheck(convolutions.convolution, (x, five, None, 2, False))
    images, first = torch.randn(2, 3, 15, 16, generator=generator), torch.randn(6, 3, 11, 11, generator=generator)
    torch.library.opcheck(convolutions.strided_convolution, (images, first.requires_grad_(), bias, 4, 3))
    steps = torch.randn(2, 6, 2, 3, generator=generator)
    torch.library.opcheck(convolutions._strided_convolution_backward, (steps, images, 11, 4))
    gradient = torch.randn(2, 6, 6, 7, generator=generator)
    for weight, wants in ((three, (True, True)), (five, (False, True)), (five, (True, False))):
        given = (gradient, x.detach(), weight.detach(), weight.shape[2] // 2)
        torch.library.opcheck(convolutions._convolution_backward, (*given, *wants))


def test_no_image_and_no_second_derivative() -> None:
    weight = torch.ones(3, 2, 5, 5, requires_grad=True)
    empty = torch.ones(0, 2, 5, 5, requires_grad=True)
    result = convolutions.convolution(empty, weight, None, 2, forward=True)
    assert result.shape == (0, 3, 5, 5)
    result.sum().backward()
    assert torch.equal(weight.grad, torch.zeros_like(weight))
    x = torch.ones(1, 2, 5, 5, requires_grad=True)
    result = convolutions.convolution(x, weight, None, 2, forward=True)
    (first,) = torch.autograd.grad(result.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="second derivatives"):
        first.sum().backward()


def how(layer: Convolution2d, x: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> str:
    """Whether a layer's results, only its weights' gradients, or nothing uses Winograd filtering."""
    seen = ["not"]

    def note(*words: torch.Tensor | None, forward: bool) -> torch.Tensor:
        seen[0] = "all" if forward else "gradient"
        return convolution(*words, forward=forward)  # type: ignore[arg-type]

    def note_strided(*words: Any) -> torch.Tensor:
        seen[0] = "gradient"
        return strided(*words)

    convolution, strided = convolutions.convolution, convolutions.strided_convolution
    with monkeypatch.context() as patch:
        patch.setattr(convolutions, "convolution", note)
        patch.setattr(convolutions, "strided_convolution", note_strided)
        layer(x)
    return seen[0]


def test_supported_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    many, few = torch.randn(MIN_WINOGRAD_IMAGES, 64, 32, 32), torch.randn(MIN_WINOGRAD_IMAGES - 1, 64, 32, 32)
    five, three = Convolution2d(64, 64, 5, padding=2), Convolution2d(64, 64, 3, padding=1)
    tied = Convolution2d(64, 64, 5, padding=2, keeps_ties=True)
    assert [how(layer, many, monkeypatch) for layer in (five, three, tied)] == ["all", "gradient", "gradient"]
    with torch.no_grad():
        assert [how(layer, many, monkeypatch) for layer in (five, three, tied)] == ["all", "not", "not"]
    frozen = Convolution2d(64, 64, 3, padding=1).requires_grad_(False)
    left = (
        (frozen, many.clone().requires_grad_()),
        (five, few),
        (five, many[0]),
        (five, many[:, :, :12]),
        (Convolution2d(64, 64, 3, stride=2, padding=1), many),
        (Convolution2d(64, 64, 3, padding=3), many),
        (Convolution2d(64, 64, 3, padding=1, end_padding=1), many),
        (Convolution2d(64, 64, 4, padding=1), many),
        (Convolution2d(64, 8, 3, padding=1), many),
        (Convolution2d(64, 64, 5, padding=2).double(), many.double()),
    )
    for layer, x in left:
        assert how(layer, x, monkeypatch) == "not"
    with reference_ops():
        assert how(five, many, monkeypatch) == "not"
    with torch.autocast("cpu", torch.bfloat16):
        assert how(five, many, monkeypatch) == "not"


def test_the_weight_gradient_of_a_first_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = Convolution2d(3, 24, 11, 4, end_padding=3)
    images = torch.randn(MIN_WINOGRAD_IMAGES, 3, 224, 224, generator=torch.Generator().manual_seed(5))
    assert how(layer, images, monkeypatch) == "gradient"
    assert how(layer, images.clone().requires_grad_(), monkeypatch) == "not"
    with torch.no_grad():
        assert how(layer, images, monkeypatch) == "not"
    gradient = torch.randn(layer(images).shape, generator=torch.Generator().manual_seed(6))
    layer(images).backward(gradient)
    padded = np.pad(images.double().numpy(), ((0, 0), (0, 0), (0, 3), (0, 3)))
    read = np.lib.stride_tricks.sliding_window_view(padded, (11, 11), (2, 3))[:, :, ::4, ::4]
    of_weight = np.einsum("bchwij,bdhw->dcij", read, gradient.double().numpy(), optimize=True)
    assert normwise(layer.weight.grad, of_weight) < 5e-6


@settings(max_examples=15, deadline=None)
@given(
    channels=st.integers(1, 3),
    outputs=st.integers(1, 5),
    stride=st.integers(2, 4),
    kernel=st.integers(5, 14),
    end=st.integers(0, 3),
    height=st.integers(20, 33),
    width=st.integers(20, 33),
    seed=st.integers(0, 999),
)
def test_a_strided_layer_of_any_size(
    channels: int, outputs: int, stride: int, kernel: int, end: int, height: int, width: int, seed: int
) -> None:
    assume(-(-kernel // stride) in (3, 5))
    random = np.random.default_rng(seed)
    x, weight = (
        random.normal(size=(3, channels, height, width)),
        random.normal(size=(outputs, channels, kernel, kernel)),
    )
    bias = random.normal(size=outputs)
    given = [torch.from_numpy(one).float() for one in (x, weight, bias)]
    result = convolutions.strided_convolution(given[0], *(one.requires_grad_() for one in given[1:]), stride, end)
    gradient = torch.from_numpy(random.normal(size=result.shape)).float()
    result.backward(gradient)
    padded = np.pad(given[0].double().numpy(), ((0, 0), (0, 0), (0, end), (0, end)))
    read = np.lib.stride_tricks.sliding_window_view(padded, (kernel, kernel), (2, 3))[:, :, ::stride, ::stride]
    want = np.einsum("bchwij,dcij->bdhw", read, given[1].detach().double().numpy(), optimize=True)
    assert normwise(result, want + given[2].detach().double().numpy()[:, None, None]) < 1e-6
    steps = gradient.double().numpy()
    assert normwise(given[1].grad, np.einsum("bchwij,bdhw->dcij", read, steps, optimize=True)) < 5e-6
    assert normwise(given[2].grad, steps.sum((0, 2, 3))) < 1e-5


def test_a_strided_layer_keeps_nothing_but_its_images() -> None:
    x = torch.randn(2, 3, 24, 24)
    weight = torch.randn(4, 3, 11, 11, requires_grad=True)
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda one: kept.append(one) or one, lambda one: one):
        convolutions.strided_convolution(x, weight, None, 4, 3)
    assert len(kept) == 1 and kept[0].data_ptr() == x.data_ptr()
    with pytest.raises(RuntimeError, match="has no gradient"):
        convolutions.strided_convolution(x.requires_grad_(), weight, None, 4, 3).sum().backward()
    empty = torch.ones(0, 3, 24, 24)
    convolutions.strided_convolution(empty, weight, None, 4, 3).sum().backward()
    assert torch.equal(weight.grad, torch.zeros_like(weight))


def test_ties_are_kept_where_asked() -> None:
    x = torch.randn(MIN_WINOGRAD_IMAGES, 64, 1, 1).expand(-1, -1, 32, 32)  # equal at all positions
    images = torch.randn(MIN_WINOGRAD_IMAGES, 3, 1, 1).expand(-1, -1, 224, 224)
    kept = []
    for keeps in (True, False):
        layer = Convolution2d(64, 64, 5, padding=2, keeps_ties=keeps)
        inner = layer(x)[:, :, 2:-2, 2:-2]
        kept.append(torch.equal(inner, inner[:, :, :1, :1].expand_as(inner)))
    assert kept == [True, False]
    activations = Convolution2d(3, 24, 11, 4, end_padding=3, keeps_ties=True)(images)[:, :, :-1, :-1]
    assert torch.equal(activations, activations[:, :, :1, :1].expand_as(activations))


def test_what_does_not_fit_is_refused_by_the_library() -> None:
    layer = Convolution2d(64, 64, 5, padding=2)
    for channels in (32, 65, 128):
        with pytest.raises(RuntimeError, match="to have 64 channels"):
            layer(torch.ones(MIN_WINOGRAD_IMAGES, channels, 32, 32))
    with pytest.raises(RuntimeError, match="Kernel size can't be greater than actual input size"):
        Convolution2d(64, 128, 5)(torch.ones(MIN_WINOGRAD_IMAGES, 64, 4, 400))


@pytest.mark.parametrize("kernel", [3, 5])
def test_modes_of_the_caller_change_nothing(kernel: int) -> None:
    layer = Convolution2d(64, 64, kernel, padding=kernel // 2)
    x = torch.randn(MIN_WINOGRAD_IMAGES, 64, 32, 32, generator=torch.Generator().manual_seed(8))
    layer(x).sum().backward()
    assert layer.weight.grad is not None
    of_weight, result = layer.weight.grad.clone(), layer(x).detach()
    layer.zero_grad()
    ended = layer(x).sum()
    with torch.autocast("cpu", torch.bfloat16):
        ended.backward()
    assert torch.equal(layer.weight.grad, of_weight)
    with torch.inference_mode():
        assert torch.equal(layer(x), result) or kernel == 3  # without gradients 3 x 3 is the library's own
    layer.zero_grad()
    try:
        torch.set_default_dtype(torch.float64)
        layer(x).sum().backward()
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(layer.weight.grad, of_weight)


def test_images_have_a_gradient_within_autocast() -> None:
    layer = Convolution2d(3, 24, 11, 4, end_padding=3)
    images = torch.randn(MIN_WINOGRAD_IMAGES, 3, 224, 224).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        layer(images).float().sum().backward()
    assert images.grad is not None and images.grad.isfinite().all()


@pytest.mark.filterwarnings("ignore:`torch.jit.script`")  # torch's own, on its first use
def test_forward_mode_derivatives_are_the_librarys() -> None:
    layer = Convolution2d(64, 64, 5, padding=2).requires_grad_(False)
    x = torch.randn(MIN_WINOGRAD_IMAGES, 64, 32, 32)
    with reference_ops():
        want = torch.func.jvp(layer, (x,), (torch.ones_like(x),))[1]
    torch.testing.assert_close(torch.func.jvp(layer, (x,), (torch.ones_like(x),))[1], want)


def test_networks_whose_pooling_needs_ties_keep_them() -> None:
    for variant, keeps in (("paper", False), ("original", True), ("cifar-18pct", True)):
        network = AlexNet(10, variant=variant)
        layers = [layer for layer in network.spec.named_layers if isinstance(layer.spec, Convolution)]
        assert layers and all(network.fast_convolution(layer).keeps_ties == keeps for layer in layers)


def test_whole_network_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(4)
    network = AlexNet(10, generator=generator).eval()
    images = torch.randn(MIN_WINOGRAD_IMAGES, 3, 224, 224, generator=generator) * 60
    calls = []
    convolution = convolutions.convolution
    monkeypatch.setattr(convolutions, "convolution", lambda *x, **y: calls.append(1) or convolution(*x, **y))
    with torch.no_grad():
        got = network(images)
        assert calls == [1]
        want = network.double()(images.double())
    assert float((got - want).norm() / want.norm()) < 2e-6
