"""What a user writes, from photographs to a network for other classes: `mypy --strict` and pyright accept it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

import alexnet


def train_and_measure(photographs: str, data: Path) -> tuple[Path, float]:
    alexnet.prepare(photographs, data, hold_out=0.1, fit="pad", workers=2)
    run = alexnet.train(data, "runs/mine", "quick", optimizer={"learning_rate": 0.02}, schedule={"epochs": 3})
    run = alexnet.resume(run.path, schedule={"epochs": 5})
    evaluation: alexnet.Evaluation = alexnet.evaluate(run.path, views=10, device="cpu", precision="float32")
    return run.path, evaluation.top1_error


def give_away(run: Path, data: str) -> dict[str, str]:
    written: alexnet.Export = alexnet.export(run, run / "net.onnx", to="onnx", verify=data, progress=False)
    alexnet.export(alexnet.load(written.path), "hub", to="hub")
    return {file.name: file.sha256 for file in written.files}


def look(run: Path | str, photograph: Image.Image) -> list[str]:
    trained = alexnet.load(run)
    array = np.zeros((300, 400, 3), np.uint8)
    scores: torch.Tensor = trained.network(alexnet.preprocess([photograph, "photo.jpg", array], trained))
    best: alexnet.ClassInfo = trained.classes[int(scores[0].argmax())]
    activations = alexnet.features(run, ["photo.jpg"], ["relu4", "pool3"])
    print(best.name, float(scores.softmax(1).max()), activations["relu4"].mean(axis=(2, 3)))
    predictions = alexnet.predict(run, [photograph, "photo.jpg"], top=3, reject=0.5)
    return [one.reason or one.top[0].name for one in predictions]


def train_for_five_classes(trained: alexnet.Trained, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    network = trained.network
    network.fc8 = nn.Linear(4096, 5)
    seen: list[torch.Tensor] = []

    def see(module: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        seen.append(output)

    network.get_submodule("norm1").register_forward_hook(see)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    torch.autograd.backward(nn.functional.cross_entropy(network(images), labels))
    optimizer.step()
    assert network.num_classes == 5
    alexnet.save(replace(trained, network=network.eval(), classes=trained.classes[:5]), "fine.safetensors")
    return seen[0]


try:
    print(train_and_measure("photos", Path("data/mine")), alexnet.AlexNet(1000, "paper", dropout=0.5))
except alexnet.RequestError as error:
    print(error)
