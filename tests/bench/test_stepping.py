"""The benches of steps and of evaluations run every way they name and report shares that follow from their figures."""

import json
from types import SimpleNamespace

import pytest
import torch

from alexnet.bench.allocators import by_allocator
from alexnet.bench.evaluating import bench_evaluate
from alexnet.bench.featuring import bench_features
from alexnet.bench.floor import papers_network, step_bytes, step_floor_s, step_flops
from alexnet.bench.layer_times import layer_times
from alexnet.bench.stepping import bench_step
from alexnet.bench.usual import paper_network, torchvision_network
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
def test_a_step_is_measured_and_shares_follow_from_it() -> None:
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
    placed = AlexNet(1000).placed
    assert measured["flops_per_image"] == 6 * sum(one.multiply_adds for one in placed) - 2 * placed[0].multiply_adds
    assert [layer["layer"] for layer in measured["layers"]][:3] == ["conv1", "Rectify + Normalise + Pool", "conv2"]
    assert all(layer["forward_ms"] > 0 and layer["backward_ms"] > 0 for layer in measured["layers"])
    assert any("a step in" in line for line in lines)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_layers_are_measured_as_a_gpu_replays_them() -> None:
    measured = layer_times(torch.device("cuda"), "bfloat16", 64, times=3)
    assert measured[0]["layer"] == "conv1 + Rectify + Normalise + Pool"
    assert len(measured) == len(AlexNet().passes)
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

    def ended(command: list[str], env: dict[str, str], **_: object) -> SimpleNamespace:
        tuned = "GLIBC_TUNABLES" in env
        asked.append((command[3:], "tuned" if tuned else "default"))
        rates = {"usual": 40.0 if tuned else 20.0, "alexnet": 300.0 if tuned else 200.0}
        ways = {name: {"images_per_second": rate} for name, rate in rates.items()}
        return SimpleNamespace(returncode=failing, stdout=json.dumps({"ways": ways}))

    failing = 0
    monkeypatch.setattr("subprocess.run", ended)
    found = by_allocator(("tuned", "default"), ["bench", "step"], "alexnet", lambda _: None)
    assert found["tuned"]["ratios_in_a_shell"] == {"usual": 15.0} and "ratios_in_a_shell" not in found["default"]
    assert asked == [(["alexnet", "bench", "step", "--allocator", "here", "--json"], name) for name in found]
    failing = 3
    with pytest.raises(WorkError, match="with the default allocator ended with exit code 3"):
        by_allocator(("default",), ["bench", "step"], "alexnet", lambda _: None)


@pytest.mark.slow
def test_evaluations_are_measured() -> None:
    measured = bench_evaluate(2, 1, 1, "cpu", "float32", lambda _: None)
    assert measured["ways"]["stored images, ten views"] < measured["ways"]["stored images, one view"]
    assert measured["ten_views_of_ten_passes"] > 0 and measured["ratios"]["alexnet"] == 1
    assert measured["flops_per_image"] == 2 * sum(one.multiply_adds for one in AlexNet(1000).placed)
    assert measured["share_of_matmul"] == pytest.approx(
        measured["ways"]["alexnet"] * measured["flops_per_image"] / measured["ceilings"]["matmul_flops"]
    )


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(RequestError, match="--batch-size is 0"):
        bench_step(0, 1, 1, "cpu", "float32", print)
    with pytest.raises(RequestError, match="unknown way caffe; known are paper, as usually written"):
        bench_step(2, 1, 1, "cpu", "float32", print, ("caffe",))
    with pytest.raises(RequestError, match="--steps 0"):
        bench_evaluate(2, 0, 1, "cpu", "float32", print)
    with pytest.raises(RequestError, match="--batch-size is 0"):
        bench_features(0, 1, 1, "cpu", "float32", print)


@pytest.mark.slow
def test_features_are_measured() -> None:
    measured = bench_features(2, 1, 1, "cpu", "float32", lambda _: None)
    assert measured["ways"]["alexnet, conv1"] > measured["ways"]["alexnet, fc7"]
    assert measured["ratios"]["alexnet, fc7"] == 1 and "stored images to arrays, fc7" in measured["ways"]
