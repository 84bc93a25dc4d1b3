"""Train auto-encoders to short binary codes on an index's vectors, and keep the codes in its folder.

Section 6.1 of the paper proposes it. Codes of several lengths lie beside each other.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from alexnet.errors import Interrupted, RequestError, WorkError
from alexnet.explore.binary_codes import BinaryCodes, codes_file
from alexnet.explore.code_files import open_codes, write_codes
from alexnet.explore.code_measures import NUM_NEIGHBORS, held_out_queries, measure_codes
from alexnet.explore.code_training import CodeTraining, train_encoder
from alexnet.explore.hamming import MAX_BITS, WORD_BITS
from alexnet.explore.nearest import nearest
from alexnet.explore.vector_index import VectorIndex, build_index, has_index, open_index
from alexnet.storage.arguments import is_whole
from alexnet.storage.paths import StrPath, StrPaths, as_path, described
from alexnet.storage.typed_files import DamagedFile
from alexnet.system.device import Device, choose_device
from alexnet.system.progress import ProgressBar, ShowProgress, lines_shown

DEFAULT_BITS = 256

_logger = logging.getLogger(__name__)


def codes(
    run: StrPath,
    bits: int | Sequence[int] = DEFAULT_BITS,
    data_folder: StrPaths | None = None,
    *,
    index: StrPath | None = None,
    seed: int = 0,
    device: Device = "auto",
    progress: ShowProgress = None,
) -> tuple[BinaryCodes, ...]:
    """Train auto-encoders to binary codes on the vectors of a run's index, and keep codes and encoders beside it.

    If the run folder has no index, it is made first. Lengths that are there already, of the same vectors and settings,
    are kept.

    Args:
        run: a run folder or a weights file.
        bits: length of the codes, or several: multiples of 32 up to 1,024.
        data_folder: the prepared data set; None is the index's own, or what the run was trained on.
        index: folder of an index that was made before; None is `index` in the run folder.
        seed: of the weights that the training begins with, its order, and the images held out to measure.
        device: where the auto-encoders are trained; `auto` is a GPU if there is one.
        progress: see `ShowProgress`; a function is called with (training steps done, steps in total).

    Returns:
        Codes in the order of `bits`.

    Raises:
        RequestError: a length that is not allowed, no index in a folder that is named, one of other weights, or one
            with fewer than two images.
        WorkError: all vectors or all codes are equal, the training diverges, or the disk is full.
        Interrupted: from the keyboard; finished lengths are kept.
    """
    run = as_path(run, "the run")
    lengths = _lengths(bits)
    if not is_whole(seed, 0):
        raise RequestError(f"the seed is {described(seed)}; allowed is a whole number, 0 or more")
    chosen_device = choose_device(device)
    if index is None and not has_index(run):
        opened = build_index(run, data_folder, device=device, progress=False if callable(progress) else progress)
    else:
        opened = open_index(run, index, data_folder=data_folder)
    if len(opened) < 2:
        raise RequestError(f"{opened.folder} has one image; codes need an index of two or more")
    wanted = [CodeTraining(length, seed) for length in lengths]
    with lines_shown(progress), ProgressBar("codes", shown=progress) as bar, _kept_if_interrupted():
        found = {one.bits: _existing(opened, one) for one in wanted}
        missing = [one for one in wanted if found[one.bits] is None]
        if missing:
            queries = held_out_queries(len(opened), seed)
            num_neighbors = min(NUM_NEIGHBORS, len(opened) - 1)
            vectors = np.asarray(opened.vectors[queries], np.float32)
            true = nearest(opened.vectors, vectors, num_neighbors, exclude=queries).indices
        total = sum(one.steps for one in missing)
        for number, settings in enumerate(missing):
            done = sum(one.steps for one in missing[:number])

            def update(step: int, lost: float, done: int = done, settings: CodeTraining = settings) -> None:
                bar.update(done + step, total, f"{settings.bits} bits, {100 * (1 - lost):.1f} % reconstructed")

            trained = train_encoder(opened.vectors, queries, settings, device=chosen_device, progress=update)
            values = trained.encoder.encode(opened.vectors)
            measures = measure_codes(
                opened.vectors,
                trained.encoder,
                values,
                queries,
                true,
                opened.labels,
                list(zip(opened.classes, opened.class_names, strict=True)),
                trained.reconstructed,
            )
            made = BinaryCodes(opened, values, trained.encoder, settings, measures)
            _require_variety(made)
            write_codes(made)
            found[settings.bits] = made
    return tuple(one for length in lengths if (one := found[length]) is not None)


def _lengths(bits: int | Sequence[int]) -> list[int]:
    """The lengths asked for, each once."""
    given: Sequence[Any] = [bits] if isinstance(bits, int) or not isinstance(bits, Sequence) else bits
    for one in given:
        if not is_whole(one, WORD_BITS) or one > MAX_BITS or one % WORD_BITS:
            raise RequestError(
                f"--bits is {described(one)}; allowed are multiples of {WORD_BITS} up to {MAX_BITS:,}, e.g. 64"
            )
    if not given:
        raise RequestError("bits is empty; name one length of the codes or more, such as 64")
    return list(dict.fromkeys(int(one) for one in given))


def _existing(index: VectorIndex, settings: CodeTraining) -> BinaryCodes | None:
    """The codes that are there already; None where they are to be made."""
    path = codes_file(index.folder, settings.bits)
    if not path.exists():
        return None
    try:
        found = open_codes(index, settings.bits)
    except (DamagedFile, RequestError) as error:
        reason, _, _ = str(error).partition("; make it again")
        _logger.warning(f"{reason}; rebuilding it")
        return None
    if found.training != settings:
        _logger.info(f"{path} is replaced: it was trained with other settings")
        return None
    _logger.info(f"{path} is complete")
    return found


def _require_variety(made: BinaryCodes) -> None:
    """Refuse codes that are all the same, and warn of bits that are."""
    measures = made.measures
    if measures["distinct_codes"] == 1:
        raise WorkError(
            f"the auto-encoder has collapsed: all {len(made.codes):,} images have the same {made.bits}-bit code; train "
            "with another --seed"
        )
    if measures["constant_bits"]:
        _logger.warning(
            f"{measures['constant_bits']} of {made.bits} bits are the same for more than 99.9 % of the images, so that "
            "they carry almost no information: codes with fewer bits may find as much"
        )


@contextmanager
def _kept_if_interrupted() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt as error:
        raise Interrupted("interrupted; finished lengths are kept; rerun the same command to continue") from error
