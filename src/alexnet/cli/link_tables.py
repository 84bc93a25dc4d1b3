"""Measured links between processes as tables on a terminal, and their consequences for a training."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from alexnet.cli.output import print_lines

MUCH_SLOWER = 2.0
"""Links that are slower than the median by this factor are reported."""


def print_links(measured: Mapping[str, Any]) -> None:
    """Print the result of `measure_links`: processes, links, all-reduce, and the time of a training step over them."""
    members = measured["processes"]
    _print_rows(
        [("rank", "host", "process", "threads", "device")]
        + [tuple(str(one[name]) for name in ("rank", "host", "pid", "threads", "device")) for one in members]
    )
    for difference in measured["differences"]:
        print_lines(f"BROKEN   {difference}")
    if measured["idle_cores"]:
        print_lines(f"lacking  {measured['idle_cores']}")
    for backend in measured["backends"]:
        _print_backend(backend, members)
    if measured["no_nccl"]:
        print_lines("", f"NCCL was not measured: {measured['no_nccl']}")
    print_lines("", *verdict(measured))


def verdict(measured: Mapping[str, Any]) -> list[str]:
    """Lines that say how long a step of the full network waits for the links, with advice.

    They are about the last measured backend, which a training on these devices uses.
    """
    backend = measured["backends"][-1]
    worst, rows, members = backend["slowest"], backend["step_on_slowest"], measured["processes"]
    lines = [
        f"slowest link: {describe_link(worst, members)}, {worst['mb_per_s']:,.0f} MB/s, {worst['latency_us']:,.0f} "
        f"microseconds ({backend['backend']})",
        f"A step of the full network with batches of {measured['batch_images']} in float32 would exchange over it:",
    ]
    width = max(len(row["options"]) for row in rows)
    lines += [
        f"  {row['options']:{width}}  {row['bytes'] / 1e6:7.1f} MB  {_seconds(row['seconds']):>8}" for row in rows
    ]
    replicas, columns = rows[0], rows[2]
    lines.append(
        f"Over all links at once, at the measured all-reduce speed, the replicas' {replicas['bytes'] / 1e6:.0f} MB "
        f"take {_seconds(backend['all_reduce']['gradient_s'])}."
    )
    lines.append(
        "Gradients are sent while the step still computes: more processes help if a step of one takes longer "
        "than the exchange (`alexnet bench step` measures it). "
        f"Over this link, replicas wait {replicas['seconds'] / columns['seconds']:.1f} times as long as columns; a "
        "column's bytes grow with the batch, the gradients' do not."
    )
    return lines + _advice(backend, members)


def describe_link(link: Mapping[str, Any], members: Sequence[Mapping[str, Any]]) -> str:
    """Sender and receiver of a link with their hosts."""
    ends = [members[link[name]] for name in ("sender", "receiver")]
    return " -> ".join(f"rank {one['rank']} on {one['host']}" for one in ends)


def _advice(backend: Mapping[str, Any], members: Sequence[Mapping[str, Any]]) -> list[str]:
    inside: list[float] = []
    across: list[float] = []
    for row, speeds in enumerate(backend["mb_per_s"]):
        for column, speed in enumerate(speeds):
            if speed is not None:
                (inside if members[row]["host"] == members[column]["host"] else across).append(speed)
    lines = []
    if inside and across and statistics.median(inside) > MUCH_SLOWER * statistics.median(across):
        lines.append(
            f"Median speeds are {statistics.median(across):,.0f} MB/s between machines and "
            f"{statistics.median(inside):,.0f} MB/s inside one: give both columns of a network to one machine (an even "
            "--nproc-per-node)."
        )
    alike = across or inside
    middle, worst = statistics.median(alike), backend["slowest"]
    if middle > MUCH_SLOWER * worst["mb_per_s"]:
        lines.append(
            f"The slowest link is {middle / worst['mb_per_s']:.1f} times slower than the median of its kind: check "
            f"{describe_link(worst, members)} (cable, interface; GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME choose "
            "one)."
        )
    return lines


def _print_backend(backend: Mapping[str, Any], members: Sequence[Mapping[str, Any]]) -> None:
    for name, title in (("mb_per_s", "MB/s"), ("latency_us", "microseconds one way")):
        print_lines("", f"{backend['backend']}, {title}, from the row's rank to the column's, one pair at a time")
        ranks = [str(member["rank"]) for member in members]
        _print_rows(
            [("", *ranks)]
            + [
                (rank, *("-" if value is None else f"{value:,.0f}" for value in values))
                for rank, values in zip(ranks, backend[name], strict=True)
            ]
        )
    sums = backend["all_reduce"]
    latency = f"{sums['latency_us']:,.0f} microseconds"
    speeds = ", ".join(
        f"{int(size) / 2**20:g} MiB {speed:,.0f} MB/s" for size, speed in sums["bus_mb_per_s_by_bytes"].items()
    )
    print_lines("", f"{backend['backend']}, all-reduce of all: {latency}; bus bandwidth {speeds}")


def _print_rows(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    for row in rows:
        print_lines("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))


def _seconds(seconds: float) -> str:
    return f"{1000 * seconds:,.1f} ms" if seconds < 1 else f"{seconds:,.1f} s"
