"""Whether Triton kernels run on this machine's GPU, checked by running one."""

import importlib.util
import os
from functools import cache

import torch

from alexnet.errors import RequestError

REFERENCE_OPS_VARIABLE = "ALEXNET_REFERENCE_OPS"
"""Environment variable; if not empty, all layers run by torch's own operations, on CPUs and GPUs."""
_OLD_VARIABLE = "ALEXNET_PLAIN"


def reference_ops_requested() -> str | None:
    """A message if the environment asks for torch's own operations, else None.

    Raises:
        RequestError: the variable has its earlier name.
    """
    if os.environ.get(_OLD_VARIABLE):
        raise RequestError(
            f"the environment variable {_OLD_VARIABLE} is now called {REFERENCE_OPS_VARIABLE}; rename it or unset it"
        )
    if os.environ.get(REFERENCE_OPS_VARIABLE):
        return f"the environment variable {REFERENCE_OPS_VARIABLE} asks for torch's own operations"
    return None


@cache
def triton_unavailable_reason() -> str | None:
    """Why Triton kernels do not run here, as a message; None if they do."""
    if requested := reference_ops_requested():
        return requested
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed (it comes with torch's builds for CUDA on Linux)"
    if not torch.cuda.is_available():
        return "there is no usable NVIDIA GPU"
    try:
        from alexnet.system.triton_trial import run_trial_kernel

        run_trial_kernel()
    except Exception as error:
        # A missing compiler, an old card, another version: in every case torch's own operations still run.
        return f"Triton cannot run a kernel here ({type(error).__name__}: {str(error).splitlines()[0:1]})"
    return None
