"""The processes of one training, laid out as columns and replicas: a device_mesh with the axes `data` and `column`."""

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
"""Replicas, and the columns of one."""


@dataclass(frozen=True)
class ProcessMesh:
    """Where this process stands among those of its training."""

    layout: Layout = field(default_factory=Layout)
    all: ProcessGroup = SINGLE_GROUP
    replica: ProcessGroup = SINGLE_GROUP
    """Those that hold the same column, one in each replica: they share the batch."""
    column: int = 0
    """Which column this process holds: 0 or 1."""
    pair: ColumnPair | None = None
    """This process and the one with the other column."""
    monitor: HeartbeatMonitor | None = None

    @property
    def is_main(self) -> bool:
        """Whether this process writes and prints."""
        return self.all.is_main

    @property
    def is_distributed(self) -> bool:
        """Whether there are others."""
        return self.all.size > 1

    def heartbeat(self, step: int, phase: int, doing: str) -> None:
        """Tell the monitor what this process is at."""
        if self.monitor is not None:
            self.monitor.enter(step, phase, doing)

    def all_reduce_sum(self, *values: float) -> list[float]:
        """Sums of some numbers over the replicas; the same in every process."""
        if not self.is_distributed:
            return list(values)
        # The columns of a replica have the same numbers: one of them counts.
        own = torch.tensor(values if self.column == 0 else [0.0] * len(values), dtype=torch.float64)
        dist.all_reduce(own, group=self.all.group)
        return own.tolist()

    def any(self, *flags: bool) -> list[bool]:
        """Whether each flag is set in some process; the same in every process."""
        if not self.is_distributed:
            return list(flags)
        set_in = torch.tensor([int(flag) for flag in flags], dtype=torch.int32)
        dist.all_reduce(set_in, group=self.all.group)
        return [bool(number) for number in set_in.tolist()]

    def broadcast(self, value: T) -> T:
        """The first process's value, in every process."""
        if not self.is_distributed:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0, group=self.all.group)
        return values[0]

    def all_gather_object(self, value: T) -> list[T]:
        """Every process's value, in order of rank."""
        if not self.is_distributed:
            return [value]
        values: list[Any] = [None] * self.all.size
        dist.all_gather_object(values, value, group=self.all.group)
        return values

    def require_same(self, facts: Mapping[str, object]) -> None:
        """See that all processes were given the same.

        Args:
            facts: by name; compared as text.

        Raises:
            RequestError: some differ; the first such process and fact are named, in every process.
        """
        who = self.monitor.who if self.monitor is not None else ""
        told = self.all_gather_object((who, {name: str(value) for name, value in facts.items()}))
        lead, expected = told[0]
        for other, found in told[1:]:
            differences = [name for name in expected if found.get(name) != expected[name]]
            if differences:
                name = differences[0]
                raise RequestError(
                    f"{other} has another {name} than {lead}: {found.get(name)} instead of {expected[name]}"
                    + (f" (and another {', '.join(differences[1:])})" if differences[1:] else "")
                    + "; allowed is the same data, code and settings for every process"
                )


SINGLE_PROCESS = ProcessMesh()


def mesh_of(layout: Layout, processes: ProcessGroup, monitor: HeartbeatMonitor | None) -> ProcessMesh:
    """Lay the started processes out.

    Raises:
        RequestError: there are too many or too few of them.
    """
    replicas = layout.replicas_among(processes.size)
    if processes.size == 1:
        return ProcessMesh(layout=layout)
    # The two columns of a network are neighbors: most likely on one machine. The groups serve tensors on GPUs too,
    # with the backends of the group of all.
    device_mesh = init_device_mesh("cpu", (replicas, layout.columns), mesh_dim_names=MESH_AXES)
    return mesh_on(device_mesh, layout, processes, monitor)


def mesh_on(
    device_mesh: DeviceMesh, layout: Layout, processes: ProcessGroup, monitor: HeartbeatMonitor | None = None
) -> ProcessMesh:
    """The mesh whose places are those of a device_mesh with the axes `MESH_AXES`, as this process, one of them, sees
    it."""
    data, column = device_mesh.get_local_rank("data"), device_mesh.get_local_rank("column")
    pair = ColumnPair(device_mesh.get_group("column"), column) if layout.columns == 2 else None
    replica = ProcessGroup(data, device_mesh.size(0), device_mesh.get_group("data"))
    return ProcessMesh(layout, processes, replica, column, pair, monitor)


@contextmanager
def init_process_mesh(layout: Layout) -> Iterator[ProcessMesh]:
    """The processes among which this one was started, laid out; see `init_process_group` for how one of them fails.

    Raises:
        RequestError: there are too many or too few of them for the layout.
    """
    with init_process_group(layout) as (processes, monitor):
        yield mesh_of(layout, processes, monitor)
