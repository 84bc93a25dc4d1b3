"""The 2012 network of Krizhevsky, Sutskever and Hinton, its data, its training and its measurement."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alexnet.data.preparation.prepare import prepare
    from alexnet.evaluation.evaluate import evaluate_split
    from alexnet.explore.features import features
    from alexnet.model.network import AlexNet
    from alexnet.model.response_norm import local_response_norm
    from alexnet.model.weights import load_trained as load
    from alexnet.training.loop import train

__version__ = "0.1.0"

# Public name -> where it lives. Loaded on first use: the command's help must not wait for torch.
_PUBLIC = {
    "AlexNet": ("alexnet.model.network", "AlexNet"),
    "evaluate_split": ("alexnet.evaluation.evaluate", "evaluate_split"),
    "features": ("alexnet.explore.features", "features"),
    "load": ("alexnet.model.weights", "load_trained"),
    "local_response_norm": ("alexnet.model.response_norm", "local_response_norm"),
    "prepare": ("alexnet.data.preparation.prepare", "prepare"),
    "train": ("alexnet.training.loop", "train"),
}

__all__ = ["AlexNet", "evaluate_split", "features", "load", "local_response_norm", "prepare", "train"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'alexnet' has no attribute {name!r}")
    import importlib

    module, attribute = _PUBLIC[name]
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
