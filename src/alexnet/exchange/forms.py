"""The forms in which `export` writes a network. Importing it does not load torch."""

from typing import Literal, get_args

Form = Literal["safetensors", "torchvision", "caffe", "hub"]
FORMS: tuple[Form, ...] = get_args(Form)
ENDINGS: dict[Form, str] = {"safetensors": ".safetensors", "torchvision": ".pth", "caffe": "-caffe", "hub": "-hub"}
"""What the name of an exported file, or folder, ends with."""
