"""The benches of steps and of evaluations run every way they name and report shares that follow from their figures."""

import json
import os
import signal
import sys
import time

import pytest
import torch

from alexnet.bench import allocators
from alexnet.bench.allocators import by_allocator
from alexnet.bench.ceilings import Ceilings, ratios, summary
from alexnet.bench.evaluation_benchmark import bench_evaluate
from alexnet.bench.featuring import bench_features
from alexnet.bench.layer_times import layer_times
from alexnet.bench.reference_networks import paper_network, torchvision_network
from alexnet.bench.step_benchmark import bench_step
from alexnet.bench.step_cost import papers_network, step_bytes, step_floor_s, step_flops
from alexnet.bench.timing import Timed
from alexnet.cli.bench_tables import print_evaluate_bench, print_features_bench, print_step_bench
from alexnet.cli.main import main
from alexnet.errors import RequestError, WorkError
from alexnet.model.network import AlexNet


@pytest.mark.slow
def test_the_usual_networks_are_what_they_say() -> None:
    ours, usual = AlexNet(10).eval(), paper_network(10).eval()
    # The same layers in the same order, so the weights go over by their place.
    usual.load_state_dict(dict(zip(usual.state_dict(), ours.state_dict().values(), strict=True)))
    x = 50 * torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        want, got = ours(x), usual(x)
    # torch's dropout scales while training, the paper's when testing: fc7 and fc8 read half of what they do there.
    halved = {
        name: value * (0.5 if name in ("fc7.weight", "fc8.weight") else 1) for name, value in ours.state_dict().items()
    }
    usual.load_state_dict(dict(zip(usual.state_dict(), halved.values(), strict=True)))
    with torch.inference_mode():
        assert not torch.allclose(got, want) and torch.allclose(usual(x), want, rtol=1e-4, atol=1e-4)
    assert sum(one.numel() for one in torchvision_network(1000).parameters()) == 61_100_840  # as torchvision states


@pytest.mark.slow
def test_a_step_is_measured_and_shares_follow_from_it(capsys: pytest.CaptureFixture[str]) -> None:
    lines: list[str] = []
    ways = ("alexnet", "torchvision's network", "alexnet, from blocks")
    measured = bench_step(2, 1, 1, "cpu", "float32", lines.append, ways)
    assert set(measured["ways"]) == set(ways) and measured["ratios"]["alexnet"] == 1
    for name, way in measured["ways"].items():
        share = way["images_per_second"] * measured["flops_per_image"] / measured["ceilings"]["matmul_flops"]
        assert way["share_of_matmul"] == pytest.approx(share) and 0 < share < 1.5, name
        # Weights, gradients and velocities at the least: 12 bytes each; on Linux alone it is known.
        assert way["peak_bytes"] is None or 7e8 < way["peak_bytes"] < 3e9, name
        floor = way["images_per_second"] * measured["floor_s_per_image"]
        assert way["share_of_floor"] == pytest.approx(floor) and share < floor, name
    # Two operations a multiply-add; forward once and backward twice, conv1 once: its input has no gradient.
    placed = AlexNet(1000).sized_layers
    assert measured["flops_per_image"] == 6 * sum(one.multiply_adds for one in placed) - 2 * placed[0].multiply_adds
    assert [layer["layer"] for layer in measured["layers"]][:3] == ["conv1", "ReLU + ResponseNorm + Pool", "conv2"]
    assert all(layer["forward_ms"] > 0 and layer["backward_ms"] > 0 for layer in measured["layers"])
    assert any("a step in" in line for line in lines)
    print_step_bench(measured)
    assert "torchvision's network" in capsys.readouterr().out


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_layers_are_measured_as_a_gpu_replays_them() -> None:
    measured = layer_times(torch.device("cuda"), "bfloat16", 64, times=3)
    assert measured[0]["layer"] == "conv1 + ReLU + ResponseNorm + Pool"
    assert len(measured) == len(AlexNet().compiled_ops)
    # conv2 multiplies 224 million pairs an image, fc8 4 million.
    times = {layer["layer"].split(" + ")[0]: layer["forward_ms"] + layer["backward_ms"] for layer in measured}
    assert 0 < times["fc8"] < times["conv2"] < 5


def test_the_floor_is_the_sum_of_its_bytes_and_products() -> None:
    network = papers_network()
    # (maps * places) in thousands: images 150,528; conv1 290,400; pooled 69,984; conv2 186,624; pooled 43,264;
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
    assert step_floor_s(128, 2, ceilings) == pytest.approx(in_all)


def test_allocators_are_compared_as_a_shell_starts_them(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[list[str], str]] = []

    def ended(command: list[str], environment: dict[str, str]) -> tuple[int, str]:
        tuned = "GLIBC_TUNABLES" in environment
        asked.append((command[3:], "tuned" if tuned else "default"))
        rates = {"usual": 40.0 if tuned else 20.0, "alexnet": 300.0 if tuned else 200.0}
        ways = {name: {"images_per_second": rate} for name, rate in rates.items()}
        return failing, json.dumps({"ways": ways})

    failing = 0
    monkeypatch.setattr(allocators, "_ended", ended)
    found = by_allocator(("tuned", "default"), ["bench", "step"], "alexnet", lambda _: None)
    assert found["tuned"]["ratios_in_a_shell"] == {"usual": 15.0} and "ratios_in_a_shell" not in found["default"]
    assert asked == [(["alexnet", "bench", "step", "--allocator", "here", "--json"], name) for name in found]
    failing = 3
    with pytest.raises(WorkError, match="with the default allocator ended with exit code 3"):
        by_allocator(("default",), ["bench", "step"], "alexnet", lambda _: None)
    failing = 2
    with pytest.raises(RequestError) as wrong:
        by_allocator(("default",), ["bench", "step"], "alexnet", lambda _: None)
    assert wrong.value.said  # by the other process


