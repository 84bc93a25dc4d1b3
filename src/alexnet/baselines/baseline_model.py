"""A baseline that has learned: channels of estimators, their classifiers, and the file that holds them all.

The file is safetensors: arrays by `<channel>/<step>/<attribute>`, and a JSON description in its head that names each
step's class and parameters. Nothing is pickled; a class that is not of the known ones is refused.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from numpy.typing import NDArray

from alexnet.baselines.averaged_sgd import AveragedSgd
from alexnet.baselines.descriptor_pca import DescriptorPca
from alexnet.baselines.descriptors import DenseDescriptors, Images
from alexnet.baselines.dictionary_encoders import LocalityCodes, SparseCodes
from alexnet.baselines.fisher_vectors import BagOfWords, FisherVectors
from alexnet.data.dataset import ClassInfo
from alexnet.errors import RequestError, WorkError
from alexnet.storage.tensors import write_tensors

FORMAT_VERSION = 1
FILE = "baseline.safetensors"
_CLASSES = {
    one.__name__: one
    for one in (DenseDescriptors, DescriptorPca, FisherVectors, BagOfWords, LocalityCodes, SparseCodes, AveragedSgd)
}


_SCALARS = ("t_", "n_features_in_")


@dataclass(frozen=True, eq=False)
class Channel:
    """One kind of descriptor in one coding: what turns images into rows."""

    name: str
    """Such as `sift` or `patterns-locality`."""
    steps: tuple[Any, ...]
    """Estimators: the first takes images, the last gives an array."""

    def rows(self, images: Images) -> NDArray[np.float32]:
        """Images uint8 (N, S, S, 3) to features, float32 (N, D), as they are kept: rounded to float16."""
        found: Any = images
        for step in self.steps:
            found = step.transform(found)
        kept: NDArray[np.float16] = np.asarray(found, np.float16)
        widened: NDArray[np.float32] = kept.astype(np.float32)
        return widened


@dataclass(frozen=True, eq=False)
class Baseline:
    """Channels, the classifier of each, and what turns their mean score into probabilities."""

    channels: tuple[Channel, ...]
    classifiers: tuple[AveragedSgd, ...]
    temperature: float
    """The scores' mean is divided by it before the softmax."""
    classes: tuple[ClassInfo, ...]
    side: int
    """Of the images it learned from, pixels."""
    title: str
    generated: bool
    """Whether a program drew the images."""

    def probabilities(self, rows: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Features of each channel, (N, D_c), to class probabilities, float32 (N, K)."""
        return softened(mean_scores(self.classifiers, rows), self.temperature)


def mean_scores(classifiers: Sequence[AveragedSgd], rows: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
    """The mean of the channels' scores, float32 (N, K). Paper: Sanchez and Perronnin, CVPR 2011, section 5.2."""
    every = [one.scores(np.asarray(part, np.float32)) for one, part in zip(classifiers, rows, strict=True)]
    mean: NDArray[np.float32] = np.mean(every, axis=0, dtype=np.float32)
    return mean


def softened(scores: NDArray[np.float32], temperature: float) -> NDArray[np.float32]:
    """The softmax of scores / temperature along the last axis, float32."""
    return torch.from_numpy(scores / np.float32(temperature)).softmax(dim=1).numpy()


def write_estimators(
    path: Path, named: Mapping[str, Any], facts: Mapping[str, Any], leave_out: Sequence[str] = ()
) -> None:
    """Write estimators by name, and `facts`, to one file, atomically.

    Args:
        leave_out: names of attributes that are not kept.
    """
    arrays: dict[str, NDArray[Any]] = {}
    described: dict[str, Any] = {}
    for name, one in named.items():
        described[name] = {"class": type(one).__name__, "params": one.get_params()}
        for attribute in getattr(one, "arrays", ()):
            if attribute not in leave_out:
                arrays[f"{name}/{attribute}"] = np.asarray(getattr(one, attribute), order="C")
    content = {"format_version": FORMAT_VERSION, "estimators": described, **facts}
    write_tensors(path, arrays, {"alexnet": json.dumps(content)})


def read_estimators(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The estimators that `write_estimators` wrote, by name, and the facts.

    Raises:
        RequestError: the file is not one of these, or of another format version.
        WorkError: it is damaged.
    """
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (the file is no mapping)
        content = json.loads(metadata["alexnet"])
        version, described = content.pop("format_version"), content.pop("estimators")
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise WorkError(f"{path} is damaged ({error}); run the baseline again") from error
    except KeyError as error:
        raise RequestError(f"{path} is no baseline (it says nothing of {error}); name the run of one") from error
    if version != FORMAT_VERSION:
        raise RequestError(
            f"{path} has format {version}, this version reads {FORMAT_VERSION}; use the version of alexnet that wrote "
            "it, or run the baseline again"
        )
    named: dict[str, Any] = {}
    for name, one in described.items():
        if one["class"] not in _CLASSES:
            raise RequestError(f"{path} holds a {one['class']}, which is not among {', '.join(_CLASSES)}")
        made = _CLASSES[one["class"]](**one["params"])
        for attribute in getattr(made, "arrays", ()):
            if f"{name}/{attribute}" in arrays:
                array = arrays[f"{name}/{attribute}"]
                setattr(made, attribute, int(array.item()) if attribute in _SCALARS else array)
        named[name] = made
    return named, content


def save_baseline(path: Path, model: Baseline, recipe: Mapping[str, Any]) -> None:
    """Write a baseline to one file, whole or not at all; `recipe` goes with it."""
    named: dict[str, Any] = {}
    for channel, classifier in zip(model.channels, model.classifiers, strict=True):
        named |= {f"{channel.name}/{number}": step for number, step in enumerate(channel.steps)}
        named[f"{channel.name}/classifier"] = classifier
    facts = {
        "recipe": dict(recipe),
        "channels": {one.name: len(one.steps) for one in model.channels},
        "temperature": model.temperature,
        "classes": [{"id": one.id, "name": one.name} for one in model.classes],
        "side": model.side,
        "title": model.title,
        "generated": model.generated,
    }
    # Where the descent stands matters to who goes on with it; what is measured is the average.
    write_estimators(path, named, facts, leave_out=("last_coef_", "last_intercept_"))


def load_baseline(path: Path) -> Baseline:
    """The baseline of a run folder, or of a file that `save_baseline` wrote.

    Raises:
        RequestError: there is none, or it is of another format version.
        WorkError: it is damaged.
    """
    file = path / FILE if path.is_dir() else path
    if not file.is_file():
        raise RequestError(f"{path} holds no baseline yet ({file.name} is missing); let `alexnet baseline` end first")
    named, facts = read_estimators(file)
    try:
        channels = {name: tuple(named[f"{name}/{n}"] for n in range(num)) for name, num in facts["channels"].items()}
        return Baseline(
            channels=tuple(Channel(name, steps) for name, steps in channels.items()),
            classifiers=tuple(named[f"{name}/classifier"] for name in channels),
            temperature=float(facts["temperature"]),
            classes=tuple(ClassInfo(**one) for one in facts["classes"]),
            side=int(facts["side"]),
            title=facts["title"],
            generated=bool(facts["generated"]),
        )
    except (KeyError, TypeError) as error:
        raise WorkError(f"{file} is damaged (it lacks {error}); run the baseline again") from error
