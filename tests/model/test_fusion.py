"""Which layers are fused, that the fused operation equals the layers, and when it is not used."""

import os
import subprocess
import sys
from contextlib import nullcontext

import pytest
import torch

from alexnet.errors import RequestError
from alexnet.model import kernels
from alexnet.model.activations import ActivationReader
from alexnet.model.convolution import FastConvolution
from alexnet.model.fusion import ConvEpilogue, Fused, fuse, fuse_epilogues
from alexnet.model.kernels import operators, reference_ops
from alexnet.model.kernels.norm_pool import NormPool, PoolNorm
from alexnet.model.layer_specs import AveragePool, MaxPool, NamedLayer, ReLU
from alexnet.model.layers import SeededDropout
from alexnet.model.network import AlexNet
from alexnet.model.variants import VARIANTS
from alexnet.system.triton_probe import reference_ops_requested

needs_kernels = pytest.mark.skipif(
    kernels.fallback_reason("cpu") is not None, reason=str(kernels.fallback_reason("cpu"))
)
CAFFE = PoolNorm(NormPool(relu_before=True, pool=3, stride=2), NormPool(alpha=0.1, k=2.0))
NUMBERS = (True, 5, 0.1, 0.75, 2.0, 2, 3, 2, False, False)


AVERAGE = AveragePool(size=3, stride=2, divisor="inside")


@pytest.mark.parametrize("name", VARIANTS)
def test_fusing_keeps_all_layers_in_order(name: str) -> None:
    layers = VARIANTS[name].named_layers
    stages = fuse(layers)
    assert tuple(layer for stage in stages for layer in stage.layers) == layers
    passes = [
        (one.convolution, one.epilogue) if isinstance(one, ConvEpilogue) else (one,) for one in fuse_epilogues(stages)
    ]
    assert tuple(stage for one in passes for stage in one) == stages
    # Every max-pooling is fused with its neighbors.
    assert not any(isinstance(stage, NamedLayer) and isinstance(stage.spec, MaxPool) for stage in stages)


def test_every_order_is_one_operation() -> None:
    paper = [stage.norm_pool for stage in fuse(VARIANTS["paper"].named_layers) if isinstance(stage, Fused)]
    assert paper[:2] == [NormPool(relu_before=True, alpha=1e-4, k=2.0, columns=2, pool=3, stride=2)] * 2
    source = [stage.norm_pool for stage in fuse(VARIANTS["original"].named_layers) if isinstance(stage, Fused)]
    assert source[0] == NormPool(alpha=1e-4 / 5, k=2.0, columns=2, pool=3, stride=2, all_ties=True, relu_after=True)
    quick = [stage.norm_pool for stage in fuse(VARIANTS["quick"].named_layers) if isinstance(stage, Fused)]
    pool = NormPool(pool=3, stride=2, relu_after=True)
    assert quick == [*[PoolNorm(pool, NormPool(size=9, alpha=0.05, k=1.0))] * 2, pool]
    caffenet = [stage.norm_pool for stage in fuse(VARIANTS["caffenet"].named_layers) if isinstance(stage, Fused)]
    pool = NormPool(relu_before=True, pool=3, stride=2)
    assert caffenet == [*[PoolNorm(pool, NormPool(size=5, alpha=1e-4 / 5, k=1.0))] * 2, pool]
    # 16 positions do not fit the bits that store ties.
    for alone in (ReLU(), AVERAGE, MaxPool(size=4, stride=4)):
        layers = (NamedLayer("alone", alone),)
        assert fuse(layers) == layers


@needs_kernels
@pytest.mark.parametrize(
    "name", ["paper", "original", "non-overlapping", "caffe", "caffenet", "cifar-18pct", "cifar-11pct", "quick"]
)
def test_fused_and_reference_networks_agree(name: str) -> None:
    width = 0.25 if VARIANTS[name].image_px > 32 else 1.0
    network = AlexNet(5, name, width, generator=torch.Generator().manual_seed(1)).eval()
    side = network.spec.image_px
    images = 50 * torch.randn(3, 3, side, side, generator=torch.Generator().manual_seed(2))
    found = []
    for kind in ("plain", "fused"):
        network.zero_grad()
        if kind == "plain":
            with reference_ops():
                scores = network(images)
        else:
            scores = network(images)
        scores.square().sum().backward()
        found.append((scores.detach(), {key: value.grad for key, value in network.named_parameters()}))
    (plain, plain_gradients), (fast, fast_gradients) = found
    assert (plain - fast).norm() < 1e-5 * plain.norm()
    for key, gradient in plain_gradients.items():
        assert gradient is not None and fast_gradients[key] is not None
        # Rarely, rounding changes which activation is the maximum, and so where its gradient goes.
        assert (gradient - fast_gradients[key]).norm() <= 3e-2 * gradient.norm(), key


