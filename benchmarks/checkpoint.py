"""The cost of writing checkpoints during training.

Times training steps while a checkpoint is written in the background, and the same steps without a checkpoint.

example: python benchmarks/checkpoint.py --variant paper --batch-size 64
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console

from alexnet.bench.timing import alternate, require_counts
from alexnet.cli.command_parser import CommandParser
from alexnet.model.network import AlexNet
from alexnet.runs.recipe import TrainingSettings
from alexnet.system.device import arithmetic, choose_device, choose_precision
from alexnet.system.machine import machine_summary, source_commit
from alexnet.training.checkpoint_writer import CheckpointWriter
from alexnet.training.optimizer import VelocitySGD
from alexnet.training.schedule import LearningRates
from alexnet.training.state import TrainingState
from script import logger, run_script

NUM_CLASSES = 1000


def add_arguments(parser: CommandParser) -> None:
    parser.add_argument("--variant", metavar="NAME", default="paper", help="network variant")
    parser.add_argument("--batch-size", type=int, metavar="N", default=128, help="images per step")
    parser.add_argument("--steps", type=int, metavar="N", default=4, help="steps per checkpoint")
    parser.add_argument("--rounds", type=int, metavar="N", default=5, help="measurements with and without")
    parser.add_argument(
        "--folder", type=Path, metavar="PATH", help="where to write (default: the system's temporary files)"
    )


def measure_checkpoint(variant: str, batch_size: int, steps: int, rounds: int, folder: Path | None) -> dict[str, Any]:
    """Measure the cost of one checkpoint.

    Args:
        variant: of the network, see `AlexNet`; its images are random.
        batch_size: 1 or more.
        steps: per checkpoint, 1 or more: enough for it to be written meanwhile.
        rounds: 1 or more.
        folder: on the disk to measure; None is the folder of temporary files.

    Returns:
        Medians over the rounds. `pause_ms`: how long the training stops to copy its state. `written_after_s`: when the
        file is complete. `extra_s`: how much longer the steps with a checkpoint take than those without, the pause
        included. `fraction_at_default`: of the time of a training with a checkpoint every 300 seconds.

    Raises:
        RequestError: a number is below 1, or the variant is unknown.
    """
    require_counts(batch_size, steps, rounds)
    device = choose_device("auto")
    precision = choose_precision("auto", device)
    network = AlexNet(NUM_CLASSES, variant).to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = VelocitySGD(network, 0.9, 0.0005)
    side = network.spec.image_px
    images = 50 * torch.randn(batch_size, 3, side, side, device=device).to(memory_format=torch.channels_last)
    labels = torch.randint(0, NUM_CLASSES, (batch_size,), device=device)
    learning_rates = LearningRates(weights=1e-6, biases=1e-6, layers={})
    done = 0

    def step() -> None:
        nonlocal done
        with arithmetic(device, precision):
            scores = network(images).float()
        network.zero_grad()
        F.cross_entropy(scores, labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step(learning_rates)
        done += 1
        if device.type == "cuda":
            torch.cuda.synchronize()

    pauses: list[float] = []
    writes: list[float] = []
    with tempfile.TemporaryDirectory(prefix="alexnet-bench-", dir=folder) as run, CheckpointWriter(Path(run)) as writer:

        def without_checkpoint() -> None:
            for _ in range(steps):
                step()

        def with_checkpoint() -> None:
            start_s = time.perf_counter()
            writer.begin(network, optimizer, TrainingState(step=done), None)
            pauses.append(time.perf_counter() - start_s)
            written_s = 0.0
            for _ in range(steps):
                step()
                if not written_s and not writer.busy:
                    written_s = time.perf_counter() - start_s
            writer.finish()
            writes.append(written_s or time.perf_counter() - start_s)
            if (failure := writer.failure()) is not None:
                raise failure

        without_checkpoint()
        with_checkpoint()  # touches the memory of the copy for the first time
        pauses.clear()
        writes.clear()
        logger.info("%s: warmed up", variant)
        timings = alternate({"without checkpoint": without_checkpoint, "with checkpoint": with_checkpoint}, rounds)
        size_bytes = max(path.stat().st_size for path in Path(run).rglob("*.safetensors"))
    without_s, with_s = timings["without checkpoint"].wall_s, timings["with checkpoint"].wall_s
    extra_s = statistics.median(more - less for more, less in zip(with_s, without_s, strict=True))
    every_s = TrainingSettings().checkpoint_every
    step_s = statistics.median(without_s) / steps
    return {
        "variant": variant,
        "batch_size": batch_size,
        "steps": steps,
        "rounds": rounds,
        "device": str(device),
        "checkpoint_bytes": size_bytes,
        "step_s": step_s,
        "images_per_second": batch_size / step_s,
        "pause_ms": 1e3 * statistics.median(pauses),
        "written_after_s": statistics.median(writes),
        "extra_s": extra_s,
        "checkpoint_every_s": every_s,
        "fraction_at_default": extra_s / every_s,
        "wall_s": {name: list(timing.wall_s) for name, timing in timings.items()},
        "machine": machine_summary(),
        "commit": source_commit(),
    }


def print_table(result: Mapping[str, Any]) -> None:
    Console().print(
        f"{result['variant']}, batches of {result['batch_size']} on {result['device']}: "
        f"{result['step_s']:.3f} s per step\n"
        f"checkpoint of {result['checkpoint_bytes'] / 1e6:,.0f} MB: the training pauses for "
        f"{result['pause_ms']:.1f} ms, and the file is written after {result['written_after_s']:.2f} s\n"
        f"{result['steps']} steps take {result['extra_s']:.2f} s longer with a checkpoint: "
        f"{100 * result['fraction_at_default']:.3f} % of a training with one every "
        f"{result['checkpoint_every_s']:g} s; medians of {result['rounds']} rounds",
        highlight=False,
        markup=False,
    )


def measure(options: argparse.Namespace) -> dict[str, Any]:
    return measure_checkpoint(options.variant, options.batch_size, options.steps, options.rounds, options.folder)


def main(words: Sequence[str] | None = None) -> int:
    return run_script(__doc__, add_arguments, measure, print_table, words)


if __name__ == "__main__":
    raise SystemExit(main())
