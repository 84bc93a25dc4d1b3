"""Times of each layer of the paper's network, forward and backward, computed as in a training step.

Layers that run as one kernel are timed as one.

example: python benchmarks/layer_times.py --device cuda --batch-size 128
"""

import argparse
import statistics
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from rich.console import Console

from alexnet.bench.timing import require_counts, wait_for
from alexnet.cli.command_parser import CommandParser
from alexnet.cli.common_options import add_arithmetic
from alexnet.cli.tables import new_table
from alexnet.model.fusion import Op
from alexnet.model.kernels import epilogue_adds_bias, supports_fused
from alexnet.model.network import AlexNet
from alexnet.system.device import Precision, arithmetic, choose_device, choose_precision
from alexnet.system.machine import machine_summary, source_commit
from alexnet.training.graph_step import cudnn_benchmark
from script import run_script

T = TypeVar("T")


WARMUPS = 3
REPEATS = 20
"""Repetitions of a layer in one captured graph on a GPU."""


def add_arguments(parser: CommandParser) -> None:
    parser.add_argument("--batch-size", type=int, metavar="N", default=128, help="images per step")
    parser.add_argument("--rounds", type=int, metavar="N", default=5, help="measurements of each layer")
    add_arithmetic(parser)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    device = choose_device(options.device)
    precision = choose_precision(options.precision, device)
    require_counts(options.batch_size, 1, options.rounds)
    return {
        "batch_size": options.batch_size,
        "rounds": options.rounds,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else device.type,
        "precision": precision,
        "layers": layer_times(device, precision, options.batch_size, options.rounds),
        "machine": machine_summary(),
        "commit": source_commit(),
    }


def layer_times(device: torch.device, precision: Precision, batch_size: int, rounds: int) -> list[dict[str, Any]]:
    """Milliseconds forward and backward of each layer of the paper's network, medians.

    On a GPU a layer's kernels are captured in a graph and replayed, as in a training step, so launching them is not
    timed. In bfloat16 the layers read bfloat16 weights, as in a training step, unless only torch's operations support
    the input (`EagerStep`).
    """
    network = AlexNet().to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    x = 50 * torch.randn(batch_size, 3, 224, 224, device=device)
    x = x.contiguous(memory_format=torch.channels_last)
    if device.type == "cuda":
        x = x.to(dtype)  # as the crop kernel does on a GPU
    if supports_fused(x):
        network.to(dtype)
    rows = []
    for number, stage in enumerate(network.compiled_ops if epilogue_adds_bias(x, dtype) else network.fused_ops):
        x.requires_grad_(number > 0)  # the images need no gradient
        x, forward_s, backward_s = _time_stage(network, stage, x, device, precision, rounds)
        rows.append({"layer": _describe(stage), "forward_ms": 1e3 * forward_s, "backward_ms": 1e3 * backward_s})
    return rows


def _time_stage(
    network: AlexNet, stage: Op, x: torch.Tensor, device: torch.device, precision: Precision, rounds: int
) -> tuple[torch.Tensor, float, float]:
    """The output of a layer for `x`, and its seconds forward and backward."""
    inputs = [tensor for tensor in (x, *network.parameters()) if tensor.requires_grad]

    def forward() -> torch.Tensor:
        with arithmetic(device, precision):
            return network.compute(stage, x)

    with cudnn_benchmark():  # the first choice is kept
        gradient = torch.randn_like(forward())

    def backward(output: torch.Tensor) -> object:
        return torch.autograd.grad(output, inputs, gradient, retain_graph=True, allow_unused=True)

    output, replay_forward = _captured(forward, device, lambda: backward(forward()))
    _, replay_backward = _captured(lambda: backward(output), device)
    forward_s, backward_s = (_median_s(replay, device, rounds) for replay in (replay_forward, replay_backward))
    return output.detach().clone(), forward_s, backward_s


def _captured(
    work: Callable[[], T], device: torch.device, warmup: Callable[[], object] = lambda: None
) -> tuple[T, Callable[[], object]]:
    """The result of `work`, and a function that repeats it: on a GPU a graph of `REPEATS` repetitions.

    Args:
        warmup: called first; on a GPU several times, so that libraries have chosen their algorithms.
    """
    if device.type != "cuda":
        warmup()
        return work(), work
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream), cudnn_benchmark():
        for _ in range(WARMUPS):
            warmup()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with warnings.catch_warnings(), cudnn_benchmark():
        # A layer that only reshapes its input launches no kernel.
        warnings.filterwarnings("ignore", message="The CUDA Graph is empty")
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            for _ in range(REPEATS):
                result = work()
    graph.replay()
    return result, graph.replay


def _median_s(replay: Callable[[], object], device: torch.device, rounds: int) -> float:
    """Median seconds of one repetition; the first round warms up."""
    rounds_s = []
    for _ in range(rounds + 1):
        wait_for(device)
        start_s = time.perf_counter()
        replay()
        wait_for(device)
        rounds_s.append((time.perf_counter() - start_s) / (REPEATS if device.type == "cuda" else 1))
    return statistics.median(rounds_s[1:])


def _describe(stage: Op) -> str:
    return " + ".join(layer.name for layer in stage.layers)


def print_table(result: Mapping[str, Any]) -> None:
    title = f"{result['device']}, batches of {result['batch_size']}, {result['precision']}, milliseconds"
    table = new_table(title, "layer", "forward backward")
    for row in result["layers"]:
        table.add_row(row["layer"], f"{row['forward_ms']:.2f}", f"{row['backward_ms']:.2f}")
    Console().print(table)


def main(words: Sequence[str] | None = None) -> int:
    return run_script(__doc__, add_arguments, measure, print_table, words)


if __name__ == "__main__":
    raise SystemExit(main())
