"""A step that runs immediately: for CPUs, for batches in parts and for several processes."""

import math
import operator
from contextlib import nullcontext

import torch

from alexnet.data.augment import Batch
from alexnet.data.device_cache import DeviceImageCache
from alexnet.data.sampler import rank_slice
from alexnet.model import kernels
from alexnet.training.batch_metrics import METRICS, RunningMetrics
from alexnet.training.compute_weights import ComputeWeights, factors_table
from alexnet.training.plan import Phase
from alexnet.training.schedule import LearningRates
from alexnet.training.setup import TrainingSetup
from alexnet.training.step import NotFiniteError, dropout_seed, loss_and_metrics, network_input, noise_divisor


class EagerStep:
    """A step whose update is done when `run` returns; see `Step`.

    Args:
        setup: its network and optimizer are used.
        device_cache: the training images, if they are on the device.
    """

    is_synchronous = True

    def __init__(self, setup: TrainingSetup, device_cache: DeviceImageCache | None = None) -> None:
        self.setup = setup
        self._device_cache = device_cache
        self._mean_image = torch.from_numpy(setup.data.statistics.mean_image).to(setup.device)
        self._metrics = RunningMetrics()
        # Gradients of a batch in parts, and of several processes, are added up in float32.
        alone = not setup.recipe.training.micro_batch and not setup.mesh.is_distributed
        fused = setup.device.type == "cpu" and kernels.supports_fused(next(setup.network.parameters()))
        self.weights = ComputeWeights(setup.network, setup.optimizer, setup.precision == "bfloat16" and alone and fused)

    def run(self, phase: Phase, batch: Batch, step: int, learning_rates: LearningRates) -> None:
        """One update; a loss or gradient that is not finite stops before it."""
        setup = self.setup
        self.forward_backward(phase, batch, step)
        if self.weights.is_rounded:
            factors = factors_table(setup.optimizer.update_factors(learning_rates), setup.device)
            self.weights.update(factors, torch.zeros((), dtype=torch.int64))
        else:
            setup.optimizer.step(learning_rates)
        if setup.ema is not None:
            setup.ema.update(step)

    def forward_backward(self, phase: Phase, batch: Batch, step: int) -> float:
        """Compute the gradients of a step without the update, and return its loss.

        Raises:
            NotFiniteError: the loss or a gradient is not finite.
        """
        setup, mesh = self.setup, self.setup.mesh
        setup.dropout_generator.manual_seed(dropout_seed(setup.recipe.training.seed, step))
        num = phase.batch_length(step)  # of all replicas
        own = rank_slice(num, mesh.replica.rank, mesh.replica.size)
        value, sums = 0.0, [0.0] * len(METRICS)
        forward = self.weights.forward if self.weights.is_rounded else setup.forward
        self.weights.clear_gradients()
        parts = self._parts(own, num)
        for rows in parts:
            part = batch if rows == own else batch.map(operator.itemgetter(_shifted(rows, -own.start)))
            setup.network.set_microbatch(None if rows == slice(0, num) else rows, num)
            placed = part if self._device_cache is None else self._device_cache.with_cache_rows(part)
            images = network_input(setup, placed, self._mean_image, self._device_cache, noise_divisor(setup, phase))
            with nullcontext() if rows == parts[-1] else setup.forward.no_sync():
                labels = part.labels.to(setup.device)
                loss, part_sums = loss_and_metrics(setup, forward, images, labels, num)
                value += loss.item()
                if not math.isfinite(value) and not mesh.is_distributed:
                    raise self._not_finite(f"the loss of step {step} is {value}", step, value, batch)
                loss.backward()  # type: ignore[no-untyped-call]
            sums = [total + float(one) for total, one in zip(sums, part_sums, strict=True)]
        setup.network.set_microbatch(None)
        finite = self.weights.gradients_are_finite()
        if mesh.is_distributed:
            # All stop at the same step, or none.
            value, *sums = mesh.all_reduce_sum(value, *sums)
            finite = not mesh.any(not finite)[0]
            if not math.isfinite(value):
                raise self._not_finite(f"the loss of step {step} is {value}", step, value, batch)
        if not finite:
            raise self._not_finite(f"a gradient of step {step} is not finite", step, value, batch)
        self._metrics.add({"loss": value * num, **dict(zip(METRICS, sums, strict=True))}, num)
        return value

    def _not_finite(self, message: str, step: int, loss: float, batch: Batch) -> NotFiniteError:
        return NotFiniteError(message, step, loss, batch.samples.tolist(), self.weights.gradients())

    def _parts(self, own: slice, num: int) -> list[slice]:
        """The rows of the batch of `num` that pass through the network at a time, in as many parts in every process.

        The last ones may be empty where other processes have an image more.
        """
        most = -(-num // self.setup.mesh.replica.size)
        size = self.setup.recipe.training.micro_batch or most
        firsts = range(own.start, own.start + most, size)
        return [slice(min(first, own.stop), min(first + size, own.stop)) for first in firsts]

    def take_metrics(self) -> RunningMetrics:
        """Metrics of the steps since the last call."""
        metrics, self._metrics = self._metrics, RunningMetrics()
        return metrics


def _shifted(rows: slice, by: int) -> slice:
    return slice(rows.start + by, rows.stop + by)
