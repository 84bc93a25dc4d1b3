"""Bytes that the processes of a distributed training send each other, and how fast each layout of them trains.

It starts four processes on this machine (two with `--no-speed`). Bytes are counted in real steps and compared with
those expected from the network's layers and with those of replicas of the whole network. All layouts are measured in
one launch: while one uses fewer processes, the others wait at a barrier, which costs no processor time.

example: python benchmarks/columns.py --no-speed
"""

import argparse
import logging
import math
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from rich.console import Console
from torch.distributed.device_mesh import DeviceMesh

from alexnet.bench.random_images import random_data
from alexnet.bench.step_cost import meta_network
from alexnet.bench.step_methods import LEARNING_RATE, MOMENTUM, WEIGHT_DECAY
from alexnet.bench.timing import alternate, median_ratio, require_counts
from alexnet.cli.command_parser import CommandParser
from alexnet.cli.tables import new_table
from alexnet.errors import RequestError, WorkError
from alexnet.model.columns import column_steps
from alexnet.model.layer_specs import Dense, SizedLayer
from alexnet.model.network import AlexNet
from alexnet.parallel.launch import run_in_processes
from alexnet.parallel.layout import ColumnLayers, Layout
from alexnet.parallel.process_group import ProcessGroup, init_process_group, world_size
from alexnet.parallel.process_mesh import MESH_AXES, ProcessMesh, mesh_on
from alexnet.runs.recipe import (
    DataSettings,
    NetworkSettings,
    OptimizerSettings,
    Recipe,
    ScheduleSettings,
    TrainingSettings,
)
from alexnet.system.device import Precision, choose_precision
from alexnet.system.machine import machine_summary, num_cores, source_commit
from alexnet.training.batches import make_loader
from alexnet.training.eager_step import EagerStep
from alexnet.training.setup import TrainingSetup, build_setup
from script import logger, run_script

ONE_PROCESS, ONE_THREAD = "1 process", "1 process, 1 thread"
COLUMNS, DENSE_COLUMNS = "2 columns", "2 columns, dense"
REPLICAS, REPLICAS_BFLOAT16 = "2 replicas", "2 replicas, bfloat16"
COUNTED: Mapping[str, Layout] = {
    COLUMNS: Layout(columns=2, replicas=1),
    DENSE_COLUMNS: Layout(columns=2, replicas=1, column_layers="dense"),
    REPLICAS: Layout(replicas=2),
    REPLICAS_BFLOAT16: Layout(replicas=2, grad_dtype="bfloat16"),
}
"""Layouts whose bytes are counted. dense: only dense layers are in columns; bfloat16: gradients are summed in it."""
TIMED: Mapping[str, Layout] = {
    ONE_THREAD: Layout(replicas=1),
    ONE_PROCESS: Layout(replicas=1),
    **COUNTED,
    "2 columns x 2 replicas": Layout(columns=2, replicas=2),
    "4 replicas": Layout(replicas=4),
}
"""Layouts whose speed is measured."""
NUM_CLASSES, STORED_MARGIN_PX = 1000, 32
# The first step allocates memory; after the second one torch's gradient buckets are final.
WARMUP_STEPS = 2

FORWARD, BACKWARD, GRADIENTS = "forward", "backward", "gradients"
KINDS = (FORWARD, BACKWARD, GRADIENTS)
ALL_LAYERS, SCORES = "", "scores"
Bytes = Mapping[tuple[str, str], float]
"""Bytes per step by layer and kind: activations forward, their gradients backward, sums of weight gradients."""


