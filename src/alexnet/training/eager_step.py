"""A step that runs immediately: for CPUs, for batches in parts and for several processes."""

import math
import operator
from contextlib import nullcontext

import torch

from alexnet.data.augment import Batch
from alexnet.data.device_cache import DeviceImageCache
from alexnet.data.sampler import rank_slice
from alexnet.model import kernels
from alexnet.model.layer_modules import is_observed
from alexnet.model.layers import part_of_this_thread
from alexnet.system.thread_split import parallel_for
from alexnet.training.batch_metrics import METRICS, RunningMetrics
from alexnet.training.compute_weights import ComputeWeights, factors_table
from alexnet.training.plan import Phase
from alexnet.training.schedule import LearningRates
from alexnet.training.setup import TrainingSetup
from alexnet.training.step import NotFiniteError, dropout_seed, loss_and_metrics, network_input, noise_divisor

IMAGES_OF_A_PART = 32
"""Images that a thread takes through all layers of a small network at a time (docs/log.md)."""
PARTS_AT_ONCE = 48
"""Parts of which gradients are held at a time, at most: a multiple of most numbers of threads."""
MAX_PARAMETERS = 4_000_000
"""Largest network that threads run on images of their own: each part of a batch has a gradient of all parameters."""


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
        is_small = sum(tensor.numel() for tensor in self.weights.tensors.values()) <= MAX_PARAMETERS
        self._may_split = fused and alone and is_small and setup.precision == "float32"

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
        parts = [] if self._splits(num) else self._parts(own, num)
        if not parts:
            images = self._input(phase, batch)
            value, sums, gradients = self._backward_in_threads(images, batch.labels)
            if not math.isfinite(value):
                raise self._not_finite(f"the loss of step {step} is {value}", step, value, batch)
            for tensor, gradient in zip(self.weights.tensors.values(), gradients, strict=True):
                tensor.grad = gradient
        for rows in parts:
            part = batch if rows == own else batch.map(operator.itemgetter(_shifted(rows, -own.start)))
            setup.network.set_microbatch(None if rows == slice(0, num) else rows, num)
            images = self._input(phase, part)
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

    def _input(self, phase: Phase, part: Batch) -> torch.Tensor:
        """What the network reads of a batch, or of a part of one, (b, 3, S, S)."""
        cache = self._device_cache
        placed = part if cache is None else cache.with_cache_rows(part)
        return network_input(self.setup, placed, self._mean_image, cache, noise_divisor(self.setup, phase))

    def _splits(self, num: int) -> bool:
        """Whether the threads run a batch of `num` in parts, each by one thread."""
        enough = -(-num // IMAGES_OF_A_PART) >= torch.get_num_threads()
        # Hooks and modes of this thread would see nothing, or several threads at once.
        return self._may_split and enough and self.setup.network.is_untouched() and not is_observed(self._mean_image)

    def _backward_in_threads(
        self, images: torch.Tensor, labels: torch.Tensor
    ) -> tuple[float, list[float], list[torch.Tensor]]:
        """The loss of a batch, the sums of its metrics, and its gradients in the order of `self.weights.tensors`.

        A thread takes some images through all layers and back, so no thread waits for others after every layer, and
        activations stay in its cache. The parts, and the order in which their gradients are added, do not depend on the
        number of threads, so neither do the results, as long as there is a part for each thread.
        """
        setup, num = self.setup, len(images)
        tensors = list(self.weights.tensors.values())
        parts = [slice(first, min(first + IMAGES_OF_A_PART, num)) for first in range(0, num, IMAGES_OF_A_PART)]
        value, sums = 0.0, [0.0] * len(METRICS)
        # Laid out as the parameters are, which the update reads side by side.
        gradients = [torch.zeros_like(tensor) for tensor in tensors]
        results: dict[int, tuple[torch.Tensor, list[torch.Tensor], tuple[torch.Tensor, ...]]] = {}

        def run(first: int, last: int) -> None:
            for number in range(begin + first, begin + last):
                rows = parts[number]
                with part_of_this_thread((rows, num)):
                    loss, sums = loss_and_metrics(setup, setup.forward, images[rows], labels[rows], num)
                results[number] = loss.detach(), sums, torch.autograd.grad(loss, tensors)

        setup.network.set_microbatch(slice(0, num), num)  # so that dropout keeps a mask for all parts
        try:
            # So many at a time, because each holds gradients of all parameters.
            for begin in range(0, len(parts), PARTS_AT_ONCE):
                end = min(begin + PARTS_AT_ONCE, len(parts))
                parallel_for(end - begin, run)
                for number in range(begin, end):
                    loss, part_sums, of_part = results.pop(number)
                    value += float(loss)
                    sums = [total + float(one) for total, one in zip(sums, part_sums, strict=True)]
                    torch._foreach_add_(gradients, of_part)
        finally:
            setup.network.set_microbatch(None)
        return value, sums, gradients

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
