"""A step as a GPU runs it: captured once as a CUDA graph and replayed; metrics are read later.

The host only sets which images and which learning rates; it does not wait. So that a loss or a gradient that is not
finite still stops the training before the update, the device itself checks: from that step on no weight changes,
whatever the host has enqueued in the meantime.
"""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from alexnet.data.augment import Batch
from alexnet.data.device_cache import DeviceImageCache
from alexnet.training.batch_metrics import NAMES, RunningMetrics
from alexnet.training.compute_weights import ComputeWeights, are_finite, factors_table
from alexnet.training.eager_step import EagerStep
from alexnet.training.plan import Phase
from alexnet.training.schedule import LearningRates
from alexnet.training.setup import TrainingSetup
from alexnet.training.step import (
    NotFiniteError,
    Step,
    dropout_seed,
    loss_and_metrics,
    network_input,
    noise_divisor,
)

# Before a graph is captured: libraries choose their kernels and allocate their memory.
_WARMUPS = 3


def make_step(setup: TrainingSetup, device_cache: DeviceImageCache | None = None) -> Step:
    """A captured step where the GPU can run one, else an eager step.

    Args:
        device_cache: the training images, if they are on the device.
    """
    return GraphStep(setup, device_cache) if can_capture(setup) else EagerStep(setup, device_cache)


def can_capture(setup: TrainingSetup) -> bool:
    """Whether a whole step can be captured: on a GPU, with whole batches."""
    alone = not setup.mesh.is_distributed  # a graph would have to hold the communication with other processes too
    return setup.device.type == "cuda" and not setup.recipe.training.micro_batch and alone


@dataclass(frozen=True)
class _CapturedStep:
    batch: Batch
    """The tensors that the graph reads."""
    graph: torch.cuda.CUDAGraph | None
    """None on a CPU, where the same operations run one by one (for checks)."""
    divisor: float


