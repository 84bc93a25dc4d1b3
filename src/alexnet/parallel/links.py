"""How fast the processes of a training communicate: every pair alone, then all together.

From the measurements follows how long a training step of the full network would wait for communication.
"""

import logging
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from alexnet.errors import RequestError
from alexnet.parallel.layout import Layout
from alexnet.parallel.link_benchmark import SMALL_BYTES, LinkBenchmark, LinkTime
from alexnet.parallel.process_group import idle_cores_message, init_process_group, world_size
from alexnet.parallel.process_mesh import ProcessMesh
from alexnet.system.machine import source_digest, versions

ALL_LINKS_S = 60.0
"""Target duration for all pairs of one backend."""
TIMEOUT_S = 60.0

# Of the full network (variant `paper`, 1000 classes) in float32; a test counts them from the network.
BATCH_IMAGES = 128
GRADIENT_BYTES = 4 * 60_965_224
CONVOLUTIONS_BYTES = 4 * 2_334_080
# conv3, fc6, fc7 and fc8 read the other column, forward and backward; then come the scores.
COLUMN_BYTES_PER_IMAGE = 4 * (2 * (128 * 13 * 13 + 4608 + 2048 + 2048) + 500)
COLUMN_MESSAGES = 9
DENSE_BYTES_PER_IMAGE = 4 * (2 * (4608 + 2048 + 2048) + 500)
DENSE_MESSAGES = 7

_logger = logging.getLogger(__name__)

Matrix = list[list[float | None]]


@dataclass(frozen=True)
class Member:
    """One of the processes."""

    rank: int
    host: str
    pid: int
    threads: int
    device: str
    """The GPU's name, or cpu."""
    device_id: str
    """The GPU's own id, the same in every process that uses it; empty for cpu."""
    alexnet: str
    code: str
    """Digest of this package's source, which a training also compares."""
    torch: str


def bus_bytes_per_s(num_bytes: int, seconds: float, num: int) -> float:
    """Bus bandwidth of an all-reduce among `num` processes as NCCL's tests define it: independent of the number."""
    return num_bytes / seconds * 2 * (num - 1) / num


def matrices(times: Sequence[LinkTime], num: int) -> tuple[Matrix, Matrix]:
    """MB/s and microseconds, one row per sender, one column per receiver; None from a process to itself."""
    speeds: Matrix = [[None] * num for _ in range(num)]
    latencies: Matrix = [[None] * num for _ in range(num)]
    for link in times:
        speeds[link.sender][link.receiver] = link.bytes_per_s / 1e6
        latencies[link.sender][link.receiver] = link.latency_s * 1e6
    return speeds, latencies


def slowest(times: Sequence[LinkTime]) -> LinkTime:
    """The link with the lowest bandwidth; of equal ones the one with the highest latency."""
    return min(times, key=lambda link: (link.bytes_per_s, -link.latency_s))


def nccl_obstacle(members: Sequence[Member]) -> str | None:
    """Why NCCL cannot connect these processes; None if it can."""
    without = [member for member in members if not member.device_id]
    if len(without) == len(members):
        return "no GPU"
    if without:
        return f"rank {without[0].rank} on {without[0].host} has no GPU"
    users: dict[str, Member] = {}
    for member in members:
        other = users.setdefault(member.device_id, member)
        if other is not member:
            return f"ranks {other.rank} and {member.rank} share one GPU of {member.host}, which NCCL refuses"
    return None


def differences(members: Sequence[Member]) -> list[str]:
    """Messages about versions or code that must be the same in all processes and are not."""
    main, found = members[0], []
    for name in ("alexnet", "code", "torch"):
        expected = getattr(main, name)
        for member in members[1:]:
            if getattr(member, name) != expected:
                called = "source code" if name == "code" else name
                found.append(
                    f"rank {member.rank} on {member.host} has {called} {getattr(member, name)}, rank {main.rank} on "
                    f"{main.host} has {expected}; a training refuses that: install the same version on both"
                )
    return found


