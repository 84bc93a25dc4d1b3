"""The ways in which processes share a training, as `alexnet bench columns` compares them, each ready to step."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh

from alexnet.bench.exchanged import expected_exchange, gradient_bytes, ring_bytes
from alexnet.bench.random_images import random_data
from alexnet.bench.step_benchmark import DECAY, MOMENTUM, NUM_CLASSES, RATE
from alexnet.errors import RequestError
from alexnet.model.columns import column_steps
from alexnet.model.layer_specs import Dense
from alexnet.model.network import AlexNet
from alexnet.parallel.layout import Layout
from alexnet.parallel.process_group import ProcessGroup
from alexnet.parallel.process_mesh import MESH_AXES, ProcessMesh, mesh_on
from alexnet.runs.folder import RunFolder
from alexnet.runs.recipe import (
    DataSettings,
    NetworkSettings,
    OptimizerSettings,
    Recipe,
    ScheduleSettings,
    TrainingSettings,
)
from alexnet.system.device import Precision, choose_precision
from alexnet.training.eager_step import EagerStep
from alexnet.training.setup import Training, assemble, loader_of

ONE = "1 process"
COLUMNS = "2 columns"
DENSE = "2 columns, dense"
REPLICAS = "2 replicas"
REPLICAS_BFLOAT16 = "2 replicas, bfloat16"
COUNTED: Mapping[str, Layout] = {
    COLUMNS: Layout(columns=2, replicas=1),
    DENSE: Layout(columns=2, replicas=1, column_layers="dense"),
    REPLICAS: Layout(replicas=2),
    REPLICAS_BFLOAT16: Layout(replicas=2, grad_dtype="bfloat16"),
}
"""The ways whose bytes are counted: dense, those layers alone are in columns; bfloat16, sums are in it."""
ALL: Mapping[str, Layout] = {
    ONE: Layout(replicas=1),
    **COUNTED,
    "2 columns x 2 replicas": Layout(columns=2, replicas=2),
    "4 replicas": Layout(replicas=4),
}
"""The ways whose speed is measured, beside one process with one thread."""
STORED_MARGIN_PX = 32

FORWARD, BACKWARD, GRADIENTS = "forward", "backward", "gradients"
ALL_LAYERS = ""
Bytes = Mapping[tuple[str, str], float]
"""Bytes of a step by layer and kind: activations forward, their gradients backward, sums of the weights' gradients."""


@dataclass(frozen=True, kw_only=True)
class ColumnsBench:
    """What is to be measured.

    Raises:
        RequestError: a value is not allowed, or the variant has no columns.
    """

    variant: str = "paper"
    width: float = 1.0
    batch_size: int = 32
    """Images a step of all processes together."""
    precision: str = "auto"
    steps: int = 2
    """Steps of one measurement."""
    rounds: int = 5
    speed: bool = True
    """False counts bytes alone."""

    def __post_init__(self) -> None:
        if min(self.steps, self.rounds) < 1:
            raise RequestError(f"--steps is {self.steps} and --rounds {self.rounds}; allowed are 1 or more")
        if self.batch_size < 1 or self.batch_size % self.num_processes:
            raise RequestError(
                f"--batch-size is {self.batch_size} and up to {self.num_processes} processes share its images; allowed "
                f"is a multiple of {self.num_processes}"
            )
        if self.precision not in ("auto", "float32", "bfloat16"):
            raise RequestError(f"--precision is {self.precision}; allowed are auto, float32 and bfloat16")
        NetworkSettings(variant=self.variant, width=self.width)
        for layout in COUNTED.values():
            if layout.columns == 2:
                column_steps(self.network.fused_ops, layout.column_layers, self.variant)

    @cached_property
    def network(self) -> AlexNet:
        """Its sizes without its weights."""
        with torch.device("meta"):
            return AlexNet(NUM_CLASSES, self.variant, self.width)

    @cached_property
    def arithmetic(self) -> Precision:
        return choose_precision(self.precision, torch.device("cpu"))

    @property
    def num_processes(self) -> int:
        return 4 if self.speed else 2

    @property
    def ways(self) -> Mapping[str, Layout]:
        return ALL if self.speed else COUNTED


