"""The step that a device does on its own against the step done at once: the same weights, the same stop."""

import logging
import os
import signal
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.training.small_trainings import small_recipe, train_interrupted

from alexnet.data.bc1 import decode_crops, encode
from alexnet.data.concatenated import open_data
from alexnet.errors import Interrupted, RequestError, WorkError
from alexnet.model.kernels import fallback_reason, reference_ops
from alexnet.model.weights import load_trained
from alexnet.runs.folder import RunFolder
from alexnet.runs.recipe import Recipe, ScheduleSettings, Stage
from alexnet.training import batches, graph_step, loop, setup
from alexnet.training.compute_weights import ComputeWeights
from alexnet.training.graph_step import GraphStep, cudnn_benchmark
from alexnet.training.loop import train
from alexnet.training.setup import build_setup
from alexnet.training.update import update

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

BASE = small_recipe(device=DEVICE, ema_decay=0.5)
SMALL = replace(
    BASE,
    data=replace(BASE.data, color_noise=0.1, color_shrink=True),
    schedule=ScheduleSettings(
        kind="stages",
        stages=(
            Stage(epochs=2, learning_rate=0.02, bias_learning_rate=0.04, layer_learning_rates={"conv1": 0.01}),
            Stage(epochs=2, learning_rate=0.002, layer_learning_rates={"conv1": 0.0}, color_noise=False),
            Stage(epochs=1, learning_rate=0.004),
        ),
    ),
)