def add_arguments(parser: CommandParser) -> None:
    parser.add_argument("--variant", metavar="NAME", default="paper", help="network variant")
    parser.add_argument("--width", type=float, metavar="FACTOR", default=1.0, help="factor on its channels and units")
    parser.add_argument("--batch-size", type=int, metavar="N", default=32, help="images per step of all processes")
    parser.add_argument("--steps", type=int, metavar="N", default=2, help="steps per measurement")
    parser.add_argument("--rounds", type=int, metavar="N", default=5, help="measurements of each layout")
    parser.add_argument(
        "--precision",
        choices=("auto", "float32", "bfloat16"),
        metavar="NAME",
        default="auto",
        help="auto, float32, bfloat16",
    )
    parser.add_argument("--no-speed", action="store_true", help="count bytes, in two processes, and time nothing")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Count bytes and measure speed, in processes that this one starts, unless torchrun has started them.

    Returns:
        Bytes by layer and the speed of all layouts, in the main process; empty in the others.

    Raises:
        RequestError: a value is not allowed, the variant has no columns, or another number of processes was started.
        WorkError: the bytes counted are not those expected.
    """
    num_processes = 2 if options.no_speed else 4
    require_counts(options.batch_size, options.steps, options.rounds)
    if options.batch_size % num_processes:
        raise RequestError(
            f"--batch-size is {options.batch_size}, for up to {num_processes} processes; allowed are multiples of "
            f"{num_processes}"
        )
    settings = NetworkSettings(variant=options.variant, width=options.width)
    network = meta_network(settings.variant, settings.width)
    for layout in COUNTED.values():
        if layout.columns == 2:
            column_steps(network.fused_ops, layout.column_layers, settings.variant)
    if world_size() == 1:
        logger.info("starting %d processes on this machine", num_processes)
        raise SystemExit(run_in_processes(sys.argv[1:], num_processes, program=("--", __file__)))
    precision = choose_precision(options.precision, torch.device("cpu"))
    recipe = Recipe(
        name="bench",
        network=settings,
        data=DataSettings(crop=network.spec.image_px),
        optimizer=OptimizerSettings(
            batch_size=options.batch_size, learning_rate=LEARNING_RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
        ),
        schedule=ScheduleSettings(kind="steps", epochs=10**6),
        training=TrainingSettings(device="cpu", precision=precision),
    )
    with init_process_group(Layout()) as (processes, _):
        if processes.size != num_processes:
            raise RequestError(
                f"{processes.size} processes were started; allowed are {num_processes} (without torchrun the script "
                "starts them itself)"
            )
        if not processes.is_main:
            logging.getLogger("alexnet").setLevel(logging.WARNING)
        mesh = ProcessMesh(all=processes)
        runs: dict[str, LayoutRun | None] = {}
        counts: dict[str, Bytes] = {}
        expected: dict[str, Bytes] = {}
        for name, layout in (COUNTED if options.no_speed else TIMED).items():
            run = start_layout(recipe, layout, processes)
            own = None if run is None else run.count_step()
            counted = [sent for sent in mesh.all_gather_object(own) if sent is not None]
            if name in COUNTED:
                expected[name] = expected_bytes(network, layout, options.batch_size, precision)
                require_expected(name, counted, expected[name])
                counts[name] = counted[0]
                logger.info("%s: each of %d processes sends the expected bytes", name, len(counted))
            if not options.no_speed:
                runs[name] = run
            del run
        timings = None if options.no_speed else _time_layouts(runs, mesh, options.steps, options.rounds)
        if not processes.is_main:
            return {}
        return {
            "variant": options.variant,
            "width": options.width,
            "batch_size": options.batch_size,
            "precision": precision,
            "steps": options.steps,
            "rounds": options.rounds,
            "bytes": compare_bytes(counts, expected, options.batch_size),
            "speed": None if timings is None else summarize_speed(timings, options.steps * options.batch_size),
            "machine": machine_summary(),
            "commit": source_commit(),
        }


class LayoutRun:
    """A training in one layout, in one of its processes."""

    def __init__(self, setup: TrainingSetup) -> None:
        self.setup = setup
        self.phase = setup.plan.phases[0]
        self.learning_rates = setup.plan.learning_rates(setup.recipe, 0)
        self.batch = make_loader(setup, self.phase).batch(0)
        self.step = EagerStep(setup)

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.step.run(self.phase, self.batch, 0, self.learning_rates)

    @property
    def waited_s(self) -> float:
        """Seconds spent so far on waiting for the other column."""
        pair = self.setup.mesh.pair
        return 0.0 if pair is None else pair.waited_s

    def count_step(self) -> Bytes:
        """Run the first step and return what this process sends; gradients are counted over all layers."""
        self.run(1)
        mesh = self.setup.mesh
        sent: dict[tuple[str, str], float] = {} if mesh.pair is None else {**mesh.pair.sent}
        if num_bytes := self.setup.forward.reduced_bytes:
            # Summed over the replicas of a column, or over both columns (convolutions that are not in columns).
            num = mesh.replica.size if mesh.replica.size > 1 else mesh.all.size
            sent[ALL_LAYERS, GRADIENTS] = ring_bytes(num_bytes, num)
        return sent


def start_layout(recipe: Recipe, layout: Layout, processes: ProcessGroup) -> LayoutRun | None:
    """A training in this layout if this process takes part in it; all processes call it together."""
    mesh = _mesh(layout, processes)
    if mesh is None:
        return None
    data = random_data(recipe.optimizer.batch_size, recipe.data.crop + STORED_MARGIN_PX, NUM_CLASSES)
    return LayoutRun(build_setup(data, recipe, mesh))


def _mesh(layout: Layout, processes: ProcessGroup) -> ProcessMesh | None:
    """The first processes in this layout; None in the others. All processes call it together."""
    num = layout.num_processes
    if num == 1:
        return ProcessMesh(layout) if processes.is_main else None
    ranks = torch.arange(num).view(num // layout.columns, layout.columns)
    mesh = DeviceMesh("cpu", ranks, mesh_dim_names=MESH_AXES)
    group = dist.new_group(ranks.flatten().tolist())
    if processes.rank >= num:
        return None
    return mesh_on(mesh, layout, ProcessGroup(processes.rank, num, group))


def expected_bytes(network: AlexNet, layout: Layout, batch_size: int, precision: Precision) -> Bytes:
    """Bytes that each process sends per step, from the network's layers."""
    layers = network.sized_layers
    gradients = gradient_bytes(layers, 2 if layout.grad_dtype == "bfloat16" else 4)
    exchanged: dict[tuple[str, str], int] = {}
    if layout.columns == 2:
        element_bytes = 2 if precision == "bfloat16" else 4
        exchanged = expected_exchange(layers, network.num_classes, layout.column_layers, element_bytes)
        in_columns = [
            sized.name for sized in layers if layout.column_layers != "dense" or isinstance(sized.spec, Dense)
        ]
        gradients = {name: num_bytes for name, num_bytes in gradients.items() if name not in in_columns}
    return {key: num_bytes * batch_size for key, num_bytes in exchanged.items()} | {
        (name, GRADIENTS): ring_bytes(num_bytes, 2) for name, num_bytes in gradients.items()
    }


