"""One update of the weights as a GPU does it: captured once as a graph, replayed, and asked for its results later.

The host only says which images and which rates; it does not wait. So that a loss or a gradient that is not finite
still stops the training before the update, the device itself looks: from that step on no weight changes, whatever
the host has asked for in the meantime.
"""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from alexnet.data.augment import Batch
from alexnet.data.device_cache import DeviceImageCache
from alexnet.training.compute_weights import ComputeWeights
from alexnet.training.eager_step import EagerStep, Step, Sums, divisor_of, dropout_seed, loss_and_errors, network_input
from alexnet.training.optimizer import are_finite
from alexnet.training.plan import Phase
from alexnet.training.setup import Training, on_device
from alexnet.training.update import rates_table
from alexnet.training.validation import current_learning_rates, fail

# Before a graph is captured: libraries choose their kernels and take their memory.
_WARM_UPS = 3


def step_of(training: Training, device_cache: DeviceImageCache | None = None) -> Step:
    """How the training steps: a GPU does it on its own where it can, everything else at once.

    Args:
        device_cache: the training images, where they lie on the device.
    """
    return GraphStep(training, device_cache) if on_device(training) else EagerStep(training, device_cache)


@dataclass(frozen=True)
class _Captured:
    batch: Batch
    """The tensors that the graph reads."""
    graph: torch.cuda.CUDAGraph | None
    """None on a processor, where the same is done step by step (for the checks)."""
    divisor: float


