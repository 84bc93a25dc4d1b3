"""One update of the weights from one batch, done at once: the form for processors, and for batches in parts."""

import math
import operator
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F

from alexnet.data.augment import Batch, to_input
from alexnet.data.device_cache import DeviceImageCache
from alexnet.data.sampler import rank_slice
from alexnet.model import kernels
from alexnet.system.device import arithmetic
from alexnet.training.compute_weights import ComputeWeights
from alexnet.training.plan import Phase
from alexnet.training.setup import Training
from alexnet.training.update import rates_table
from alexnet.training.validation import current_learning_rates, fail


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

    def run(self, phase: Phase, batch: Batch) -> None:
        """Update the weights, or set about it; `training.step` counts the updates before this one."""

    def sums(self) -> Sums:
        """Losses and errors since the last call, when all updates are done.

        Raises:
            WorkError: a loss or a gradient was not finite; no weight has changed since.
        """


class EagerStep:
    """A step that is over when `run` returns.

    Args:
        training: its network and optimizer are used.
        device_cache: the training images, where they lie on the device.
    """

    at_once = True

    def __init__(self, training: Training, device_cache: DeviceImageCache | None = None) -> None:
        self.training = training
        self._device_cache = device_cache
        self._mean_image = torch.from_numpy(training.data.statistics.mean_image).to(training.device)
        self._sums = Sums()
        # A batch in parts adds up its gradients, which is done in float32, and so do several processes.
        alone = not training.recipe.training.micro_batch and not training.mesh.is_distributed
        serves = training.device.type == "cpu" and kernels.supports_fused(next(training.network.parameters()))
        rounds = training.precision == "bfloat16" and alone and serves
        self._weights = ComputeWeights(training) if rounds else None

    def run(self, phase: Phase, batch: Batch) -> None:
        """One update; a loss or gradient that is not finite stops before it."""
        training = self.training
        self.forward_backward(phase, batch)
        rates = current_learning_rates(training, training.step)
        if self._weights is None:
            training.optimizer.step(rates)
        else:
            table = rates_table(training.optimizer.rates_and_momenta(rates), training.device)
            self._weights.update(table, torch.zeros((), dtype=torch.int64))
        if training.average is not None:
            training.average.update(training.step)

    def forward_backward(self, phase: Phase, batch: Batch) -> float:
        """The gradients of a step, and its loss, without the update.

        Raises:
            WorkError: the loss or a gradient is not finite.
        """
        training, mesh = self.training, self.training.mesh
        training.dropout.manual_seed(dropout_seed(training.recipe.training.seed, training.step))
        num = phase.batch_length(training.step)  # of all replicas
        own = rank_slice(num, mesh.replica.rank, mesh.replica.size)
        value, wrong = 0.0, 0.0
        weights = self._weights or training.optimizer
        forward = training.forward if self._weights is None else self._weights.forward
        weights.clear_gradients()
        parts = self._parts(own, num)
        for rows in parts:
            part = batch if rows == own else batch.map(operator.itemgetter(_shifted(rows, -own.start)))
            training.network.set_microbatch(None if rows == slice(0, num) else rows, num)
            placed = part if self._device_cache is None else self._device_cache.with_cache_rows(part)
            images = network_input(training, placed, self._mean_image, self._device_cache, divisor_of(training, phase))
            with nullcontext() if rows == parts[-1] else training.forward.without_sums():
                labels = part.labels.to(training.device)
                loss, num_wrong = loss_and_errors(training, forward, images, labels, num)
                value += loss.item()
                if not math.isfinite(value) and not mesh.is_distributed:
                    fail(training, batch, f"the loss of step {training.step} is {value}", value, self.gradients())
                loss.backward()  # type: ignore[no-untyped-call]
            wrong += int(num_wrong)
        training.network.set_microbatch(None)
        finite = weights.gradients_are_finite()
        if mesh.is_distributed:
            # All stop at the same step, or none.
            value, wrong = mesh.all_reduce_sum(value, wrong)
            finite = not mesh.any(not finite)[0]
            if not math.isfinite(value):
                fail(training, batch, f"the loss of step {training.step} is {value}", value, self.gradients())
        if not finite:
            fail(training, batch, f"a gradient of step {training.step} is not finite", value, self.gradients())
        self._sums.loss += value * num
        self._sums.num += num
        self._sums.wrong += int(wrong)
        return value

    def gradients(self) -> dict[str, torch.Tensor]:
        """Those of the last step, by the parameter's name."""
        return (self._weights or self.training.optimizer).gradients()

    def _parts(self, own: slice, num: int) -> list[slice]:
        """The rows of the batch of `num` that pass through the network at a time: `own`, or as many parts as others.

        The last ones may be empty where others have an image more.
        """
        most = -(-num // self.training.mesh.replica.size)
        size = self.training.recipe.training.micro_batch or most
        firsts = range(own.start, own.start + most, size)
        return [slice(min(first, own.stop), min(first + size, own.stop)) for first in firsts]

    def sums(self) -> Sums:
        """Losses and errors since the last call."""
        sums, self._sums = self._sums, Sums()
        return sums


def _shifted(rows: slice, by: int) -> slice:
    return slice(rows.start + by, rows.stop + by)


def dropout_seed(seed: int, step: int) -> int:
    """Seed of the dropout masks of one step, 32 bits well mixed: torch's generator for the CPU reads no more."""
    return int(np.random.SeedSequence([seed, step]).generate_state(1)[0])


def divisor_of(training: Training, phase: Phase) -> float:
    """What the images of a phase are divided by after their color noise."""
    settings = training.recipe.data
    return 1 + settings.color_noise if settings.color_shrink and phase.color_noise else 1.0


def network_input(
    training: Training,
    batch: Batch,
    mean_image: torch.Tensor,
    device_cache: DeviceImageCache | None,
    divisor: float,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """What the network reads of a batch, (b, 3, S, S); with `device_cache`, of one that is placed in it."""
    return to_input(
        batch,
        mean_image,
        training.device,
        mean_at=training.recipe.data.mean,
        divisor=divisor,
        device_cache=None if device_cache is None else device_cache.images,
        crop=training.recipe.data.crop,
        dtype=dtype,
    )


def loss_and_errors(
    training: Training,
    forward: Callable[[torch.Tensor], torch.Tensor],
    images: torch.Tensor,
    labels: torch.Tensor,
    num: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of some images (b, 3, S, S) of a batch of `num`: their share of its mean loss, and how many are wrong.

    Both are on the device; the loss is to be derived. `forward` is the network, from images to scores (b, K).
    """
    with arithmetic(training.device, training.precision):
        scores = forward(images).float()  # (b, K)
    smoothing = training.recipe.training.label_smoothing
    loss = F.cross_entropy(scores, labels, label_smoothing=smoothing, reduction="sum") / num
    return loss, (scores.detach().argmax(1) != labels).sum()
