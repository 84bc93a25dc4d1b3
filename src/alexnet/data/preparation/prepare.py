"""From a source to a prepared data set: decoded, resized and cropped images, and their statistics.

    source -> decode -> resize and crop -> chunk writer + color sums -> commit -> finalize

The result depends neither on the number of workers nor on interruptions: images keep the source's order, mean and
covariance come from exact integer sums, and the bytes written depend on the images alone.
Paper: section 2 (256 x 256 pixels) and 4.1 (color).
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar, get_args

import numpy as np
import torch

from alexnet.data.dataset import REFUSED_FILE, SKIPPED_FILE, STORES, PreparedData
from alexnet.data.dataset_files import DESCRIPTION_FILE, FORMAT_VERSION, MAX_SIDE_PX, MIN_SIDE_PX, split_file
from alexnet.data.decode import Fit
from alexnet.data.preparation.commits import CURSOR_FILE, Commits
from alexnet.data.preparation.finalize import finalize
from alexnet.data.preparation.workers import Chunk, ImageWorkers, split_into_chunks
from alexnet.data.preparation.writers import ChunkWriter, PixelsChunkWriter, ShardChunkWriter
from alexnet.data.shards import JPEG_QUALITY, shard_name
from alexnet.data.sources.formats import open_source
from alexnet.data.sources.listing import Source, with_hold_out
from alexnet.errors import Interrupted, RequestError, WorkError
from alexnet.storage.arguments import is_number, is_whole
from alexnet.storage.atomic import require_free, require_space
from alexnet.storage.paths import StrPath, as_path, described
from alexnet.storage.staging import open_staging, staging_folder
from alexnet.system.machine import num_cores
from alexnet.system.progress import ShowProgress, counted

T = TypeVar("T")

DEFAULT_SIDE_PX = 256
MAX_PIXELS_STORE_BYTES = 4 * 2**30
"""Up to this size the pixels themselves are stored: nothing is lost, and training reads them fastest."""
LEAST_JPEG_BYTES_PER_PIXEL = 0.1
"""A low estimate, to refuse a disk that is certainly too small."""
MAX_REFUSED = 0.05
MOST_KINDS = 5
"""Of skipped files, in a log line."""
SHARD_IMAGES = 1024
"""As in a batch file of the original source."""

_logger = logging.getLogger(__name__)


def prepare(
    source: StrPath,
    destination: StrPath,
    *,
    source_format: str | None = None,
    split_folders: Mapping[str, str] | None = None,
    side: int | None = None,
    store: str = "auto",
    hold_out: float = 0.0,
    seed: int = 0,
    exif: str = "auto",
    fit: Fit = "crop",
    on_bad: str = "refuse",
    max_refused: float = MAX_REFUSED,
    shard_images: int = SHARD_IMAGES,
    workers: int | None = None,
    restart: bool = False,
    progress: ShowProgress = None,
) -> PreparedData:
    """Prepare the photographs of `source` in a new folder.

    Interrupted at any moment, the same call resumes, and ends with the same bytes.

    Args:
        source: see `open_source`.
        destination: a folder that does not exist yet, or is empty.
        source_format: a name in `SOURCE_FORMATS`; None detects it.
        split_folders: see `open_source`.
        side: of the stored square images, 8..1024 pixels; None is what the source suggests, else 256.
        store: `pixels` (one array; nothing is lost), `jpeg` (tar shards, quality 95) or `auto`: pixels up to 4 GiB.
        hold_out: fraction of each class to hold out as `val`; a source that has that split keeps its own.
        seed: of the held-out choice.
        exif: `apply` turns pictures as their EXIF data say, `ignore` leaves them as stored, `auto` applies it except
            to ImageNet's own archives, whose pictures the paper took as stored.
        fit: how photographs become square: `crop` (the paper's: the central square), `pad` (all of the picture, with
            bars of `PAD_COLOR`) or `squash` (all of it, stretched), see `make_square`.
        on_bad: `refuse` lists a bad file in refused.jsonl and continues; `stop` ends at the first.
        max_refused: fraction of files, 0..1; with more refused no data set is made.
        shard_images: files in a shard, and in a chunk of work that an interruption cannot undo.
        workers: threads that decode; None is one per core.
        restart: discard what an earlier, unfinished call with this destination has done.
        progress: see `ShowProgress`; a function is called with (files done, files in total).

    Raises:
        RequestError: the source or an option is invalid, or the destination is taken or being written.
        WorkError: the disk is full, too many files are bad, or all images of a class or of a split are.
        Interrupted: from the keyboard; finished work is kept.
    """
    source, destination = as_path(source, "the source"), as_path(destination, "the destination")
    if split_folders is not None and not isinstance(split_folders, Mapping):
        raise RequestError(f"split_folders is {described(split_folders)}; allowed is a mapping from splits to folders")
    side, hold_out, seed = _plain(side), _plain(hold_out), _plain(seed)
    max_refused, shard_images, workers = _plain(max_refused), _plain(shard_images), _plain(workers)
    _check_options(side, store, seed, exif, fit, on_bad, max_refused, shard_images, workers)
    with counted("preparing", shown=progress) as update:
        require_free(destination)
        found = open_source(source, source_format, split_folders)
        opened = with_hold_out(found, hold_out, seed)
        if "val" in found.splits and hold_out:
            _logger.info(f"{source} has a validation split, which is kept: --hold-out {hold_out:g} changes nothing")
            hold_out = 0.0
        side = side or opened.side or DEFAULT_SIDE_PX
        num_files = sum(len(listing) for listing in opened.splits.values())
        if store == "auto":
            store = "pixels" if num_files * side**2 * 3 <= MAX_PIXELS_STORE_BYTES else "jpeg"
        upright = opened.upright if exif == "auto" else exif == "apply"
        plan: dict[str, Any] = {
            "source": str(source),
            "kind": opened.format,
            "source_sha256": opened.digest(),
            "format_version": FORMAT_VERSION,
            "side": side,
            "store": store,
            "jpeg_quality": JPEG_QUALITY,
            "hold_out": hold_out,
            "seed": seed,
            "exif": "apply" if upright else "ignore",
            "shard_images": shard_images,
            # Their pixels may differ by a gray level from version to version: one version makes the whole data set.
            "made_with": {name: version(name) for name in ("torch", "pillow", "simplejpeg")},
        }
        # With the defaults of these the plan is that of earlier versions, whose work is resumed.
        if split_folders is not None:
            plan["split_folders"] = dict(split_folders)
        if fit != "crop":
            plan["fit"] = fit
        counts = ", ".join(f"{name} {len(listing):,}" for name, listing in opened.splits.items())
        made_square = {"crop": "", "pad": ", padded,", "squash": ", squashed,"}[fit]
        stored_as = "an array" if store == "pixels" else "JPEG files in tar shards"
        _logger.info(
            f"{opened.title} ({opened.format}): {len(opened.class_ids)} classes, {counts}; storing {side} x {side} "
            f"pixels{made_square} as {stored_as}"
        )
        if "val" not in opened.splits and "test" not in opened.splits:
            _logger.warning(
                f"{source} has no validation split, so no errors can be measured on it; to hold out a tenth of each "
                "class, interrupt this and add --hold-out 0.1"
            )
        if not staging_folder(destination).exists():
            bytes_per_pixel = 3 if store == "pixels" else LEAST_JPEG_BYTES_PER_PIXEL
            require_space(destination, int(num_files * side**2 * bytes_per_pixel))
        with open_staging(
            destination, plan, description_file=DESCRIPTION_FILE, cursor_file=CURSOR_FILE, restart=restart
        ) as staging:
            if not staging.is_complete:
                chunks = split_into_chunks(opened, shard_images)
                commits = Commits(staging, side)
                threads = ImageWorkers(opened, side, store, upright, fit, workers or num_cores())
                try:
                    _write_chunks(opened, chunks, commits, threads, staging.folder, plan, on_bad == "stop", update)
                except KeyboardInterrupt as error:
                    raise Interrupted(
                        f"interrupted; finished work is kept in {staging.folder}; rerun the same command to resume"
                    ) from error
                finalize(staging, opened, chunks, commits, plan, max_refused)
            # What cannot be opened yet is not published: rerun, the command finishes it.
            PreparedData.open(staging.folder)
            staging.publish(destination)
        data = PreparedData.open(destination)
        _log_unused_and_duplicates(data, opened)
    return data


def _write_chunks(
    source: Source,
    chunks: list[Chunk],
    commits: Commits,
    workers: ImageWorkers,
    folder: Path,
    plan: dict[str, Any],
    stop_at_bad: bool,
    progress: Callable[[int, int], None],
) -> None:
    """Write and commit the chunks that are not committed yet; while one is committed, the next one is prepared."""
    num_files = sum(map(len, chunks))
    done, remaining = chunks[: commits.num_chunks], chunks[commits.num_chunks :]
    num_done = sum(map(len, done))
    if num_done:
        _logger.info(f"resuming: {num_done:,} of {num_files:,} files are done")
    num_rows: Counter[str] = Counter()  # images written, by split
    for index, chunk in enumerate(done):
        num_rows[chunk.split] += len(commits.record(index)["numbers"])
    with _one_torch_thread(), commits, closing(workers.groups(remaining)) as groups:
        for chunk in remaining:
            writer = _open_writer(folder, chunk, num_rows[chunk.split], plan)
            try:
                while writer.num_files < len(chunk):
                    group = next(groups)
                    if group.refused and stop_at_bad:
                        number, reason = group.refused[0]
                        key = source.splits[chunk.split].keys[number]
                        raise WorkError(f"{key}: {reason}; fix or delete it, or omit --on-bad stop")
                    writer.write(group)
                    progress(num_done + writer.num_files, num_files)
                writer.finish()
            except BaseException:
                writer.close()
                raise
            num_done += len(chunk)
            num_rows[chunk.split] += writer.num_images
            commits.submit(writer, group.colors)


def _open_writer(folder: Path, chunk: Chunk, num_rows: int, plan: dict[str, Any]) -> ChunkWriter:
    """The writer of a chunk; `num_rows` images of its split come before it."""
    if plan["store"] == "jpeg":
        return ShardChunkWriter(folder / shard_name(chunk.split, chunk.number), chunk.number)
    return PixelsChunkWriter(folder / split_file(chunk.split, "images"), num_rows, plan["side"])


@contextmanager
def _one_torch_thread() -> Iterator[None]:
    """Keep torch to one thread: the workers already use all cores."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)


