"""What gradients owe to trained weights."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import alexnet
from alexnet.model.network import AlexNet
from alexnet.model.weights import Trained
from benchmarks.random_layers import main, measure_layers, print_table


@pytest.mark.slow
def test_layers_become_random_one_by_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = [tmp_path / f"{number}.png" for number in range(2)]
    for number, path in enumerate(images):
        pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    network = AlexNet(4, "quick", 0.25, generator=torch.Generator().manual_seed(1)).eval()
    trained = Trained(
        network=network,
        classes=tuple(alexnet.ClassInfo(str(number), str(number)) for number in range(4)),
        mean_image=torch.full((32, 32, 3), 128.0),
        crop=28,
        title="t",
        generated=True,
    )
    alexnet.save(trained, tmp_path / "weights.safetensors")
    result = measure_layers(tmp_path / "weights.safetensors", images)
    changes = [row["change"] for row in result["rows"]]
    assert changes[1:-1] == [f"random weights from {name} on" for name in ("fc5", "conv4", "conv3", "conv2", "conv1")]
    # With all layers of the other network, its own gradients remain.
    other = alexnet.load(tmp_path / "weights.safetensors", untrained=True, seed=9).network
    batch = alexnet.preprocess(images, trained)
    want = []
    for one, pixels in zip(network(batch).argmax(1).tolist(), batch, strict=True):
        gradients = []
        for model in (network, other):
            given = pixels[None].clone().requires_grad_()
            gradients.append(torch.autograd.grad(model(given)[0, one], given)[0].numpy().ravel())
        want.append(np.corrcoef(*gradients)[0, 1])
    assert result["rows"][-2]["gradient"] == pytest.approx(np.mean(want), abs=1e-3)
    print_table(result)
    assert "| random weights from conv1 on | " in capsys.readouterr().out
    assert main([str(tmp_path / "weights.safetensors"), str(images[0])]) == 2
