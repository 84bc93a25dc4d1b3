"""Load a network in torchvision's form and classify a photograph with it.

python torchvision_style.py RUN PHOTOGRAPH    (RUN is of variant torchvision)
"""

import sys
import tempfile
from pathlib import Path

import torch
from torch import nn

import alexnet


class TorchvisionAlexNet(nn.Module):
    """torchvision.models.alexnet, written out so that it also takes narrower layers."""

    def __init__(self, sizes: list[int], num_classes: int) -> None:
        super().__init__()
        conv1, conv2, conv3, conv4, conv5, fc6, fc7 = sizes
        self.features = nn.Sequential(
            nn.Conv2d(3, conv1, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
            nn.Conv2d(conv1, conv2, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
            nn.Conv2d(conv2, conv3, 3, padding=1), nn.ReLU(),
            nn.Conv2d(conv3, conv4, 3, padding=1), nn.ReLU(),
            nn.Conv2d(conv4, conv5, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2),
        )  # fmt: skip
        self.avgpool = nn.AdaptiveAvgPool2d((6, 6))
        self.classifier = nn.Sequential(
            nn.Dropout(), nn.Linear(conv5 * 36, fc6), nn.ReLU(),
            nn.Dropout(), nn.Linear(fc6, fc7), nn.ReLU(), nn.Linear(fc7, num_classes),
        )  # fmt: skip

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.avgpool(self.features(images)).flatten(1))


run, photograph = sys.argv[1:]
with tempfile.TemporaryDirectory() as folder:
    file = alexnet.export(run, Path(folder, "network.pth"), to="torchvision")
    state = torch.load(file, weights_only=True)
*sizes, num_classes = (len(bias) for name, bias in state.items() if name.endswith(".bias"))
network = TorchvisionAlexNet(sizes, num_classes).eval()
network.load_state_dict(state)

# As ToTensor and Normalize, but with the run's mean image in place of a mean color: 0..255 minus mean, to 0..1, by std.
std = torch.tensor([0.229, 0.224, 0.225]).reshape(3, 1, 1)
images = alexnet.preprocess(photograph, run) / 255 / std
with torch.no_grad():
    probabilities = network(images).softmax(dim=1)[0]

expected = alexnet.predict(run, photograph, views=1, precision="float32").probabilities[0]
assert abs(probabilities.numpy() - expected).max() < 1e-5
best = int(probabilities.argmax())
print(f"{alexnet.load(run).classes[best].name}: {100 * probabilities[best]:.1f} %")