def expected_bytes(asked: ColumnsBench, layout: Layout) -> Bytes:
    """Bytes that a process of one of the counted ways sends in a step, from the description of the network."""
    placed = asked.network.sized_layers
    gradients = gradient_bytes(placed, 2 if layout.grad_dtype == "bfloat16" else 4)
    exchanged: dict[tuple[str, str], int] = {}
    if layout.columns == 2:
        element_bytes = 2 if asked.arithmetic == "bfloat16" else 4
        exchanged = expected_exchange(placed, NUM_CLASSES, layout.column_layers, element_bytes)
        own = [place.name for place in placed if layout.column_layers != "dense" or isinstance(place.spec, Dense)]
        gradients = {name: num_bytes for name, num_bytes in gradients.items() if name not in own}
    return {key: num_bytes * asked.batch_size for key, num_bytes in exchanged.items()} | {
        (name, GRADIENTS): ring_bytes(num_bytes, 2) for name, num_bytes in gradients.items()
    }


class Way:
    """One way of training, in one of its processes."""

    def __init__(self, training: Training) -> None:
        self.training = training
        self.phase = training.plan.phases[0]
        self.batch = loader_of(training, self.phase).batch(0)
        self.step = EagerStep(training)

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.step.run(self.phase, self.batch)

    @property
    def waited_s(self) -> float:
        pair = self.training.mesh.pair
        return 0.0 if pair is None else pair.waited_s

    def counted_step(self) -> Bytes:
        """What this process sends in a step, its first one. Gradients are counted in all layers at once."""
        self.run(1)
        mesh = self.training.mesh
        sent: dict[tuple[str, str], float] = {} if mesh.pair is None else {**mesh.pair.sent}
        if with_epilogues := self.training.forward.with_epilogues:
            # Whoever sums among one column's replicas, or the convolutions of both columns.
            num = mesh.replica.size if mesh.replica.size > 1 else mesh.all.size
            sent[ALL_LAYERS, GRADIENTS] = ring_bytes(with_epilogues, num)
        return sent


def way_of(asked: ColumnsBench, layout: Layout, processes: ProcessGroup) -> Way | None:
    """One way, where this process takes part in it; all call it at once."""
    mesh = _team(layout, processes)
    if mesh is None:
        return None
    side = asked.network.spec.image_px
    recipe = Recipe(
        name="bench",
        network=NetworkSettings(variant=asked.variant, width=asked.width),
        data=DataSettings(crop=side),
        optimizer=OptimizerSettings(
            batch_size=asked.batch_size, learning_rate=RATE, momentum=MOMENTUM, weight_decay=DECAY
        ),
        schedule=ScheduleSettings(kind="steps", epochs=10**6),
        training=TrainingSettings(device="cpu", precision=asked.arithmetic),
    )
    data = random_data(asked.batch_size, side + STORED_MARGIN_PX, NUM_CLASSES)
    return Way(assemble(RunFolder(Path("random")), data, recipe, mesh=mesh))


def _team(layout: Layout, processes: ProcessGroup) -> ProcessMesh | None:
    """The first so many of the processes laid out, for those among them; all call it at once."""
    num = layout.num_processes
    if num == 1:
        return ProcessMesh(layout) if processes.is_main else None
    replicas = num // layout.columns
    ranks = torch.arange(num).view(replicas, layout.columns)
    mesh = DeviceMesh("cpu", ranks, mesh_dim_names=MESH_AXES)
    group = dist.new_group(ranks.flatten().tolist())
    if processes.rank >= num:
        return None
    return mesh_on(mesh, layout, ProcessGroup(processes.rank, num, group))
