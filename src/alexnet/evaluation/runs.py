"""A run folder measured on a prepared data set; the result is stored in the run folder."""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from alexnet.data.joined import open_data
from alexnet.data.prepared import PreparedData
from alexnet.errors import RequestError
from alexnet.evaluation.evaluate import evaluate_split
from alexnet.evaluation.predictions import save_predictions
from alexnet.model.device import choose_device, choose_precision
from alexnet.model.weights import Trained, load_trained
from alexnet.runs.folder import RunFolder


def evaluate_run(
    run_folder: Path,
    *,
    data_folder: Path | Sequence[Path] | None = None,
    split: str | None = None,
    num_views: int = 1,
    device: str = "auto",
    precision: Literal["auto", "float32", "bfloat16"] = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Measure a run's network and store the errors and the probabilities in its folder.

    Args:
        data_folder: the prepared data set, or several to be joined; None is what the run was trained on.
        split: None is the data set's evaluation split.
        num_views: 1, 9 or 10.
        progress: called with (images done, images in all).

    Returns:
        What `Evaluation.to_dict` says, with the run's folder as `run`.

    Raises:
        RequestError: no run, no weights yet, or a data set of other classes.
    """
    run = RunFolder.open(run_folder)
    trained = load_trained(run_folder)
    folders = run.data_folders() if data_folder is None else data_folder
    data = open_data([folders] if isinstance(folders, Path) else folders)
    require_same_classes(trained, data)
    split = split or data.evaluation_split
    chosen = choose_device(device)
    trained.network.to(chosen)
    # The network's own mean image, not the data set's: preprocessing belongs to the weights.
    measured = evaluate_split(
        trained.network,
        data,
        split,
        trained.crop,
        num_views,
        mean_image=trained.mean_image,
        mean_at=trained.mean_at,
        device=chosen,
        precision=choose_precision(precision, chosen),
        progress=progress,
    )
    result = {"run": str(run_folder), **measured.to_dict()}
    # What was measured on other data must not take the place of the run's own result.
    own = data.checksum == run.facts()["data"]["checksum"]
    predictions = run_folder / "predictions" / ("" if own else data.checksum[:12])
    predictions.mkdir(parents=True, exist_ok=True)
    save_predictions(predictions, split, num_views, measured.probabilities, data)
    run.save_evaluation(f"{split}-{num_views}views" + ("" if own else f"-{data.checksum[:12]}"), result)
    return result


def require_same_classes(trained: Trained, data: PreparedData) -> None:
    """Refuse a data set whose classes are not the network's, in the same order.

    Raises:
        RequestError: they differ; the first difference is named.
    """
    own, other = [one.id for one in trained.classes], [one.id for one in data.classes]
    if own == other:
        return
    pairs = enumerate(itertools.zip_longest(own, other, fillvalue="none"))
    place, (mine, theirs) = next((index, pair) for index, pair in pairs if pair[0] != pair[1])
    raise RequestError(
        f"the network knows {len(own)} classes and {data.folder} has {len(other)}; the first difference is "
        f"number {place} ({mine!r} and {theirs!r}); "
        "measure it on data prepared with the classes it was trained on"
    )
