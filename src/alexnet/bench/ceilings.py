"""What a machine does at best, in turns with what is measured: a large matrix product, and a large copy."""

import statistics
from collections.abc import Callable, Mapping, Sequence

import torch

from alexnet.bench.timing import Timed, alternate, median_ratio, wait_for
from alexnet.system.device import Precision

PRODUCT, COPY = "a large product", "a large copy"


class Ceilings:
    """Both as ways for `alternate`, in memory of their own.

    Args:
        device: where they run.
        precision: of the product's factors.
    """

    def __init__(self, device: torch.device, precision: Precision) -> None:
        on_gpu = device.type == "cuda"
        self._device, self._times = device, 8 if on_gpu else 2
        self._side, self._copied = (8192, 2**30) if on_gpu else (2048, 2**28)
        dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
        self._left, self._right = (torch.randn(self._side, self._side, device=device).to(dtype) for _ in range(2))
        self._source = torch.randint(0, 100, (self._copied,), dtype=torch.uint8, device=device)
        self._target = torch.empty_like(self._source)

    def ways(self) -> dict[str, Callable[[], None]]:
        """By name; each has run once."""
        ways = {PRODUCT: self._multiply, COPY: self._copy}
        for way in ways.values():
            way()
        return ways

    def found(self, timed: Mapping[str, Timed]) -> dict[str, float]:
        """`matmul_flops` and `copy_bytes` (read and written) a second, of the best turn."""
        product_s, copy_s = (min(timed[name].wall_s) / self._times for name in (PRODUCT, COPY))
        return {"matmul_flops": 2 * self._side**3 / product_s, "copy_bytes": 2 * self._copied / copy_s}

    def _multiply(self) -> None:
        for _ in range(self._times):
            torch.mm(self._left, self._right)
        wait_for(self._device)

    def _copy(self) -> None:
        for _ in range(self._times):
            self._target.copy_(self._source)
        wait_for(self._device)


def rates_and_ceilings(
    ways: Mapping[str, Callable[[], None]],
    images: Mapping[str, int],
    rounds: int,
    device: torch.device,
    precision: Precision,
    report: Callable[[str], None],
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Images a second of each way in each round, and what the machine does at best, measured in turns with them.

    Args:
        ways: by name, each has run before.
        images: of one run of each way.
        rounds: 1 or more.
        device: where they run.
        precision: of the large product's factors.
        report: is given lines for people.
    """
    limits = Ceilings(device, precision)
    timed = alternate({**ways, **limits.ways()}, rounds, lambda name, number: report(f"round {number + 1}: {name}"))
    rates = {name: [images[name] / wall for wall in timed[name].wall_s] for name in ways}
    return rates, limits.found(timed)


def summary(
    rates: Mapping[str, Sequence[float]], flops: Mapping[str, float], ceilings: Mapping[str, float]
) -> dict[str, dict[str, float]]:
    """Of each way images a second, the median of the rounds and the best, and its share of a large product's rate.

    Args:
        rates: images a second in each round, by way.
        flops: floating point operations of an image, by way.
        ceilings: of `Ceilings.found`.
    """
    return {
        name: {
            "images_per_second": statistics.median(values),
            "best_images_per_second": max(values),
            "share_of_matmul": statistics.median(values) * flops[name] / ceilings["matmul_flops"],
        }
        for name, values in rates.items()
    }


def ratios(rates: Mapping[str, Sequence[float]], product: str) -> dict[str, float]:
    """How many times as fast as each way the product is: the median of the rounds; empty where it was not measured."""
    if product not in rates:
        return {}
    return {name: median_ratio(rates[product], values) for name, values in rates.items()}
