"""How processes share a training: columns of one network, replicas of it, or both.

The layout is not part of a recipe: batches, their order, learning rates and dropout do not depend on the number of
processes, and neither do the weights, except for rounding.
"""

from dataclasses import dataclass
from typing import Literal

from alexnet.errors import RequestError

ColumnLayers = Literal["every-layer", "dense"]
GradDtype = Literal["float32", "bfloat16"]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Columns and replicas, as requested."""

    columns: int = 1
    """Processes that share one network, each with half of every layer's channels or units: 1 or 2. Paper: section
    3.5."""
    replicas: int = 0
    """Copies of the network, each in one or two processes, that share each batch; 0 is as many as possible."""
    column_layers: ColumnLayers = "every-layer"
    """`every-layer`: as in the paper. `dense`: both processes have all convolutions, for half of the images each, and
    split only the dense layers (Krizhevsky 2014, "One weird trick")."""
    grad_dtype: GradDtype = "float32"
    """Dtype in which replicas sum their gradients; bfloat16 sends half of the bytes."""
    stall_warning: float = 30.0
    """Seconds without a heartbeat, or without progress while others wait, after which a process is named."""
    timeout: float = 600.0
    """Seconds that a process waits for another one before all fail."""

    def __post_init__(self) -> None:
        if self.columns not in (1, 2):
            raise RequestError(f"--columns is {self.columns}; allowed are 1 and 2, as many as the network has")
        if self.replicas < 0:
            raise RequestError(
                f"--replicas is {self.replicas}; allowed is 1 or more (0: as many as there are processes)"
            )
        if self.column_layers == "dense" and self.columns == 1:
            raise RequestError("--column-layers is dense and --columns is 1; it takes --columns 2")
        for option, value in (("--stall-warning", self.stall_warning), ("--timeout", self.timeout)):
            if not value > 0:
                raise RequestError(f"{option} is {value}; allowed is above 0 seconds")

    @property
    def num_processes(self) -> int:
        """Processes requested."""
        return self.columns * max(1, self.replicas)

    def replicas_among(self, num_processes: int) -> int:
        """Number of replicas that this number of processes forms.

        Raises:
            RequestError: the layout takes another number of processes.
        """
        replicas = self.replicas or max(1, num_processes // self.columns)
        if replicas * self.columns != num_processes:
            raise RequestError(
                f"--columns {self.columns} and --replicas {replicas} take {replicas * self.columns} processes, and "
                f"{num_processes} were started; start {replicas * self.columns}, or change the options"
            )
        return replicas

    def require_batch(self, batch_size: int, replicas: int) -> None:
        """Check that a batch can be shared.

        Raises:
            RequestError: its images cannot be divided equally.
        """
        sharers = replicas * (2 if self.column_layers == "dense" else 1)
        if batch_size % sharers:
            raise RequestError(
                f"--optimizer.batch_size is {batch_size} and {sharers} processes share its images; allowed is a "
                f"multiple of {sharers}, or a number of --replicas that divides the batch"
            )
