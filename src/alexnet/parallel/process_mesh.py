"""The processes of one training, laid out as columns and replicas: a DeviceMesh with the axes `data` and `column`."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from alexnet.errors import RequestError
from alexnet.parallel.heartbeat import HeartbeatMonitor
from alexnet.parallel.layout import Layout
from alexnet.parallel.pair import ColumnPair
from alexnet.parallel.process_group import SINGLE_GROUP, ProcessGroup, init_process_group

T = TypeVar("T")
MESH_AXES = ("data", "column")
"""Replicas, and the columns of each."""


@dataclass(frozen=True)
class ProcessMesh:
    """The processes of a training, laid out as replicas and columns, and this process's position."""

    layout: Layout = field(default_factory=Layout)
    all: ProcessGroup = SINGLE_GROUP
    replica: ProcessGroup = SINGLE_GROUP
    """The processes with the same column, one in each replica: they share the batch."""
    column: int = 0
    """Which column this process holds: 0 or 1."""
    pair: ColumnPair | None = None
    """This process and the one with the other column."""
    monitor: HeartbeatMonitor | None = None

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.all.is_main

    @property
    def is_distributed(self) -> bool:
        """Whether there is more than one process."""
        return self.all.size > 1

    def heartbeat(self, step: int, phase: int, activity: str) -> None:
        """Set what this process's heartbeats report; see `HeartbeatMonitor.enter`."""
        if self.monitor is not None:
            self.monitor.enter(step, phase, activity)

    def all_reduce_sum(self, *values: float) -> list[float]:
        """Sums of some numbers over the replicas; the same in every process."""
        if not self.is_distributed:
            return list(values)
        # Both columns of a replica have the same numbers: only one of them counts.
        own = torch.tensor(values if self.column == 0 else [0.0] * len(values), dtype=torch.float64)
        dist.all_reduce(own, group=self.all.group)
        return own.tolist()

    def any(self, *flags: bool) -> list[bool]:
        """For each flag, whether it is set in any process; the same in every process."""
        if not self.is_distributed:
            return list(flags)
        counts = torch.tensor([int(flag) for flag in flags], dtype=torch.int32)
        dist.all_reduce(counts, group=self.all.group)
        return [bool(number) for number in counts.tolist()]

    def broadcast(self, value: T) -> T:
        """The main process's value, in every process."""
        if not self.is_distributed:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0, group=self.all.group)
        return values[0]

    def all_gather_object(self, value: T) -> list[T]:
        """The values of all processes, in order of rank."""
        if not self.is_distributed:
            return [value]
        values: list[Any] = [None] * self.all.size
        dist.all_gather_object(values, value, group=self.all.group)
        return values

    def require_same(self, values: Mapping[str, object]) -> None:
        """Check that all processes have the same settings, data and code.

        Args:
            values: by name; compared as text.

        Raises:
            RequestError: some differ; every process names the first such process and value.
        """
        who = self.monitor.who if self.monitor is not None else ""
        gathered = self.all_gather_object((who, {name: str(value) for name, value in values.items()}))
        main, expected = gathered[0]
        for other, found in gathered[1:]:
            differences = [name for name in expected if found.get(name) != expected[name]]
            if differences:
                name = differences[0]
                raise RequestError(
                    f"{other} has another {name} than {main}: {found.get(name)} instead of {expected[name]}"
                    + (f" (and another {', '.join(differences[1:])})" if differences[1:] else "")
                    + "; allowed is the same data, code and settings for every process"
                )


SINGLE_PROCESS = ProcessMesh()


def mesh_of(layout: Layout, processes: ProcessGroup, monitor: HeartbeatMonitor | None) -> ProcessMesh:
    """Lay out the started processes.

    Raises:
        RequestError: there are too many or too few of them.
    """
    replicas = layout.replicas_among(processes.size)
    if processes.size == 1:
        return ProcessMesh(layout=layout)
    # The two columns of a network have neighboring ranks: most likely on one machine. The groups work for tensors on
    # GPUs too, with the backends of the default group.
    device_mesh = init_device_mesh("cpu", (replicas, layout.columns), mesh_dim_names=MESH_AXES)
    return mesh_on(device_mesh, layout, processes, monitor)


def mesh_on(
    device_mesh: DeviceMesh, layout: Layout, processes: ProcessGroup, monitor: HeartbeatMonitor | None = None
) -> ProcessMesh:
    """The mesh of a torch device mesh with the axes `MESH_AXES`, of which this process is a member."""
    data, column = device_mesh.get_local_rank("data"), device_mesh.get_local_rank("column")
    pair = ColumnPair(device_mesh.get_group("column"), column) if layout.columns == 2 else None
    replica = ProcessGroup(data, device_mesh.size(0), device_mesh.get_group("data"))
    return ProcessMesh(layout, processes, replica, column, pair, monitor)


@contextmanager
def init_process_mesh(layout: Layout) -> Iterator[ProcessMesh]:
    """Join the processes that this one was started with and lay them out; see `init_process_group`, `mesh_of`."""
    with init_process_group(layout) as (processes, monitor):
        yield mesh_of(layout, processes, monitor)