@pytest.fixture(autouse=True)
def whole_factors(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU, products of float32 numbers as they are: rounded ones depend on the algorithm."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)


def both(data: Path, recipe: Recipe, folder: Path) -> tuple[RunFolder, RunFolder]:
    """The same training with steps at once and on the device."""
    runs = []
    for name, alone in (("at-once", False), ("on-device", True)):
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(graph_step, "can_capture", lambda _, alone=alone: alone)
            runs.append(train(data, folder / name, recipe))
    return runs[0], runs[1]


def weights_of(run: RunFolder) -> dict[str, torch.Tensor]:
    return dict(load_trained(run.path).network.state_dict())


@pytest.mark.parametrize("cache", ["none", "device", "bc1"])
def test_it_makes_the_same_weights_and_log(data: Path, tmp_path: Path, cache: Any) -> None:
    recipe = replace(SMALL, training=replace(SMALL.training, cache=cache))
    once, alone = both(data, recipe, tmp_path)
    for name, tensor in weights_of(once).items():
        torch.testing.assert_close(weights_of(alone)[name], tensor, rtol=1e-4, atol=5e-6)
    losses = [[event["loss"] for event in run.events() if event["event"] == "step"] for run in (once, alone)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4) and losses[0]
    epochs = [
        [event["train_top1_error"] for event in run.events() if event["event"] == "epoch"] for run in (once, alone)
    ]
    assert epochs[0] == epochs[1] and len(epochs[0]) == 5


def test_in_bfloat16_it_reads_rounded_weights(data: Path, tmp_path: Path) -> None:
    """They follow the weights step by step, and what comes out is what autocast makes of the weights."""
    recipe = replace(SMALL, training=replace(SMALL.training, precision="bfloat16"))
    steps: list[GraphStep] = []
    run = GraphStep.run

    def followed(own: GraphStep, *arguments: Any) -> None:
        run(own, *arguments)
        steps.append(own)
        for (name, read), parameter in zip(own.weights.tensors.items(), own.setup.network.parameters(), strict=True):
            assert torch.equal(read, parameter.bfloat16()) and read.stride() == parameter.stride(), name

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(GraphStep, "run", followed)
        once, alone = both(data, recipe, tmp_path)
    assert len(steps) == 15
    first = load_trained(once.path).network.state_dict()
    for name, tensor in weights_of(alone).items():
        # On a GPU the two updates round in different orders, so some weights round to the other side. Biases started
        # at or near zero, and are only sums of such steps.
        limit = 0.1 if DEVICE == "cuda" and name.endswith("bias") else 3e-3
        assert float((tensor - first[name]).norm() / first[name].norm()) < limit, name
    losses = [[event["loss"] for event in run.events() if event["event"] == "step"] for run in (once, alone)]
    assert losses[0] == pytest.approx(losses[1], rel=3e-3)


@pytest.mark.skipif(DEVICE == "cuda", reason="what a processor does")
@pytest.mark.skipif(fallback_reason("cpu") is not None, reason=str(fallback_reason("cpu")))
def test_a_processor_reads_rounded_weights_too(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches in one part take the way of batches in parts: weights in float32, rounded by autocast in every pass."""
    forward, read = ComputeWeights.forward, 0

    def counted(own: ComputeWeights, images: torch.Tensor) -> torch.Tensor:
        nonlocal read
        read += 1
        return forward(own, images)

    monkeypatch.setattr(ComputeWeights, "forward", counted)
    runs = []
    for name, part in (("whole", 0), ("parts", 10)):
        settings = replace(SMALL.training, precision="bfloat16", micro_batch=part)
        runs.append(train(data, tmp_path / name, replace(SMALL, training=settings)))
        assert read == 15
    whole, parts = (weights_of(run) for run in runs)
    for key, tensor in whole.items():
        assert float((tensor - parts[key]).norm() / tensor.norm()) < 3e-3, key
    losses = [[event["loss"] for event in run.events() if event["event"] == "step"] for run in runs]
    assert losses[0] == pytest.approx(losses[1], rel=3e-3)


def test_trying_algorithms_changes_nothing_else() -> None:
    names = ("enabled", "deterministic", "allow_tf32", "benchmark")
    before = {name: getattr(torch.backends.cudnn, name) for name in names}
    with cudnn_benchmark():
        assert {name: getattr(torch.backends.cudnn, name) for name in names} == {**before, "benchmark": True}
    assert {name: getattr(torch.backends.cudnn, name) for name in names} == before


def test_it_goes_on_where_it_was_stopped(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_step, "can_capture", lambda _: True)
    whole = train(data, tmp_path / "whole", SMALL)
    train_interrupted(data, SMALL, tmp_path / "cut", 8, GraphStep)
    resumed = train(data, tmp_path / "cut", SMALL)
    for name, tensor in weights_of(whole).items():
        torch.testing.assert_close(weights_of(resumed)[name], tensor, rtol=1e-6, atol=1e-7)


def test_what_is_not_finite_stops_before_the_update(data: Path, tmp_path: Path) -> None:
    steep = replace(SMALL.optimizer, learning_rate=1e9)
    recipe = replace(SMALL, schedule=ScheduleSettings(kind="steps", epochs=6), optimizer=steep)
    runs = {}
    for name, alone in (("at-once", False), ("on-device", True)):
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(graph_step, "can_capture", lambda _, alone=alone: alone)
            with pytest.raises(WorkError, match=r"of step \d+ is.*; the weights that gave it are kept in"):
                train(data, tmp_path / name, recipe)
        run = RunFolder.open(tmp_path / name)
        event = next(event for event in run.events() if event["event"] == "not_finite")
        kept = load_trained(run.path / "weights-at-failure.safetensors").network.state_dict()
        runs[name] = (event["step"], sorted(event["samples"]), kept)
    # Steps 1 to 9 run without a check: a failure among them is found later and reported with its step.
    assert runs["at-once"][:2] == runs["on-device"][:2]
    for name, tensor in runs["at-once"][2].items():
        assert (runs["on-device"][2][name] - tensor).double().norm() <= 1e-3 * tensor.double().norm(), name


@pytest.mark.parametrize("cache", ["device", "bc1"])
def test_all_images_on_the_device_leave_none_to_stand_in(cache: Any) -> None:
    with pytest.raises(RequestError, match=rf"cache {cache} reads all images before the first step"):
        replace(SMALL.training, cache=cache, on_unreadable="replace")


@pytest.mark.parametrize(
    ("cache", "free", "refused"),
    [
        ("device", 10 * 32 * 32 * 3 - 1, "allowed is none or bc1 .slightly changed"),
        ("device", 10 * 32 * 32 * 3, ""),
        ("bc1", 10 * 32 * 32 // 2 - 1, "allowed is none, or use fewer images"),
        ("bc1", 10 * 32 * 32 // 2, ""),
    ],
)
def test_images_that_do_not_fit_are_refused(
    cache: Any, free: int, refused: str, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setup, "free_gpu_bytes", lambda device: free)
    recipe = replace(SMALL, data=replace(SMALL.data, subset=10), training=replace(SMALL.training, cache=cache))
    if not refused:
        build_setup(open_data([data]), recipe)
        return
    with pytest.raises(RequestError, match=rf"cache is {cache}, and 10 images of 32 pixels take.*{refused}"):
        build_setup(open_data([data]), recipe)


@pytest.mark.parametrize(
    ("free", "unreadable", "numba", "held", "hint"),
    [
        (10 * 32 * 32 * 3 * 2, "stop", True, True, False),
        (10 * 32 * 32 * 3 * 2, "replace", True, False, False),
        (10 * 32 * 32 * 3 * 2 - 1, "stop", True, False, True),
        (10 * 32 * 32 * 3 * 2 - 1, "replace", True, False, False),
        (10 * 32 * 32 * 3 * 2 - 1, "stop", False, False, False),
        (10 * 32 * 32, "stop", True, False, True),
        (10 * 32 * 32 - 1, "stop", True, False, False),
        (None, "stop", True, False, False),
    ],
)
def test_images_lie_on_the_device_unasked_where_half_of_it_holds_them(
    free: int | None,
    unreadable: Any,
    numba: bool,
    held: bool,
    hint: bool,
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for module in (setup, batches):
        monkeypatch.setattr(module, "free_gpu_bytes", lambda device: free)
    monkeypatch.setattr("alexnet.system.numba_jit.unavailable_reason", "" if numba else "no such module")
    monkeypatch.setattr(batches, "LOG_INTERVAL_S", 0.0)
    recipe = replace(
        SMALL, data=replace(SMALL.data, subset=10), training=replace(SMALL.training, on_unreadable=unreadable)
    )
    caplog.set_level(logging.INFO, logger="alexnet")
    checks: list[int] = []
    device_cache = batches.load_device_cache(build_setup(open_data([data]), recipe), lambda: checks.append(1))
    assert (device_cache is not None) == held and bool(checks) == held
    said = caplog.messages
    assert any("do not fit into half" in line for line in said) == (free is not None and free < 10 * 32 * 32 * 3 * 2)
    assert any("--training.cache bc1 holds them in 5 KiB" in line for line in said) == hint
    assert any("10 training images are on" in line and "30 KiB, " in line for line in said) == held


def test_reading_many_images_is_logged(
    data: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(batches, "LOG_INTERVAL_S", 0.0)
    monkeypatch.setattr("alexnet.data.device_cache._CHUNK", 10)
    recipe = replace(SMALL, training=replace(SMALL.training, cache="device"))
    caplog.set_level(logging.INFO, logger="alexnet")
    batches.load_device_cache(build_setup(open_data([data]), recipe))
    assert [line.split(" have")[0] for line in caplog.messages[:-1]] == [
        "10 of 24 training images",
        "20 of 24 training images",
    ]


def test_blocks_need_numba(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alexnet.data.bc1.unavailable_reason", "no such module")
    recipe = replace(SMALL, training=replace(SMALL.training, cache="bc1"))
    with pytest.raises(RequestError, match=r"bc1 needs Numba, which cannot be imported here \(no such module"):
        train(data, tmp_path / "run", recipe)
    assert not (tmp_path / "run").exists()


def test_blocks_are_what_the_network_learns_from(data: Path, tmp_path: Path) -> None:
    """A training from blocks is one from the images that they are decoded to, stored as pixels."""
    prepared = open_data([data])
    images = np.ascontiguousarray(prepared.splits["train"].images[:])
    num, side = images.shape[:2]
    blocks = torch.from_numpy(encode(images))
    decoded = decode_crops(blocks, torch.arange(num), torch.zeros(num, 2, dtype=torch.int16), side).numpy()
    assert not np.array_equal(decoded, images)
    losses = []
    for name, cache, stored in (("blocks", "bc1", images), ("decoded", "none", decoded), ("pixels", "none", images)):
        with pytest.MonkeyPatch.context() as patched:
            changed = replace(
                prepared, splits={**prepared.splits, "train": replace(prepared.splits["train"], images=stored)}
            )
            patched.setattr(loop, "open_data", lambda _, changed=changed: changed)
            recipe = replace(SMALL, training=replace(SMALL.training, cache=cache))  # type: ignore[arg-type]
            run = train(data, tmp_path / name, recipe)
        losses.append([event["loss"] for event in run.events() if event["event"] == "step"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert losses[0] != pytest.approx(losses[2], rel=1e-4)


def test_a_signal_while_the_images_are_read_stops(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = batches.DeviceImageCache.__init__

    def interrupted(own: Any, *arguments: Any, **options: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        read(own, *arguments, **options)

    recipe = replace(SMALL, training=replace(SMALL.training, cache="device"))
    whole = train(data, tmp_path / "whole", recipe)
    with monkeypatch.context() as patched:
        patched.setattr(batches.DeviceImageCache, "__init__", interrupted)
        with pytest.raises(Interrupted, match=r"^interrupted while the training images were read; resume with"):
            train(data, tmp_path / "cut", recipe)
    cut = RunFolder.open(tmp_path / "cut")
    assert cut.metadata()["state"] == "interrupted"
    assert [event["by"] for event in cut.events() if event["event"] == "interrupted"] == ["SIGINT"]
    resumed = train(data, tmp_path / "cut", recipe)
    for name, tensor in weights_of(whole).items():
        torch.testing.assert_close(weights_of(resumed)[name], tensor, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("form", ["plain", "compiled", "triton"])
@pytest.mark.parametrize("rounds", [False, True])
@pytest.mark.parametrize(("rate", "stopped", "moves"), [(0.1, 0, True), (0.0, 0, False), (0.1, 3, False)])
def test_update_on_the_device(rate: float, stopped: int, moves: bool, form: str, rounds: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    device = "cpu" if form == "compiled" else DEVICE
    # Out of a larger one, in channels-last memory; the gradient laid out otherwise.
    weight, buffer, gradient = (torch.randn(3, 5, 7, 4, generator=generator).to(device) for _ in range(3))
    weight, buffer = (tensor.contiguous(memory_format=torch.channels_last)[1:] for tensor in (weight, buffer))
    gradient = gradient[1:]
    rounded = torch.full_like(weight, 7.0, dtype=torch.bfloat16) if rounds else None
    if rounds:
        gradient = gradient.bfloat16()
    before = weight.double(), buffer.double()
    given = (
        weight,
        buffer,
        gradient,
        torch.tensor([rate, 0.9], device=device),
        0.01,
        torch.tensor(stopped, device=device),
        rounded,
    )
    if form == "triton":
        pytest.importorskip("triton", reason="Triton is not installed")
        from alexnet.training import update_gpu

        to_channels_last = torch.empty_like(weight).copy_(gradient).to(gradient.dtype)
        update_gpu.update_gpu(*given[:2], to_channels_last, *given[3:])
    else:
        if form == "compiled" and (reason := fallback_reason("cpu")):
            pytest.skip(reason)
        fallback_reason(DEVICE)  # as AlexNet does when it is built
        with reference_ops() if form == "plain" else nullcontext():
            update(*given)
    moved = 0.9 * before[1] + gradient.double() + 0.01 * before[0] if moves else before[1]
    torch.testing.assert_close(buffer.double(), moved, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(weight.double(), before[0] - (rate * moved if moves else 0), rtol=1e-6, atol=1e-6)
    if rounded is None:
        return
    if not moves and form != "plain":
        assert rounded.eq(7).all()  # not touched
    elif form == "triton" and DEVICE == "cpu":
        # The kernel's interpreter cuts where everything else rounds to the nearest.
        torch.testing.assert_close(rounded.double(), weight.double(), rtol=2**-7, atol=0.0)
    else:
        assert torch.equal(rounded, weight.bfloat16())
