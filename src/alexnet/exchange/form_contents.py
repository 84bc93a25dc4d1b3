"""What each form of an export holds, in words, and the lines of Python that load it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from alexnet.exchange.caffe_export import DEPLOY_FILE, LABELS_FILE, MEAN_FILE, README_FILE, WEIGHTS_FILE, label
from alexnet.exchange.forms import Form
from alexnet.exchange.torchvision_export import color_statistics
from alexnet.model.weights import Trained
from alexnet.system.visible_text import shell_words

_PIXELS = "images, uint8 (N, H, W, 3): upright photographs of one size, any size, RGB"
"""Input of forms that have the preprocessing inside."""


@dataclass(frozen=True, kw_only=True)
class FormContents:
    """What a form holds and how it is loaded."""

    input: str
    output: str
    load: Sequence[str]
    notes: Sequence[str] = ()


def contents_of(form: Form, trained: Trained, path: Path) -> FormContents:
    """What was written to `path`."""
    match form:
        case "onnx":
            return _onnx_contents(trained, path)
        case "torch-export":
            return _program_contents(trained, path)
        case "safetensors":
            return _safetensors_contents(trained, path)
        case "torchvision":
            return _torchvision_contents(trained, path)
        case "caffe":
            return _caffe_contents(trained, path)
        case "hub":
            return _hub_contents(trained, path)


def _onnx_contents(trained: Trained, path: Path) -> FormContents:
    return FormContents(
        input=_PIXELS,
        output=f"probabilities, float32 (N, {len(trained.classes)}), and class_names, ({len(trained.classes)},)",
        load=(
            "import onnxruntime",
            f"session = onnxruntime.InferenceSession({str(path)!r})",
            "probabilities, names = session.run(None, {'images': pixels})",
        ),
    )


def _program_contents(trained: Trained, path: Path) -> FormContents:
    return FormContents(
        input=_PIXELS,
        output=f"probabilities, float32 (N, {len(trained.classes)})",
        load=(
            "import json, torch",
            "extra = {'class_names.json': ''}",
            f"network = torch.export.load({str(path)!r}, extra_files=extra).module()",
            "probabilities = network(pixels)  # a uint8 tensor",
            "names = json.loads(extra['class_names.json'])",
        ),
    )


def _safetensors_contents(trained: Trained, path: Path) -> FormContents:
    return FormContents(
        input=f"float32 (N, 3, {trained.crop}, {trained.crop}), RGB, 0..255, minus the central crop of mean_image",
        output=f"scores (N, {len(trained.classes)}); softmax turns them into probabilities"
        if not trained.untrained_layers
        else "features; scores of classes would need the layers that are not trained",
        load=(
            "from safetensors.torch import load_file",
            f"tensors = load_file({str(path)!r})  # conv1.weight, ..., mean_image",
        ),
        notes=(f"In alexnet, alexnet.load({str(path)!r}) gives the network with class names and preprocessing.",),
    )


def _torchvision_contents(trained: Trained, path: Path) -> FormContents:
    mean, std, distance = color_statistics(trained)
    notes = []
    if distance > 0:
        notes.append(
            f"The run subtracts a mean image, which the file cannot hold. Its colors are up to {distance:.1f} gray "
            "levels from the mean color above, so probabilities differ from those of alexnet, more so the farther they "
            "are; examples/torchvision_style.py in the repository subtracts the image."
        )
    if trained.network.width == 1:
        load: tuple[str, ...] = (
            "import torch, torchvision",
            f"network = torchvision.models.alexnet(num_classes={len(trained.classes)})",
            f"network.load_state_dict(torch.load({str(path)!r}, weights_only=True))",
        )
    else:
        load = ("import torch", f"state = torch.load({str(path)!r}, weights_only=True)")
        notes.append(
            f"The network has width {trained.network.width:g}, and torchvision.models.alexnet only width 1; "
            "examples/torchvision_style.py in the repository builds one of these sizes."
        )
    color = ",".join(f"{255 * one:.6g}" for one in mean)
    again = shell_words("alexnet", "import", path, "--mean", color, "--fit", trained.fit, "--run", "RUN")
    notes.append(f"`{again}` makes it a run again, with this color and without names of classes.")
    return FormContents(
        input=f"float32 (N, 3, {trained.crop}, {trained.crop}), RGB, 0..1, "
        f"Normalize(mean={_rounded(mean)}, std={_rounded(std)})",
        output=f"scores (N, {len(trained.classes)}); softmax turns them into probabilities",
        load=load,
        notes=notes,
    )


def _rounded(values: Sequence[float]) -> list[float]:
    return [float(f"{value:.6g}") for value in values]


def _caffe_contents(trained: Trained, path: Path) -> FormContents:
    files = [str(path / name) for name in (DEPLOY_FILE, WEIGHTS_FILE)]
    again = shell_words(
        *("alexnet", "import", path / WEIGHTS_FILE, "--mean", path / MEAN_FILE, "--classes", path / LABELS_FILE),
        *("--fit", trained.fit, "--run", "RUN"),
    )
    changed = sum(label(text) != text for one in trained.classes for text in (one.id, one.name))
    changes = f"In {LABELS_FILE}, several spaces in a row are one, in {changed:,} of the ids and names."
    return FormContents(
        input=f"float32 (N, 3, {trained.crop}, {trained.crop}), BGR, 0..255, minus the central crop of {MEAN_FILE}",
        output=f"prob: probabilities (N, {len(trained.classes)})",
        load=("import caffe", f"network = caffe.Net({files[0]!r}, {files[1]!r}, caffe.TEST)"),
        notes=(
            f"{README_FILE} in the folder shows how to prepare a photograph.",
            f"`{again}` makes it a run again.",
            *([changes] if changed else []),
        ),
    )


def _hub_contents(trained: Trained, path: Path) -> FormContents:
    return FormContents(
        input=f"float32 (N, 3, {trained.crop}, {trained.crop}), RGB, 0..255, minus the central crop of mean_image",
        output=f"scores (N, {len(trained.classes)}); softmax turns them into probabilities",
        load=(
            "import alexnet",
            f"predictions = alexnet.predict({str(path / 'model.safetensors')!r}, 'photo.jpg')",
        ),
        notes=("The card has no license, which a run does not record; set it in README.md before publishing.",),
    )
