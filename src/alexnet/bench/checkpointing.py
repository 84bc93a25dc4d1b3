"""`alexnet bench checkpoint`: what writing checkpoints costs a training.

Some steps with a checkpoint begun before the first of them and written beside the rest, against the same steps without.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from alexnet.bench.timing import alternate
from alexnet.errors import RequestError
from alexnet.model.network import AlexNet
from alexnet.runs.recipe import TrainingSettings
from alexnet.system.device import arithmetic, choose_device, choose_precision
from alexnet.system.machine import machine_facts, source_commit
from alexnet.training.checkpoint import Position
from alexnet.training.checkpoint_writer import CheckpointWriter
from alexnet.training.optimizer import VelocitySGD
from alexnet.training.schedule import LearningRates

NUM_CLASSES = 1000


def bench_checkpoint(
    variant: str, batch_size: int, steps: int, rounds: int, folder: Path | None, report: Callable[[str], None]
) -> dict[str, Any]:
    """Measure the cost of one checkpoint.

    Args:
        variant: of the network, see `AlexNet`; its images are random.
        batch_size: 1 or more.
        steps: between two checkpoints, 1 or more: enough for one to be written.
        rounds: 1 or more.
        folder: on the disk to be measured; None is that of temporary files.
        report: is given lines for people.

    Returns:
        Seconds and shares, medians over the rounds; `pause_ms` is how long the training stands still to copy its state,
        `extra_s` by how much the steps beside a checkpoint took longer than those without, the pause included,
        `share_at_default` that of a training with a checkpoint every 300 seconds.
    """
    if min(batch_size, steps, rounds) < 1:
        raise RequestError(
            f"--batch-size is {batch_size}, --steps {steps} and --rounds {rounds}; allowed are 1 or more"
        )
    device = choose_device("auto")
    precision = choose_precision("auto", device)
    network = AlexNet(NUM_CLASSES, variant).to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = VelocitySGD(network, 0.9, 0.0005)
    side = network.spec.image_px
    images = 50 * torch.randn(batch_size, 3, side, side, device=device).to(memory_format=torch.channels_last)
    labels = torch.randint(0, NUM_CLASSES, (batch_size,), device=device)
    rates = LearningRates(weights=1e-6, biases=1e-6, layers={})
    done = 0

    def step() -> None:
        nonlocal done
        with arithmetic(device, precision):
            scores = network(images).float()
        optimizer.clear_gradients()
        F.cross_entropy(scores, labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step(rates)
        done += 1
        if device.type == "cuda":
            torch.cuda.synchronize()

    pauses: list[float] = []
    writes: list[float] = []
    with tempfile.TemporaryDirectory(prefix="alexnet-bench-", dir=folder) as run, CheckpointWriter(Path(run)) as writer:

        def plain() -> None:
            for _ in range(steps):
                step()

        def beside_a_checkpoint() -> None:
            start_s = time.perf_counter()
            writer.begin(network, optimizer, Position(step=done, trained_s=0.0), None)
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

        plain()
        beside_a_checkpoint()  # the copy's memory is touched for the first time
        pauses.clear()
        writes.clear()
        report(f"{variant}: warmed up")
        timed = alternate(
            {"plain": plain, "checkpoint": beside_a_checkpoint},
            rounds,
            lambda name, number: report(f"round {number + 1}: {name}"),
        )
        size_bytes = max(path.stat().st_size for path in Path(run).rglob("*.safetensors"))
    extra_s = statistics.median(
        beside - alone for beside, alone in zip(timed["checkpoint"].wall_s, timed["plain"].wall_s, strict=True)
    )
    every_s = TrainingSettings().checkpoint_every
    step_s = statistics.median(timed["plain"].wall_s) / steps
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
        "share_at_default": extra_s / every_s,
        "wall_s": {name: list(one.wall_s) for name, one in timed.items()},
        "machine": machine_facts(),
        "commit": source_commit(),
    }
