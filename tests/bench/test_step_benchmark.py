"""The benchmarks of steps and evaluations measure every method; fractions and speedups follow from their speeds."""

import json
import logging
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from alexnet.bench.ceilings import Ceilings, speedups, summarize
from alexnet.bench.evaluation_benchmark import ONE_VIEW, TEN_VIEWS, measure_evaluation
from alexnet.bench.reference_networks import paper_network, plain_network, torchvision_network
from alexnet.bench.step_benchmark import measure_step
from alexnet.bench.step_cost import ideal_step_s, meta_network, step_bytes, step_flops
from alexnet.bench.timing import Timings, alternate
from alexnet.cli import bench_evaluate, bench_step
from alexnet.cli.main import main
from alexnet.errors import RequestError
from alexnet.model.layer_specs import Dense, ResponseNorm, SameMapNorm
from alexnet.model.network import AlexNet


@pytest.mark.slow
def test_the_reference_networks_compute_what_their_originals_do() -> None:
    ours, plain = AlexNet(10).eval(), paper_network(10).eval()
    # The same layers in the same order, so the weights are copied by position.
    plain.load_state_dict(dict(zip(plain.state_dict(), ours.state_dict().values(), strict=True)))
    x = 50 * torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        want, got = ours(x), plain(x)
    # torch's dropout scales during training, the paper's in evaluation: there fc7 and fc8 read halved inputs.
    halved = {
        name: value * (0.5 if name in ("fc7.weight", "fc8.weight") else 1) for name, value in ours.state_dict().items()
    }
    plain.load_state_dict(dict(zip(plain.state_dict(), halved.values(), strict=True)))
    with torch.inference_mode():
        assert not torch.allclose(got, want) and torch.allclose(plain(x), want, rtol=1e-4, atol=1e-4)
    assert sum(one.numel() for one in torchvision_network(1000).parameters()) == 61_100_840  # as torchvision states


