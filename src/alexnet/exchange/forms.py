"""The forms in which `export` writes a network. Importing it does not load torch."""

from typing import Literal, get_args

Form = Literal["onnx", "torch-export", "safetensors", "torchvision", "caffe", "hub"]
FORMS: tuple[Form, ...] = get_args(Form)
FOR_EVERY_VARIANT = "onnx, torch-export, safetensors or hub"
ENDINGS: dict[Form, str] = {
    "onnx": ".onnx",
    "torch-export": ".pt2",
    "safetensors": ".safetensors",
    "torchvision": ".pth",
    "caffe": "-caffe",
    "hub": "-hub",
}
"""What the name of an exported file, or folder, ends with."""
SUMMARIES: dict[Form, str] = {
    "onnx": "from photographs of any size to probabilities and class names",
    "torch-export": "the same as a program that torch runs without alexnet (.pt2)",
    "safetensors": "all tensors, the mean image and the class names",
    "torchvision": "a state dict for torchvision.models.alexnet (.pth), only of variant torchvision",
    "caffe": "a folder for Caffe, only of variants caffe and caffenet",
    "hub": "a folder for Hugging Face's hub, with a model card",
}
