"""One update of the weights from one batch: what the eager and the captured form of a step share."""

from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F

from alexnet.data.augment import Batch, to_input
from alexnet.data.device_cache import DeviceImageCache
from alexnet.errors import WorkError
from alexnet.system.device import arithmetic
from alexnet.training.batch_metrics import RunningMetrics, metric_sums
from alexnet.training.plan import Phase
from alexnet.training.schedule import LearningRates
from alexnet.training.setup import TrainingSetup


class Step(Protocol):
    """How a training updates its weights."""

    is_synchronous: bool
    """Whether an update is done when `run` returns, so that `take_metrics` need not wait for the device."""

    def run(self, phase: Phase, batch: Batch, step: int, learning_rates: LearningRates) -> None:
        """Update the weights, or enqueue the update.

        Args:
            phase: the phase of the plan that holds the step.
            batch: this process's images.
            step: updates before this one; the dropout masks follow from it.
            learning_rates: of this step.

        Raises:
            NotFiniteError: the loss or a gradient is not finite; the weights are unchanged.
        """

    def take_metrics(self) -> RunningMetrics:
        """Metrics of the steps since the last call, once all updates are done.

        Raises:
            NotFiniteError: a loss or a gradient was not finite; the weights are unchanged since that step.
        """


class NotFiniteError(WorkError):
    """The loss or a gradient of a step is not finite, and the step did not update the weights.

    Args:
        message: names the step and what is not finite.
        step: updates before this one.
        loss: of the batch.
        samples: this process's images of the batch.
        gradients: by parameter name, as far as they were computed.
    """

    def __init__(
        self, message: str, step: int, loss: float, samples: list[int], gradients: Mapping[str, torch.Tensor]
    ) -> None:
        super().__init__(message)
        self.step, self.loss, self.samples, self.gradients = step, loss, samples, gradients


def dropout_seed(seed: int, step: int) -> int:
    """Seed of the dropout masks of one step, 32 bits well mixed: torch's CPU generator reads no more."""
    return int(np.random.SeedSequence([seed, step]).generate_state(1)[0])


def noise_divisor(setup: TrainingSetup, phase: Phase) -> float:
    """What the images of a phase are divided by after their color noise."""
    settings = setup.recipe.data
    return 1 + settings.color_noise if settings.color_shrink and phase.color_noise else 1.0


def network_input(
    setup: TrainingSetup,
    batch: Batch,
    mean_image: torch.Tensor,
    device_cache: DeviceImageCache | None,
    divisor: float,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """The network's input, (b, 3, S, S), from a batch; with `device_cache`, from what its `with_cache_rows` returns."""
    return to_input(
        batch,
        mean_image,
        setup.device,
        mean_at=setup.recipe.data.mean,
        divisor=divisor,
        device_cache=None if device_cache is None else device_cache.images,
        crop=setup.recipe.data.crop,
        dtype=dtype,
    )


def loss_and_metrics(
    setup: TrainingSetup,
    forward: Callable[[torch.Tensor], torch.Tensor],
    images: torch.Tensor,
    labels: torch.Tensor,
    num: int,
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Of some images (b, 3, S, S) of a batch of `num`: their part of its mean loss, and the sums of all metrics.

    All are on the device; the loss has a gradient. `forward` is the network, from images to scores (b, K).
    """
    with arithmetic(setup.device, setup.precision):
        scores = forward(images).float()  # (b, K)
    smoothing = setup.recipe.training.label_smoothing
    loss = F.cross_entropy(scores, labels, label_smoothing=smoothing, reduction="sum") / num
    return loss, metric_sums(scores.detach(), labels)
