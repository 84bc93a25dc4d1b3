"""The processes of one training, laid out as columns and replicas: a mesh with the axes `data` and `column`."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from alexnet.errors import RequestError
from alexnet.parallel.heartbeat import Watch
from alexnet.parallel.layout import Layout
from alexnet.parallel.pair import Pair
from alexnet.parallel.process_group import ALONE, Processes, started_processes

T = TypeVar("T")
MESH_AXES = ("data", "column")
"""Replicas, and the columns of one."""


@dataclass(frozen=True)
class Team:
    """Where this process stands among those of its training."""

    layout: Layout = field(default_factory=Layout)
    all: Processes = ALONE
    replica: Processes = ALONE
    """Those that hold the same column, one in each replica: they share the batch."""
    column: int = 0
    """Which column this process holds: 0 or 1."""
    pair: Pair | None = None
    """This process and the one with the other column."""
    watch: Watch | None = None

    @property
    def leads(self) -> bool:
        """Whether this process writes and prints."""
        return self.all.leads

    @property
    def together(self) -> bool:
        """Whether there are others."""
        return self.all.num > 1

    def enters(self, step: int, phase: int, doing: str) -> None:
        """Tell the watch what this process is at."""
        if self.watch is not None:
            self.watch.enters(step, phase, doing)

    def sums(self, *values: float) -> list[float]:
        """Sums of some numbers over the replicas; the same in every process."""
        if not self.together:
            return list(values)
        # The columns of a replica have the same numbers: one of them counts.
        own = torch.tensor(values if self.column == 0 else [0.0] * len(values), dtype=torch.float64)
        dist.all_reduce(own, group=self.all.group)
        return own.tolist()

    def any(self, *flags: bool) -> list[bool]:
        """Whether each flag is set in some process; the same in every process."""
        if not self.together:
            return list(flags)
        set_in = torch.tensor([int(flag) for flag in flags], dtype=torch.int32)
        dist.all_reduce(set_in, group=self.all.group)
        return [bool(number) for number in set_in.tolist()]

    def told(self, value: T) -> T:
        """The first process's value, in every process."""
        if not self.together:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0, group=self.all.group)
        return values[0]

    def all_told(self, value: T) -> list[T]:
        """Every process's value, in order of rank."""
        if not self.together:
            return [value]
        values: list[Any] = [None] * self.all.num
        dist.all_gather_object(values, value, group=self.all.group)
        return values

    def require_same(self, facts: Mapping[str, object]) -> None:
        """See that all processes were given the same.

        Args:
            facts: by name; compared as text.

        Raises:
            RequestError: some differ; the first such process and fact are named, in every process.
        """
        who = self.watch.who if self.watch is not None else ""
        told = self.all_told((who, {name: str(value) for name, value in facts.items()}))
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


ALONE_TEAM = Team()


def team_of(layout: Layout, processes: Processes, watch: Watch | None) -> Team:
    """Lay the started processes out.

    Raises:
        RequestError: there are too many or too few of them.
    """
    replicas = layout.replicas_among(processes.num)
    if processes.num == 1:
        return Team(layout=layout)
    # The two columns of a network are neighbors: most likely on one machine. The groups serve tensors on GPUs too,
    # with the backends of the group of all.
    mesh = init_device_mesh("cpu", (replicas, layout.columns), mesh_dim_names=MESH_AXES)
    return team_on(mesh, layout, processes, watch)


def team_on(mesh: DeviceMesh, layout: Layout, processes: Processes, watch: Watch | None = None) -> Team:
    """The team whose places are those of a mesh with the axes `MESH_AXES`, as this process, one of them, sees it."""
    data, column = mesh.get_local_rank("data"), mesh.get_local_rank("column")
    pair = Pair(mesh.get_group("column"), column) if layout.columns == 2 else None
    replica = Processes(data, mesh.size(0), mesh.get_group("data"))
    return Team(layout, processes, replica, column, pair, watch)


@contextmanager
def started_team(layout: Layout, report: Callable[[str], None] | None = None) -> Iterator[Team]:
    """The processes among which this one was started, laid out; see `started_processes` for how one of them fails.

    Raises:
        RequestError: there are too many or too few of them for the layout.
    """
    with started_processes(layout, report) as (processes, watch):
        yield team_of(layout, processes, watch)
