"""The weights files of a training: the trained network, and the one whose loss or gradient was not finite."""

from typing import NoReturn

import torch

from alexnet.errors import WorkError
from alexnet.model.weights import Trained, save_trained
from alexnet.runs.folder import RunFolder
from alexnet.training.distributed import full_network, gather_tensors
from alexnet.training.log import TrainingLog
from alexnet.training.setup import TrainingSetup
from alexnet.training.step import NotFiniteError
from alexnet.training.validation import averaged_weights


def save_weights(setup: TrainingSetup, run: RunFolder) -> None:
    """Save the current weights as those of the run; all processes call it together."""
    # Evaluations of an interrupted run's weights are not those of the weights that follow.
    run.forget_evaluations()
    with averaged_weights(setup):
        trained = _trained_network(setup)
        if setup.mesh.is_main:
            save_trained(run.weights, trained)


def save_failed_weights(setup: TrainingSetup, run: RunFolder, log: TrainingLog, error: NotFiniteError) -> NoReturn:
    """Save the weights that gave the error, log its images and all norms, and raise; all processes call it together.

    Raises:
        WorkError: always; names the files.
    """
    path = run.path / "weights-at-failure.safetensors"
    trained, mesh = _trained_network(setup), setup.mesh
    if mesh.is_main:
        save_trained(path, trained)
    gradients = gather_tensors(setup.network, error.gradients)
    weights = trained.network.state_dict()
    norms = {
        name: {
            "weights": weights[name].norm().item(),
            "gradient": gradients[name].norm().item() if name in gradients else None,
        }
        for name in setup.optimizer.parameters
    }
    samples = list(dict.fromkeys(sample for part in mesh.all_gather_object(error.samples) for sample in part))
    log.not_finite(error.step, error.loss, samples, norms)
    raise WorkError(
        f"{error}; the weights that gave it are kept in {path}, its images and the norms of every layer in "
        f"{run.path / 'events.jsonl'}. A lower learning rate usually helps"
    ) from error


def _trained_network(setup: TrainingSetup) -> Trained:
    """The full network with classes and preprocessing; all processes call it together."""
    return Trained(
        network=full_network(setup.network),
        classes=setup.data.classes,
        mean_image=torch.from_numpy(setup.data.statistics.mean_image),
        crop=setup.recipe.data.crop,
        title=setup.data.title,
        generated=setup.data.generated,
        mean_at=setup.recipe.data.mean,
        fit=setup.data.fit,
    )
