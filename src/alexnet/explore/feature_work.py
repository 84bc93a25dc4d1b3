"""The work of writing a network's activations to a folder: checked before anything is computed, then done."""

import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch

from alexnet.data.download import Downloads
from alexnet.errors import RequestError
from alexnet.explore.activation_pca import Projection, require_fittable
from alexnet.explore.feature_parquet import require_parquet
from alexnet.explore.feature_reader import Dtype, Features, open_features
from alexnet.explore.feature_writer import (
    CURSOR_FILE,
    DESCRIPTION_FILE,
    FORMAT_VERSION,
    PROJECTED_VERSION,
    REFUSED_FILE,
    FeatureWriter,
)
from alexnet.explore.image_source import ImageSource, photograph_source, split_source
from alexnet.model.activations import ActivationReader, default_layer
from alexnet.model.kernels import slow_path_message
from alexnet.model.network import AlexNet
from alexnet.model.weights import Trained, load_trained, weights_file
from alexnet.storage.arguments import is_whole
from alexnet.storage.atomic import require_free, require_space
from alexnet.storage.checksums import file_digest
from alexnet.storage.paths import StrPath, StrPaths, described
from alexnet.storage.staging import open_staging, staging_folder
from alexnet.system.device import Device, Precision, PrecisionChoice, choose_device, choose_precision

FileFormat = Literal["npy", "parquet"]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class FeatureWork:
    """A folder of features to write, of a request that was checked."""

    run: Path
    destination: Path
    trained: Trained
    reader: ActivationReader
    source: ImageSource
    downloads: Downloads
    dtype: np.dtype[Any]
    num_components: int | None
    """To fit."""
    projections: dict[str, Projection]
    """By layer, of another folder."""
    as_parquet: bool
    device: torch.device
    precision: Precision
    plan: dict[str, Any]
    """What identifies the work: the settings, the weights and the images."""

    def write(self, batch_size: int | None, restart: bool, progress: Callable[[int, int], None] | None) -> Features:
        """Do the work, or what an earlier call has left of it; see `write_features`."""
        destination, num_images = self.destination, len(self.source.paths)
        if not staging_folder(destination).exists():
            require_space(destination, num_images * self._image_bytes())
        opened = open_staging(
            destination, self.plan, description_file=DESCRIPTION_FILE, cursor_file=CURSOR_FILE, restart=restart
        )
        with opened as staging, closing(self.downloads):
            if not staging.is_complete:
                writer = FeatureWriter(
                    staging,
                    self.trained,
                    self.reader,
                    self.source,
                    self.dtype,
                    num_components=self.num_components,
                    projections=self.projections,
                    as_parquet=self.as_parquet,
                )
                if slow := slow_path_message(self.device.type):
                    _logger.warning(slow)
                if writer.num_done:
                    _logger.info(f"resuming: {writer.num_done:,} of {num_images:,} images are done")
                writer.run(batch_size, self.device, self.precision, progress)
                writer.describe(self.run, self.plan)
            staging.publish(destination)
        result = open_features(destination, verify=False)
        num_refused = num_images - len(result.paths)
        if num_refused:
            _logger.warning(
                f"refused {num_refused:,} of {num_images:,} files; see {destination / REFUSED_FILE} for the reasons"
            )
        return result

    def finished(self) -> Features | None:
        """The features, if the destination has them already.

        Raises:
            RequestError: it has those of another request.
        """
        if not (self.destination / DESCRIPTION_FILE).is_file():
            return None
        found = open_features(self.destination, verify=False)
        if found.description.get("plan") != self.plan:
            raise RequestError(
                f"{self.destination} has the features of another request; remove it or name another destination"
            )
        return found

    def _image_bytes(self) -> int:
        """On the disk, while the work is done."""
        sizes = {name: math.prod(self.reader.shape(name)) for name in self.reader.names}
        num_kept = sum(
            len(self.projections[name].components) if name in self.projections else self.num_components or size
            for name, size in sizes.items()
        )
        num_removed = 0 if self.num_components is None else sum(sizes.values())  # float32, after the fit
        return num_kept * (self.dtype.itemsize + (4 if self.as_parquet else 0)) + 4 * num_removed


