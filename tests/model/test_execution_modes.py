"""The same network in other modes: compiled, exported, bfloat16, channels-last, on a GPU."""

import pytest
import torch
from tests.model.varied_networks import VARIED, normwise, varied_network

from alexnet.model.inference import inference_network
from alexnet.system.device import arithmetic
from benchmarks.precision import EmulatedBfloat16


def gradients(network: torch.nn.Module, images: torch.Tensor, direction: torch.Tensor) -> list[torch.Tensor]:
    network.zero_grad()
    (network(images) * direction).sum().backward()
    return [parameter.grad.clone() for parameter in network.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("variant", VARIED)
def test_channels_last(variant: str) -> None:
    network, images, direction = varied_network(variant)
    scores, wanted = network(images), gradients(network, images, direction)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = images.to(memory_format=torch.channels_last)
    assert normwise(network(images), scores) < 1e-5
    for got, want in zip(gradients(network, images, direction), wanted, strict=True):
        assert normwise(got, want) < 1e-4


@pytest.mark.parametrize("variant", VARIED)
def test_bfloat16(variant: str) -> None:
    network, images, _ = varied_network(variant)
    with torch.no_grad():
        want = network(images)
        with torch.autocast("cpu", torch.bfloat16):
            assert normwise(network(images), want) < 0.03  # about ten roundings of 2^-8 each
        assert normwise(network.bfloat16()(images.bfloat16()), want) < 0.03


@pytest.mark.parametrize("variant", VARIED)
def test_float16(variant: str) -> None:
    network, images, _ = varied_network(variant)
    images *= 8  # activations whose squares float16 does not hold
    with torch.no_grad():
        want = network(images)
        with torch.autocast("cpu", torch.float16):
            assert normwise(network(images), want) < 0.004  # about ten roundings of 2^-11 each
        assert normwise(network.half()(images.half()), want) < 0.004


@pytest.mark.parametrize("variant", [*VARIED, "torchvision"])
def test_weights_rounded_once_give_the_same_scores(variant: str) -> None:
    network, images, _ = varied_network(variant)
    cpu = torch.device("cpu")
    with torch.inference_mode(), EmulatedBfloat16():  # the same in both, and fast everywhere
        with arithmetic(cpu, "bfloat16"):
            want = network(images)
        with inference_network(network, cpu, "bfloat16") as rounded, arithmetic(cpu, "bfloat16"):
            assert all(one.dtype == torch.bfloat16 for one in rounded.parameters())
            assert torch.equal(rounded(images), want)


@pytest.mark.parametrize("variant", VARIED)
def test_exported(variant: str) -> None:
    network, images, _ = varied_network(variant)
    with torch.no_grad():
        exported = torch.export.export(network, (images,), strict=False).module()
        assert normwise(exported(images), network(images)) < 1e-6


@pytest.mark.parametrize("variant", ["original", "cifar-18pct"])
@pytest.mark.parametrize("half", [False, True])
def test_exported_for_batches_of_any_size(variant: str, half: bool) -> None:
    network, images, _ = varied_network(variant)
    if half:
        network, images = network.bfloat16(), images.bfloat16()
    sizes = ({0: torch.export.Dim("batch")},)
    with torch.no_grad():
        exported = torch.export.export(network, (images,), dynamic_shapes=sizes, strict=False).module()
        for several in (images[:1], torch.cat([images, images, images])):
            assert normwise(exported(several).float(), network(several).float()) < (1e-2 if half else 1e-6)


def compiled_equals(variant: str, backend: str) -> None:
    network, images, direction = varied_network(variant)
    wanted = gradients(network, images, direction)
    scores = network(images)
    torch._dynamo.reset()
    compiled = torch.compile(network, backend=backend, fullgraph=True)
    assert normwise(compiled(images), scores) < 1e-5
    for got, want in zip(gradients(compiled, images, direction), wanted, strict=True):
        assert normwise(got, want) < 1e-4


@pytest.mark.parametrize(
    "variant", [*(pytest.param(name, marks=pytest.mark.slow) for name in VARIED[:-1]), "cifar-11pct"]
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_traced_by_the_compiler(variant: str) -> None:
    compiled_equals(variant, "aot_eager")


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["original", "cifar-11pct"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_compiled(variant: str) -> None:
    compiled_equals(variant, "inductor")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("variant", VARIED)
def test_on_a_gpu(variant: str) -> None:
    network, images, direction = varied_network(variant)
    scores, wanted = network(images), gradients(network, images, direction)
    allowed = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        network.cuda()
        assert normwise(network(images.cuda()).cpu(), scores) < 1e-5
        for got, want in zip(gradients(network, images.cuda(), direction.cuda()), wanted, strict=True):
            assert normwise(got.cpu(), want) < 1e-4
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = allowed