def _log_unused_and_duplicates(data: PreparedData, source: Source) -> None:
    if source.skipped:
        kinds = source.skipped.reasons().most_common()
        listed = [f"{kind.removeprefix('not an image: ')}: {count:,}" for kind, count in kinds[:MOST_KINDS]]
        listed += [f"{len(kinds) - MOST_KINDS} more kinds"] if len(kinds) > MOST_KINDS else []
        files = "file" if len(source.skipped) == 1 else "files"
        if all(kind.startswith("not an image") for kind, _ in kinds):  # others may be images
            files += " that is not an image" if len(source.skipped) == 1 else " that are not images"
        _logger.info(f"skipped {len(source.skipped):,} {files} ({', '.join(listed)}); see {data.folder / SKIPPED_FILE}")
    num_files = sum(len(listing) for listing in source.splits.values())
    num_refused = int(data.description["num_refused"])
    if num_refused:
        _logger.warning(f"refused {num_refused:,} of {num_files:,} files; see {data.folder / REFUSED_FILE}")
    if num_dark := int(data.description.get("num_12_in_16_bit", 0)):
        _logger.warning(
            f"{num_dark:,} of {data.description['num_16_bit']:,} images with 16 bits per channel use only the lower 12 "
            "bits (values up to 4,095), so they are stored nearly black, with up to 16 gray levels; if the camera has "
            "12 bits, multiply the values by 16 and prepare the data again"
        )
    duplicates = data.description["duplicates"]
    if duplicates["surplus_images"]:
        copies = "image is an exact copy" if duplicates["surplus_images"] == 1 else "images are exact copies"
        _logger.warning(f"{duplicates['surplus_images']:,} {copies} of others; see duplicates.jsonl")
    if duplicates["leaked_images"]:
        _logger.warning(
            f"LEAK: {duplicates['leaked_images']:,} validation or test images are in the training split too; errors "
            "measured on them are too low"
        )
    if duplicates["other_label"]:
        pictures = "picture is" if duplicates["other_label"] == 1 else "pictures are"
        _logger.warning(f"{duplicates['other_label']:,} {pictures} stored under more than one class")


