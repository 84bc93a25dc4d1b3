"""A trained baseline: channels, their classifiers, and the file that holds them all."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypedDict

import numpy as np
import torch
from msgspec import Meta
from numpy.typing import NDArray

from alexnet.baselines.channels import Channel
from alexnet.baselines.estimator_files import ADVICE, TRAINING_TENSORS, read_estimators, write_estimators
from alexnet.baselines.linear_classifier import LinearClassifier
from alexnet.data.dataset import ClassInfo
from alexnet.data.dataset_files import StoredClass
from alexnet.errors import RequestError
from alexnet.storage.typed_files import Size, damaged, require_schema

FILE = "baseline.safetensors"


class _Description(TypedDict):
    channels: Annotated[dict[str, Annotated[int, Meta(ge=1, le=100)]], Meta(min_length=1)]
    temperature: Annotated[float, Meta(gt=0, le=1e30)]
    classes: Annotated[list[StoredClass], Meta(min_length=2)]
    side: Size
    title: str
    generated: bool


@dataclass(frozen=True, eq=False)
class Baseline:
    """Channels, the classifier of each, and the temperature that scales their mean score."""

    channels: tuple[Channel, ...]
    classifiers: tuple[LinearClassifier, ...]
    temperature: float
    """Divides the mean score before the softmax."""
    classes: tuple[ClassInfo, ...]
    side: int
    """Of the training images, pixels."""
    title: str
    """Of the training data."""
    generated: bool
    """Whether a program drew the training images."""

    def probabilities(self, features: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
        """Class probabilities, float32 (N, K), from the features of each channel, (N, D_c)."""
        scores = mean_scores(self.classifiers, features)
        return torch.from_numpy(scores / np.float32(self.temperature)).softmax(dim=1).numpy()


def mean_scores(classifiers: Sequence[LinearClassifier], features: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
    """The mean of the channels' scores, float32 (N, K). Paper: Sanchez and Perronnin, CVPR 2011, section 5.2."""
    scores = [one.scores(np.asarray(part, np.float32)) for one, part in zip(classifiers, features, strict=True)]
    mean: NDArray[np.float32] = np.mean(scores, axis=0, dtype=np.float32)
    return mean


def save_baseline(path: Path, model: Baseline, recipe: Mapping[str, Any]) -> None:
    """Write a baseline and its recipe to one file, atomically."""
    estimators: dict[str, Any] = {}
    for channel, classifier in zip(model.channels, model.classifiers, strict=True):
        estimators |= {f"{channel.name}/{number}": step for number, step in enumerate(channel.steps)}
        estimators[f"{channel.name}/classifier"] = classifier
    metadata = {
        "recipe": dict(recipe),
        "channels": {channel.name: len(channel.steps) for channel in model.channels},
        "temperature": model.temperature,
        "classes": [{"id": one.id, "name": one.name} for one in model.classes],
        "side": model.side,
        "title": model.title,
        "generated": model.generated,
    }
    write_estimators(path, estimators, metadata, omit=TRAINING_TENSORS)


def load_baseline(path: Path) -> Baseline:
    """The baseline of a run folder, or of a file that `save_baseline` wrote.

    Raises:
        RequestError: there is none, or its format version is not supported.
        WorkError: it is damaged.
    """
    file = path / FILE if path.is_dir() else path
    if not file.is_file():
        raise RequestError(f"{path} has no baseline yet ({file.name} is missing); run `alexnet baseline` to its end")
    estimators, metadata = read_estimators(file)
    try:
        described = require_schema(metadata, _Description)
        names = described["channels"]
        needed = {f"{name}/{step}" for name, num_steps in names.items() for step in (*range(num_steps), "classifier")}
        if missing := needed - estimators.keys():
            raise ValueError(f"it lacks {min(missing)}")
    except ValueError as error:
        raise damaged(file, str(error), ADVICE) from error
    return Baseline(
        channels=tuple(
            Channel(name, tuple(estimators[f"{name}/{number}"] for number in range(num_steps)))
            for name, num_steps in names.items()
        ),
        classifiers=tuple(estimators[f"{name}/classifier"] for name in names),
        temperature=float(described["temperature"]),
        classes=tuple(ClassInfo(id=one["id"], name=one["name"]) for one in described["classes"]),
        side=described["side"],
        title=described["title"],
        generated=described["generated"],
    )
