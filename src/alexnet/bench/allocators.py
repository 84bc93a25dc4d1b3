"""Run a benchmark with different memory allocators, each in a new process: a process cannot change its allocator."""

import json
import logging
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

from alexnet.errors import RequestError, WorkError
from alexnet.system.machine import allocator_environment

_logger = logging.getLogger(__name__)


def measure_by_allocator(allocators: Sequence[str], command: Sequence[str], method: str) -> dict[str, Any]:
    """Run a benchmark's command once per memory allocator, each time in a new process.

    Args:
        allocators: of `tuned` and `default`.
        command: the benchmark with its arguments; it accepts `--allocator current` and `--json`.
        method: the one that is this package's.

    Returns:
        The benchmark's result by allocator. If both were measured, `tuned` has `speedups_over_default_allocator`:
        `method` with the tuned allocator, which `alexnet` sets for itself, over each method of others with the default
        one, with which a shell starts them.

    Raises:
        RequestError: the benchmark refused its arguments and has printed why.
        WorkError: the benchmark failed.
    """
    results = {}
    for allocator in allocators:
        _logger.info("with the %s allocator", allocator)
        process = [*command, "--allocator", "current", "--json"]
        code, printed = _run(process, allocator_environment(allocator == "tuned"))
        if code == RequestError.exit_code:
            refused = RequestError("the benchmark's process refused its arguments")
            refused.is_reported = True
            raise refused
        if code:
            raise WorkError(f"the benchmark with the {allocator} allocator ended with exit code {code}, see above")
        results[allocator] = json.loads(printed)
    if results.keys() == {"tuned", "default"} and method in results["tuned"]["methods"]:
        tuned = results["tuned"]["methods"][method]["images_per_second"]
        results["tuned"]["speedups_over_default_allocator"] = {
            name: tuned / other["images_per_second"]
            for name, other in results["default"]["methods"].items()
            if not name.startswith("alexnet")
        }
    return results


def _run(command: Sequence[str], environment: Mapping[str, str]) -> tuple[int, str]:
    """Exit code and standard output of a process; it is terminated if this process is interrupted."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            printed, _ = process.communicate()
        except BaseException:
            process.terminate()
            raise
    return process.returncode, printed
