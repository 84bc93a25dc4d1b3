"""The 2012 network of Krizhevsky, Sutskever and Hinton, its data, its training and its measurement."""

import importlib
from typing import TYPE_CHECKING, Any

from alexnet.system.after_import import after_import

if TYPE_CHECKING:
    from alexnet.data.dataset import ClassInfo, PreparedData
    from alexnet.data.preparation.prepare import prepare
    from alexnet.errors import AlexNetError, Interrupted, RequestError, TemporaryError, WorkError
    from alexnet.evaluation.classify import Predictions, predict
    from alexnet.evaluation.evaluate import Evaluation
    from alexnet.evaluation.preprocessing import preprocess
    from alexnet.evaluation.run_evaluation import evaluate
    from alexnet.exchange.export import Export, export
    from alexnet.exchange.imported_run import import_weights
    from alexnet.explore.binary_codes import BinaryCodes
    from alexnet.explore.encode_index import codes
    from alexnet.explore.explain import explain
    from alexnet.explore.explanation import Explanations
    from alexnet.explore.features import features
    from alexnet.explore.filter_pictures import Filters, filters
    from alexnet.explore.found_neighbors import Neighbors
    from alexnet.explore.neighbors import neighbors
    from alexnet.explore.vector_index import VectorIndex
    from alexnet.explore.vector_index import build_index as index
    from alexnet.model.network import AlexNet
    from alexnet.model.response_norm import local_response_norm
    from alexnet.model.weights import Trained, save
    from alexnet.model.weights import load_trained as load
    from alexnet.report.run_report import write_report
    from alexnet.runs.folder import RunFolder
    from alexnet.runs.recipe import Recipe
    from alexnet.training.loop import resume, train

__version__ = "0.1.0"

# Public name -> where it lives. Loaded on first use: the command's help must not wait for torch.
_PUBLIC = {
    "AlexNet": ("alexnet.model.network", "AlexNet"),
    "AlexNetError": ("alexnet.errors", "AlexNetError"),
    "BinaryCodes": ("alexnet.explore.binary_codes", "BinaryCodes"),
    "ClassInfo": ("alexnet.data.dataset", "ClassInfo"),
    "Evaluation": ("alexnet.evaluation.evaluate", "Evaluation"),
    "Explanations": ("alexnet.explore.explanation", "Explanations"),
    "Export": ("alexnet.exchange.export", "Export"),
    "Filters": ("alexnet.explore.filter_pictures", "Filters"),
    "Interrupted": ("alexnet.errors", "Interrupted"),
    "Neighbors": ("alexnet.explore.found_neighbors", "Neighbors"),
    "Predictions": ("alexnet.evaluation.classify", "Predictions"),
    "PreparedData": ("alexnet.data.dataset", "PreparedData"),
    "Recipe": ("alexnet.runs.recipe", "Recipe"),
    "RequestError": ("alexnet.errors", "RequestError"),
    "RunFolder": ("alexnet.runs.folder", "RunFolder"),
    "TemporaryError": ("alexnet.errors", "TemporaryError"),
    "Trained": ("alexnet.model.weights", "Trained"),
    "VectorIndex": ("alexnet.explore.vector_index", "VectorIndex"),
    "WorkError": ("alexnet.errors", "WorkError"),
    "codes": ("alexnet.explore.encode_index", "codes"),
    "evaluate": ("alexnet.evaluation.run_evaluation", "evaluate"),
    "explain": ("alexnet.explore.explain", "explain"),
    "export": ("alexnet.exchange.export", "export"),
    "features": ("alexnet.explore.features", "features"),
    "filters": ("alexnet.explore.filter_pictures", "filters"),
    "import_weights": ("alexnet.exchange.imported_run", "import_weights"),
    "index": ("alexnet.explore.vector_index", "build_index"),
    "load": ("alexnet.model.weights", "load_trained"),
    "local_response_norm": ("alexnet.model.response_norm", "local_response_norm"),
    "neighbors": ("alexnet.explore.neighbors", "neighbors"),
    "predict": ("alexnet.evaluation.classify", "predict"),
    "prepare": ("alexnet.data.preparation.prepare", "prepare"),
    "preprocess": ("alexnet.evaluation.preprocessing", "preprocess"),
    "resume": ("alexnet.training.loop", "resume"),
    "save": ("alexnet.model.weights", "save"),
    "train": ("alexnet.training.loop", "train"),
    "write_report": ("alexnet.report.run_report", "write_report"),
}

# Written out for type checkers; `tests/test_imports.py` compares it with the table.
__all__ = [
    "AlexNet",
    "AlexNetError",
    "BinaryCodes",
    "ClassInfo",
    "Evaluation",
    "Explanations",
    "Export",
    "Filters",
    "Interrupted",
    "Neighbors",
    "Predictions",
    "PreparedData",
    "Recipe",
    "RequestError",
    "RunFolder",
    "TemporaryError",
    "Trained",
    "VectorIndex",
    "WorkError",
    "codes",
    "evaluate",
    "explain",
    "export",
    "features",
    "filters",
    "import_weights",
    "index",
    "load",
    "local_response_norm",
    "neighbors",
    "predict",
    "prepare",
    "preprocess",
    "resume",
    "save",
    "train",
    "write_report",
]

# A saved program (.pt2) is loaded with nothing of this package but its operators.
after_import("torch", lambda: importlib.import_module("alexnet.model.kernels.operators"))


if not TYPE_CHECKING:  # type checkers would take it for a promise that there is every name

    def __getattr__(name: str) -> Any:
        if name not in _PUBLIC:
            raise AttributeError(f"module 'alexnet' has no attribute {name!r}")
        module, attribute = _PUBLIC[name]
        return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
