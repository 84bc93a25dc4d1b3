"""Load a folder of form hub as timm loads one of its own: a network and transforms from config.json, then the weights.

python timm_style.py FOLDER PHOTOGRAPH    (FOLDER was written by `alexnet export RUN --to hub`)
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

import alexnet


def create_model(config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> torch.nn.Module:
    assert config["architecture"] == "alexnet"
    args = config["model_args"]
    network = alexnet.AlexNet(config["num_classes"], args["variant"], args["width"], dropout=args["dropout"])
    network.load_state_dict({name: tensor for name, tensor in tensors.items() if name != "mean_image"})
    return network.eval()


def transform(image: Image.Image, cfg: dict[str, Any], mean_image: torch.Tensor) -> torch.Tensor:
    """Resize(crop / crop_pct), CenterCrop(crop), ToTensor, Normalize(mean, std), with the mean image for the mean."""
    assert (cfg["interpolation"], cfg["crop_mode"]) == ("bilinear", "center")
    crop = cfg["input_size"][-1]
    side = round(crop / cfg["crop_pct"])
    scale = side / min(image.size)
    size = tuple(max(side, round(scale * length)) for length in image.size)
    resized = image.convert("RGB").resize(size, Image.Resampling.BILINEAR)
    left, top = ((length - side) // 2 + (side - crop) // 2 for length in size)
    pixels = np.asarray(resized.crop((left, top, left + crop, top + crop)))
    first = (side - crop) // 2
    mean = mean_image[first : first + crop, first : first + crop] / 255  # cfg["mean"] is its mean color
    normalized = (torch.from_numpy(pixels / np.float32(255)) - mean) / torch.tensor(cfg["std"])
    return normalized.permute(2, 0, 1)


folder, photograph = map(Path, sys.argv[1:])
config = json.loads((folder / "config.json").read_text())
tensors = load_file(folder / "model.safetensors")
network = create_model(config, tensors)
with Image.open(photograph) as image, torch.no_grad():
    batch = transform(image, config["pretrained_cfg"], tensors["mean_image"]).unsqueeze(0)
    probabilities = network(batch).softmax(dim=1)[0]

expected = alexnet.predict(folder / "model.safetensors", photograph, views=1, precision="float32").probabilities[0]
assert abs(probabilities.numpy() - expected).max() < 1e-3  # Pillow's resizing may differ from torch's by one gray level
best = int(probabilities.argmax())
print(f"{config['label_names'][best]}: {100 * probabilities[best]:.1f} %")
