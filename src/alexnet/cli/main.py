"""The command `alexnet`: the table of its commands, and the exit codes.

Command `x` is the module `cli/x_command.py` with `add_arguments(parser)` and `run(options)`, which is imported when the
command is used. `run` may return an exit code. Optional is `is_long(options)`: whether a command that computes has much
to do.

Exit codes: 0 done, 1 the work failed, 2 the request was wrong, 3 interrupted and resumable.
"""

import importlib
import io
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from alexnet.cli.output import print_error, print_lines
from alexnet.errors import AlexNetError, Interrupted, RequestError
from alexnet.storage.read_errors import is_passing, passing_error
from alexnet.system.suggestions import suggestion

if TYPE_CHECKING:
    from alexnet.cli.command_parser import CommandParser

GROUPS = {
    "data": "data: from photographs to a prepared data set",
    "training": "training",
    "measuring": "measuring: errors and comparisons",
    "looking": "looking: into a trained network",
    "exchange": "exchange: weights in and out",
    "system": "system: this machine",
}


@dataclass(frozen=True)
class Command:
    """One command of `alexnet`."""

    group: str
    """A key of `GROUPS`."""
    summary: str
    example: str
    computes: bool = False
    """Whether it computes long enough for the memory allocator to matter."""


COMMANDS = {
    "fetch": Command(
        "data",
        "Download a data set or published weights, or generate a data set.",
        "alexnet fetch imagenette --size 160 data/imagenette",
    ),
    "prepare": Command(
        "data",
        "Turn photographs into a prepared data set.",
        "alexnet prepare photographs/ data/prepared --hold-out 0.1",
    ),
    "inspect": Command(
        "data",
        "Show a prepared data set: classes, refused files, duplicates, images.",
        "alexnet inspect data/prepared --html inspect.html",
    ),
    "train": Command(
        "training",
        "Train a network on a prepared data set.",
        "alexnet train data/prepared --recipe paper --run runs/first --optimizer.learning_rate 0.005",
        computes=True,
    ),
    "resume": Command(
        "training",
        "Resume an interrupted training, or train a finished run for more epochs.",
        "alexnet resume runs/first --schedule.epochs 120",
        computes=True,
    ),
    "finetune": Command(
        "training",
        "Train a trained network on another data set, with a new last layer.",
        "alexnet finetune runs/first data/mine --freeze-until conv5",
        computes=True,
    ),
    "baseline": Command(
        "training",
        "Train and measure a system that the paper compares with: sift-fisher or sparse-coding.",
        "alexnet baseline sift-fisher data/prepared --run runs/fisher",
        computes=True,
    ),
    "runs": Command("training", "List runs: progress, errors, time, changed settings.", "alexnet runs runs"),
    "evaluate": Command(
        "measuring",
        "Measure top-1 and top-5 error, with one view and with ten.",
        "alexnet evaluate runs/first --views 10 --json",
        computes=True,
    ),
    "ensemble": Command(
        "measuring",
        "Average the probabilities of several runs.",
        "alexnet ensemble runs/net-0 runs/net-1 --weights greedy",
    ),
    "compare": Command(
        "measuring",
        "Compare two runs on the same images: paired tests, and the images on which they differ.",
        "alexnet compare runs/first runs/second",
    ),
    "table": Command(
        "measuring",
        "Print runs in the form of the paper's table of results.",
        "alexnet table runs/net-0 runs/net-1 --like paper",
    ),
    "predict": Command("measuring", "Classify photographs.", "alexnet predict runs/first photo.jpg", computes=True),
    "explain": Command(
        "looking",
        "Show why a network gives photographs their classes: occlusion, gradients, near training images.",
        "alexnet explain runs/first photo.jpg --class tench",
        computes=True,
    ),
    "features": Command(
        "looking",
        "Write a network's activations for many images as arrays.",
        "alexnet features runs/first --layer pool5 --layer relu7 --out features/first",
        computes=True,
    ),
    "filters": Command(
        "looking",
        "Draw the first layer's filters, and the image patches that excite deeper layers.",
        "alexnet filters runs/first --layer conv1 --layer conv5",
        computes=True,
    ),
    "index": Command(
        "looking",
        "Keep a network's activations of the training images, for finding neighbors.",
        "alexnet index runs/first",
        computes=True,
    ),
    "neighbors": Command(
        "looking",
        "Show the training images that are nearest to photographs, by features and by pixels.",
        "alexnet neighbors runs/first photo.jpg --out neighbors.pdf",
        computes=True,
    ),
    "codes": Command(
        "looking",
        "Train short binary codes for fast search, and measure what they find.",
        "alexnet codes runs/first --bits 64 256",
        computes=True,
    ),
    "report": Command(
        "looking",
        "Write the page of a run, or of several side by side.",
        "alexnet report runs/first runs/second --out both.html",
    ),
    "export": Command(
        "exchange",
        "Write a trained network for another program.",
        "alexnet export runs/first --to onnx --verify data/prepared",
        computes=True,
    ),
    "import": Command(
        "exchange",
        "Make a run of weights that another program wrote, and prove what they are.",
        "alexnet import alexnet-owt-7be5be79.pth --run runs/published --data data/prepared",
        computes=True,
    ),
    "bench": Command(
        "system",
        "Measure the speed of a part of the system next to its alternatives.",
        "alexnet bench prepare --source photographs/ --files 2000",
        computes=True,
    ),
    "doctor": Command("system", "Check what this machine can do and what it lacks.", "alexnet doctor"),
}
"""All commands by name."""