@needs_kernels
@pytest.mark.parametrize("name", ["paper", "original", "caffe", "cifar-18pct", "tanh"])
def test_biases_added_in_the_epilogue_are_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    width = 0.1 if VARIANTS[name].image_px > 32 else 0.5
    network = AlexNet(5, name, width, generator=torch.Generator().manual_seed(1)).eval()
    with torch.no_grad():
        for key, parameter in network.named_parameters():
            if key.endswith("bias"):
                parameter.normal_(generator=torch.Generator().manual_seed(3))
    side = network.spec.image_px
    images = 50 * torch.randn(3, 3, side, side, generator=torch.Generator().manual_seed(2))
    names = [layer.name for layer in network.sized_layers if layer.name[-1] in "12"]
    biases: list[torch.Tensor | None] = []
    found = []
    convolve = FastConvolution.run

    def watched(own: FastConvolution, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        biases.append(bias)
        return convolve(own, x, weight, bias)

    monkeypatch.setattr(FastConvolution, "run", watched)
    for in_epilogue in (False, True):
        monkeypatch.setattr(
            kernels,
            "epilogue_adds_bias",
            lambda x, dtype, in_epilogue=in_epilogue: in_epilogue and kernels.supports_fused(x),
        )
        network.zero_grad()
        biases.clear()
        scores = network(images)
        # A fused operation follows every convolution of these networks, except where tanh or an average follows.
        assert (None in biases) == in_epilogue if name != "tanh" else None not in biases
        scores.square().sum().backward()
        found.append((scores.detach(), {key: value.grad for key, value in network.named_parameters()}))
        with torch.no_grad():
            found[-1][1].update(ActivationReader(network, names)(images))
    (scores, once), (other, again) = found
    assert (scores - other).norm() < 1e-5 * scores.norm()
    for key, wanted in once.items():
        got = again[key]
        assert wanted is not None and got is not None and (wanted - got).norm() <= 1e-2 * wanted.norm(), key


@needs_kernels
@pytest.mark.parametrize("name", ["quick", "cifar-13pct"])
def test_biases_added_in_the_epilogue_in_bfloat16(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounding changes which activation of a window is the maximum, so both are compared with float32."""
    found = []
    for precise, in_epilogue in ((True, False), (False, False), (False, True)):
        monkeypatch.setattr(
            kernels,
            "epilogue_adds_bias",
            lambda x, dtype, in_epilogue=in_epilogue: in_epilogue and kernels.supports_fused(x),
        )
        network = AlexNet(5, name, 0.25, generator=torch.Generator().manual_seed(1)).eval()
        for key, parameter in network.named_parameters():
            if key.endswith("bias"):
                parameter.data.normal_(0, 0.3, generator=torch.Generator().manual_seed(3))
        side = network.spec.image_px
        images = 50 * torch.randn(4, 3, side, side, generator=torch.Generator().manual_seed(2))
        with nullcontext() if precise else torch.autocast("cpu", torch.bfloat16):
            scores = network(images).float()
        scores.square().sum().backward()
        found.append([scores.detach(), *(parameter.grad for parameter in network.parameters())])
    for exact, usual, fast in zip(*found, strict=True):
        assert exact is not None and usual is not None and fast is not None and fast.dtype == torch.float32
        assert (fast - exact).norm() < 1.5 * (usual - exact).norm() + 0.01 * exact.norm()


@needs_kernels
def test_layers_with_hooks_or_replaced_add_their_own_biases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "epilogue_adds_bias", lambda x, dtype: kernels.supports_fused(x))
    network = AlexNet(5, "quick", 0.25, generator=torch.Generator().manual_seed(1)).eval()
    images = 50 * torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(2))
    seen: list[torch.Tensor] = []
    conv2 = network.get_submodule("conv2")
    handle = conv2.register_forward_hook(lambda module, given, result: seen.append(result))
    wanted = network(images)
    handle.remove()
    network.conv2 = torch.nn.Sequential(conv2)
    torch.testing.assert_close(network(images), wanted)
    assert len(seen) == 1
    with_bias = ActivationReader(network, ["conv2"])(images)["conv2"]
    torch.testing.assert_close(seen[0], with_bias)


@needs_kernels
@pytest.mark.parametrize(
    ("dtype", "images", "numbers"),
    [
        (torch.float32, 2, NUMBERS),
        (torch.bfloat16, 2, NUMBERS),
        (torch.float32, 0, NUMBERS),
        (torch.float32, 2, (False, 5, 0.1, 0.75, 2.0, 2, 2, 2, True, True)),
        (torch.float32, 2, (True, 5, 0.1, 0.75, 2.0, 2, 1, 1, False, False)),
    ],
    ids=["float32", "bfloat16", "no image", "every tie", "not pooled"],
)
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # opcheck's own
def test_operators_are_what_torch_expects(dtype: torch.dtype, images: int, numbers: tuple[float, ...]) -> None:
    x = torch.randn(images, 6, 7, 8, generator=torch.Generator().manual_seed(3)).to(dtype)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    bias = torch.randn(6, generator=torch.Generator().manual_seed(4)).requires_grad_()
    torch.library.opcheck(operators._norm_pool, (x, bias, *numbers))
    if numbers == NUMBERS:  # the other numbers concern one operator only
        torch.library.opcheck(operators._norm_pool, (x, None, *numbers))
        torch.library.opcheck(operators._pool_norm, (x, *CAFFE.as_scalars()))
        torch.library.opcheck(operators.same_map_norm, (x, 3, 0.5, 0.75))
        torch.library.opcheck(operators.space_to_depth, (x.detach(), 3, 3, 2, torch.float32))
    # Backward operators have no derivatives: their inputs must not require gradients.
    x, bias = x.detach(), bias.detach()
    result, winners = operators._norm_pool(x, bias, *numbers)
    torch.library.opcheck(operators._norm_pool_backward, (result, x, bias, result, winners, *numbers))
    if numbers == NUMBERS:
        torch.library.opcheck(operators._same_map_norm_backward, (x, x, 3, 0.5, 0.75))
        result, winners, pooled = operators._pool_norm(x, *CAFFE.as_scalars())
        torch.library.opcheck(
            operators._pool_norm_backward, (result, winners, pooled, *x.shape[2:], *CAFFE.as_scalars())
        )


@needs_kernels
def test_compiling_and_exporting_keep_the_operator() -> None:
    network = AlexNet(3, "quick", 0.125, generator=torch.Generator().manual_seed(1)).eval()
    images = 50 * torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(2))
    exported = torch.export.export(network, (images,))
    assert "alexnet.norm_pool" in str(exported.graph) and "alexnet.pool_norm" in str(exported.graph)
    torch.testing.assert_close(exported.module()(images), network(images))
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(images), network(images))
    dropping = torch.compile(SeededDropout(0.5).train(), backend="eager", fullgraph=True)
    kept = dropping(torch.ones(4, 30))
    assert set(kept.flatten().tolist()) == {0.0, 1.0}


@needs_kernels
def test_autocast_leaves_the_dtype() -> None:
    x = torch.randn(1, 4, 6, 6).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        assert operators.norm_pool(x, NormPool(alpha=0.1, k=1.0)).dtype == torch.bfloat16
    assert operators.norm_pool(x.float(), NormPool(alpha=0.1, k=1.0)).dtype == torch.float32


def test_reference_ops_on_request() -> None:
    assert not kernels.supports_fused(torch.ones(1, 2, 3, 3, dtype=torch.float64))
    with reference_ops():
        assert not kernels.supports_fused(torch.ones(1, 2, 3, 3))
    assert kernels.fallback_reason("mps") == "there are no fused operations for mps devices"
    program = "from alexnet.model.kernels import fallback_reason; print(fallback_reason('cpu'))"
    run = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "ALEXNET_REFERENCE_OPS": "1"},
    )
    assert run.stdout == "the environment variable ALEXNET_REFERENCE_OPS asks for torch's own operations\n"


def test_the_earlier_name_of_the_variable_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALEXNET_PLAIN", "1")
    with pytest.raises(RequestError, match="ALEXNET_PLAIN is now called ALEXNET_REFERENCE_OPS"):
        reference_ops_requested()


def test_second_derivatives_are_refused() -> None:
    network = AlexNet(5, "paper", 0.05)
    images = torch.randn(1, 3, 224, 224)
    first = torch.autograd.grad(network(images).sum(), network.get_parameter("conv1.weight"), create_graph=True)[0]
    with pytest.raises(RuntimeError, match="second derivatives"):
        first.square().sum().backward()
