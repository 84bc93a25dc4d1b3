"""What this machine can do for a training, what it lacks, and what to do about each lack."""

import importlib
import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from alexnet.system.machine import (
    has_gnu_c_library,
    memory_bytes,
    multiplies_bfloat16,
    num_cores,
    processor_flags,
    processor_name,
    versions,
)


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    what: str
    state: Literal["good", "lacking", "broken"]
    """`lacking` is slower or narrower than it could be; `broken` stops the work."""
    found: str
    advice: str = ""


def examine() -> list[Finding]:
    """Look at everything; nothing is changed."""
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


def print_findings(findings: list[Finding]) -> None:
    """One line for each finding, with the advice below it."""
    width = max(len(finding.what) for finding in findings)
    marks = {"good": "ok     ", "lacking": "lacking", "broken": "BROKEN "}
    for finding in findings:
        print(f"{marks[finding.state]}  {finding.what:{width}}  {finding.found}")
        if finding.advice:
            print(f"{'':9}{'':{width}}  -> {finding.advice}")


def _software() -> list[Finding]:
    found = versions()
    findings = [Finding("Python", "good", found["python"])]
    for name in ("torch", "numpy"):
        try:
            importlib.import_module(name)
        except Exception as error:
            # Whatever breaks on import (a missing library, a wrong build) is what the reader must learn.
            findings.append(
                Finding(
                    name,
                    "broken",
                    f"{type(error).__name__}: {error}",
                    f"reinstall it: pip install --force-reinstall {name}",
                )
            )
        else:
            findings.append(Finding(name, "good", found[name]))
    return findings


def _system() -> Finding:
    name = platform.platform()
    if platform.system() == "Linux":
        return Finding("system", "good", name)
    if platform.system() == "Darwin":
        return Finding(
            "system",
            "lacking",
            name,
            "works on the CPU and on MPS, without the tuned allocator; the project's checks run on Linux only",
        )
    return Finding(
        "system", "broken", name, "only Linux and macOS are supported; on Windows use the Windows Subsystem for Linux"
    )


def _cores() -> Finding:
    return Finding("processor", "good", f"{processor_name()}, {num_cores()} cores usable")


def _bfloat16() -> Finding:
    flags = processor_flags()
    if "amx_bf16" in flags:
        return Finding("bfloat16", "good", "matrix units (AMX)")
    if multiplies_bfloat16(flags):
        return Finding("bfloat16", "good", "vector instructions")
    return Finding(
        "bfloat16",
        "lacking",
        "not in hardware on this processor",
        "training uses float32, which is slower; a GPU or a newer server processor has it",
    )


def _kernels() -> Finding:
    try:
        from alexnet.model.kernels import fallback_reason

        reason = fallback_reason("cpu")
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
    if reason is None:
        good = "normalizing and pooling in one pass, float32 convolutions with fewer products (Numba)"
        return Finding("kernels", "good", good)
    from alexnet.system.triton_probe import REFERENCE_OPS_VARIABLE

    helps = (
        "unset it" if os.environ.get(REFERENCE_OPS_VARIABLE) else "`pip install --force-reinstall numba` usually helps"
    )
    return Finding(
        "kernels",
        "lacking",
        f"torch's own operations on the processor: {reason}",
        f"training takes half as long again, or more; {helps}",
    )


def _memory() -> Finding:
    memory = memory_bytes()
    if memory is None:
        return Finding("memory", "lacking", "the system does not say", "training the full network takes about 6 GiB")
    if memory < 6 * 2**30:
        return Finding(
            "memory",
            "lacking",
            f"{memory / 2**30:.1f} GiB",
            "training the full network takes about 6 GiB; use a smaller --optimizer.batch_size or the recipe `quick`",
        )
    return Finding("memory", "good", f"{memory / 2**30:.1f} GiB")


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free
    if free < 5 * 2**30:
        return Finding(
            "disk",
            "lacking",
            f"{free / 2**30:.1f} GiB free here",
            "13,000 photographs prepared take 2.6 GiB, a full-size run 0.8 GiB; free some space",
        )
    return Finding("disk", "good", f"{free / 2**30:.1f} GiB free here")


def _accelerators() -> list[Finding]:
    try:
        import torch
    except Exception:
        return [Finding("GPU", "broken", "unknown: torch does not load", "mend torch first")]
    if torch.cuda.is_available():
        from alexnet.system.triton_probe import triton_unavailable_reason

        names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        findings = [Finding("GPU", "good", names)]
        if (reason := triton_unavailable_reason()) is None:
            return [*findings, Finding("Triton", "good", _version_of("triton"))]
        advice = "training uses torch's own, slower operations; pip install triton, in the version your torch names"
        return [*findings, Finding("Triton", "lacking", reason, advice)]
    if torch.backends.mps.is_available():
        return [Finding("GPU", "good", "Apple MPS")]
    advice = "training runs on the CPU"
    if torch.version.cuda is None and shutil.which("nvidia-smi"):
        advice = "this torch is a CPU build and the machine has an NVIDIA driver; install a CUDA build of torch"
    elif torch.version.cuda is not None:
        advice = "this torch is built for CUDA and finds no GPU: look at nvidia-smi and CUDA_VISIBLE_DEVICES"
    return [Finding("GPU", "lacking", "none usable", advice), Finding("Triton", "lacking", "not usable without a GPU")]


def _version_of(name: str) -> str:
    """Version of an importable package, or just that it is there: some builds carry another name."""
    import importlib.metadata

    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "installed"


def _allocator() -> Finding:
    if not has_gnu_c_library():
        return Finding(
            "allocator",
            "lacking",
            "not the GNU C library",
            "training on the CPU may be slower; preloading jemalloc helps",
        )
    if os.environ.get("ALEXNET_ALLOCATOR") == "default":
        return Finding(
            "allocator", "lacking", "ALEXNET_ALLOCATOR=default", "unset it: on a CPU the tuned allocator is faster"
        )
    for variable in ("GLIBC_TUNABLES", "LD_PRELOAD"):
        if variable in os.environ:
            return Finding("allocator", "good", f"as {variable} has it; commands leave that alone")
    return Finding("allocator", "good", "commands that compute start themselves again with a tuned allocator")