def main(words: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; without `words`, the command line of this process."""
    from_shell = words is None
    words = sys.argv[1:] if words is None else list(words)
    if from_shell:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # for what libraries print: our own lines are encodable
                stream.reconfigure(errors="backslashreplace")
    rank = f"rank {os.environ['RANK']}: " if os.environ.get("RANK") else ""
    try:
        return _run(words, from_shell)
    except (KeyboardInterrupt, Interrupted) as stop:
        if isinstance(stop, KeyboardInterrupt) or not stop.is_reported:
            print_error(f"{rank}{stop if isinstance(stop, Interrupted) else 'interrupted; rerun the same command'}")
        if from_shell:
            # Python would first wait for threads, and may end by the signal rather than with our exit code.
            os._exit(Interrupted.exit_code)
        return Interrupted.exit_code
    except AlexNetError as error:
        if not error.is_reported:
            print_error(f"{rank}error: {error}")
        return error.exit_code
    except BrokenPipeError:  # nobody reads our output any more, as in `alexnet runs | head -1`
        _discard_stdout()
        return 1
    except OSError as error:
        if is_passing(error):
            problem = f"cannot access {error.filename}" if error.filename else "the work stopped"
            print_error(f"{rank}error: {passing_error(problem, error)}")
            return 1
        where = f"{error.filename}: " if error.filename else ""
        print_error(f"{rank}error: {where}{error.strerror or error}")
        return 1


def command_parser(name: str) -> "CommandParser":
    """The parser of the command with this name, with all its options.

    Raises:
        RequestError: there is no such command; the nearest one is suggested.
    """
    if name not in COMMANDS:
        raise RequestError(f"unknown command {name!r}; {suggestion(name, COMMANDS)}known are {', '.join(COMMANDS)}")
    from alexnet.cli.command_parser import CommandParser

    command = COMMANDS[name]
    parser = CommandParser(f"alexnet {name}", command.summary, f"example: {command.example}")
    importlib.import_module(f"alexnet.cli.{name}_command").add_arguments(parser)
    return parser


def _run(words: Sequence[str], from_shell: bool) -> int:
    name = next((word for word in words if not word.startswith("-")), None)
    if name is None:
        return _without_command(words)
    if sys.platform == "win32":
        raise RequestError(
            "Windows is not supported: there, a folder cannot be renamed while its files are mapped into memory; "
            "use the Windows Subsystem for Linux"
        )
    rest = list(words)
    rest.remove(name)
    options = command_parser(name).parse(rest)
    options.words = [name, *rest]
    module = importlib.import_module(f"alexnet.cli.{name}_command")
    if from_shell and COMMANDS[name].computes and getattr(module, "is_long", lambda _: True)(options):
        from alexnet.system.machine import restart_with_tuned_allocator

        restart_with_tuned_allocator()
    if from_shell and not os.environ.get("RANK"):  # torchrun ends its processes by SIGTERM after an error
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # schedulers send it: stop as by Ctrl-C
    from alexnet.system.progress import log_to_stderr

    with log_to_stderr():
        return module.run(options) or 0


def _without_command(words: Sequence[str]) -> int:
    """Answer `alexnet`, `alexnet --help` and `alexnet --version`."""
    if "--version" in words:
        from alexnet import __version__

        print_lines(f"alexnet {__version__}")
        return 0
    is_help = bool(set(words) & {"-h", "--help", "--help-all"})
    if words and not is_help:
        raise RequestError(f"unknown option {words[0]}; see `alexnet --help`")
    print_lines(*_overview())
    return 0 if is_help else 2


def _discard_stdout() -> None:
    """Write the rest of the output, which Python writes as it exits, to nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _overview() -> list[str]:
    lines = ["usage: alexnet COMMAND ...", "", "The 2012 network: from photographs to a trained and measured network."]
    width = max(map(len, COMMANDS))
    for group, title in GROUPS.items():
        lines += ["", f"{title}:"]
        lines += [f"  {name:{width}}  {one.summary}" for name, one in COMMANDS.items() if one.group == group]
    lines += [
        "",
        "`alexnet COMMAND --help` explains a command and shows an example.",
        "Exit codes: 0 done, 1 the work failed, 2 the request was wrong, 3 interrupted and resumable.",
    ]
    return lines
