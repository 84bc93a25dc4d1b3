"""Checks of what this machine can do and what it lacks, each with advice."""

import importlib
import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from alexnet.system.machine import (
    bfloat16_unit,
    has_gnu_c_library,
    memory_bytes,
    num_cores,
    onednn_limit,
    processor_flags,
    processor_name,
    versions,
)


@dataclass(frozen=True)
class Check:
    """The result of one check."""

    name: str
    status: Literal["ok", "lacking", "broken"]
    """`lacking`: slower or more limited than it could be; `broken`: commands fail."""
    result: str
    advice: str = ""


def check_machine() -> list[Check]:
    """Run all checks; they change nothing."""
    return [
        *_software(),
        _system(),
        _cores(),
        _bfloat16(),
        _kernels(),
        _memory(),
        _disk(),
        *_accelerators(),
        _allocator(),
    ]


def _software() -> list[Check]:
    found = versions()
    checks = [Check("Python", "ok", found["python"])]
    for name in ("torch", "numpy"):
        try:
            importlib.import_module(name)
        except Exception as error:
            # Any error on import (a missing library, a wrong build) is the result of the check.
            advice = f"reinstall it: pip install --force-reinstall {name}"
            checks.append(Check(name, "broken", f"{type(error).__name__}: {error}", advice))
        else:
            checks.append(Check(name, "ok", found[name]))
    return checks


def _system() -> Check:
    name = platform.platform()
    if platform.system() == "Linux":
        return Check("system", "ok", name)
    if platform.system() == "Darwin":
        advice = "the CPU and MPS work, without the tuned allocator; this project is tested on Linux only"
        return Check("system", "lacking", name, advice)
    advice = "only Linux and macOS are supported; on Windows, use the Windows Subsystem for Linux"
    return Check("system", "broken", name, advice)


def _cores() -> Check:
    return Check("processor", "ok", f"{processor_name()}, {num_cores()} cores usable")


def _bfloat16() -> Check:
    flags, limit = processor_flags(), onednn_limit()
    unit = bfloat16_unit(flags)
    if unit is not None:
        return Check("bfloat16", "ok", "matrix units (AMX)" if unit == "amx_bf16" else "vector instructions")
    slower = "training uses float32, which is slower"
    if limit is not None and flags & {"amx_bf16", "avx512_bf16"}:
        variable, isa = limit
        advice = f"{slower}; unset {variable} to use the processor's bfloat16 instructions"
        return Check("bfloat16", "lacking", f"turned off by {variable}={isa}", advice)
    advice = f"{slower}; GPUs and newer server processors have bfloat16"
    return Check("bfloat16", "lacking", "not in hardware on this processor", advice)


def _kernels() -> Check:
    try:
        from alexnet.model.kernels import fallback_reason

        reason = fallback_reason("cpu")
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
    if reason is None:
        description = "fused normalization and pooling, Winograd convolutions in float32 (Numba)"
        return Check("kernels", "ok", description)
    from alexnet.system.triton_probe import REFERENCE_OPS_VARIABLE

    is_set = os.environ.get(REFERENCE_OPS_VARIABLE)
    fix = "unset it" if is_set else "`pip install --force-reinstall numba` usually helps"
    result = f"falls back to torch's own operations: {reason}"
    return Check("kernels", "lacking", result, f"training takes at least 50 % longer; {fix}")


def _memory() -> Check:
    memory, advice = memory_bytes(), "training the full network takes about 6 GiB"
    if memory is None:
        return Check("memory", "lacking", "unknown", advice)
    result = f"{memory / 2**30:.1f} GiB"
    if memory < 6 * 2**30:
        advice += "; use a smaller --optimizer.batch_size or --recipe quick"
        return Check("memory", "lacking", result, advice)
    return Check("memory", "ok", result)


def _disk() -> Check:
    free = shutil.disk_usage(Path.cwd()).free
    result = f"{free / 2**30:.1f} GiB free here"
    if free < 5 * 2**30:
        advice = "a prepared set of 13,000 photographs takes 2.6 GiB, a full-size run 0.8 GiB; free some space"
        return Check("disk", "lacking", result, advice)
    return Check("disk", "ok", result)


def _accelerators() -> list[Check]:
    try:
        import torch
    except Exception:
        return [Check("GPU", "broken", "unknown: torch does not load", "fix torch first")]
    if torch.cuda.is_available():
        from alexnet.system.triton_probe import triton_unavailable_reason

        names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        checks = [Check("GPU", "ok", names)]
        if (reason := triton_unavailable_reason()) is None:
            return [*checks, Check("Triton", "ok", _version_of("triton"))]
        advice = (
            "training uses torch's own operations, which are slower; "
            "pip install the version of triton that torch requires"
        )
        return [*checks, Check("Triton", "lacking", reason, advice)]
    if torch.backends.mps.is_available():
        return [Check("GPU", "ok", "Apple MPS")]
    advice = "training runs on the CPU"
    if torch.version.cuda is None and shutil.which("nvidia-smi"):
        advice = "torch is a CPU build, but the machine has an NVIDIA driver; install a CUDA build of torch"
    elif torch.version.cuda is not None:
        advice = "torch is a CUDA build but finds no GPU; check nvidia-smi and CUDA_VISIBLE_DEVICES"
    return [Check("GPU", "lacking", "none usable", advice), Check("Triton", "lacking", "not usable without a GPU")]


def _version_of(name: str) -> str:
    """Version of an importable package; `installed` for builds that are distributed under another name."""
    import importlib.metadata

    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "installed"


def _allocator() -> Check:
    if not has_gnu_c_library():
        advice = "training on the CPU may be slower; preloading jemalloc helps"
        return Check("allocator", "lacking", "not the GNU C library", advice)
    if os.environ.get("ALEXNET_ALLOCATOR") == "default":
        advice = "unset it; the tuned allocator is faster on a CPU"
        return Check("allocator", "lacking", "ALEXNET_ALLOCATOR=default", advice)
    for variable in ("GLIBC_TUNABLES", "LD_PRELOAD"):
        if variable in os.environ:
            return Check("allocator", "ok", f"set by {variable}, which commands leave unchanged")
    return Check("allocator", "ok", "commands that compute restart themselves with a tuned allocator")