def test_one_allocator_is_not_called_two(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("LD_PRELOAD", "libjemalloc.so")
    monkeypatch.setattr("alexnet.bench.step_benchmark.bench_step", lambda *_: {"measured": "here"})
    assert main(["bench", "step", "--device", "cpu", "--json"]) == 0
    printed = capsys.readouterr()
    assert "with one memory allocator: LD_PRELOAD has chosen it" in printed.err and "here" in printed.out
    assert main(["bench", "step", "--device", "cpu", "--allocator", "tuned"]) == 2


def test_a_measuring_process_ends_with_the_one_that_asked() -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 1.0)
    start_s = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            allocators._ended([sys.executable, "-c", "import time; time.sleep(60)"], os.environ)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - start_s < 30
    assert allocators._ended([sys.executable, "-c", "print(3); raise SystemExit(4)"], os.environ) == (4, "3\n")


@pytest.mark.slow
def test_the_command_measures_in_other_processes(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["bench", "step", "--device", "cpu", "--batch-size", "1", "--steps", "1", "--rounds", "1"]
    assert main([*words, "--only", "alexnet", "--allocator", "default", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["default"] and list(found["default"]["ways"]) == ["alexnet"]
    assert main([*words, "--only", "caffe"]) == 2  # the other process says why


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["step", "--batch-size", "0"], "--batch-size is 0"),
        (["step", "--precision", "half"], "precision is 'half'; allowed are auto, float32 and bfloat16"),
        (["evaluate", "--rounds", "0"], "--rounds 0; allowed are 1 or more"),
        (["features", "--device", "tpu"], "unknown device 'tpu'"),
        (["data", "--workers", "0"], "--workers is 0; allowed is 1 or more"),
        (["prepare", "--workers", "-3"], "--workers is -3; allowed is 1 or more"),
    ],
)
def test_the_command_refuses_what_is_wrong(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    here = ["--allocator", "here"] if words[0] in ("step", "evaluate", "features") else []
    assert main(["bench", *words, *here]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.slow
def test_evaluations_are_measured(capsys: pytest.CaptureFixture[str]) -> None:
    measured = bench_evaluate(2, 1, 1, "cpu", "float32", lambda _: None)
    rates = {name: way["images_per_second"] for name, way in measured["ways"].items()}
    assert rates["stored images, ten views"] < rates["stored images, one view"]
    assert measured["ten_views_of_ten_passes"] > 0 and measured["ratios"]["alexnet"] == 1
    usual = rates["paper, as usually written"]
    assert measured["ratios"]["paper, as usually written"] == pytest.approx(rates["alexnet"] / usual)
    assert measured["flops_per_image"] == 2 * sum(one.multiply_adds for one in AlexNet(1000).sized_layers)
    for name, way in measured["ways"].items():
        flops = measured["flops_per_image"] * (10 if name == "stored images, ten views" else 1)
        assert way["share_of_matmul"] == pytest.approx(rates[name] * flops / measured["ceilings"]["matmul_flops"])
    print_evaluate_bench(measured)
    assert "torchvision's network" in capsys.readouterr().out


def test_ratios_are_those_of_the_rounds() -> None:
    rates = {"alexnet": [10.0, 30.0, 20.0], "usual": [5.0, 10.0, 20.0]}
    assert ratios(rates, "alexnet") == {"alexnet": 1, "usual": 2} and ratios(rates, "caffe") == {}
    found = summary(rates, {"alexnet": 2.0, "usual": 1.0}, {"matmul_flops": 100.0})
    assert found["alexnet"] == {"images_per_second": 20, "best_images_per_second": 30, "share_of_matmul": 0.4}
    limits = Ceilings(torch.device("cpu"), "float32")
    timed = {"a large product": Timed((0.4, 0.2, 0.3), ()), "a large copy": Timed((0.5, 0.1, 0.2), ())}
    assert limits.found(timed) == {"matmul_flops": 2 * 2048**3 / 0.1, "copy_bytes": 2 * 2**28 / 0.05}


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(RequestError, match="--batch-size is 0"):
        bench_step(0, 1, 1, "cpu", "float32", print)
    with pytest.raises(RequestError, match="no way caffe here; there are paper, as usually written"):
        bench_step(2, 1, 1, "cpu", "float32", print, ("caffe",))
    with pytest.raises(RequestError, match="--steps 0"):
        bench_evaluate(2, 0, 1, "cpu", "float32", print)
    with pytest.raises(RequestError, match="--batch-size is 0"):
        bench_features(0, 1, 1, "cpu", "float32", print)


@pytest.mark.slow
def test_features_are_measured(capsys: pytest.CaptureFixture[str]) -> None:
    measured = bench_features(2, 1, 1, "cpu", "float32", lambda _: None)
    ways = measured["ways"]
    assert ways["alexnet, conv1"]["images_per_second"] > ways["alexnet, fc7"]["images_per_second"]
    assert measured["ratios"]["alexnet, fc7"] == 1 and "stored images to arrays, fc7" in ways
    first = AlexNet(1000).sized_layers[0].multiply_adds
    share = ways["alexnet, conv1"]["images_per_second"] * 2 * first / measured["ceilings"]["matmul_flops"]
    assert ways["alexnet, conv1"]["share_of_matmul"] == pytest.approx(share)
    print_features_bench(measured)
    assert "stored images to arrays" in capsys.readouterr().out