def exchanges(num: int, bytes_per_s: float, latency_s: float) -> list[dict[str, Any]]:
    """What a training step of the full network exchanges over a link, by the options that use `num` processes.

    Bytes are those sent in one direction; seconds follow from them and from the latency.
    """
    sums = 2 * (num - 1)

    def row(options: str, num_bytes: float, messages: int) -> dict[str, Any]:
        seconds = num_bytes / bytes_per_s + messages * latency_s
        return {"options": options, "bytes": round(num_bytes), "seconds": seconds}

    dense = BATCH_IMAGES * DENSE_BYTES_PER_IMAGE + CONVOLUTIONS_BYTES
    rows = [
        row(f"--replicas {num}", GRADIENT_BYTES * sums / num, sums),
        row(f"--replicas {num} --grad-dtype bfloat16", GRADIENT_BYTES / 2 * sums / num, sums),
        row("--columns 2", BATCH_IMAGES * COLUMN_BYTES_PER_IMAGE, COLUMN_MESSAGES),
        row("--columns 2 --column-layers dense", dense, DENSE_MESSAGES + 2),
    ]
    if num >= 4 and num % 2 == 0:
        # Each process sums one column over the replicas, which share the batch.
        replicas = num // 2
        num_bytes = (
            GRADIENT_BYTES / 2 * 2 * (replicas - 1) / replicas + BATCH_IMAGES * COLUMN_BYTES_PER_IMAGE / replicas
        )
        rows.append(row(f"--columns 2 --replicas {replicas}", num_bytes, 2 * (replicas - 1) + COLUMN_MESSAGES))
    return rows


def measure_links(total_s: float = ALL_LINKS_S) -> dict[str, Any] | None:
    """Measure the links between all processes that were started together.

    Args:
        total_s: target duration for all pairs of one backend; more pairs get fewer rounds each.

    Returns:
        In the main process, what `doctor --distributed --json` prints; None in the others.

    Raises:
        RequestError: this process was started alone.
        WorkError: another process has ended or does not respond.
    """
    if world_size() < 2:
        raise RequestError(
            "doctor --distributed measures between processes, and this one was started alone; start two or more: "
            "torchrun --nproc-per-node 2 -m alexnet doctor --distributed (on each machine with --nnodes and "
            "--rdzv-endpoint, as for a training)"
        )
    with init_process_group(Layout(timeout=TIMEOUT_S)) as (processes, monitor):
        members = ProcessMesh(all=processes).all_gather_object(_member(processes.rank))
        no_nccl = nccl_obstacle(members)
        devices = [torch.device("cpu")]
        if no_nccl is None:
            devices.append(torch.device("cuda", torch.cuda.current_device()))
        measured = []
        for device in devices:
            backend = "gloo" if device.type == "cpu" else "nccl"
            num = processes.size
            _logger.info(f"{backend}: measuring {num * (num - 1) // 2} pairs of {num} processes, then all together")
            times, sums = LinkBenchmark(processes, monitor, device).run(total_s)
            measured.append({"backend": backend, **_as_json(times, sums, processes.size)})
        if not processes.is_main:
            return None
        return {
            "processes": [asdict(member) for member in members],
            "differences": differences(members),
            "no_nccl": no_nccl,
            "batch_images": BATCH_IMAGES,
            "backends": measured,
            "idle_cores": idle_cores_message(),
        }


def _member(rank: int) -> Member:
    device, device_id = "cpu", ""
    if torch.cuda.is_available():
        found = torch.cuda.get_device_properties(torch.cuda.current_device())
        device, device_id = found.name, f"{socket.gethostname()} {found.uuid}"
    return Member(
        rank=rank,
        host=socket.gethostname(),
        pid=os.getpid(),
        threads=torch.get_num_threads(),
        device=device,
        device_id=device_id,
        alexnet=versions()["alexnet"],
        code=source_digest(),
        torch=torch.__version__,
    )


def _as_json(times: Sequence[LinkTime], sums: Mapping[int, float], num: int) -> dict[str, Any]:
    speeds, latencies = matrices(times, num)
    worst = slowest(times)
    largest = max(sums)
    bus = bus_bytes_per_s(largest, sums[largest], num)
    return {
        "mb_per_s": speeds,
        "latency_us": latencies,
        "links": [
            {
                "sender": link.sender,
                "receiver": link.receiver,
                "latency_us": link.latency_s * 1e6,
                "mb_per_s_by_bytes": {str(size): size / took / 1e6 for size, took in link.seconds.items()},
            }
            for link in times
        ],
        "slowest": {
            "sender": worst.sender,
            "receiver": worst.receiver,
            "mb_per_s": worst.bytes_per_s / 1e6,
            "latency_us": worst.latency_s * 1e6,
        },
        "all_reduce": {
            "latency_us": sums[SMALL_BYTES] * 1e6,
            "bus_mb_per_s_by_bytes": {
                str(size): bus_bytes_per_s(size, took, num) / 1e6 for size, took in sums.items() if size != SMALL_BYTES
            },
            "gradient_s": GRADIENT_BYTES * 2 * (num - 1) / num / bus,
        },
        "step_on_slowest": exchanges(num, worst.bytes_per_s, worst.latency_s),
    }
