"""The bytes that the benchmark of columns expects follow from the network, and real processes send them."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from alexnet.bench.step_cost import meta_network
from alexnet.errors import WorkError
from alexnet.model.layer_specs import SizedLayer
from benchmarks.columns import (
    COUNTED,
    ProcessTiming,
    compare_bytes,
    expected_bytes,
    expected_exchange,
    gradient_bytes,
    main,
    print_table,
    require_expected,
    ring_bytes,
    summarize_speed,
)

# Worked out by hand for the full network: channels, positions and units of the other column, 4 bytes each.
CONV3, FC6, FC7, FC8, SCORES = 128 * 13 * 13 * 4, 128 * 6 * 6 * 4, 2048 * 4, 2048 * 4, 500 * 4
IN_DENSE = 2 * (FC6 + FC7 + FC8) + SCORES
IN_EVERY_LAYER = 2 * CONV3 + IN_DENSE
PARAMETERS, OF_CONVOLUTIONS = 60_965_224, 2_334_080


def sized_layers(variant: str) -> tuple[SizedLayer, ...]:
    return meta_network(variant).sized_layers


def test_columns_send_half_of_a_layers_input_and_its_gradient() -> None:
    found = expected_exchange(sized_layers("paper"), 1000, "every-layer", 4)
    assert found["conv3", "forward"] == CONV3 == 86_528
    both_ways = {"conv3": CONV3, "fc6": FC6, "fc7": FC7, "fc8": FC8}
    assert found == {
        ("scores", "forward"): SCORES,
        **{(layer, kind): num for layer, num in both_ways.items() for kind in ("forward", "backward")},
    }
    halved = expected_exchange(sized_layers("paper"), 1000, "every-layer", 2)
    assert sum(halved.values()) == IN_EVERY_LAYER // 2 == 122_344


def test_columns_in_dense_layers_send_rows_first() -> None:
    found = expected_exchange(sized_layers("paper"), 1000, "dense", 4)
    # fc6: all 9,216 inputs of every second image.
    assert found["fc6", "forward"] == 9216 * 4 // 2 and sum(found.values()) == IN_DENSE == 71_632


def test_without_communication_columns_meet_in_the_last_layer() -> None:
    found = expected_exchange(sized_layers("no-communication"), 1000, "every-layer", 4)
    assert found == {("fc8", "forward"): FC8, ("fc8", "backward"): FC8, ("scores", "forward"): SCORES}
    # Both processes compute all convolutions, each for half of the images, so each needs fc6's inputs of the others.
    dense = expected_exchange(sized_layers("no-communication"), 1000, "dense", 4)
    assert {layer for layer, _ in dense} == {"fc6", "fc8", "scores"} and dense["fc6", "forward"] == FC6


def test_replicas_send_gradients() -> None:
    by_layer = gradient_bytes(sized_layers("paper"))
    assert by_layer["fc8"] == 4 * (4096 * 1000 + 1000) and sum(by_layer.values()) == 4 * PARAMETERS
    assert ring_bytes(100, 2) == 100 and ring_bytes(100, 4) == 150


def test_figures_by_layer_add_up_to_those_of_a_layout() -> None:
    expected = {name: expected_bytes(meta_network(), layout, 32, "float32") for name, layout in COUNTED.items()}
    found = compare_bytes(expected, expected, 32)
    layouts = found["layouts"]
    assert (
        layouts["2 columns"]["per_image"] == IN_EVERY_LAYER and layouts["2 columns"]["per_step"] == 32 * IN_EVERY_LAYER
    )
    assert layouts["2 columns, dense"]["per_step"] == 32 * IN_DENSE + 4 * OF_CONVOLUTIONS
    assert layouts["2 replicas"]["per_step"] == 4 * PARAMETERS and layouts["2 replicas"]["fraction_of_replicas"] == 1
    assert layouts["2 replicas, bfloat16"]["per_step"] == 2 * PARAMETERS
    assert layouts["2 columns"]["equal_batch_size"] == pytest.approx(
        2 * layouts["2 columns"]["equal_batch_size_bfloat16"]
    )
    assert layouts["2 columns"]["equal_batch_size"] == pytest.approx(996.62, abs=0.01)
    dense = layouts["2 columns, dense"]["equal_batch_size"]
    assert dense == pytest.approx(3274.02, abs=0.01)
    assert dense * IN_DENSE + 4 * OF_CONVOLUTIONS == pytest.approx(4 * PARAMETERS)
    for name, layout in layouts.items():
        assert sum(layer[name]["expected"] for layer in found["layers"]) == pytest.approx(layout["per_image"])
        assert all(layer[name]["agrees"] for layer in found["layers"])


def test_what_was_not_expected_is_named() -> None:
    expected = {("fc6", "forward"): 8, ("fc6", "gradients"): 4, ("fc7", "gradients"): 6}
    right = {("fc6", "forward"): 8, ("", "gradients"): 10}
    require_expected("2 columns", [right, right], expected)
    for wrong, said in (
        ({**right, ("fc6", "forward"): 9}, "rank 1 sent 9 bytes per step for fc6, forward; expected .* are 8"),
        ({**right, ("fc7", "backward"): 1}, "rank 1 sent 1 bytes per step for fc7, backward; expected .* are 0"),
        ({("fc6", "forward"): 8}, "rank 1 sent 0 bytes per step for all layers, gradients; expected .* are 10"),
    ):
        with pytest.raises(WorkError, match=said):
            require_expected("2 columns", [right, wrong], expected)


def test_a_layout_is_as_fast_as_its_slowest_process() -> None:
    one, two = ProcessTiming(2.0, 0.0, 2.0), ProcessTiming(1.0, 0.0, 2.0)
    first, second = (
        [ProcessTiming(0.5, 0.1, 0.3), ProcessTiming(1.0, 0.1, 0.5)],
        [ProcessTiming(1.0, 0.4, 0.5), ProcessTiming(0.5, 0.4, 0.3)],
    )
    timings = [
        {"1 process, 1 thread": [one, one], "1 process": [two, two], "2 columns": first},
        {"1 process, 1 thread": [], "1 process": [], "2 columns": second},
    ]
    found = summarize_speed(timings, 8)
    assert found["2 columns"]["images_per_second"] == 8 and found["2 columns"]["speedup_over_one_process"] == 1
    assert found["2 columns"]["best_images_per_second"] == 8
    assert found["2 columns"]["waiting_fraction"] == pytest.approx(1.0 / 3.0)
    assert (
        found["2 columns"]["cpu_ms_per_image"] == pytest.approx(100) and found["1 process"]["cpu_ms_per_image"] == 250
    )
    assert (
        found["1 process, 1 thread"]["speedup_over_one_process"] == 0.5
        and found["1 process"]["waiting_fraction"] is None
    )


def test_what_cannot_be_measured_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for words, said in (
        (
            ["--batch-size", "30"],
            "--batch-size is 30, for up to 4 processes; allowed are multiples of 4",
        ),
        (["--batch-size", "3", "--no-speed"], "allowed are multiples of 2"),
        (["--steps", "0"], "--steps 0"),
        (["--rounds", "0"], "--rounds 0; allowed are 1 or more"),
        (["--variant", "alexnet2"], "alexnet2"),
        (["--width", "9"], "--network.width is 9"),
        (["--variant", "one-gpu"], "so it has no two columns"),
        (["--precision", "float16"], "--precision: invalid choice: 'float16' (choose from "),
    ):
        assert main(words) == 2
        assert said in capsys.readouterr().err


def require_counts(measured: dict[str, Any], element_bytes: int) -> None:
    layers = {row["layer"]: row for row in measured["bytes"]["layers"]}
    # Half of conv2's 16 channels, of conv5's, of fc6's 256 units and of the scores.
    assert layers["conv3"]["2 columns"]["forward"] == 8 * 13 * 13 * element_bytes
    assert layers["fc6"]["2 columns, dense"]["backward"] == 16 * 6 * 6 // 2 * element_bytes
    assert layers["fc7"]["2 columns"]["forward"] == 128 * element_bytes
    assert layers["scores"]["2 columns"]["forward"] == 500 * element_bytes
    assert all(layout["agrees"] for row in layers.values() for name, layout in row.items() if name != "layer")


@pytest.mark.slow
def test_two_processes_send_half_as_much_in_bfloat16() -> None:
    measured = run("--no-speed", "--width", "0.0625", "--batch-size", "4", "--precision", "bfloat16", "--json")
    assert measured["speed"] is None
    require_counts(measured, 2)


@pytest.mark.slow
@pytest.mark.skipif(bool(os.environ.get("CI")), reason="CI counts the bytes in two processes")
def test_four_processes_are_counted_and_timed(capsys: pytest.CaptureFixture[str]) -> None:
    small = ("--width", "0.0625", "--batch-size", "4", "--precision", "float32")
    measured = run(*small, "--steps", "1", "--rounds", "2", "--json")
    require_counts(measured, 4)
    speed = measured["speed"]
    assert list(speed) == [
        "1 process, 1 thread", "1 process", "2 columns", "2 columns, dense", "2 replicas", "2 replicas, bfloat16",
        "2 columns x 2 replicas", "4 replicas",
    ]  # fmt: skip
    assert speed["1 process"]["speedup_over_one_process"] == 1
    for name, layout in speed.items():
        assert (
            len(layout["images_per_second_by_round"]) == 2
            and layout["best_images_per_second"] >= layout["images_per_second"] > 0
        )
        assert layout["cpu_ms_per_image"] > 0
        assert (layout["waiting_fraction"] is not None) == ("columns" in name)
        assert layout["waiting_fraction"] is None or 0 < layout["waiting_fraction"] < 1
    print_table(measured)
    printed = capsys.readouterr().out
    assert "NO" not in printed and f"{8 * 13 * 13 * 4:,}" in printed and "4 replicas" in printed


def run(*words: str) -> dict[str, Any]:
    """The JSON object that the command prints; it starts its own processes."""
    environment = {**os.environ, "ALEXNET_ALLOCATOR": "default", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "benchmarks/columns.py", *words]
    finished = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert finished.returncode == 0, finished.stderr
    found: dict[str, Any] = json.loads(finished.stdout)
    return found
