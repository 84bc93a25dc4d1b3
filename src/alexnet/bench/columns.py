"""`alexnet bench columns`: what processes that share a network send each other, and how fast they train.

Bytes are counted in real steps, beside what follows from the network's description and beside what replicas of the
whole network send. All ways are measured in one launch: while one takes fewer processes, the others wait at a barrier,
which costs no processor time.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from alexnet.bench.exchanged import SCORES, equal_batch
from alexnet.bench.sharing_ways import (
    ALL,
    ALL_LAYERS,
    BACKWARD,
    COUNTED,
    FORWARD,
    GRADIENTS,
    ONE,
    REPLICAS,
    REPLICAS_BFLOAT16,
    Bytes,
    ColumnsBench,
    Way,
    expected_bytes,
    way_of,
)
from alexnet.bench.timing import alternate, median_ratio
from alexnet.errors import RequestError, WorkError
from alexnet.parallel.layout import Layout
from alexnet.parallel.process_group import init_process_group
from alexnet.parallel.process_mesh import ProcessMesh
from alexnet.system.machine import machine_facts, num_cores, source_commit

ONE_THREAD = "1 process, 1 thread"
# The first step allocates, after the second one torch's buckets of gradients lie as they stay.
WARM_UP_STEPS = 2
KINDS = (FORWARD, BACKWARD, GRADIENTS)


def bench_columns(asked: ColumnsBench, report: Callable[[str], None]) -> dict[str, Any]:
    """Count and measure; each of the started processes calls it at once.

    Args:
        report: is given lines for people, in the first process.

    Returns:
        Bytes by layer, the rates of all ways; in the other processes nothing.

    Raises:
        RequestError: another number of processes was started, or the variant has no columns.
        WorkError: what was counted is not what the description says.
    """
    with init_process_group(Layout(), report) as (processes, _):
        if processes.size != asked.num_processes:
            raise RequestError(
                f"bench columns takes {asked.num_processes} processes, and {processes.size} were started; without "
                "torchrun it starts them itself"
            )
        everyone = ProcessMesh(all=processes)
        say = report if processes.is_main else _silent
        ways: dict[str, Way | None] = {}
        counts: dict[str, Bytes] = {}
        expected: dict[str, Bytes] = {}
        for name, layout in asked.ways.items():
            way = way_of(asked, layout, processes)
            own = None if way is None else way.counted_step()
            counted = [one for one in everyone.all_gather_object(own) if one is not None]
            if name in COUNTED:
                expected[name] = expected_bytes(asked, layout)
                require_expected(name, counted, expected[name])
                counts[name] = counted[0]
                say(f"{name}: each of {len(counted)} processes sends the expected bytes")
            if asked.speed:
                ways[name] = way
            del way
        told = _timed(asked, ways, everyone, say) if asked.speed else None
        if not processes.is_main:
            return {}
        return {
            "variant": asked.variant,
            "width": asked.width,
            "batch_size": asked.batch_size,
            "precision": asked.arithmetic,
            "steps": asked.steps,
            "rounds": asked.rounds,
            "bytes": compared(counts, expected, asked.batch_size),
            "speed": None if told is None else rates(told, asked.steps * asked.batch_size),
            "machine": machine_facts(),
            "commit": source_commit(),
        }


def require_expected(name: str, counted: Sequence[Bytes], expected: Bytes) -> None:
    """See that each process has sent what the description says.

    Args:
        counted: by process; the gradients of all layers are one figure.

    Raises:
        WorkError: one has not; a layer is named with both figures.
    """
    wanted = {key: num_bytes for key, num_bytes in expected.items() if key[1] != GRADIENTS}
    if gradients := sum_of(expected, GRADIENTS):
        wanted[ALL_LAYERS, GRADIENTS] = gradients
    for rank, one in enumerate(counted):
        for layer, kind in sorted({*one, *wanted}):
            found, want = one.get((layer, kind), 0), wanted.get((layer, kind), 0)
            if found != want:
                raise WorkError(
                    f"{name}: rank {rank} sent {found:,.0f} bytes in a step for {layer or 'all layers'}, {kind}; "
                    f"expected from the description of the network are {want:,.0f}"
                )


def sum_of(sent: Bytes, *kinds: str) -> float:
    """Bytes of all layers, of these kinds."""
    return sum(num_bytes for (_, kind), num_bytes in sent.items() if kind in kinds)


def compared(counts: Mapping[str, Bytes], expected: Mapping[str, Bytes], batch_size: int) -> dict[str, Any]:
    """What each process of the ways sends for an image, by layer and in all, as counted in a step and as expected.

    Returns:
        `layers`: bytes for an image by layer and way; `ways`: sums, and at which batch size replicas send as much.
    """
    names = dict.fromkeys(layer for layer, _ in expected[REPLICAS])
    layers = []
    for layer in (*names, SCORES):
        row: dict[str, Any] = {"layer": layer}
        for way, sent in counts.items():
            want = {kind: expected[way].get((layer, kind), 0) / batch_size for kind in KINDS}
            found = {kind: sent.get((layer, kind), 0) / batch_size for kind in KINDS}
            if gradients := sum_of(expected[way], GRADIENTS):
                # Counted in all: a layer's part is that of its parameters.
                found[GRADIENTS] = want[GRADIENTS] * sum_of(sent, GRADIENTS) / gradients
            row[way] = {**found, "expected": sum(want.values()), "agrees": found == want}
        layers.append(row)
    ways = {}
    for way, sent in counts.items():
        in_all, per_step = sum_of(sent, *KINDS), sum_of(sent, GRADIENTS)
        ways[way] = {
            "per_image": in_all / batch_size,
            "per_step": in_all,
            "of_replicas": in_all / sum_of(counts[REPLICAS], *KINDS),
        }
        if exchanged := in_all - per_step:
            for name, against in (("equal_batch", REPLICAS), ("equal_batch_bfloat16", REPLICAS_BFLOAT16)):
                gradients = sum_of(counts[against], GRADIENTS)
                ways[way][name] = equal_batch(gradients, exchanged / batch_size, per_step)
    return {"layers": layers, "ways": ways}


@dataclass(frozen=True)
class Took:
    """What one process took for one measurement."""

    wall_s: float
    waited_s: float
    """Of that, for the other column."""
    cpu_s: float
    """Processor time of all its threads."""


def _timed(
    asked: ColumnsBench, ways: Mapping[str, Way | None], everyone: ProcessMesh, say: Callable[[str], None]
) -> list[dict[str, list[Took]]]:
    """What each process took for each way, round by round; nothing for a way that it has no part in."""
    took: dict[str, list[Took]] = {name: [] for name in (ONE_THREAD, *ways)}

    def measured(name: str) -> Callable[[], None]:
        way = ways[_layout_name(name)]

        def run() -> None:
            torch.set_num_threads(_threads(name))
            dist.barrier()
            if way is not None:
                start_s, waited_s, cpu_s = time.perf_counter(), way.waited_s, time.process_time()
                way.run(asked.steps)
                wall_s = time.perf_counter() - start_s
                took[name].append(Took(wall_s, way.waited_s - waited_s, time.process_time() - cpu_s))

        return run

    for name, way in ways.items():
        torch.set_num_threads(_threads(name))
        dist.barrier()
        if way is not None:
            way.run(WARM_UP_STEPS - 1)
        say(f"{name}: warmed up")
    runs = {name: measured(name) for name in took}
    alternate(runs, asked.rounds, lambda name, number: say(f"round {number + 1}: {name}"))
    return everyone.all_gather_object(took)


def rates(told: Sequence[Mapping[str, Sequence[Took]]], images: int) -> dict[str, Any]:
    """Images a second of each way, by its slowest process; processor time of all; how long columns waited.

    On a machine that does other work too, processor time says more about a way than the rate does.

    Args:
        told: by process and way, what each round took.
        images: of one measurement, in all processes together.
    """
    walls = {name: [max(one.wall_s for one in took) for took in _by_round(told, name)] for name in told[0]}
    found = {}
    for name, wall_s in walls.items():
        layout = ALL[_layout_name(name)]
        took = [one for process in told for one in process[name]]
        waited = sum(one.waited_s for one in took) / sum(one.wall_s for one in took)
        per_second = [images / wall for wall in wall_s]
        cpu_s = [sum(one.cpu_s for one in took) for took in _by_round(told, name)]
        found[name] = {
            "processes": layout.num_processes,
            "threads": _threads(name),
            "images_per_second": statistics.median(per_second),
            "best_images_per_second": max(per_second),
            "of_one_process": median_ratio(walls[ONE], wall_s),
            "cpu_ms_per_image": 1e3 * statistics.median(cpu_s) / images,
            "waited_share": waited if layout.columns == 2 else None,
            "rounds": per_second,
        }
    return found


def _by_round(told: Sequence[Mapping[str, Sequence[Took]]], name: str) -> list[tuple[Took, ...]]:
    """What each round of a way took, in each of its processes."""
    return list(zip(*(one[name] for one in told if one[name]), strict=True))


def _layout_name(name: str) -> str:
    return ONE if name == ONE_THREAD else name


def _threads(name: str) -> int:
    """Threads of each process of a way: the cores are dealt out as `alexnet train` does it."""
    return 1 if name == ONE_THREAD else max(1, num_cores() // ALL[name].num_processes)


def _silent(text: str) -> None:
    """What the processes but the first one report."""
