"""The same bench with different memory allocators, a process each: an allocator is chosen when a process starts."""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from alexnet.errors import RequestError, WorkError
from alexnet.system.machine import allocator_environment


def by_allocator(
    names: Sequence[str], words: Sequence[str], product: str, report: Callable[[str], None]
) -> dict[str, Any]:
    """A bench in a process of its own for each memory allocator, by their names.

    Args:
        names: of `tuned` and `default`.
        words: of the command `alexnet`, from `bench` on.
        product: the way that is this project's.
        report: is given lines for people.

    Returns:
        What the bench finds, by allocator. Where there are both, the tuned one's has `ratios_in_a_shell`: what the
        product, which starts itself again with the tuned allocator, is of each way as a user's shell starts it.

    Raises:
        RequestError: it found the words wrong, and has said so.
        WorkError: it has failed.
    """
    found = {}
    for name in names:
        report(f"with the {name} allocator")
        command = [sys.executable, "-P", "-m", "alexnet", *words, "--allocator", "here", "--json"]
        code, printed = _ended(command, allocator_environment(name == "tuned"))
        if code == RequestError.exit_code:
            wrong = RequestError("the measurement's own process found the request wrong")
            wrong.said = True
            raise wrong
        if code:
            raise WorkError(f"the measurement with the {name} allocator ended with exit code {code}, see above")
        found[name] = json.loads(printed)
    if found.keys() == {"tuned", "default"} and product in found["tuned"]["ways"]:
        fast = _rate(found["tuned"]["ways"][product])
        found["tuned"]["ratios_in_a_shell"] = {
            name: fast / _rate(way)
            for name, way in found["default"]["ways"].items()
            if not name.startswith(("alexnet", "stored"))
        }
    return found


def _rate(way: Mapping[str, float]) -> float:
    return way["images_per_second"]


def _ended(command: Sequence[str], environment: Mapping[str, str]) -> tuple[int, str]:
    """The exit code of a process, and what it has printed; where this one is stopped, that one is too."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            printed, _ = process.communicate()
        except BaseException:
            process.terminate()
            raise
    return process.returncode, printed
