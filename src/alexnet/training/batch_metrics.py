"""What is measured on training batches. A new metric is one function and its line in `METRICS`.

Steps compute all of them, and the log, TensorBoard and the progress line show them under their names.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch


def top1_errors(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Number of images whose highest score is not that of their class, int64 ()."""
    return (scores.argmax(1) != labels).sum()


METRICS: Mapping[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "top1_error": top1_errors,
}
"""By name, from scores (b, K) and labels (b,): the metric's sum over the images. A name in `_error` is a fraction."""

NAMES = ("loss", *METRICS)
"""The training loss, and all metrics."""


def metric_sums(scores: torch.Tensor, labels: torch.Tensor) -> list[torch.Tensor]:
    """Every metric's sum over some images, in the order of `METRICS`; tensors on the device."""
    return [metric(scores, labels) for metric in METRICS.values()]


@dataclass
class RunningMetrics:
    """Sums of the loss and of all metrics over training images."""

    sums: dict[str, float] = field(default_factory=lambda: dict.fromkeys(NAMES, 0.0))
    num: int = 0
    """Images."""

    def add(self, values: Mapping[str, float], num: int) -> None:
        """Add sums over `num` more images."""
        for name, value in values.items():
            self.sums[name] += value
        self.num += num

    def means(self) -> dict[str, float]:
        """Mean of the loss and of every metric over the images, of which there must be some."""
        return {name: value / self.num for name, value in self.sums.items()}


def format_metrics(means: Mapping[str, float]) -> str:
    """The metrics as text: `loss 1.234, top-1 error 45.6 %`."""
    return ", ".join(
        f"{name.replace('_', ' ').replace('top', 'top-')} {100 * value:.1f} %"
        if name.endswith("_error")
        else f"{name} {value:.3f}"
        for name, value in means.items()
    )