def expected_exchange(
    layers: Sequence[SizedLayer], num_classes: int, column_layers: ColumnLayers, element_bytes: int
) -> dict[tuple[str, str], int]:
    """Bytes of activations and their gradients that one of two columns sends the other per image of the batch.

    A layer that reads both columns receives half of its input and sends that half's gradient back. Both processes have
    the images. If only dense layers are in columns, the first of them receives the whole input for half of the images.
    Each process needs all scores for the loss and computes their gradient itself.

    Args:
        layers: of the network.
        num_classes: K, an even number.
        column_layers: which layers are in columns.
        element_bytes: of an activation.
    """
    sent = {}
    input_in_columns = False
    for sized in layers:
        if not sized.weight_shape:
            continue
        is_dense = isinstance(sized.spec, Dense)
        first_dense = column_layers == "dense" and is_dense and not input_in_columns
        if first_dense or (input_in_columns and sized.columns == 1):
            half = sized.in_channels * sized.in_side**2 // 2
            sent[sized.name, FORWARD] = sent[sized.name, BACKWARD] = half * element_bytes
        input_in_columns = input_in_columns or is_dense or column_layers == "every-layer"
    sent[SCORES, FORWARD] = num_classes // 2 * element_bytes
    return sent


def gradient_bytes(layers: Sequence[SizedLayer], element_bytes: int = 4) -> dict[str, int]:
    """Bytes of the gradients of each layer that has weights."""
    return {
        sized.name: element_bytes * (math.prod(sized.weight_shape) + math.prod(sized.bias_shape))
        for sized in layers
        if sized.weight_shape
    }


def ring_bytes(num_bytes: int, num_processes: int) -> float:
    """Bytes that each process sends in a ring all-reduce of `num_bytes`."""
    return num_bytes * 2 * (num_processes - 1) / num_processes


def require_expected(name: str, counted: Sequence[Bytes], expected: Bytes) -> None:
    """Check that each process sent the expected bytes.

    Args:
        counted: by process; gradients are counted over all layers.

    Raises:
        WorkError: one did not; names the layer and both numbers.
    """
    wanted = {key: num_bytes for key, num_bytes in expected.items() if key[1] != GRADIENTS}
    if gradients := sum_of(expected, GRADIENTS):
        wanted[ALL_LAYERS, GRADIENTS] = gradients
    for rank, sent in enumerate(counted):
        for layer, kind in sorted({*sent, *wanted}):
            got, want = sent.get((layer, kind), 0), wanted.get((layer, kind), 0)
            if got != want:
                raise WorkError(
                    f"{name}: rank {rank} sent {got:,.0f} bytes per step for {layer or 'all layers'}, {kind}; expected "
                    f"from the network's layers are {want:,.0f}"
                )


