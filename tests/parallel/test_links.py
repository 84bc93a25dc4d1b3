"""What `doctor --distributed` measures, computes from that, and says."""

import json
import math
import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alexnet.cli.link_tables import describe_link, print_links, verdict
from alexnet.cli.main import main
from alexnet.model.columns import GatherColumns, GatherRows, column_steps
from alexnet.model.network import AlexNet
from alexnet.parallel import links
from alexnet.parallel.link_benchmark import SMALL_BYTES, LinkTime, fits_limit, rounds_within
from alexnet.parallel.links import Member, bus_bytes_per_s, differences, exchanges, matrices, nccl_obstacle, slowest

MIB = 2**20


def member(rank: int, host: str = "a", device_id: str = "", **other: Any) -> Member:
    facts = {"pid": 100 + rank, "threads": 1, "device": "cpu", "alexnet": "1", "code": "c", "torch": "2.13", **other}
    return Member(rank=rank, host=host, device_id=device_id, **facts)


def link(sender: int, receiver: int, mb_per_s: float, latency_us: float = 50.0) -> LinkTime:
    sizes = (MIB, 16 * MIB)
    return LinkTime(sender, receiver, latency_us / 1e6, {size: size / (mb_per_s * 1e6) for size in sizes})


def test_a_matrix_has_senders_as_rows_and_receivers_as_columns() -> None:
    speeds, latencies = matrices([link(0, 1, 100, 7), link(1, 0, 50, 9), link(2, 0, 20, 3)], 3)
    assert speeds[0][1] == pytest.approx(100) and speeds[1][0] == pytest.approx(50)
    assert speeds[2][0] == pytest.approx(20) and speeds[0][2] is None
    assert latencies[0][1] == pytest.approx(7) and latencies[1][0] == pytest.approx(9)
    assert [speeds[rank][rank] for rank in range(3)] == [None] * 3


def test_the_bandwidth_of_a_link_is_that_of_its_largest_message() -> None:
    assert LinkTime(0, 1, 0.0, {MIB: 1.0, 4 * MIB: 2.0}).bytes_per_s == 2 * MIB


@given(st.integers(2, 64), st.floats(1e-4, 100), st.integers(1, 2**30))
def test_bus_bandwidth_is_what_a_ring_sends_over_each_link(num: int, seconds: float, num_bytes: int) -> None:
    # A ring of n: n - 1 steps that add up and n - 1 that hand out, a part of 1 / n in each.
    sent = sum(num_bytes / num for _ in range(2 * (num - 1)))
    assert bus_bytes_per_s(num_bytes, seconds, num) == pytest.approx(sent / seconds)


def test_the_slowest_link_is_found_by_bandwidth_then_by_latency() -> None:
    assert slowest([link(0, 1, 100), link(1, 0, 30), link(2, 0, 200, 900)]).sender == 1
    assert slowest([link(0, 1, 30, 5), link(1, 0, 30, 6)]).sender == 1


def test_nccl_takes_a_gpu_for_each_process() -> None:
    assert nccl_obstacle([member(0), member(1)]) == "no GPU"
    assert nccl_obstacle([member(0, device_id="a 1"), member(1, "b")]) == "rank 1 on b has no GPU"
    assert "ranks 0 and 2 share one GPU of a" in str(
        nccl_obstacle([member(0, device_id="a 1"), member(1, device_id="a 2"), member(2, device_id="a 1")])
    )
    assert nccl_obstacle([member(0, device_id="a 1"), member(1, "b", device_id="b 1")]) is None


def test_what_differs_is_named_with_both_sides() -> None:
    assert differences([member(0), member(1, "b")]) == []
    found = differences([member(0), member(1, "b", torch="2.11"), member(2, "b", code="d")])
    assert len(found) == 2
    assert "rank 2 on b has source code d, rank 0 on a has c" in found[0]
    assert "rank 1 on b has torch 2.11, rank 0 on a has 2.13" in found[1]


