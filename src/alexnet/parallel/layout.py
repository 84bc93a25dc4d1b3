"""How the processes of a training share it: columns of one network, replicas of it, or both.

Nothing of this is part of a recipe: batches, their order, rates and dropout are the same however many processes there
are, and so are the weights, but for rounding.
"""

from dataclasses import dataclass
from typing import Literal

from alexnet.errors import RequestError

ColumnLayers = Literal["every-layer", "dense"]
GradDtype = Literal["float32", "bfloat16"]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Columns and replicas, as they were asked for."""

    columns: int = 1
    """ProcessGroup that share one network, each with half of every layer's maps or units: 1 or 2. Paper: section
    3.5."""
    replicas: int = 0
    """Networks, each of one or two processes, that share each batch; 0 is as many as there are processes for."""
    column_layers: ColumnLayers = "every-layer"
    """`every-layer`: as in the paper. `dense`: each of the two has all convolutions and half of the images, and they
    share the dense layers alone (Krizhevsky 2014, "One weird trick")."""
    grad_dtype: GradDtype = "float32"
    """Arithmetic in which replicas add their gradients up; bfloat16 sends half of the bytes."""
    stall_warning: float = 30.0
    """Seconds without a sign of life, or without progress while others wait, after which a process is named."""
    timeout: float = 600.0
    """Seconds that a process waits for another one before all stop."""

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
        """ProcessGroup that were asked for."""
        return self.columns * max(1, self.replicas)

    def replicas_among(self, num_processes: int) -> int:
        """How many replicas so many processes make.

        Raises:
            RequestError: these processes cannot be laid out so.
        """
        replicas = self.replicas or max(1, num_processes // self.columns)
        if replicas * self.columns != num_processes:
            raise RequestError(
                f"--columns {self.columns} and --replicas {replicas} take {replicas * self.columns} processes, and "
                f"{num_processes} were started; allowed are as many as they take"
            )
        return replicas

    def require_batch(self, batch_size: int, replicas: int) -> None:
        """See that a batch can be shared.

        Raises:
            RequestError: its images cannot be dealt out equally.
        """
        sharers = replicas * (2 if self.column_layers == "dense" else 1)
        if batch_size % sharers:
            raise RequestError(
                f"--optimizer.batch_size is {batch_size} and {sharers} processes share its images; allowed is a "
                f"multiple of {sharers}, or a number of --replicas that divides the batch"
            )