class GraphStep:
    """A step that the device runs while the host continues; see `Step`.

    Args:
        setup: its network and optimizer are used; whole batches only.
        device_cache: the training images, if they are on the device.
    """

    is_synchronous = False

    def __init__(self, setup: TrainingSetup, device_cache: DeviceImageCache | None = None) -> None:
        device = setup.device
        self.setup = setup
        self._device_cache = device_cache
        self._mean_image = torch.from_numpy(setup.data.statistics.mean_image).to(device)
        # Autocast rounds the input of the first layer; a network that scales its input does so before.
        rounded = setup.precision == "bfloat16" and setup.network.spec.input_scale == 1
        self._input_dtype = torch.bfloat16 if rounded else torch.float32
        self._captured: dict[tuple[int, float], _CapturedStep] = {}
        self._pool = torch.cuda.graph_pool_handle() if device.type == "cuda" else None
        self._copy_stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self.weights = ComputeWeights(setup.network, setup.optimizer, setup.precision == "bfloat16")
        self._factors = torch.zeros(0, device=device)
        self._factor_rows: list[tuple[float, ...]] = []
        # Sums of the loss and of all metrics; and the first step that was not finite, counted from 1, or 0.
        self._sums = torch.zeros(len(NAMES), dtype=torch.float64, device=device)
        self._stopped = torch.zeros((), dtype=torch.int64, device=device)
        self._number = torch.zeros((), dtype=torch.int64, device=device)
        self._num = 0
        self._enqueued: deque[tuple[int, Phase, Batch]] = deque()

    def run(self, phase: Phase, batch: Batch, step: int, learning_rates: LearningRates) -> None:
        """Enqueue one update."""
        setup = self.setup
        self._enqueued.append((step, phase, batch))
        if self._device_cache is not None:
            batch = self._device_cache.with_cache_rows(batch)
        staged = self._staged(batch)
        self._set_factors(learning_rates)
        self._number.fill_(step + 1)
        key = (len(batch.labels), noise_divisor(setup, phase))
        captured = self._captured.get(key)
        if captured is None:
            captured = self._captured[key] = self._capture(staged, key[1])
        else:
            torch._foreach_copy_(_tensors(captured.batch), _tensors(staged))
        setup.dropout_generator.manual_seed(dropout_seed(setup.recipe.training.seed, step))
        if captured.graph is None:
            self._update(captured.batch, captured.divisor)
        else:
            captured.graph.replay()
        if setup.ema is not None:
            setup.ema.update(step)
        self._num += len(batch.labels)

    def take_metrics(self) -> RunningMetrics:
        """Metrics of the steps since the last call, once the device is done."""
        *sums, stopped = torch.cat([self._sums, self._stopped.double()[None]]).tolist()
        if stopped:
            raise self._not_finite(int(stopped) - 1)
        metrics = RunningMetrics(dict(zip(NAMES, sums, strict=True)), self._num)
        self._sums.zero_()
        self._num = 0
        self._enqueued.clear()
        return metrics

    def _not_finite(self, step: int) -> NotFiniteError:
        """Repeat the step that failed eagerly, from the same weights: they have not changed since."""
        phase, batch = next((phase, batch) for number, phase, batch in self._enqueued if number == step)
        # The graphs hold the memory of whole steps, which the repetition needs.
        self._captured.clear()
        self.weights.clear_gradients()
        if self.setup.device.type == "cuda":
            torch.cuda.empty_cache()
        eager = EagerStep(self.setup, self._device_cache)
        try:
            loss = eager.forward_backward(phase, batch, step)
        except NotFiniteError as error:
            return error
        message = f"step {step} was not finite on the device, and is when it is repeated (its loss is {loss:.6g})"
        return NotFiniteError(message, step, loss, batch.samples.tolist(), eager.weights.gradients())

    def _staged(self, batch: Batch) -> Batch:
        """The batch on the device, copied while the device computes."""
        if self._copy_stream is None:
            return batch
        current = torch.cuda.current_stream()
        with torch.cuda.stream(self._copy_stream):
            staged = batch.map(lambda tensor: tensor.to(self.setup.device, non_blocking=True))
        current.wait_stream(self._copy_stream)
        for tensor in _tensors(staged):
            tensor.record_stream(current)
        return staged

    def _set_factors(self, learning_rates: LearningRates) -> None:
        rows = self.setup.optimizer.update_factors(learning_rates)
        if not self._factor_rows:
            self._factors = torch.zeros(len(rows), len(rows[0]), device=self.setup.device)
        if rows != self._factor_rows:
            self._factors.copy_(factors_table(rows, self.setup.device), non_blocking=True)
            self._factor_rows = rows

    def _capture(self, staged: Batch, divisor: float) -> _CapturedStep:
        batch = staged.map(torch.clone)
        if self.setup.device.type != "cuda":
            return _CapturedStep(batch, None, divisor)
        warmup_stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        warmup_stream.wait_stream(torch.cuda.current_stream())
        # cuDNN tries its algorithms once for each shape; a graph keeps those it was captured with.
        with torch.cuda.stream(warmup_stream), cudnn_benchmark():
            for _ in range(_WARMUPS):
                self._forward_backward(batch, divisor)
            self.weights.update(torch.zeros_like(self._factors), self._stopped)  # compiles; learning rates of 0
        torch.cuda.current_stream().wait_stream(warmup_stream)
        self.weights.clear_gradients()
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self.setup.dropout_generator)
        # Loader threads pin memory meanwhile: only this thread's calls are part of the capture.
        with (
            cudnn_benchmark(),
            torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"),
        ):
            self._update(batch, divisor)
        return _CapturedStep(batch, graph, divisor)

    def _forward_backward(self, batch: Batch, divisor: float) -> tuple[torch.Tensor, list[torch.Tensor]]:
        setup = self.setup
        self.weights.clear_gradients()
        images = network_input(setup, batch, self._mean_image, self._device_cache, divisor, self._input_dtype)
        loss, sums = loss_and_metrics(setup, self.weights.forward, images, batch.labels, len(batch.labels))
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach(), sums

    @torch.no_grad()
    def _update(self, batch: Batch, divisor: float) -> None:
        """The part of a step that the device runs."""
        with torch.enable_grad():
            loss, sums = self._forward_backward(batch, divisor)
        finite = loss.isfinite() & are_finite(self.weights.gradients())
        self._stopped.copy_(torch.where((self._stopped == 0) & ~finite, self._number, self._stopped))
        self._sums += torch.stack((loss.double() * len(batch.labels), *(one.double() for one in sums)))
        self.weights.update(self._factors, self._stopped)


@contextmanager
def cudnn_benchmark() -> Iterator[None]:
    """Let cuDNN try its algorithms for each new shape and keep the fastest, while the context is open.

    `torch.backends.cudnn.flags` would also set everything that is not named to its own defaults, which disables cuDNN.
    """
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def _tensors(batch: Batch) -> list[torch.Tensor]:
    """A batch's tensors that are not empty."""
    return [value for value in vars(batch).values() if isinstance(value, torch.Tensor) and value.numel()]
