"""What a user writes, from photographs to a network for other classes: `mypy --strict` and pyright accept it."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

import alexnet


def train_and_measure(photographs: str, data: Path) -> tuple[Path, float]:
    alexnet.prepare(photographs, data, hold_out=0.1, fit="pad", workers=2)
    run = alexnet.train(data, "runs/mine", "quick", optimizer={"learning_rate": 0.02}, schedule={"epochs": 3})
    run = alexnet.resume(run.path, schedule={"epochs": 5})
    evaluation: alexnet.Evaluation = alexnet.evaluate(run.path, views=10, device="cpu", precision="float32")
    return run.path, evaluation.top1_error


def look_inside(run: Path | str, photograph: Image.Image) -> NDArray[np.float32]:
    trained: alexnet.Trained = alexnet.load(run)
    images: torch.Tensor = alexnet.preprocess([photograph, "photo.jpg", np.zeros((300, 400, 3), np.uint8)], trained)
    scores: torch.Tensor = trained.network(images)
    best = trained.classes[int(scores[0].argmax())]
    print(best.name, float(scores.softmax(1).max()))
    return alexnet.features(run, ["photo.jpg"], ["relu4"])["relu4"]


def for_five_classes(network: alexnet.AlexNet, images: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
    network.fc8 = nn.Linear(4096, 5)
    network.relu5 = nn.Identity()
    seen: dict[str, torch.Tensor] = {}

    def keep(module: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        seen["norm1"] = output

    network.get_submodule("norm1").register_forward_hook(keep)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    torch.autograd.backward(nn.functional.cross_entropy(network(images), labels))
    optimizer.step()
    assert network.num_classes == 5
    return seen


try:
    for_five_classes(alexnet.AlexNet(1000, "paper", dropout=0.5), torch.zeros(2, 3, 224, 224), torch.tensor([0, 1]))
except alexnet.RequestError as error:
    print(error)