@pytest.mark.parametrize("variant", ["quick", "cifar-18pct", "cifar-11pct", "no-communication", "one-gpu", "tanh"])
def test_plain_networks_compute_the_variants(variant: str) -> None:
    ours = AlexNet(4, variant, 0.125, dropout=0).double().eval()
    plain = plain_network(ours.spec, 4, width=0.125, dropout=0).double().eval()
    weights: list[torch.Tensor] = []
    for layer in ours.sized_layers:
        if not layer.weight_shape:
            continue
        state = ours.get_submodule(layer.name).state_dict()
        state["bias"] += 0.1  # initial ones are 0 in some layers
        columns = layer.columns if isinstance(layer.spec, Dense) else 1
        for pair in zip(state["weight"].chunk(columns), state["bias"].chunk(columns), strict=True):
            weights += pair
    with torch.no_grad():
        for target, values in zip(plain.state_dict().values(), weights, strict=True):
            target.copy_(values.reshape(target.shape))
    x = 50 * torch.randn(2, 3, ours.spec.image_px, ours.spec.image_px, dtype=torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(plain(x * ours.spec.input_scale), ours(x), rtol=1e-9, atol=1e-12)
    without = plain_network(ours.spec, 4, width=0.125, normalized=False)
    norms = sum(isinstance(one, ResponseNorm | SameMapNorm) for one in ours.spec.layers)
    assert len(without) == len(plain) - norms


def test_a_recipe_is_measured_beside_busy_processes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("alexnet.bench.step_benchmark.in_fresh_process", lambda *_, **__: None)
    for name, value in (("STORED_BYTES", 0), ("SECONDS", 0.02)):
        monkeypatch.setattr(f"alexnet.bench.step_benchmark.{name}", value)
    busy: list[int] = []
    real = subprocess.Popen
    processes: list[subprocess.Popen[bytes]] = []

    def started(*words: Any, **options: Any) -> subprocess.Popen[bytes]:
        processes.append(real(*words, **options))
        return processes[-1]

    def counted(*words: Any) -> dict[str, Timings]:
        busy.append(sum(process.poll() is None for process in processes))
        return alternate(*words)

    monkeypatch.setattr("alexnet.bench.company.subprocess.Popen", started)
    monkeypatch.setattr("alexnet.bench.ceilings.alternate", counted)
    methods = ("alexnet", "quick in plain PyTorch, channels-last")
    measured = measure_step(4, None, 1, "cpu", "float32", methods, "quick", 2)
    assert busy == [2] and [process.poll() for process in processes[:2]] == [-9, -9]
    assert set(measured["methods"]) == set(methods) and measured["speedups"]["alexnet"] == 1
    network = meta_network("quick-3x3", num_classes=10)
    assert measured["flops_per_image"] == step_flops(network)
    ideal_ms = 1e3 * ideal_step_s(network, 4, 4, measured["core_ceilings"])
    for method in measured["methods"].values():
        assert method["fraction_of_ideal_core"] == pytest.approx(ideal_ms / method["core_ms_per_image"])
    bench_step.print_table(measured)
    printed = " ".join(capsys.readouterr().out.split())
    assert "channels-last" in printed.replace(" ", "") and "beside 2 busy processes" in printed


def test_busy_processes_end_with_the_process_that_started_them() -> None:
    code = (
        "import subprocess, time\nfrom alexnet.bench.company import busy_processes\n"
        "real, started = subprocess.Popen, []\n"
        "subprocess.Popen = lambda *a: started.append(real(*a)) or started[-1]\n"
        "with busy_processes(1):\n    print(started[0].pid, flush=True)\n    time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
    for _ in range(200):
        if not Path(f"/proc/{pid}/stat").exists() or " Z " in Path(f"/proc/{pid}/stat").read_text():
            return
        time.sleep(0.05)
    pytest.fail("a busy process outlived the benchmark")


@pytest.mark.slow
def test_steps_are_measured_and_fractions_follow_from_the_speeds(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, logger="alexnet")
    monkeypatch.setenv("COLUMNS", "200")
    methods = ("alexnet", "torchvision's network", "alexnet with loading from BC1")
    measured = measure_step(2, 1, 1, "cpu", "float32", methods)
    assert set(measured["methods"]) == set(methods) and measured["speedups"]["alexnet"] == 1
    for name, method in measured["methods"].items():
        fraction = method["images_per_second"] * measured["flops_per_image"] / measured["ceilings"]["matmul_flops"]
        assert method["fraction_of_matmul"] == pytest.approx(fraction) and 0 < fraction < 1.5, name
        # At least weights, gradients and velocities: 12 bytes each; None on other systems than Linux.
        assert method["peak_bytes"] is None or 7e8 < method["peak_bytes"] < 3e9, name
        ideal = method["images_per_second"] * measured["ideal_ms_per_image"] / 1e3
        assert method["fraction_of_ideal"] == pytest.approx(ideal) and fraction < ideal, name
    # Two operations per multiply-add; forward once and backward twice, conv1 once: its input has no gradient.
    placed = AlexNet(1000).sized_layers
    assert measured["flops_per_image"] == 6 * sum(one.multiply_adds for one in placed) - 2 * placed[0].multiply_adds
    assert any("s per step" in message for message in caplog.messages)
    bench_step.print_table(measured)
    assert "torchvision's network" in capsys.readouterr().out


def test_the_ideal_step_is_the_sum_of_its_bytes_and_products() -> None:
    network = meta_network()
    # (channels * positions) in thousands: images 150,528; conv1 290,400; pooled 69,984; conv2 186,624; pooled 43,264;
    # conv3, conv4 64,896 each; conv5 43,264; pooled 9,216; 4,096 twice; 1,000.
    layers = [
        (150_528, 290_400), (69_984, 186_624), (43_264, 64_896), (64_896, 64_896), (64_896, 43_264),
        (9_216, 4_096), (4_096, 4_096), (4_096, 1_000),
    ]  # fmt: skip
    pools = [(290_400, 69_984), (186_624, 43_264), (43_264, 9_216)]
    numbers = sum(3 * (read + written) for read, written in layers) - sum(layers[0])
    numbers += sum(3 * read + 2 * written for read, written in pools)
    notes = 2 * sum(written for _, written in pools)
    weights = 60_965_224
    assert step_bytes(network, 128, 2) == pytest.approx(2 * numbers + notes + weights * (6 + 2 + 16 + 2) / 128)
    assert step_bytes(network, 1, 4) == pytest.approx(4 * numbers + notes + weights * (12 + 4 + 16))
    ceilings = {"matmul_flops": 1e15, "copy_bytes": 3e12}
    in_all = step_flops(network) / 1e15 + step_bytes(network, 128, 2) / 3e12
    assert ideal_step_s(network, 128, 2, ceilings) == pytest.approx(in_all)


def test_the_ideal_step_of_small_networks_fuses_what_has_no_weights() -> None:
    # Images 28^2 * 3; conv1 32 * 28^2, pooled to 14^2; conv2 64 * 14^2, pooled to 7^2; conv3 128 * 7^2, pooled to 3^2;
    # conv4 256 * 3^2; 10 classes.
    layers = [(2352, 25088), (6272, 12544), (3136, 6272), (1152, 2304), (2304, 10)]
    pools = [(25088, 6272), (12544, 3136), (6272, 1152)]  # each with its ReLU and normalization
    numbers = sum(3 * (read + written) for read, written in layers) - sum(layers[0])
    numbers += sum(3 * read + 2 * written for read, written in pools)
    notes = 2 * sum(written for _, written in pools)
    weights = 32 * 75 + 64 * 288 + 128 * 576 + 256 * 1152 + 10 * 2304 + 32 + 64 + 128 + 256 + 10
    quick = meta_network("quick", num_classes=10)
    assert step_bytes(quick, 128, 4) == pytest.approx(4 * numbers + notes + weights * (12 + 4 + 16) / 128)
    # Average pooling alone goes backward without its input: conv3 64 * 8^2, pooled to 4^2.
    averaged, kept = meta_network("cifar-80sec", num_classes=10), meta_network("cifar-18pct", num_classes=10)
    pooled = [(32 * 16**2, 32 * 8**2), (64 * 8**2, 64 * 4**2)]
    layers = [(3072, 32768), (8192, 8192), (2048, 4096), (1024, 64), (64, 10)]
    numbers = sum(3 * (read + written) for read, written in layers) - sum(layers[0])
    numbers += 3 * 32768 + 2 * 8192 + sum(2 * (read + written) for read, written in pooled)
    weights = sum(one.numel() for one in averaged.parameters())
    assert step_bytes(averaged, 128, 4) == pytest.approx(4 * numbers + 2 * 8192 + weights * (12 + 4 + 16) / 128)
    # With normalization after it, the first of both averages needs its input and the notes.
    weights -= sum(one.numel() for one in kept.parameters())
    dense = 3 * (1024 + 64 + 64 + 10) - 3 * (1024 + 10)
    more = 4 * 8192 + 2 * 2048 - 4 * dense
    assert step_bytes(kept, 128, 4) == pytest.approx(step_bytes(averaged, 128, 4) + more - weights * 32 / 128)


def test_speedups_are_medians_over_the_rounds() -> None:
    speeds = {"alexnet": [10.0, 30.0, 20.0], "plain": [5.0, 10.0, 20.0]}
    assert speedups(speeds, "alexnet") == {"alexnet": 1, "plain": 2} and speedups(speeds, "caffe") == {}
    found = summarize(speeds, {"alexnet": 2.0, "plain": 1.0}, {"matmul_flops": 100.0})
    assert found["alexnet"] == {"images_per_second": 20, "best_images_per_second": 30, "fraction_of_matmul": 0.4}
    ceilings = Ceilings(torch.device("cpu"), "float32")
    timings = {"large matrix product": Timings((0.4, 0.2, 0.3), ()), "large copy": Timings((0.5, 0.1, 0.2), ())}
    assert ceilings.results(timings) == {"matmul_flops": 2 * 2048**3 / 0.1, "copy_bytes": 2 * 2**28 / 0.05}


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(RequestError, match="--batch-size is 0"):
        measure_step(0, 1, 1, "cpu", "float32")
    with pytest.raises(RequestError, match="unknown method caffe; allowed on this device: paper in plain PyTorch"):
        measure_step(2, 1, 1, "cpu", "float32", ("caffe",))
    with pytest.raises(RequestError, match="unknown recipe 'quik'; did you mean quick"):
        measure_step(None, None, 1, "cpu", "float32", recipe_name="quik")
    with pytest.raises(RequestError, match="--busy is -1; allowed is 0 or more"):
        measure_step(None, None, 1, "cpu", "float32", recipe_name="quick", busy=-1)
    with pytest.raises(RequestError, match="--steps 0"):
        measure_evaluation(2, 0, 1, "cpu", "float32")


@pytest.mark.slow
def test_the_command_measures_in_other_processes(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["bench", "step", "--device", "cpu", "--batch-size", "1", "--steps", "1", "--rounds", "1"]
    assert main([*words, "--only", "alexnet", "--allocator", "default", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["default"] and list(found["default"]["methods"]) == ["alexnet"]
    assert main([*words, "--only", "caffe"]) == 2  # the other process prints why


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["step", "--batch-size", "0"], "--batch-size is 0"),
        (["step", "--precision", "half"], "--precision: invalid choice: 'half' (choose from "),
        (["evaluate", "--rounds", "0"], "--rounds 0; allowed are 1 or more"),
        (["evaluate", "--device", "tpu"], "--device: invalid choice: 'tpu'"),
        (
            ["columns", "--no-speed"],
            "`alexnet bench columns` is now `python benchmarks/columns.py` in the source repository",
        ),
        (["precision"], "python benchmarks/precision.py"),
        (["data", "--workers", "0"], "--workers is 0; allowed is 1 or more"),
        (["prepare", "--workers", "-3"], "--workers is -3; allowed is 1 or more"),
    ],
)
def test_the_command_refuses_what_is_wrong(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    here = ["--allocator", "current"] if words[0] in ("step", "evaluate") else []
    assert main(["bench", *words, *here]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.slow
def test_evaluations_are_measured(capsys: pytest.CaptureFixture[str]) -> None:
    measured = measure_evaluation(2, 1, 1, "cpu", "float32")
    speeds = {name: method["images_per_second"] for name, method in measured["methods"].items()}
    assert speeds[TEN_VIEWS] < speeds[ONE_VIEW]
    assert measured["ten_view_cost"] > 0 and measured["speedups"]["alexnet"] == 1
    plain = "paper in plain PyTorch"
    assert measured["speedups"][plain] == pytest.approx(speeds["alexnet"] / speeds[plain])
    assert measured["flops_per_image"] == 2 * sum(one.multiply_adds for one in AlexNet(1000).sized_layers)
    for name, method in measured["methods"].items():
        flops = measured["flops_per_image"] * (10 if name == TEN_VIEWS else 1)
        assert method["fraction_of_matmul"] == pytest.approx(
            speeds[name] * flops / measured["ceilings"]["matmul_flops"]
        )
    bench_evaluate.print_table(measured)
    assert "torchvision's network" in capsys.readouterr().out
