"""What a run ran on: machine, versions, commit. And the allocator's settings, which matter on a CPU.

This module imports neither torch nor NumPy: the command reads it before it decides what to load.
"""

import hashlib
import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

VERSIONED = ("alexnet", "torch", "numpy", "pillow", "simplejpeg", "safetensors")

# A training step allocates and frees the same few hundred MiB again and again. By default the C library
# returns them to the system each time, and touching fresh pages costs more than the arithmetic on them.
_ALLOCATOR = ":".join(
    (
        "glibc.malloc.hugetlb=1",
        "glibc.malloc.mmap_max=0",
        "glibc.malloc.mmap_threshold=4294967296",
        "glibc.malloc.trim_threshold=17179869184",
        "glibc.malloc.top_pad=67108864",
    )
)


def allocator_environment(tuned: bool) -> dict[str, str]:
    """This process's environment, for one that is to have the tuned allocator or the system's own."""
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    return environment | ({"GLIBC_TUNABLES": _ALLOCATOR} if tuned else {"ALEXNET_ALLOCATOR": "default"})


def has_gnu_c_library() -> bool:
    """Whether the system's memory allocator is the GNU C library's, which an environment variable tunes."""
    return sys.platform == "linux" and platform.libc_ver()[0] == "glibc"


def why_one_allocator() -> str | None:
    """Why a process here can't be given one memory allocator or another; None where it can."""
    if not has_gnu_c_library():
        return "only the GNU C library's can be tuned"
    return "LD_PRELOAD has chosen it" if "LD_PRELOAD" in os.environ else None


def restart_with_tuned_allocator(program: Sequence[str] = ("-P", "-m", "alexnet")) -> None:
    """Replace this process by the same command with an allocator that keeps memory, where that is possible.

    Only on Linux with the GNU C library, and only once. `ALEXNET_ALLOCATOR=default`, GLIBC_TUNABLES and a preloaded
    allocator are respected.

    Args:
        program: what Python runs with this process's arguments. `-P`: a file in the current folder that has the name of
            a module must not replace it.
    """
    environment = os.environ
    if environment.get("ALEXNET_ALLOCATOR") == "default" or "GLIBC_TUNABLES" in environment or why_one_allocator():
        return
    os.execve(
        sys.executable,
        [sys.executable, *program, *sys.argv[1:]],
        {**environment, "GLIBC_TUNABLES": _ALLOCATOR},
    )


def processor_name() -> str:
    """The processor's own name, or its architecture where the system does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def processor_flags() -> frozenset[str]:
    """Instruction sets the processor names (`amx_bf16`, `avx512_bf16`, ...); empty where the system does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    flags = [line.split(":", 1)[1].split() for line in lines if line.startswith(("flags", "Features"))]
    return frozenset(flags[0]) if flags else frozenset()


def num_cores() -> int:
    """Cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_bytes() -> int | None:
    """Memory of the machine, or None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def multiplies_bfloat16(flags: frozenset[str]) -> bool:
    """Whether the processor multiplies bfloat16 in hardware; without that float32 is the faster choice."""
    return bool(flags & {"amx_bf16", "avx512_bf16", "bf16"})


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that touch the numbers."""
    found = {"python": platform.python_version()}
    for name in VERSIONED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def source_commit() -> str | None:
    """Commit of the source tree this package runs from, with `+` where it was changed; None for an installed wheel."""
    folder = Path(__file__).resolve().parents[3]
    if not (folder / ".git").exists():
        return None
    try:
        commit = _git(folder, "rev-parse", "--short=12", "HEAD")
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("+" if changed else "")


def source_digest() -> str:
    """Digest of this package's Python files: the same wherever the same code is installed."""
    folder = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _git(folder: Path, *words: str) -> str:
    command = ["git", "-C", str(folder), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()


def machine_facts() -> dict[str, Any]:
    """The machine in words and numbers, as stored with each run."""
    memory = memory_bytes()
    return {
        "system": platform.platform(),
        "processor": processor_name(),
        "cores": num_cores(),
        "memory_gib": None if memory is None else round(memory / 2**30, 1),
        "bfloat16": multiplies_bfloat16(processor_flags()),
        "tuned_allocator": "GLIBC_TUNABLES" in os.environ or "LD_PRELOAD" in os.environ,
    }
