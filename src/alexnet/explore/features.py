"""Activations of a trained network for many images, as arrays on disk that any program can read.

A folder with `<layer>.npy` for each layer (float32 or float16, (N, D) or (N, C, H, W)), `images.csv` with the images in
the same order (number, path, class), `labels.npy` (int64 (N,), for a data set), `refused.jsonl` (path and reason for
each photograph that could not be read) and `features.json`, which describes the network and the images. If asked for,
`features.parquet` has all of it in one table, and `<layer>.pca.npz` the principal components to which the activations
were projected.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import closing

import numpy as np
from numpy.typing import NDArray

from alexnet.data.download import Downloads
from alexnet.data.photographs import ImageInput
from alexnet.errors import RequestError
from alexnet.explore.feature_reader import Dtype, Features, open_features, shapes_table, shapes_text
from alexnet.explore.feature_work import FileFormat, layer_names, prepare_work
from alexnet.explore.features_of_runs import write_features_of_runs
from alexnet.explore.forward import activation_batches
from alexnet.explore.image_source import image_reader
from alexnet.figures.notebook_html import result_html
from alexnet.model.activations import ActivationReader
from alexnet.model.weights import Trained, load_trained
from alexnet.storage.paths import StrPath, StrPaths, as_path
from alexnet.system.device import Device, PrecisionChoice, choose_device, choose_precision
from alexnet.system.progress import ShowProgress, counted

__all__ = ["ActivationArrays", "Features", "features", "open_features", "write_features", "write_features_of_runs"]


class ActivationArrays(dict[str, NDArray[np.float32]]):
    """Activations by layer, float32 (N, ...): a dictionary of arrays that is shown by their shapes."""

    def __repr__(self) -> str:
        return f"ActivationArrays({shapes_text(self)})"

    def _repr_html_(self) -> str:
        return result_html("activations", shapes_table(self))


def features(
    run: Trained | StrPath,
    images: ImageInput | Iterable[ImageInput],
    layers: Sequence[str] | str | None = None,
    *,
    untrained: bool = False,
    batch_size: int | None = None,
    device: Device = "auto",
    precision: PrecisionChoice = "auto",
    progress: ShowProgress = None,
) -> ActivationArrays:
    """Activations of a trained network for images, in memory; `write_features` writes those for many images to disk.

    Args:
        run: a run folder, a weights file, or what `alexnet.load` returned.
        images: one image or many, as `predict` takes them: files, folders, patterns such as `photos/**/*.jpg`, tars,
            zips, http and https URLs, images of Pillow, arrays, tensors and batches of these, see `list_images`.
            They become square as the training images did; uint8 (N, S, S, 3) of their side S is taken as it is.
        layers: names of the network's layers; None is the last hidden one, after ReLU and before dropout.
        untrained: with the weights with which the run began, as a control; see `alexnet.load`.
        device: `auto` is a GPU if there is one. The network returns to its own device and mode at the end.
        progress: see `ShowProgress`; a function is called with (images done, images in total).

    Returns:
        A dictionary: by layer, float32 (N, C, H, W), or (N, D) from `flatten` on, for the central crop: what a forward
        hook on the layer's module sees.

    Raises:
        RequestError: no trained network, an unknown layer, images of another form, or one that cannot be read.
        WorkError: activations that are not finite.
    """
    if untrained and isinstance(run, Trained):
        raise RequestError("untrained needs a run folder or a weights file; or pass alexnet.load(run, untrained=True)")
    trained = run if isinstance(run, Trained) else load_trained(run, untrained=untrained)
    downloads = Downloads(are_options=False)
    reader = ActivationReader(trained.network, layer_names(layers, trained.network))
    trained.require_trained(reader.names)
    chosen_device = choose_device(device)
    chosen_precision = choose_precision(precision, chosen_device)
    read, num_images = image_reader(images, trained, downloads)
    result = ActivationArrays((name, np.empty((num_images, *reader.shape(name)), np.float32)) for name in reader.names)
    batches = activation_batches(trained, reader, read, 0, num_images, batch_size, chosen_device, chosen_precision)
    # The downloads end first: closing the batches waits for them.
    with closing(batches), closing(downloads), counted("features", shown=progress) as update:
        for batch in batches:
            if batch.refused:
                raise RequestError(batch.refused[0][1])
            for name, values in batch.activations.items():
                result[name][batch.stop - len(values) : batch.stop] = values
            update(batch.stop, num_images)
    return result


def write_features(
    run: StrPath,
    destination: StrPath,
    *,
    data_folder: StrPaths | None = None,
    split: str | None = None,
    photographs: StrPaths = (),
    layers: Sequence[str] | str | None = None,
    untrained: bool = False,
    dtype: Dtype = "float32",
    pca: int | StrPath | None = None,
    file_format: FileFormat = "npy",
    batch_size: int | None = None,
    device: Device = "auto",
    precision: PrecisionChoice = "auto",
    restart: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Features:
    """Write a network's activations for a split or for photographs to a folder; the same call resumes after a kill.

    Args:
        run: a run folder or a weights file.
        destination: the folder to create.
        data_folder: the prepared data set, or several to concatenate; None is what the run was trained on.
        split: None is the data set's evaluation split.
        photographs: files, folders, patterns, tars, zips and URLs, see `list_images`, instead of a data set.
        layers: names of the network's layers; None is the last hidden one, after ReLU and before dropout.
        untrained: with the weights with which the run began, as a control; see `load_trained`.
        dtype: of the arrays.
        pca: number of principal components to write instead of each layer's activations, fitted to these images, see
            `fit_projection`; or a folder of features with principal components of the same network, so that a
            validation split is projected as the training split was. `Features.projection` has them.
        file_format: `parquet` writes `features.parquet` beside the arrays, see `write_feature_parquet`.
        restart: discard the work of an unfinished call.
        progress: called with (images done, total images).

    Raises:
        RequestError: no trained network, an unknown layer or split, no readable photograph, images of another side than
            the network's, principal components that cannot be fitted or are of another network, or the destination is
            taken.
        WorkError: the disk is full, or activations are not finite or exceed the dtype's range.
        Interrupted: from the keyboard; finished work is kept.
    """
    work = prepare_work(
        as_path(run, "the run"),
        as_path(destination, "the destination"),
        data_folder=data_folder,
        split=split,
        photographs=photographs,
        layers=layers,
        untrained=untrained,
        dtype=dtype,
        pca=pca,
        file_format=file_format,
        device=device,
        precision=precision,
    )
    return work.write(batch_size, restart, progress)
