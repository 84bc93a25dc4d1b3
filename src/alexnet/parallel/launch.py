"""Start the processes of a training on this machine from the command itself, through torchrun's code."""

import os
from collections.abc import Sequence

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main as torchrun

from alexnet.errors import Interrupted
from alexnet.system.machine import num_cores

_EXIT_CODES = (1, 2, 3)
"""Those that the command itself exits with."""


def run_in_processes(arguments: Sequence[str], num: int, program: Sequence[str] = ("-m", "--", "alexnet")) -> int:
    """Run the command in `num` processes on this machine and wait for them.

    Each gets an equal number of cores unless OMP_NUM_THREADS is set.

    Args:
        arguments: of the command, `train` first.
        program: what torchrun starts. Without `--`, torchrun would read options of the command as its own.

    Returns:
        Exit code of the command: 0, or that of the first process that failed.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, num_cores() // num)))
    try:
        torchrun(["--standalone", "--nproc-per-node", str(num), *program, *arguments])
    except ChildFailedError as error:
        code = error.get_first_failure()[1].exitcode
        return code if code in _EXIT_CODES else 1
    except SignalException:
        return Interrupted.exit_code
    return 0
