"""Fitted estimators in a safetensors file: tensors `<name>/<tensor>`, and a JSON description in the metadata.

The description has `format_version`, `estimators` (by name, the `type` and all `settings` of each) and what the caller
adds. Types, settings and tensors have the names of `_FORMATS`, whatever the classes and parameters are called today.
Nothing is pickled, and unknown types are refused.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from alexnet.baselines.averaged_sgd import AveragedSGDClassifier
from alexnet.baselines.descriptor_pca import DescriptorPCA
from alexnet.baselines.descriptors import DenseDescriptors
from alexnet.baselines.dictionary_encoders import LocalityEncoder, SparseEncoder
from alexnet.baselines.fisher_vectors import BagOfWordsEncoder, FisherVectorEncoder
from alexnet.baselines.linear_svm import LinearSVMClassifier
from alexnet.errors import RequestError
from alexnet.runs.baseline_recipe import current_descriptor_settings
from alexnet.storage.tensors import read_tensors, write_sealed_tensors
from alexnet.storage.typed_files import Versioned, damaged, parse_json

FORMAT_VERSION = 4
ADVICE = "restore it from a copy, or delete it and run the baseline again, in another folder where it was finished"


class _Estimator(TypedDict):
    type: str
    settings: dict[str, int | float | str | bool | None]


class _Description(Versioned):
    estimators: dict[str, _Estimator]


_Estimator1 = TypedDict("_Estimator1", {"class": str, "params": dict[str, int | float | str | bool | None]})


class _Description1(Versioned):
    estimators: dict[str, _Estimator1]


@dataclass(frozen=True)
class _Format:
    """How estimators of one type are stored."""

    estimator: type
    settings: Mapping[str, str]
    """Name in files -> parameter of the estimator; all of its parameters."""
    tensors: Mapping[str, str] = field(default_factory=dict)
    """Name in files -> fitted attribute."""
    scalars: Collection[str] = ()
    """The tensors that are single integers."""


def _same(*names: str) -> dict[str, str]:
    """Names that are the same in files and in Python; after a rename in Python, list the pair instead."""
    return {name: name for name in names}


_FORMATS = {
    "dense-descriptors": _Format(
        DenseDescriptors,
        _same("kind", "seed", "cell_px", "step_px", "scales", "scale_factor", "max_pixels", "max_descriptors")
        | _same("smoothing_per_cell", "min_contrast"),
    ),
    "pca": _Format(DescriptorPCA, _same("dimensions"), _same("mean_", "components_")),
    "fisher-vectors": _Format(
        FisherVectorEncoder, _same("components", "pyramid", "seed"), _same("weights_", "means_", "variances_")
    ),
    "bag-of-words": _Format(
        BagOfWordsEncoder, _same("components", "pyramid", "seed"), _same("weights_", "means_", "variances_")
    ),
    "locality-coding": _Format(LocalityEncoder, _same("atoms", "neighbors", "pyramid", "seed"), _same("atoms_")),
    "sparse-coding": _Format(SparseEncoder, _same("atoms", "l1_penalty", "epochs", "pyramid", "seed"), _same("atoms_")),
    "averaged-sgd": _Format(
        AveragedSGDClassifier,
        _same("weight_decay", "epochs", "learning_rate", "batch_size", "average_after", "positive_weight", "seed"),
        _same("classes_", "coef_", "intercept_", "last_coef_", "last_intercept_", "t_", "n_features_in_"),
        scalars=("t_", "n_features_in_"),
    ),
    "linear-svm": _Format(
        LinearSVMClassifier,
        _same("c", "tolerance", "max_epochs", "positive_weight"),
        _same("classes_", "coef_", "intercept_", "epochs_", "gap_", "n_features_in_"),
        scalars=("n_features_in_",),
    ),
}
TRAINING_TENSORS = ("last_coef_", "last_intercept_")
"""Tensors that only further training needs; a file may omit them."""
_TYPE_NAMES = {one.estimator: name for name, one in _FORMATS.items()}

_VERSION_1_TYPES = {
    "DenseDescriptors": "dense-descriptors",
    "DescriptorPca": "pca",
    "FisherVectors": "fisher-vectors",
    "BagOfWords": "bag-of-words",
    "LocalityCodes": "locality-coding",
    "SparseCodes": "sparse-coding",
    "AveragedSgd": "averaged-sgd",
}
_VERSION_1_SETTINGS = {
    "factor": "scale_factor",
    "limit": "max_descriptors",
    "neighbours": "neighbors",
    "penalty": "l1_penalty",
    "passes": "epochs",
    "decay": "weight_decay",
    "rate": "learning_rate",
}


def estimator_settings(estimator: Any) -> dict[str, Any]:
    """The type of an estimator and all of its settings, as they are stored."""
    name = _TYPE_NAMES[type(estimator)]
    parameters = estimator.get_params()
    settings = {key: parameters.pop(parameter) for key, parameter in _FORMATS[name].settings.items()}
    assert not parameters, f"{name} does not store {sorted(parameters)}"
    return {"type": name, "settings": settings}


def copy_fitted(source: Any, target: Any) -> None:
    """Give `target` what `source` has learned; encoders of one vocabulary may have other settings or another type."""
    for attribute in _FORMATS[_TYPE_NAMES[type(target)]].tensors.values():
        setattr(target, attribute, getattr(source, attribute))


def write_estimators(
    path: Path, estimators: Mapping[str, Any], metadata: Mapping[str, Any], omit: Collection[str] = ()
) -> None:
    """Write fitted estimators by name, and `metadata`, to one file, atomically.

    Args:
        omit: tensors to leave out, of `TRAINING_TENSORS`.
    """
    tensors: dict[str, NDArray[Any]] = {}
    for name, estimator in estimators.items():
        for key, attribute in _FORMATS[_TYPE_NAMES[type(estimator)]].tensors.items():
            if key not in omit:
                tensors[f"{name}/{key}"] = np.asarray(getattr(estimator, attribute), order="C")
    content = {
        "format_version": FORMAT_VERSION,
        "estimators": {name: estimator_settings(one) for name, one in estimators.items()},
        **metadata,
    }
    write_sealed_tensors(path, tensors, {"alexnet": json.dumps(content)})


def read_estimators(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The estimators of a file, by name, and its metadata.

    Raises:
        RequestError: the file holds no estimators, or has another format version.
        WorkError: it is damaged.
    """
    tensors, header = read_tensors(path, "numpy", ADVICE)
    if "alexnet" not in header:
        raise RequestError(f"{path} is not a baseline (its metadata lacks 'alexnet'); name the run of one")
    version = parse_json(header["alexnet"], Versioned, path, ADVICE)["format_version"]
    if version not in range(1, FORMAT_VERSION + 1):
        raise RequestError(
            f"{path} has format version {version}, and this version of alexnet reads 1 to {FORMAT_VERSION}; use the "
            "version that wrote it, or run the baseline again"
        )
    content = dict(parse_json(header["alexnet"], _Description1 if version == 1 else _Description, path, ADVICE))
    described: Any = content.pop("estimators")
    del content["format_version"]
    if version == 1:
        tensors = {name.replace("colour", "color"): tensor for name, tensor in tensors.items()}
        content, described = _from_version_1(content, described)
    try:
        if version <= 3:
            for one in described.values():
                if one["type"] == "dense-descriptors":
                    one["settings"] = current_descriptor_settings(one["settings"])
        return {name: _read_estimator(name, one, tensors) for name, one in described.items()}, content
    except (RequestError, ValueError) as error:
        raise damaged(path, str(error), ADVICE) from error


