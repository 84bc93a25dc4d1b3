"""The times of single layers."""

import pytest
import torch

from alexnet.model.network import AlexNet
from benchmarks.layer_times import layer_times, main


@pytest.mark.slow
def test_every_layer_is_timed(capsys: pytest.CaptureFixture[str]) -> None:
    rows = layer_times(torch.device("cpu"), "float32", 1, rounds=1)
    assert [row["layer"] for row in rows][:3] == ["conv1", "relu1 + norm1 + pool1", "conv2"]
    assert all(row["forward_ms"] > 0 and row["backward_ms"] > 0 for row in rows)
    assert main(["--batch-size", "0"]) == 2
    assert "--batch-size is 0" in capsys.readouterr().err


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_layers_are_measured_as_a_gpu_replays_them() -> None:
    measured = layer_times(torch.device("cuda"), "bfloat16", 64, rounds=3)
    assert measured[0]["layer"] == "conv1 + ReLU + ResponseNorm + MaxPool"
    assert len(measured) == len(AlexNet().compiled_ops)
    # conv2 multiplies 224 million pairs an image, fc8 4 million.
    times = {layer["layer"].split(" + ")[0]: layer["forward_ms"] + layer["backward_ms"] for layer in measured}
    assert 0 < times["fc8"] < times["conv2"] < 5
