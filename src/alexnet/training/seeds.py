"""Train one recipe with several seeds: networks whose probabilities can be averaged. Paper: section 6."""

import logging
from dataclasses import replace
from pathlib import Path

from alexnet.errors import RequestError
from alexnet.parallel.process_mesh import SINGLE_PROCESS, ProcessMesh
from alexnet.runs.folder import RunFolder
from alexnet.runs.recipe import Recipe
from alexnet.storage.paths import StrPaths
from alexnet.system.progress import ShowProgress
from alexnet.training.loop import train

_logger = logging.getLogger(__name__)


def train_seeds(
    data_folder: StrPaths,
    recipe: Recipe,
    run_folder: Path,
    start_from: Path | None,
    num: int,
    mesh: ProcessMesh = SINGLE_PROCESS,
    tensorboard: bool = False,
    progress: ShowProgress = None,
) -> list[Path]:
    """Train `num` networks one after the other, with the recipe's seed and those after it, in `run_folder`-SEED each.

    A finished run is kept, an interrupted one is resumed: the same call completes what is missing.

    Args:
        mesh: the processes that share each training.
        tensorboard: whether the logs are written for TensorBoard too.
        progress: as in `train`.

    Returns:
        The run folders.

    Raises:
        RequestError: a folder holds another recipe's run, or what `train` raises.
    """
    folders = []
    for seed in range(recipe.training.seed, recipe.training.seed + num):
        seeded = replace(recipe, training=replace(recipe.training, seed=seed))
        folder = run_folder.with_name(f"{run_folder.name}-{seed}")
        folders.append(folder)
        if mesh.broadcast(mesh.is_main and _is_trained(folder, seeded)):
            _logger.info(f"{folder}: already trained")
            continue
        _logger.info(f"{folder}: seed {seed}")
        train(data_folder, folder, seeded, start_from, tensorboard=tensorboard, progress=progress, mesh=mesh)
    return folders


def _is_trained(folder: Path, recipe: Recipe) -> bool:
    if not (folder / "run.json").is_file() or (run := RunFolder.open(folder)).state != "finished":
        return False
    if run.recipe() != recipe:
        raise RequestError(f"{folder} holds a finished run of another recipe; choose another --run")
    return True