def _read_estimator(name: str, described: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> Any:
    """A fitted estimator; ValueError if its settings or tensors are not those of its type."""
    stored = _FORMATS.get(described["type"])
    if stored is None:
        raise ValueError(f"{name} is a {described['type']}, which is unknown; known are {', '.join(_FORMATS)}")
    settings = described["settings"]
    if settings.keys() != stored.settings.keys():
        raise ValueError(f"{name} has the settings {', '.join(settings)}; expected are {', '.join(stored.settings)}")
    estimator = stored.estimator(**{parameter: settings[key] for key, parameter in stored.settings.items()})
    for key, attribute in stored.tensors.items():
        if key in TRAINING_TENSORS and f"{name}/{key}" not in tensors:
            continue
        if f"{name}/{key}" not in tensors:
            raise ValueError(f"it lacks {name}/{key}")
        tensor = tensors[f"{name}/{key}"]
        if key in stored.scalars and (tensor.size != 1 or tensor.dtype.kind not in "iuf"):
            raise ValueError(f"{name}/{key} is {tensor.dtype} {tensor.shape}; expected is a number")
        if tensor.dtype.kind == "f" and not np.isfinite(tensor).all():
            raise ValueError(f"{name}/{key} is not finite")
        setattr(estimator, attribute, int(tensor.item()) if key in stored.scalars else tensor)
    return estimator


def _from_version_1(content: dict[str, Any], described: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Metadata and descriptions of version 1, which used the names of the classes and parameters of that time."""
    estimators = {}
    for name, one in described.items():
        settings = {_VERSION_1_SETTINGS.get(key, key): value for key, value in one["params"].items()}
        if settings.get("kind") == "colour":
            settings["kind"] = "color"
        kind = _VERSION_1_TYPES.get(one["class"], one["class"])
        estimators[name.replace("colour", "color")] = {"type": kind, "settings": settings}
    if "channels" in content:
        content["channels"] = {name.replace("colour", "color"): num for name, num in content["channels"].items()}
    return content, estimators
