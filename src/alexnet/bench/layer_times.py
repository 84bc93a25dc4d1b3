"""What each layer of the paper's network takes alone, forward and backward, as it is computed in a training step."""

import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from alexnet.bench.timing import wait_for
from alexnet.model.fusion import ConvEpilogue, Fused
from alexnet.model.kernels import epilogue_adds_bias, supports_fused
from alexnet.model.layer_specs import LayerSpec
from alexnet.model.network import AlexNet
from alexnet.system.device import Precision, arithmetic
from alexnet.training.graph_step import algorithms_tried

T = TypeVar("T")

Stage = LayerSpec | Fused | ConvEpilogue

_WARM_UPS = 3
_REPEATS = 20
"""How often a GPU does a layer's work between two looks at the clock, all of it launched at once."""


def layer_times(device: torch.device, precision: Precision, batch_size: int, times: int = 5) -> list[dict[str, Any]]:
    """Milliseconds forward and backward of each layer of the paper's network alone, medians.

    Layers that are computed in one pass stand as one. On a GPU a layer's kernels are recorded and replayed, as they are
    in a training step: what is timed is their work, not their launching. In bfloat16 a training reads weights that its
    update has rounded, and so do the layers here, but where only torch's own operations serve (`EagerStep`).
    """
    network = AlexNet().to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    x = 50 * torch.randn(batch_size, 3, 224, 224, device=device)
    x = x.contiguous(memory_format=torch.channels_last)
    if device.type == "cuda":
        x = x.to(dtype)  # the pass that finishes the images rounds them; a processor's does not
    if supports_fused(x):
        network.to(dtype)
    found = []
    for number, stage in enumerate(network.compiled_ops if epilogue_adds_bias(x, dtype) else network.fused_ops):
        x.requires_grad_(number > 0)  # the gradient of the images is nobody's
        x, forward_s, backward_s = _alone(network, stage, x, device, precision, times)
        found.append({"layer": _in_words(stage), "forward_ms": 1e3 * forward_s, "backward_ms": 1e3 * backward_s})
    return found


def _alone(
    network: AlexNet, stage: Stage, given: torch.Tensor, device: torch.device, precision: Precision, times: int
) -> tuple[torch.Tensor, float, float]:
    """What a layer makes of `given`, and its seconds forward and backward."""
    wanted = [tensor for tensor in (given, *network.parameters()) if tensor.requires_grad]

    def forward() -> torch.Tensor:
        with arithmetic(device, precision):
            return network.compute(stage, given)

    with algorithms_tried():  # what is chosen first stays
        gradient = torch.randn_like(forward())

    def backward(result: torch.Tensor) -> object:
        return torch.autograd.grad(result, wanted, gradient, retain_graph=True, allow_unused=True)

    result, forward_again = _recorded(forward, device, lambda: backward(forward()))
    _, backward_again = _recorded(lambda: backward(result), device)
    forward_s, backward_s = (_seconds(again, device, times) for again in (forward_again, backward_again))
    return result.detach().clone(), forward_s, backward_s


def _recorded(
    work: Callable[[], T], device: torch.device, warmup: Callable[[], object] = lambda: None
) -> tuple[T, Callable[[], object]]:
    """The result of some work, and what does the same once more: on a GPU a replay of its kernels, `_REPEATS` times.

    Args:
        warmup: done first; on a GPU several times, so that libraries have chosen their algorithms.
    """
    if device.type != "cuda":
        warmup()
        return work(), work
    beside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside), algorithms_tried():
        for _ in range(_WARM_UPS):
            warmup()
    torch.cuda.current_stream().wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    with warnings.catch_warnings(), algorithms_tried():
        # Where a layer only looks at its input in another shape there is nothing to do.
        warnings.filterwarnings("ignore", message="The CUDA Graph is empty")
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            for _ in range(_REPEATS):
                result = work()
    graph.replay()
    return result, graph.replay


def _seconds(work: Callable[[], object], device: torch.device, times: int) -> float:
    """Median time of what `_recorded` gave, once."""
    found = []
    for _ in range(times + 1):
        wait_for(device)
        start_s = time.perf_counter()
        work()
        wait_for(device)
        found.append((time.perf_counter() - start_s) / (_REPEATS if device.type == "cuda" else 1))
    return statistics.median(found[1:])


def _in_words(stage: Stage) -> str:
    match stage:
        case ConvEpilogue(convolution=convolution, epilogue=epilogue):
            return f"{_in_words(convolution)} + {_in_words(epilogue)}"
        case Fused(layers=layers):
            return " + ".join(map(_in_words, layers))
        case _:
            return str(getattr(stage, "name", type(stage).__name__))
