"""One update of the weights from one batch, done at once: the form for processors, and for batches in parts."""

import math
import operator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F

from alexnet.data.augment import to_input
from alexnet.data.loader import Batch
from alexnet.data.resident import ResidentImages
from alexnet.model.device import arithmetic
from alexnet.training.assembly import Training
from alexnet.training.journal import fail, rates_now
from alexnet.training.plan import Stretch


@dataclass
class Sums:
    """What the steps since the last question came to."""

    loss: float = 0.0
    """Sum of the images' losses."""
    wrong: int = 0
    num: int = 0
    """Images."""


class Step(Protocol):
    """How a training updates its weights."""

    at_once: bool
    """Whether `sums` costs nothing, so that it can be asked after every step."""

    def run(self, stretch: Stretch, batch: Batch) -> None:
        """Update the weights, or set about it; `training.step` counts the updates before this one."""

    def sums(self) -> Sums:
        """Losses and errors since the last call, when all updates are done.

        Raises:
            WorkError: a loss or a gradient was not finite; no weight has changed since.
        """


class StepAtOnce:
    """A step that is over when `run` returns.

    Args:
        training: its network and optimizer are used.
        resident: the training images, where they lie on the device.
    """

    at_once = True

    def __init__(self, training: Training, resident: ResidentImages | None = None) -> None:
        self.training = training
        self._resident = resident
        self._mean_image = torch.from_numpy(training.data.statistics.mean_image).to(training.device)
        self._sums = Sums()

    def run(self, stretch: Stretch, batch: Batch) -> None:
        """One update; a loss or gradient that is not finite stops before it."""
        training = self.training
        value = self.derive(stretch, batch)
        training.optimizer.step(rates_now(training, training.step))
        if training.average is not None:
            training.average.update(training.step)
        self._sums.loss += value * len(batch.labels)
        self._sums.num += len(batch.labels)

    def derive(self, stretch: Stretch, batch: Batch) -> float:
        """The gradients of a step, and its loss, without the update.

        Raises:
            WorkError: the loss or a gradient is not finite.
        """
        training, recipe = self.training, self.training.recipe
        training.dropout.manual_seed(dropout_seed(recipe.training.seed, training.step))
        num = len(batch.labels)
        size = recipe.training.micro_batch or num
        value = 0.0
        training.optimizer.clear_gradients()
        for first in range(0, num, size):
            rows = slice(first, min(first + size, num))
            part = batch if size >= num else batch.each(operator.itemgetter(rows))
            training.network.expect_part(None if part is batch else rows, num)
            placed = part if self._resident is None else self._resident.placed(part)
            images = network_input(training, placed, self._mean_image, self._resident, divisor_of(training, stretch))
            labels = part.labels.to(training.device)
            loss, wrong = loss_and_errors(training, images, labels)
            # A part's share of the batch's mean.
            loss = loss if part is batch else loss * (len(labels) / num)
            value += loss.item()
            if not math.isfinite(value):
                fail(training, batch, f"the loss of step {training.step} is {value}", value)
            loss.backward()  # type: ignore[no-untyped-call]
            self._sums.wrong += int(wrong)
        training.network.expect_part(None)
        if not training.optimizer.gradients_are_finite():
            fail(training, batch, f"a gradient of step {training.step} is not finite", value)
        return value

    def sums(self) -> Sums:
        """Losses and errors since the last call."""
        sums, self._sums = self._sums, Sums()
        return sums


def dropout_seed(seed: int, step: int) -> int:
    """Seed of the dropout masks of one step, 32 bits well mixed: torch's generator for the CPU reads no more."""
    return int(np.random.SeedSequence([seed, step]).generate_state(1)[0])


def divisor_of(training: Training, stretch: Stretch) -> float:
    """What the images of a stretch are divided by after their colour noise."""
    settings = training.recipe.data
    return 1 + settings.colour_noise if settings.colour_shrink and stretch.colour_noise else 1.0


def network_input(
    training: Training,
    batch: Batch,
    mean_image: torch.Tensor,
    resident: ResidentImages | None,
    divisor: float,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """What the network reads of a batch, (b, 3, S, S); with `resident`, of one that is placed in it."""
    return to_input(
        batch,
        mean_image,
        training.device,
        mean_at=training.recipe.data.mean,
        divisor=divisor,
        resident=None if resident is None else resident.images,
        crop=training.recipe.data.crop,
        dtype=dtype,
    )


def loss_and_errors(
    training: Training, images: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean loss of some images (b, 3, S, S), to be derived, and how many of them are wrong; both on the device."""
    with arithmetic(training.device, training.precision):
        scores = training.network(images).float()  # (b, K)
    loss = F.cross_entropy(scores, labels, label_smoothing=training.recipe.training.label_smoothing)
    return loss, (scores.detach().argmax(1) != labels).sum()