def sum_of(sent: Bytes, *kinds: str) -> float:
    """Bytes of these kinds over all layers."""
    return sum(num_bytes for (_, kind), num_bytes in sent.items() if kind in kinds)


def compare_bytes(counts: Mapping[str, Bytes], expected: Mapping[str, Bytes], batch_size: int) -> dict[str, Any]:
    """What each process sends, as counted and as expected.

    Returns:
        `layers`: bytes per image, by layer and layout. `layouts`: sums, and the batch size at which replicas send as
        much; below it columns send less.
    """
    names = dict.fromkeys(layer for layer, _ in expected[REPLICAS])
    layers = []
    for layer in (*names, SCORES):
        row: dict[str, Any] = {"layer": layer}
        for layout, sent in counts.items():
            want = {kind: expected[layout].get((layer, kind), 0) / batch_size for kind in KINDS}
            got = {kind: sent.get((layer, kind), 0) / batch_size for kind in KINDS}
            if gradients := sum_of(expected[layout], GRADIENTS):
                # Counted over all layers: a layer's part is that of its parameters.
                got[GRADIENTS] = want[GRADIENTS] * sum_of(sent, GRADIENTS) / gradients
            row[layout] = {**got, "expected": sum(want.values()), "agrees": got == want}
        layers.append(row)
    layouts = {}
    for layout, sent in counts.items():
        per_step, gradients = sum_of(sent, *KINDS), sum_of(sent, GRADIENTS)
        layouts[layout] = {
            "per_image": per_step / batch_size,
            "per_step": per_step,
            "fraction_of_replicas": per_step / sum_of(counts[REPLICAS], *KINDS),
        }
        if exchanged := per_step - gradients:
            for name, replicas in (("equal_batch_size", REPLICAS), ("equal_batch_size_bfloat16", REPLICAS_BFLOAT16)):
                replica_bytes = sum_of(counts[replicas], GRADIENTS)
                layouts[layout][name] = (replica_bytes - gradients) * batch_size / exchanged
    return {"layers": layers, "layouts": layouts}


@dataclass(frozen=True)
class ProcessTiming:
    """Seconds of one measurement in one process."""

    wall_s: float
    waited_s: float
    """Of these, waiting for the other column."""
    cpu_s: float
    """Processor time of all its threads."""


def _time_layouts(
    runs: Mapping[str, LayoutRun | None], mesh: ProcessMesh, steps: int, rounds: int
) -> list[dict[str, list[ProcessTiming]]]:
    """By process and layout the timings of all rounds; none for layouts that a process takes no part in."""
    timings: dict[str, list[ProcessTiming]] = {name: [] for name in runs}

    def prepared(name: str) -> LayoutRun | None:
        torch.set_num_threads(_threads(name))
        dist.barrier()
        return runs[name]

    def timed(name: str) -> Callable[[], None]:
        def method() -> None:
            if (run := prepared(name)) is not None:
                start_s, waited_s, cpu_s = time.perf_counter(), run.waited_s, time.process_time()
                run.run(steps)
                wall_s = time.perf_counter() - start_s
                timings[name].append(ProcessTiming(wall_s, run.waited_s - waited_s, time.process_time() - cpu_s))

        return method

    for name in runs:
        if (run := prepared(name)) is not None:
            run.run(WARMUP_STEPS - 1)
        logger.info("%s: warmed up", name)
    alternate({name: timed(name) for name in runs}, rounds)
    return mesh.all_gather_object(timings)