def prepare_work(
    run: Path,
    destination: Path,
    *,
    data_folder: StrPaths | None = None,
    split: str | None = None,
    photographs: StrPaths = (),
    layers: Sequence[str] | str | None = None,
    untrained: bool = False,
    dtype: Dtype = "float32",
    pca: int | StrPath | None = None,
    file_format: FileFormat = "npy",
    device: Device = "auto",
    precision: PrecisionChoice = "auto",
    may_be_done: bool = False,
) -> FeatureWork:
    """Check a request to `write_features`, which has the same arguments and errors.

    Args:
        may_be_done: allow a destination that has features; see `FeatureWork.finished`.
    """
    if dtype not in get_args(Dtype):
        raise RequestError(f"--dtype is {dtype!r}; allowed is {' or '.join(get_args(Dtype))}")
    if file_format not in get_args(FileFormat):
        raise RequestError(f"--format is {file_format!r}; allowed is {' or '.join(get_args(FileFormat))}")
    if file_format == "parquet":
        require_parquet()
    if not (may_be_done and (destination / DESCRIPTION_FILE).is_file()):
        require_free(destination)
    downloads = Downloads(are_options=False)
    trained = load_trained(run, untrained=untrained)
    reader = ActivationReader(trained.network, layer_names(layers, trained.network))
    trained.require_trained(reader.names, run)
    if photographs:
        if data_folder is not None or split is not None:
            raise RequestError("both photographs and a data set or split are named; name one or the other")
        source = photograph_source(photographs, trained, downloads)
    else:
        source = split_source(run, data_folder, split, trained)
    chosen_device = choose_device(device)
    chosen_precision = choose_precision(precision, chosen_device)
    weights = {
        "weights_sha256": file_digest(weights_file(run)),
        **({} if trained.untrained_seed is None else {"untrained": True, "untrained_seed": trained.untrained_seed}),
    }
    sizes = {name: math.prod(reader.shape(name)) for name in reader.names}
    num_components, projections = _pca(pca, run, weights, sizes, len(source.paths))
    plan = {
        "format_version": FORMAT_VERSION if pca is None else PROJECTED_VERSION,
        **weights,
        "layers": list(reader.names),
        "dtype": dtype,
        "precision": chosen_precision,
        **({} if num_components is None else {"pca": num_components}),
        **({"pca_sha256": {name: one.digest() for name, one in projections.items()}} if projections else {}),
        **({} if file_format == "npy" else {"format": file_format}),
        **source.identity,
    }
    return FeatureWork(
        run=run,
        destination=destination,
        trained=trained,
        reader=reader,
        source=source,
        downloads=downloads,
        dtype=np.dtype(dtype),
        num_components=num_components,
        projections=projections,
        as_parquet=file_format == "parquet",
        device=chosen_device,
        precision=chosen_precision,
        plan=plan,
    )


def _pca(
    pca: int | StrPath | None, run: Path, weights: Mapping[str, Any], sizes: Mapping[str, int], num_images: int
) -> tuple[int | None, dict[str, Projection]]:
    """The number of components to fit, or the projections of a folder, for layers of these sizes."""
    if pca is None:
        return None, {}
    if not isinstance(pca, str | os.PathLike):
        if not is_whole(pca, 1):
            raise RequestError(
                f"--pca is {described(pca)}; allowed is a number of components, 1 or more, or a folder of features"
            )
        for name, size in sizes.items():
            require_fittable(name, num_images, size, pca)
        return int(pca), {}
    fitted = open_features(pca, verify=False)
    if any(
        fitted.description.get(key) != weights.get(key) for key in ("weights_sha256", "untrained", "untrained_seed")
    ):
        raise RequestError(
            f"{fitted.folder} has principal components of other weights than those of {run}; fit them to this network: "
            f"alexnet features {run} --pca N --out FOLDER"
        )
    return None, {name: fitted.projection(name) for name in sizes}


def layer_names(layers: Sequence[str] | str | None, network: AlexNet) -> Sequence[str]:
    """The layers that a caller names; None is the default one."""
    if layers is None:
        return [default_layer(network.spec)]
    if not isinstance(layers, Sequence):
        raise RequestError(f"layers is {described(layers)}; allowed is the name of a layer, or a list of names")
    return [layers] if isinstance(layers, str) else layers
