"""The machine, versions and commit of a run, and the settings of the memory allocator, which affect speed on a CPU.

This module imports neither torch nor NumPy: the command line uses it before it loads them.
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

# Every training step allocates and frees the same few hundred MiB. By default the C library returns them to the system
# each time, and page faults then cost more than the arithmetic.
_ALLOCATOR = ":".join(
    (
        "glibc.malloc.hugetlb=1",
        "glibc.malloc.mmap_max=0",
        "glibc.malloc.mmap_threshold=4294967296",
        "glibc.malloc.trim_threshold=17179869184",
        "glibc.malloc.top_pad=67108864",
    )
)


# Values of ONEDNN_MAX_CPU_ISA, from oneDNN's documentation. AVX2_VNNI_2 converts bfloat16 and multiplies float32.
_ISA_WITHOUT_BFLOAT16 = ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI")
_ISA_WITH_BFLOAT16 = ("AVX512_CORE_BF16", "AVX512_CORE_FP16", "AVX512_CORE_AMX", "AVX10_")


# How often a thread of OpenMP looks whether the others are done before it sleeps. By default it looks far longer, and
# the thread that it waits for has no core meanwhile if the machine is busy (docs/log.md).
_SPINS = {"GOMP_SPINCOUNT": "1000"}


def allocator_environment(tuned: bool) -> dict[str, str]:
    """This process's environment, changed to select the tuned or the default allocator in a new process."""
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    if not tuned and _SPINS.items() <= environment.items():  # of this process's own restart
        environment = {name: value for name, value in environment.items() if name not in _SPINS}
    return environment | (_restart_settings() if tuned else {"ALEXNET_ALLOCATOR": "default"})


def _restart_settings() -> dict[str, str]:
    """The allocator and, unless the environment says how threads wait, a short spin."""
    waits = {} if {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys() else _SPINS
    return {"GLIBC_TUNABLES": _ALLOCATOR, **waits}


def has_gnu_c_library() -> bool:
    """Whether the memory allocator is that of the GNU C library, which an environment variable tunes."""
    return sys.platform == "linux" and platform.libc_ver()[0] == "glibc"


def fixed_allocator_reason() -> str | None:
    """Why the memory allocator of a process cannot be chosen here; None if it can."""
    if not has_gnu_c_library():
        return "only that of the GNU C library can be tuned"
    return "LD_PRELOAD chooses it" if "LD_PRELOAD" in os.environ else None


def restart_with_tuned_allocator(program: Sequence[str] = ("-P", "-m", "alexnet")) -> None:
    """Replace this process by the same command with an allocator that keeps memory, where that is possible.

    Its threads then also fall asleep sooner while they wait for each other, which leaves the cores to other work.

    Only on Linux with the GNU C library, and only once. `ALEXNET_ALLOCATOR=default`, GLIBC_TUNABLES and a preloaded
    allocator are respected.

    Args:
        program: what Python runs with this process's arguments. `-P`: a file in the current folder that has the name of
            a module must not replace it.
    """
    environment = os.environ
    if environment.get("ALEXNET_ALLOCATOR") == "default" or "GLIBC_TUNABLES" in environment or fixed_allocator_reason():
        return
    os.execve(
        sys.executable,
        [sys.executable, *program, *sys.argv[1:]],
        {**environment, **_restart_settings()},
    )


def processor_name() -> str:
    """The processor's model name, or its architecture if the system does not report it."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def processor_flags() -> frozenset[str]:
    """Names of the processor's instruction sets (`amx_bf16`, `avx512_bf16`, ...); empty if they are unknown."""
    return frozenset(_cpuinfo("flags", "Features").split())


def _cpuinfo(*fields: str) -> str:
    """The first of these fields in Linux's description of the processors; empty if there is none."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(fields)), "")


def num_cores() -> int:
    """Number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_bytes() -> int | None:
    """Memory of the machine in bytes, or None if the system does not report it."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def has_bfloat16(flags: frozenset[str]) -> bool:
    """Whether the processor multiplies bfloat16 in hardware and oneDNN may use it; if not, float32 is faster."""
    return bfloat16_unit(flags) is not None


def bfloat16_unit(flags: frozenset[str]) -> str | None:
    """The best instruction set that multiplies bfloat16 (`amx_bf16`, `avx512_bf16`, `bf16`); None if there is none.

    oneDNN, which computes torch's convolutions and products, uses none beyond `onednn_limit`.
    """
    if (limit := onednn_limit()) is not None:
        _, isa = limit
        flags -= {"amx_bf16", "avx512_bf16"} if isa in _ISA_WITHOUT_BFLOAT16 else frozenset()
        flags -= {"amx_bf16"} if "AMX" not in isa else frozenset()
    return next((unit for unit in ("amx_bf16", "avx512_bf16", "bf16") if unit in flags), None)


def onednn_limit() -> tuple[str, str] | None:
    """The environment variable that limits oneDNN's instruction sets and its value, in capitals; None without a limit.

    The second variable is oneDNN's older name. Values that it does not know set no limit.
    """
    for variable in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        isa = os.environ.get(variable, "").upper()
        if isa in _ISA_WITHOUT_BFLOAT16 or isa.startswith(_ISA_WITH_BFLOAT16):
            return variable, isa
    return None


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that affect results."""
    found = {"python": platform.python_version()}
    for name in VERSIONED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def source_commit() -> str | None:
    """Commit of the source tree of this package, followed by `+` if it has changes; None for an installed wheel."""
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
    """Digest of this package's Python files; equal wherever the same code is installed."""
    folder = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _git(folder: Path, *words: str) -> str:
    command = ["git", "-C", str(folder), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()


def machine_summary() -> dict[str, Any]:
    """A summary of the machine, as stored with each run."""
    memory = memory_bytes()
    return {
        "system": platform.platform(),
        "processor": processor_name(),
        "cores": num_cores(),
        "memory_gib": None if memory is None else round(memory / 2**30, 1),
        "bfloat16": has_bfloat16(processor_flags()),
        "tuned_allocator": "GLIBC_TUNABLES" in os.environ or "LD_PRELOAD" in os.environ,
    }