def prepared_summary(data: PreparedData) -> dict[str, Any]:
    """What `alexnet prepare --json` prints."""
    return {
        "destination": str(data.folder),
        "title": data.title,
        "classes": data.num_classes,
        "images": {name: len(split) for name, split in data.splits.items()},
        "side": data.side,
        "store": data.store,
        "fit": data.fit,
        "refused": data.description["num_refused"],
        "skipped": data.num_skipped,
        "num_16_bit": data.description.get("num_16_bit", 0),
        "num_12_in_16_bit": data.description.get("num_12_in_16_bit", 0),
        "duplicates": data.description["duplicates"],
        "checksum": data.checksum,
    }


def _check_options(
    side: int | None,
    store: str,
    seed: int,
    exif: str,
    fit: str,
    on_bad: str,
    max_refused: float,
    shard_images: int,
    workers: int | None,
) -> None:
    for option, value, is_allowed, allowed in (
        (
            "--side",
            side,
            side is None or is_whole(side, MIN_SIDE_PX, MAX_SIDE_PX),
            f"{MIN_SIDE_PX} to {MAX_SIDE_PX} pixels",
        ),
        ("--workers", workers, workers is None or is_whole(workers, 1), "1 or more"),
        ("--seed", seed, is_whole(seed, 0), "0 or more"),
        ("--max-refused", max_refused, is_number(max_refused, 0, 1), "a fraction from 0 to 1"),
        ("--shard-images", shard_images, is_whole(shard_images, 1), "1 or more"),
        ("--store", store, store in ("auto", *STORES), ", ".join(("auto", *STORES))),
        ("--exif", exif, exif in ("auto", "apply", "ignore"), "auto, apply, ignore"),
        ("--fit", fit, fit in get_args(Fit), ", ".join(get_args(Fit))),
        ("--on-bad", on_bad, on_bad in ("refuse", "stop"), "refuse, stop"),
    ):
        if not is_allowed:
            raise RequestError(f"{option} is {described(value)}; allowed is {allowed}")


def _plain(value: T) -> T:
    """A number of NumPy, which JSON does not know, as one of Python; anything else as it is."""
    return value.item() if isinstance(value, np.number) else value
