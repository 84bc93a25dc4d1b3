"""What the commands that train share: starting the processes they ask for, and their last line."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from alexnet.cli.output import print_lines
from alexnet.parallel.layout import Layout
from alexnet.system.visible_text import shell_words

if TYPE_CHECKING:
    from alexnet.parallel.process_mesh import ProcessMesh

_logger = logging.getLogger(__name__)


def start_processes(words: Sequence[str], layout: Layout) -> int | None:
    """Run the same command in as many processes as the layout needs, if it was started as a single one.

    Returns:
        The exit code of the processes; None if this process is one of them or needs no other.
    """
    if layout.num_processes == 1:
        return None
    from alexnet.parallel.process_group import world_size

    if world_size() > 1:
        return None
    from alexnet.parallel.launch import run_in_processes

    _logger.info("starting %d processes on this machine (several machines: docs/launching.md)", layout.num_processes)
    return run_in_processes(words, layout.num_processes)


def print_trained(run: Path, mesh: "ProcessMesh") -> None:
    """Print how long the training took and what to run next; only the main process prints."""
    from alexnet.runs.folder import RunFolder

    if mesh.is_main:
        seconds = RunFolder.open(run).metadata()["duration_s"]
        command = shell_words("alexnet", "evaluate" if is_measurable(run) else "report", run)
        print_lines(f"{run}: trained in {seconds:.0f} s; next: {command}")


def is_measurable(run: Path) -> bool:
    """Whether the data of a run has a split to measure errors on."""
    from alexnet.runs.folder import RunFolder

    return any(name in RunFolder.open(run).metadata()["data"]["splits"] for name in ("val", "test"))