def summarize_speed(timings: Sequence[Mapping[str, Sequence[ProcessTiming]]], num_images: int) -> dict[str, Any]:
    """Images per second of each layout, by its slowest process; processor time of all; how long columns waited.

    On a machine that does other work too, processor time says more about a layout than images per second.

    Args:
        timings: by process and layout, of each round.
        num_images: of one measurement, over all processes.
    """
    walls = {
        name: [max(one.wall_s for one in processes) for processes in _by_round(timings, name)] for name in timings[0]
    }
    speed = {}
    for name, wall_s in walls.items():
        layout = TIMED[name]
        every = [one for process in timings for one in process[name]]
        cpu_s = [sum(one.cpu_s for one in processes) for processes in _by_round(timings, name)]
        images_per_second = [num_images / wall for wall in wall_s]
        speed[name] = {
            "processes": layout.num_processes,
            "threads": _threads(name),
            "images_per_second": statistics.median(images_per_second),
            "best_images_per_second": max(images_per_second),
            "speedup_over_one_process": median_ratio(walls[ONE_PROCESS], wall_s),
            "cpu_ms_per_image": 1e3 * statistics.median(cpu_s) / num_images,
            "waiting_fraction": sum(one.waited_s for one in every) / sum(one.wall_s for one in every)
            if layout.columns == 2
            else None,
            "images_per_second_by_round": images_per_second,
        }
    return speed


def _by_round(timings: Sequence[Mapping[str, Sequence[ProcessTiming]]], name: str) -> list[tuple[ProcessTiming, ...]]:
    """Each round of a layout, in each of its processes."""
    return list(zip(*(process[name] for process in timings if process[name]), strict=True))


def _threads(name: str) -> int:
    """Threads of each process: the cores are divided as `alexnet train` divides them."""
    return 1 if name == ONE_THREAD else max(1, num_cores() // TIMED[name].num_processes)


def print_table(result: Mapping[str, Any]) -> None:
    console = Console()
    layers, layouts = result["bytes"]["layers"], result["bytes"]["layouts"]
    print(
        f"{result['variant']}, width {result['width']:g}, batches of {result['batch_size']}, {result['precision']}; "
        "bytes that each process sends (and receives)"
    )
    for name in (COLUMNS, DENSE_COLUMNS):
        title = f"{name}: bytes per image, by layer; right: {REPLICAS}"
        table = new_table(title, "layer", "forward backward gradients expected agrees replicas bfloat16")
        for row in layers:
            sent = row[name]
            numbers = (sent["forward"], sent["backward"], sent["gradients"], sent["expected"])
            replicas = (row[other]["gradients"] for other in (REPLICAS, REPLICAS_BFLOAT16))
            table.add_row(
                row["layer"],
                *(f"{number:,.0f}" for number in numbers),
                "yes" if sent["agrees"] else "NO",
                *(f"{number:,.0f}" for number in replicas),
            )
        console.print(table)
    table = new_table("all layers", "layout", ("bytes/image", "MB/step", "of replicas", "equal at", "bfloat16 at"))
    for name, layout in layouts.items():
        batch_sizes = (layout.get(key) for key in ("equal_batch_size", "equal_batch_size_bfloat16"))
        table.add_row(
            name,
            f"{layout['per_image']:,.0f}",
            f"{layout['per_step'] / 1e6:,.2f}",
            f"{layout['fraction_of_replicas']:.3f}",
            *("" if batch_size is None else f"{batch_size:,.0f}" for batch_size in batch_sizes),
        )
    console.print(table)
    console.print(
        "equal at: batch size at which replicas send as much; bfloat16 at: the same if they sum gradients in bfloat16",
        highlight=False,
    )
    if result["speed"] is None:
        return
    headings = ("threads", "images/s", "best", "speedup", "CPU ms/image", "waiting")
    table = new_table("training speed, medians of the slowest process", "layout", headings)
    for name, speed in result["speed"].items():
        waiting = speed["waiting_fraction"]
        table.add_row(
            name,
            str(speed["threads"]),
            f"{speed['images_per_second']:,.1f}",
            f"{speed['best_images_per_second']:,.1f}",
            f"{speed['speedup_over_one_process']:.2f}",
            f"{speed['cpu_ms_per_image']:.1f}",
            "" if waiting is None else f"{100 * waiting:.0f} %",
        )
    console.print(table)
    console.print(
        f"{result['machine']['cores']} cores of {result['machine']['processor']}; speedup: over one process with all "
        "cores; threads: per process; waiting: fraction of a process's time spent on waiting for the other column; "
        f"{result['rounds']} rounds of {result['steps']} steps",
        highlight=False,
        markup=False,
    )


def main(words: Sequence[str] | None = None) -> int:
    return run_script(__doc__, add_arguments, measure, print_table, words)


if __name__ == "__main__":
    raise SystemExit(main())