def test_bytes_of_a_step_are_those_of_the_network() -> None:
    with torch.device("meta"):
        network = AlexNet(1000, "paper")
    parameters = dict(network.named_parameters())
    assert sum(one.numel() for one in parameters.values()) * 4 == links.GRADIENT_BYTES
    convolutions = sum(one.numel() for name, one in parameters.items() if name.startswith("conv"))
    assert convolutions * 4 == links.CONVOLUTIONS_BYTES
    read = {place.name: math.prod((place.in_channels, place.in_side, place.in_side)) for place in network.sized_layers}
    for column_layers, num_bytes, messages in (
        ("every-layer", links.COLUMN_BYTES_PER_IMAGE, links.COLUMN_MESSAGES),
        ("dense", links.DENSE_BYTES_PER_IMAGE, links.DENSE_MESSAGES),
    ):
        steps = column_steps(network.fused_ops, column_layers, "paper")  # type: ignore[arg-type]
        # Half of what the layer reads, or all of it for half of the images; there and back. Scores go one way.
        exchanged = [read[step.layer.name] // 2 for step in steps if isinstance(step, GatherColumns | GatherRows)]
        assert 4 * (2 * sum(exchanged) + 1000 // 2) == num_bytes
        assert 2 * len(exchanged) + 1 == messages


def test_seconds_of_a_step_follow_from_the_link() -> None:
    for num in (2, 3, 4, 8):
        rows = {row["options"]: row for row in exchanges(num, 1e9, 0.0)}
        assert rows[f"--replicas {num}"]["seconds"] == pytest.approx(2 * (num - 1) / num * 0.243860896)
        half = rows[f"--replicas {num} --grad-dtype bfloat16"]["bytes"]
        assert half == pytest.approx(rows[f"--replicas {num}"]["bytes"] / 2, abs=1)
        assert (f"--columns 2 --replicas {num // 2}" in rows) == (num in (4, 8))
    slow, fast = exchanges(2, 1e9, 0.01), exchanges(2, 1e9, 0.0)
    assert [a["seconds"] - b["seconds"] for a, b in zip(slow, fast, strict=True)] == pytest.approx(
        [0.02, 0.02, 0.09, 0.09]
    )


def test_a_slow_link_gets_fewer_rounds_and_no_large_messages() -> None:
    assert rounds_within(MIB, 0.2, 1.0) == 5
    assert rounds_within(MIB, 30.0, 1.0) == 1
    assert rounds_within(MIB, 1e-6, 1.0) == 10
    assert rounds_within(SMALL_BYTES, 1e-6, 1.0) == 200
    assert fits_limit(MIB, {SMALL_BYTES: 5.0}, 1.0)  # the first large one always
    assert fits_limit(16 * MIB, {SMALL_BYTES: 1e-4, MIB: 0.05}, 1.0)
    assert not fits_limit(16 * MIB, {SMALL_BYTES: 1e-4, MIB: 0.07}, 1.0)


def test_processes_started_alone_are_told_how_to_start(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--distributed"]) == 2
    assert "torchrun --nproc-per-node 2 -m alexnet doctor --distributed" in capsys.readouterr().err


def test_half_set_variables_are_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    assert main(["doctor", "--distributed"]) == 2
    assert "RANK, MASTER_ADDR, MASTER_PORT is not set" in capsys.readouterr().err


@pytest.fixture(scope="module")
def measured() -> dict[str, Any]:
    """What two real processes find; stdout holds one object and nothing else."""
    environment = {**os.environ, "ALEXNET_ALLOCATOR": "default", "OMP_NUM_THREADS": "1"}
    starter = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words = ["-m", "alexnet", "doctor", "--distributed", "--json"]
    made = subprocess.run([*starter, *words], capture_output=True, text=True, env=environment, timeout=240)
    assert made.returncode == 0, made.stderr
    found: dict[str, Any] = json.loads(made.stdout)
    return found


def test_two_processes_measure_each_other(measured: dict[str, Any]) -> None:
    members = measured["processes"]
    assert [one["rank"] for one in members] == [0, 1]
    assert members[0]["pid"] != members[1]["pid"] and members[0]["host"] == members[1]["host"]
    assert members[0]["threads"] == 1 and measured["differences"] == []
    gloo = measured["backends"][0]
    assert gloo["backend"] == "gloo"
    for name in ("mb_per_s", "latency_us"):
        assert gloo[name][0][0] is None and gloo[name][1][1] is None
        assert gloo[name][0][1] > 0 and gloo[name][1][0] > 0
    assert {(one["sender"], one["receiver"]) for one in gloo["links"]} == {(0, 1), (1, 0)}
    for one in gloo["links"]:
        assert one["mb_per_s_by_bytes"][str(MIB)] > 0 and one["latency_us"] > 0
    worst = gloo["slowest"]
    assert worst["mb_per_s"] == min(gloo["mb_per_s"][0][1], gloo["mb_per_s"][1][0])
    sums = gloo["all_reduce"]
    assert str(MIB) in sums["bus_mb_per_s_by_bytes"]
    # Among two the bus carries just the bytes once.
    largest = max(sums["bus_mb_per_s_by_bytes"], key=int)
    speed = sums["bus_mb_per_s_by_bytes"][largest] * 1e6
    assert sums["gradient_s"] == pytest.approx(243_860_896 / speed)


def test_the_table_says_what_the_object_holds(measured: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    print_links(measured)
    printed = capsys.readouterr().out
    worst = measured["backends"][-1]["slowest"]
    assert f"slowest link: {describe_link(worst, measured['processes'])}, {worst['mb_per_s']:,.0f} MB/s" in printed
    assert str(measured["processes"][1]["pid"]) in printed
    assert "gloo, MB/s" in printed and "--columns 2 --column-layers dense" in printed and "243.9 MB" in printed
    assert "BROKEN" not in printed
    print_links({**measured, "differences": ["rank 1 has another torch"], "idle_cores": "1 of 8 cores are used"})
    printed = capsys.readouterr().out
    assert "BROKEN   rank 1 has another torch" in printed and "lacking  1 of 8 cores are used" in printed


@pytest.mark.parametrize("slow, said", [(100.0, "11.0 times slower"), (1000.0, None)])
def test_a_link_much_slower_than_its_kind_is_pointed_at(
    measured: dict[str, Any], slow: float, said: str | None
) -> None:
    speeds = [[None, 5000.0, 1100.0], [5000.0, None, 1100.0], [slow, 1100.0, None]]
    backend = {
        **measured["backends"][0],
        "mb_per_s": speeds,
        "slowest": {"sender": 2, "receiver": 0, "mb_per_s": slow, "latency_us": 60.0},
    }
    members = [{"rank": rank, "host": host} for rank, host in enumerate("aab")]
    text = "\n".join(verdict({**measured, "processes": members, "backends": [backend]}))
    assert "give both columns of a network to one machine" in text
    assert (said is None and "times slower" not in text) or (said is not None and said in text)
    assert "rank 2 on b -> rank 0 on a" in text
