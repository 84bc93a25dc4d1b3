"""From a source to a prepared data set: decoded, scaled and cropped images, and their statistics.

The result does not depend on the number of workers, nor on how often the work was broken off: images keep the
source's order, mean and covariance come from exact integer sums, and what is written depends on the images alone.
Paper: section 2 (256 x 256 pixels) and 4.1 (color).
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from alexnet.data.dataset import FORMAT_VERSION, REFUSED_FILE, STORES, PreparedData
from alexnet.data.preparation.finalize import finish
from alexnet.data.preparation.staging import Cursor, Stage, opened_stage, stage_folder
from alexnet.data.preparation.workers import ChunkWork, Piece, WrittenChunk, pieces_of
from alexnet.data.shards import JPEG_QUALITY
from alexnet.data.sources.listing import with_hold_out
from alexnet.data.sources.opening import open_source
from alexnet.errors import Interrupted, RequestError
from alexnet.storage.atomic import require_free, require_space
from alexnet.system.machine import num_cores

DEFAULT_SIDE_PX = 256
MIN_SIDE_PX, MAX_SIDE_PX = 8, 1024
MAX_PIXELS_STORE_BYTES = 4 * 2**30
"""Up to here the pixels themselves are stored: nothing is lost and training reads them fastest."""
LEAST_JPEG_BYTES_PER_PIXEL = 0.1
"""A low guess, to refuse a disk that is certainly too small."""
MAX_REFUSED = 0.05
SHARD_IMAGES = 1024
"""As many as a batch file of the original source held."""


def _say_nothing(line: str) -> None:
    """The report of a caller that wants none."""


def prepare(
    source: Path,
    destination: Path,
    *,
    kind: str | None = None,
    side: int | None = None,
    store: str = "auto",
    hold_out: float = 0.0,
    seed: int = 0,
    exif: str = "auto",
    on_bad: str = "refuse",
    max_refused: float = MAX_REFUSED,
    shard_images: int = SHARD_IMAGES,
    workers: int | None = None,
    restart: bool = False,
    report: Callable[[str], None] = _say_nothing,
    progress: Callable[[int, int], None] | None = None,
) -> PreparedData:
    """Prepare the photographs of `source` in a new folder.

    Broken off at any instant, the same call goes on where it was, and ends with the same bytes.

    Args:
        source: see `open_source`.
        destination: a folder that does not exist yet, or is empty.
        kind: of the source, see `open_source`; None recognizes it.
        side: of the stored square images, 8..1024 pixels; None is what the source suggests, else 256.
        store: `pixels` (one array; nothing is lost), `jpeg` (tar shards, quality 95) or `auto`: pixels up to 4 GiB.
        hold_out: fraction of each class to hold out as `val` where the source has no such split.
        seed: of the held-out choice.
        exif: `apply` turns pictures as their EXIF data say, `ignore` leaves them as stored, `auto` applies it but for
            ImageNet's own archives, whose pictures the paper took as stored.
        on_bad: `refuse` names a bad file in refused.jsonl and goes on; `stop` ends at the first.
        max_refused: fraction of files, 0..1; with more refused there is no data set.
        shard_images: files in a shard, and in a piece of work that is kept when the work is broken off.
        workers: threads that decode; None is one for each core.
        restart: throw away what an earlier, unfinished call with this destination has done.
        report: is given lines for people.
        progress: is given the number of files done and of all files, now and then.

    Raises:
        RequestError: the source or an option makes no sense, or the destination is taken or being written.
        WorkError: the disk is full, too many files are bad, or all images of a class or of a split are.
        Interrupted: from the keyboard; what is done is kept.
    """
    _check_options(side, store, seed, exif, on_bad, max_refused, shard_images, workers)
    require_free(destination)
    opened = with_hold_out(open_source(source, kind), hold_out, seed)
    side = side or opened.side or DEFAULT_SIDE_PX
    num_files = sum(len(listing) for listing in opened.splits.values())
    chosen_store = store
    if store == "auto":
        chosen_store = "pixels" if num_files * side**2 * 3 <= MAX_PIXELS_STORE_BYTES else "jpeg"
    upright = opened.upright if exif == "auto" else exif == "apply"
    plan: dict[str, Any] = {
        "source": str(source),
        "kind": opened.kind,
        "source_sha256": opened.digest(),
        "format_version": FORMAT_VERSION,
        "side": side,
        "store": chosen_store,
        "jpeg_quality": JPEG_QUALITY,
        "hold_out": hold_out,
        "seed": seed,
        "exif": "apply" if upright else "ignore",
        "shard_images": shard_images,
        # Their pixels may differ from version to version, by a gray level: one data set is made by one of them.
        "made_with": {name: version(name) for name in ("torch", "pillow", "simplejpeg")},
    }
    counts = ", ".join(f"{name} {len(listing):,}" for name, listing in opened.splits.items())
    report(
        f"{opened.title} ({opened.kind}): {len(opened.class_ids)} classes, {counts}; storing {side} x {side} pixels as "
        f"{'an array' if chosen_store == 'pixels' else 'JPEG files in tar shards'}"
    )
    needed = num_files * side**2 * (3 if chosen_store == "pixels" else LEAST_JPEG_BYTES_PER_PIXEL)
    if not stage_folder(destination).exists():
        require_space(destination, int(needed))
    with opened_stage(destination, plan, restart=restart) as stage:
        work = ChunkWork(opened, stage, side, chosen_store, upright, stop_at_bad=on_bad == "stop")
        pieces = pieces_of(opened, shard_images)
        try:
            _do_pieces(work, pieces, stage, workers or num_cores(), num_files, report, progress)
        except KeyboardInterrupt as error:
            raise Interrupted(
                f"interrupted; what is done is kept in {stage.folder}, and the same command goes on"
            ) from error
        if not stage.is_complete:
            finish(stage, opened, pieces, plan, max_refused)
        stage.publish(destination)
    data = PreparedData.open(destination)
    _tell(data, num_files, report)
    return data


def prepared_facts(data: PreparedData) -> dict[str, Any]:
    """What `alexnet prepare --json` prints."""
    return {
        "destination": str(data.folder),
        "title": data.title,
        "classes": data.num_classes,
        "images": {name: len(split) for name, split in data.splits.items()},
        "side": data.side,
        "store": data.store,
        "refused": data.description["num_refused"],
        "duplicates": data.description["duplicates"],
        "checksum": data.checksum,
    }


def _check_options(
    side: int | None,
    store: str,
    seed: int,
    exif: str,
    on_bad: str,
    max_refused: float,
    shard_images: int,
    workers: int | None,
) -> None:
    """Refuse values that make no sense."""
    if side is not None and not MIN_SIDE_PX <= side <= MAX_SIDE_PX:
        raise RequestError(f"--side is {side}; allowed is {MIN_SIDE_PX} to {MAX_SIDE_PX} pixels")
    if workers is not None and workers < 1:
        raise RequestError(f"--workers is {workers}; allowed is 1 or more")
    if seed < 0:
        raise RequestError(f"--seed is {seed}; allowed is 0 or more")
    if not 0 <= max_refused <= 1:
        raise RequestError(f"--max-refused is {max_refused}; allowed is a fraction from 0 to 1")
    if shard_images < 1:
        raise RequestError(f"--shard-images is {shard_images}; allowed is 1 or more")
    for name, value, allowed in (
        ("store", store, ("auto", *STORES)),
        ("exif", exif, ("auto", "apply", "ignore")),
        ("on-bad", on_bad, ("refuse", "stop")),
    ):
        if value not in allowed:
            raise RequestError(f"--{name} is {value!r}; allowed is {', '.join(allowed)}")


def _do_pieces(
    work: ChunkWork,
    pieces: list[Piece],
    stage: Stage,
    workers: int,
    num_files: int,
    report: Callable[[str], None],
    progress: Callable[[int, int], None] | None,
) -> None:
    """Do the pieces that are not done yet."""
    if stage.is_complete:
        return
    cursor = stage.cursor(work.side)
    num_done = sum(len(piece) for piece in pieces[: cursor.pieces])
    if num_done:
        report(f"going on: {num_done:,} of {num_files:,} files are done already")

    def count(num_more: int) -> None:
        nonlocal num_done
        num_done += num_more
        if progress is not None:
            progress(num_done, num_files)

    sums = cursor.sums

    def keep(piece: WrittenChunk) -> None:
        nonlocal sums
        sums = sums + piece.keep(stage)
        stage.advance(Cursor(piece.number + 1, sums))

    num_torch_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the workers are the parallelism; more threads below each would get in each other's way
    try:
        pool = ThreadPoolExecutor(workers, thread_name_prefix="alexnet-prepare")
        # Flushes to the disk are waited for beside the work on the next piece.
        disk = ThreadPoolExecutor(1, thread_name_prefix="alexnet-prepare-disk")
        try:
            kept: Future[None] | None = None
            for piece in work.run(pieces, cursor.pieces, pool, workers, count):
                try:
                    if kept is not None:
                        kept.result()  # never more than one piece that is not on the disk
                except BaseException:
                    piece.file.close()
                    raise
                kept = disk.submit(keep, piece)
            if kept is not None:
                kept.result()
        finally:
            _end(pool)
            # A piece that is whole is still kept, and its file closed, whatever stopped the others.
            _end(disk, cancels=False)
    finally:
        torch.set_num_threads(num_torch_threads)


def _end(pool: ThreadPoolExecutor, cancels: bool = True) -> None:
    """Wait for what the threads are in the middle of, whatever else comes: the lock must outlive them."""
    while True:
        try:
            pool.shutdown(cancel_futures=cancels)
            return
        except KeyboardInterrupt:
            continue


def _tell(data: PreparedData, num_files: int, report: Callable[[str], None]) -> None:
    """Say what a person should know of the files that were refused or are there twice."""
    num_refused = int(data.description["num_refused"])
    if num_refused:
        report(f"refused {num_refused:,} of {num_files:,} files; the reasons are in {data.folder / REFUSED_FILE}")
    twice = data.description["duplicates"]
    if twice["surplus_images"]:
        report(f"{twice['surplus_images']:,} images are exact copies of others (see duplicates.jsonl)")
    if twice["leaked_images"]:
        report(
            f"LEAK: {twice['leaked_images']:,} validation or test images stand in the training split too; errors "
            "measured on them are too good"
        )
    if twice["other_label"]:
        report(f"{twice['other_label']:,} pictures are stored under more than one class")