class GraphStep:
    """A step that the device does while the host goes on.

    Args:
        training: its network and optimizer are used; whole batches only.
        device_cache: the training images, where they lie on the device.
    """

    at_once = False

    def __init__(self, training: Training, device_cache: DeviceImageCache | None = None) -> None:
        device = training.device
        self.training = training
        self._device_cache = device_cache
        self._mean_image = torch.from_numpy(training.data.statistics.mean_image).to(device)
        # What autocast makes of the input of the first layer, unless a scale comes before it.
        rounded = training.precision == "bfloat16" and training.network.spec.input_scale == 1
        self._input_dtype = torch.bfloat16 if rounded else torch.float32
        self._captured: dict[tuple[int, float], _Captured] = {}
        self._pool = torch.cuda.graph_pool_handle() if device.type == "cuda" else None
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._weights = ComputeWeights(training)
        self._rates = torch.zeros(len(self._weights.tensors), 2, device=device)
        self._rows: list[tuple[float, float]] = []
        # Sum of losses, images that were wrong; and the first step that was not finite, counted from 1, or 0.
        self._results = torch.zeros(2, dtype=torch.float64, device=device)
        self._stopped = torch.zeros((), dtype=torch.int64, device=device)
        self._number = torch.zeros((), dtype=torch.int64, device=device)
        self._num = 0
        self._asked: deque[tuple[int, Phase, Batch]] = deque()

    def run(self, phase: Phase, batch: Batch) -> None:
        """Ask for one update."""
        training = self.training
        self._asked.append((training.step, phase, batch))
        if self._device_cache is not None:
            batch = self._device_cache.with_cache_rows(batch)
        staged = self._staged(batch)
        self._set_rates()
        self._number.fill_(training.step + 1)
        key = (len(batch.labels), divisor_of(training, phase))
        captured = self._captured.get(key)
        if captured is None:
            captured = self._captured[key] = self._capture(staged, key[1])
        else:
            torch._foreach_copy_(_tensors(captured.batch), _tensors(staged))
        training.dropout.manual_seed(dropout_seed(training.recipe.training.seed, training.step))
        if captured.graph is None:
            self._update(captured.batch, captured.divisor)
        else:
            captured.graph.replay()
        if training.average is not None:
            training.average.update(training.step)
        self._num += len(batch.labels)

    def sums(self) -> Sums:
        """Losses and errors since the last call, when the device is done."""
        loss, wrong, stopped = torch.cat([self._results, self._stopped.double()[None]]).tolist()
        if stopped:
            self._fail(int(stopped) - 1)
        sums = Sums(loss, int(wrong), self._num)
        self._results.zero_()
        self._num = 0
        self._asked.clear()
        return sums

    def _fail(self, step: int) -> None:
        """Do the step that failed once more, at once, and so come upon the same: the weights have not changed since."""
        phase, batch = next((phase, batch) for number, phase, batch in self._asked if number == step)
        self.training.step = step
        # The graphs hold the memory of whole steps, which the repetition needs.
        self._captured.clear()
        self._weights.clear_gradients()
        if self.training.device.type == "cuda":
            torch.cuda.empty_cache()
        at_once = EagerStep(self.training, self._device_cache)
        value = at_once.forward_backward(phase, batch)
        what = f"step {step} was not finite on the device, and is when it is repeated (its loss is {value:.6g})"
        fail(self.training, batch, what, value, at_once.gradients())

    def _staged(self, batch: Batch) -> Batch:
        """The batch on the device, copied beside what the device computes."""
        if self._copies is None:
            return batch
        current = torch.cuda.current_stream()
        with torch.cuda.stream(self._copies):
            staged = batch.map(lambda tensor: tensor.to(self.training.device, non_blocking=True))
        current.wait_stream(self._copies)
        for tensor in _tensors(staged):
            tensor.record_stream(current)
        return staged

    def _set_rates(self) -> None:
        rows = self.training.optimizer.rates_and_momenta(current_learning_rates(self.training, self.training.step))
        if rows != self._rows:
            self._rates.copy_(rates_table(rows, self.training.device), non_blocking=True)
            self._rows = rows

    def _capture(self, staged: Batch, divisor: float) -> _Captured:
        batch = staged.map(torch.clone)
        if self.training.device.type != "cuda":
            return _Captured(batch, None, divisor)
        training = self.training
        beside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        beside.wait_stream(torch.cuda.current_stream())
        # The library tries its algorithms once for each shape; a graph keeps those it was captured with.
        with torch.cuda.stream(beside), algorithms_tried():
            for _ in range(_WARM_UPS):
                self._derive(batch, divisor)
            self._weights.update(torch.zeros_like(self._rates), self._stopped)  # compiled now, and moves nothing
        torch.cuda.current_stream().wait_stream(beside)
        self._weights.clear_gradients()
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(training.dropout)
        # Loader threads pin memory meanwhile: only this thread's calls are part of the capture.
        with (
            algorithms_tried(),
            torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"),
        ):
            self._update(batch, divisor)
        return _Captured(batch, graph, divisor)

    def _derive(self, batch: Batch, divisor: float) -> tuple[torch.Tensor, torch.Tensor]:
        training = self.training
        self._weights.clear_gradients()
        images = network_input(training, batch, self._mean_image, self._device_cache, divisor, self._input_dtype)
        loss, wrong = loss_and_errors(training, self._weights.forward, images, batch.labels, len(batch.labels))
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach(), wrong

    @torch.no_grad()
    def _update(self, batch: Batch, divisor: float) -> None:
        """Everything of a step that the device does."""
        with torch.enable_grad():
            loss, wrong = self._derive(batch, divisor)
        finite = loss.isfinite() & are_finite(self._weights.gradients())
        self._stopped.copy_(torch.where((self._stopped == 0) & ~finite, self._number, self._stopped))
        self._results += torch.stack((loss.double() * len(batch.labels), wrong.double()))
        self._weights.update(self._rates, self._stopped)


@contextmanager
def algorithms_tried() -> Iterator[None]:
    """Within it, the GPU's library tries its algorithms for each new shape and keeps the fastest.

    `torch.backends.cudnn.flags` sets everything that is not named to what its authors took for a default: it turns the
    library off.
    """
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def _tensors(batch: Batch) -> list[torch.Tensor]:
    """A batch's tensors that hold something."""
    return [value for value in vars(batch).values() if isinstance(value, torch.Tensor) and value.numel()]
