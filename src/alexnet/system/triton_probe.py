"""Whether kernels written in Triton run on this machine's GPU, found out by running one."""

import importlib.util
import os
from functools import cache

import torch

PLAIN_VARIABLE = "ALEXNET_PLAIN"
"""An environment variable; not empty, it says: torch's own operations only, on processors and GPUs."""


@cache
def triton_unavailable_reason() -> str | None:
    """Why Triton's kernels do not run here, in a sentence; None where they do."""
    if os.environ.get(PLAIN_VARIABLE):
        return f"the environment variable {PLAIN_VARIABLE} asks for torch's own operations"
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed (it comes with torch's builds for CUDA on Linux)"
    if not torch.cuda.is_available():
        return "there is no NVIDIA GPU to be used"
    try:
        from alexnet.system.triton_trial import try_out

        try_out()
    except Exception as error:
        # A missing compiler, an old card, another version: whatever it is, torch's own operations still run.
        return f"Triton cannot run a kernel here ({type(error).__name__}: {str(error).splitlines()[0:1]})"
    return None
