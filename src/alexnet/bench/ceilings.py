"""What the machine reaches at best: the FLOP/s of a large matrix product and the bytes per second of a large copy."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from alexnet.bench.timing import Timings, alternate, median_ratio, wait_for
from alexnet.model.kernels import fallback_reason
from alexnet.system.device import Precision
from alexnet.system.machine import machine_summary, source_commit

MATMUL, COPY = "large matrix product", "large copy"


class Ceilings:
    """Both as methods for `alternate`, with their own tensors.

    Args:
        device: where they run.
        precision: of the factors of the product.
    """

    def __init__(self, device: torch.device, precision: Precision) -> None:
        on_gpu = device.type == "cuda"
        self._device, self._repeats = device, 8 if on_gpu else 2
        self._side, self._copied = (8192, 2**30) if on_gpu else (2048, 2**28)
        dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
        self._left, self._right = (torch.randn(self._side, self._side, device=device).to(dtype) for _ in range(2))
        self._source = torch.randint(0, 100, (self._copied,), dtype=torch.uint8, device=device)
        self._target = torch.empty_like(self._source)

    def methods(self) -> dict[str, Callable[[], None]]:
        """By name, warmed up."""
        methods = {MATMUL: self._multiply, COPY: self._copy}
        for method in methods.values():
            method()
        return methods

    def results(self, timings: Mapping[str, Timings]) -> dict[str, float]:
        """`matmul_flops` and `copy_bytes` (read and written) per second, of the best round."""
        matmul_s, copy_s = (min(timings[name].wall_s) / self._repeats for name in (MATMUL, COPY))
        return {"matmul_flops": 2 * self._side**3 / matmul_s, "copy_bytes": 2 * self._copied / copy_s}

    def _multiply(self) -> None:
        for _ in range(self._repeats):
            torch.mm(self._left, self._right)
        wait_for(self._device)

    def _copy(self) -> None:
        for _ in range(self._repeats):
            self._target.copy_(self._source)
        wait_for(self._device)


def compare_speeds(
    methods: Mapping[str, Callable[[], None]],
    num_images: Mapping[str, int],
    flops: Mapping[str, float],
    product: str,
    rounds: int,
    device: torch.device,
    precision: Precision,
) -> dict[str, Any]:
    """Measure methods and the machine's ceilings in alternation.

    Args:
        methods: by name, warmed up.
        num_images: images per run of each method.
        flops: floating point operations per image of each method.
        product: the method that is this package's.
        rounds: 1 or more.
        device: where the methods run.
        precision: of this package's methods and of the large matrix product.

    Returns:
        `methods`: by name `summarize` and the images per second of each round; on CPUs also `core_ms_per_image`, the
        median of this process's processor time. `speedups`: of `product` over each method. `ceilings`: see
        `Ceilings.results`; on CPUs also `core_ceilings`, the same per second of processor time. The rest describes the
        device and the machine.
    """
    ceilings = Ceilings(device, precision)
    timings = alternate({**methods, **ceilings.methods()}, rounds)
    speeds = {name: [num_images[name] / wall_s for wall_s in timings[name].wall_s] for name in methods}
    reached = ceilings.results(timings)
    summaries: dict[str, dict[str, Any]] = {
        name: {**summary, "images_per_second_by_round": speeds[name]}
        for name, summary in summarize(speeds, flops, reached).items()
    }
    by_core: dict[str, Any] = {}
    if device.type == "cpu":
        for name, summary in summaries.items():
            summary["core_ms_per_image"] = 1e3 * statistics.median(timings[name].cpu_s) / num_images[name]
        by_core["core_ceilings"] = ceilings.results(
            {name: Timings(timings[name].cpu_s, timings[name].cpu_s) for name in (MATMUL, COPY)}
        )
    return {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else device.type,
        "precision": precision,
        "kernels": fallback_reason(device.type) or "fused",
        "methods": summaries,
        "speedups": speedups(speeds, product),
        "ceilings": reached,
        **by_core,
        "machine": machine_summary(),
        "commit": source_commit(),
    }


def summarize(
    speeds: Mapping[str, Sequence[float]], flops: Mapping[str, float], ceilings: Mapping[str, float]
) -> dict[str, dict[str, float]]:
    """Images per second of each method (median and best of the rounds), and the fraction of the matmul ceiling.

    Args:
        speeds: images per second in each round, by method.
        flops: floating point operations per image, by method.
        ceilings: see `Ceilings.results`.
    """
    return {
        name: {
            "images_per_second": statistics.median(values),
            "best_images_per_second": max(values),
            "fraction_of_matmul": statistics.median(values) * flops[name] / ceilings["matmul_flops"],
        }
        for name, values in speeds.items()
    }


def speedups(speeds: Mapping[str, Sequence[float]], method: str) -> dict[str, float]:
    """How many times as fast `method` is as each other method: median of the rounds; empty if it was not measured."""
    if method not in speeds:
        return {}
    return {name: median_ratio(speeds[method], values) for name, values in speeds.items()}
