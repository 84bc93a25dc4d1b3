"""Checkpoints written in the background of a training, one at a time."""

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

from alexnet.model.network import AlexNet
from alexnet.training.checkpoint import Snapshot, write_checkpoint
from alexnet.training.ema import WeightEMA
from alexnet.training.optimizer import Optimizer
from alexnet.training.state import TrainingState


class CheckpointWriter:
    """Copies the state while the training waits and writes it while the training continues. A context manager.

    A full or missing disk does not stop the training: the next call of `failure` returns the error, and earlier
    checkpoints are kept.

    Args:
        run_folder: where they are written.
        writes: False in a process that only contributes its part of the state.
    """

    def __init__(self, run_folder: Path, writes: bool = True) -> None:
        self._run_folder = run_folder
        self._writes = writes
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="alexnet-checkpoint")
        self._snapshot = Snapshot()
        self._writing: Future[None] | None = None

    def __enter__(self) -> "CheckpointWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(wait=True)

    @property
    def busy(self) -> bool:
        """Whether the last checkpoint is still being written."""
        return self._writing is not None and not self._writing.done()

    def failure(self) -> OSError | None:
        """Why the last checkpoint could not be written, returned once; None if it was, or is being written."""
        if self._writing is None or not self._writing.done():
            return None
        error = self._writing.exception()
        self._writing = None
        if error is not None and not isinstance(error, OSError):
            raise error
        return error

    def begin(self, network: AlexNet, optimizer: Optimizer, state: TrainingState, ema: WeightEMA | None) -> None:
        """Copy the state and start writing it; only when not `busy`."""
        assert not self.busy
        self._snapshot.fill(network, optimizer, state, ema)
        if self._writes:
            self._writing = self._thread.submit(write_checkpoint, self._run_folder, self._snapshot)

    def finish(self) -> None:
        """Wait until the checkpoint that was begun is written or has failed."""
        if self._writing is not None:
            self._writing.exception()
