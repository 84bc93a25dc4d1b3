"""`alexnet bench data`: this package's loader on both stores, and PyTorch's DataLoader with Pillow, on the same photos.

The DataLoader has one process per core: it decodes the originals with Pillow, scales the shorter side to 256, cuts a
random crop of 224, mirrors half of them and stacks them as uint8. This package's loader reads the same files after
`alexnet prepare`, which is not timed, and leaves mirroring, mean image and noise to the training's device: the part
`normalize`, which is not in its speed. All files are in the page cache. Each batch is copied to the GPU, if there is
one, and dropped.
"""

import itertools
import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from alexnet.bench.fresh_process import in_fresh_process
from alexnet.bench.loading_limits import copying_only, decoding_only
from alexnet.bench.sample_photos import write_photographs
from alexnet.bench.timing import alternate, median_ratio, workers_or_cores
from alexnet.data.augment import draw, to_input
from alexnet.data.dataset import PreparedData
from alexnet.data.loader import Loader, read_crops
from alexnet.data.preparation.prepare import prepare
from alexnet.data.shards import JpegImages
from alexnet.errors import RequestError
from alexnet.runs.recipe import DataSettings
from alexnet.system.machine import machine_summary, num_cores, source_commit
from alexnet.system.process_usage import anonymous_bytes, cpu_seconds, sampled_memory

_logger = logging.getLogger(__name__)

SIDE_PX, CROP_PX, BATCH_SIZE = 256, 224, 128
DATALOADER = "DataLoader with Pillow"
STORES = ("jpeg", "pixels")
LIMITS = {"jpeg": "decoding only", "pixels": "copying only"}
"""The upper bound of each store's loading."""
PARTS_IMAGES = 200
"""Images over which the parts of the work are timed."""
MEMORY_INTERVAL_S = 0.05
ROUND_S = 2.0
"""The least duration of a method's measurement, which is one pass or more."""


class PillowCrops(Dataset[tuple[torch.Tensor, int]]):
    """What most training scripts do with a file: Pillow, shorter side to 256, a random crop of 224, mirrored or not."""

    def __init__(self, paths: list[str]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        with Image.open(self.paths[index]) as image:
            width, height = image.size
            scale = SIDE_PX / min(width, height)
            size = (round(width * scale), round(height * scale))
            scaled = image.convert("RGB").resize(size, Image.Resampling.BILINEAR)
        left, top = (int(torch.randint(0, length - CROP_PX + 1, ())) for length in size)
        cut = scaled.crop((left, top, left + CROP_PX, top + CROP_PX))
        if torch.rand(()) < 0.5:
            cut = cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return torch.from_numpy(np.array(cut)), index % 2


def measure_loading(
    source: Path | None, num_files: int, rounds: int, workers: int | None, epochs: int
) -> dict[str, Any]:
    """Measure the loading of batches of 128 crops of 224 pixels.

    Args:
        source: photographs, see `open_source`; None generates 500 x 375 pictures with the texture of photographs.
        num_files: photographs, 256 or more.
        rounds: measurements of each method, 1 or more.
        workers: threads of this package's loader and processes of the DataLoader; None is one per core.
        epochs: passes over which the memory of this package's loader is sampled, once over all images and once over a
            quarter of them; 0 samples none.

    Returns:
        `methods` and `limits`: by name images per second, processor use and added memory (medians over the rounds).
        `speedups`: of each store over the DataLoader. `fraction_of_limit`: of each store's upper bound. `parts_us`: by
        store, microseconds per image of each part of the work.

    Raises:
        RequestError: a number is out of range.
    """
    if num_files < 2 * BATCH_SIZE:
        raise RequestError(f"--files is {num_files}; allowed is {2 * BATCH_SIZE} or more")
    if rounds < 1 or epochs < 0:
        raise RequestError(f"--rounds is {rounds} and --epochs {epochs}; allowed are 1 and 0 or more")
    workers = workers_or_cores(workers)
    with tempfile.TemporaryDirectory(prefix="alexnet-bench-") as folder:
        tree = Path(folder) / "photographs"
        sizes = [len(content) for content in write_photographs(tree, source, num_files)]
        mean_bytes = statistics.mean(sizes)
        _logger.info("%d files, %.1f kB on average, %d threads", len(sizes), mean_bytes / 1000, workers)
        prepared = {
            store: prepare(tree, Path(folder) / store, side=SIDE_PX, store=store, workers=workers) for store in STORES
        }
        num_images = len(prepared["jpeg"].splits["train"])
        added_bytes = {
            name: in_fresh_process(_added_memory, name, tree, Path(folder), workers) for name in (DATALOADER, *STORES)
        }
        passes = _passes(tree, prepared, workers)
        passes_per_round: dict[str, int] = {}
        for name, one_pass in passes.items():
            one_pass()  # starts processes and fills the page cache
            start_s = time.perf_counter()
            one_pass()
            passes_per_round[name] = max(1, round(ROUND_S / (time.perf_counter() - start_s)))
            _logger.info("%s: warmed up, %d passes per round", name, passes_per_round[name])
        timings = alternate(
            {name: _repeated(one_pass, passes_per_round[name]) for name, one_pass in passes.items()},
            rounds,
            cpu_seconds,
        )
        parts = {store: _parts(prepared[store]) for store in STORES}
        memory: dict[str, dict[str, Any]] = {}
        for store in STORES if epochs else ():
            memory[store] = {
                str(num): in_fresh_process(_memory_over_epochs, Path(folder) / store, num, workers, epochs)
                for num in (num_images // 4, num_images)
            }
            _logger.info("%s: sampled the memory of %d epochs", store, epochs)
    cores = num_cores()
    rows = {
        name: {
            "passes_per_round": passes_per_round[name],
            "images_per_second": passes_per_round[name] * num_images / statistics.median(timing.wall_s),
            "cpu_fraction": statistics.median(
                cpu_s / wall_s / cores for cpu_s, wall_s in zip(timing.cpu_s, timing.wall_s, strict=True)
            ),
            "cpu_ms_per_image": 1e3 * statistics.median(timing.cpu_s) / num_images / passes_per_round[name],
            "added_bytes": added_bytes.get(name),
            "wall_s": list(timing.wall_s),
        }
        for name, timing in timings.items()
    }

    def relative_speed(name: str, other: str) -> float:
        ratio = passes_per_round[name] / passes_per_round[other]
        return median_ratio(timings[other].wall_s, timings[name].wall_s) * ratio

    return {
        "files": len(sizes),
        "images_per_pass": num_images,
        "mean_file_bytes": mean_bytes,
        "photographs": "generated" if source is None else source.name,
        "workers": workers,
        "rounds": rounds,
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "methods": {name: rows[name] for name in (DATALOADER, *STORES)},
        "limits": {name: rows[name] for name in LIMITS.values()},
        "limit_of": LIMITS,
        "fraction_of_limit": {store: relative_speed(store, limit) for store, limit in LIMITS.items()},
        "speedups": {store: relative_speed(store, DATALOADER) for store in STORES},
        "parts_us": parts,
        "bottleneck": {
            store: max((part for part in parts[store] if part != "normalize"), key=lambda part: parts[store][part])
            for store in STORES
        },
        "memory_over_epochs": memory,
        "machine": machine_summary(),
        "commit": source_commit(),
    }


def _passes(tree: Path, prepared: dict[str, PreparedData], workers: int) -> dict[str, Callable[[], object]]:
    """By method and limit, a function that makes one pass over the training images."""
    dataloader = _dataloader(tree, workers)

    def pass_of(store: str) -> Callable[[], object]:
        loader = _loader(prepared[store], workers)
        firsts = itertools.count(0, loader.steps_per_epoch)

        def one_pass() -> int:
            first = next(firsts)
            return _consume(batch.images for batch in loader.batches(first, first + loader.steps_per_epoch))

        return one_pass

    num_images = len(prepared["jpeg"].splits["train"])
    return {
        DATALOADER: lambda: _consume(images for images, _ in dataloader),
        **{store: pass_of(store) for store in STORES},
        LIMITS["jpeg"]: decoding_only(prepared["jpeg"], workers),
        LIMITS["pixels"]: copying_only(num_images, 3 * CROP_PX**2, BATCH_SIZE),
    }


def _repeated(one_pass: Callable[[], object], count: int) -> Callable[[], object]:
    return lambda: [one_pass() for _ in range(count)]


def _dataloader(tree: Path, workers: int) -> "DataLoader[tuple[torch.Tensor, int]]":
    paths = sorted(str(path) for path in (tree / "train").rglob("*.jpg"))
    return DataLoader(
        PillowCrops(paths),
        batch_size=BATCH_SIZE,
        shuffle=True,
        num_workers=workers,
        persistent_workers=True,
        pin_memory=torch.cuda.is_available(),
        multiprocessing_context="spawn",
    )


def _loader(data: PreparedData, workers: int, sample_ids: NDArray[np.int64] | None = None) -> Loader:
    return Loader(
        data.splits["train"],
        data.statistics,
        DataSettings(crop=CROP_PX),
        BATCH_SIZE,
        0,
        sample_ids=sample_ids,
        workers=workers,
        pin_memory=torch.cuda.is_available(),
    )


def _consume(batches: Iterable[torch.Tensor]) -> int:
    """Consume all batches, copied to the GPU if there is one; returns the number of images."""
    on_gpu = torch.cuda.is_available()
    total = 0
    for images in batches:
        if on_gpu:
            images = images.to("cuda", non_blocking=True)
        total += len(images)
    if on_gpu:
        torch.cuda.synchronize()
    return total


def _parts(data: PreparedData) -> dict[str, float]:
    """Microseconds per image of each part of the work, in one thread.

    `read` reads the bytes from the store, `decode` decodes them, `crop` cuts and copies, `draw` draws crop, mirroring
    and noise at random, `normalize` mirrors and subtracts the mean image in the training's thread, `queue` is the
    overhead of threads and queue: a pass over images that cost nothing to cut.
    """
    split = data.splits["train"]
    images, settings = split.images, DataSettings(crop=CROP_PX)
    samples = np.arange(min(PARTS_IMAGES, len(split)), dtype=np.int64)
    corners = np.zeros((len(samples), 2), np.int16)
    parts: dict[str, float] = {}
    if isinstance(images, JpegImages):
        parts["read"] = _microseconds(lambda: [images.stored(int(sample)) for sample in samples], len(samples))
        both = _microseconds(lambda: [images.decode(int(sample)) for sample in samples], len(samples))
        parts["decode"] = max(0.0, both - parts["read"])
        pixels = images[samples]
        parts["crop"] = _microseconds(lambda: read_crops(pixels, samples, corners, CROP_PX), len(samples))
    else:
        # Only the rows of a crop are read.
        parts["read and crop"] = _microseconds(lambda: read_crops(images, samples, corners, CROP_PX), len(samples))
    parts["draw"] = _microseconds(lambda: draw(settings, data.statistics, SIDE_PX, 0, 0, samples), len(samples))
    batch = _loader(data, 1).batch(0)
    mean_image = torch.from_numpy(np.array(data.statistics.mean_image))
    parts["normalize"] = _microseconds(lambda: to_input(batch, mean_image, torch.device("cpu")), len(batch.labels))
    blank = replace(split, images=np.broadcast_to(np.zeros((1, SIDE_PX, SIDE_PX, 3), np.uint8), images.shape))
    small = Loader(blank, data.statistics, DataSettings(crop=8), BATCH_SIZE, 0)
    steps = 4 * small.steps_per_epoch
    whole = _microseconds(lambda: sum(1 for _ in small.batches(0, steps)), 4 * small.num_samples)
    parts["queue"] = max(0.0, whole - parts["draw"])
    return parts


def _microseconds(work: Callable[[], object], num_images: int) -> float:
    """Median of five runs, per image."""
    runs_s = []
    for _ in range(5):
        start_s = time.perf_counter()
        work()
        runs_s.append(time.perf_counter() - start_s)
    return 1e6 * statistics.median(runs_s) / num_images


def _added_memory(name: str, tree: Path, prepared: Path, workers: int) -> int | None:
    """Peak anonymous memory that two passes of a method add to this process and its children."""
    before = anonymous_bytes()
    if before is None:
        return None
    with sampled_memory(MEMORY_INTERVAL_S) as samples:
        if name == DATALOADER:
            dataloader = _dataloader(tree, workers)
            for _ in range(2):
                _consume(images for images, _ in dataloader)
        else:
            loader = _loader(PreparedData.open(prepared / name), workers)
            _consume(batch.images for batch in loader.batches(0, 2 * loader.steps_per_epoch))
    return max(held for _, held in samples) - before


def _memory_over_epochs(folder: Path, num_images: int, workers: int, epochs: int) -> dict[str, Any]:
    """Anonymous memory over `epochs` passes over the first `num_images` images."""
    loader = _loader(PreparedData.open(folder), workers, np.arange(num_images, dtype=np.int64))
    per_epoch = loader.steps_per_epoch
    ends = []
    with sampled_memory(MEMORY_INTERVAL_S) as samples:
        for epoch in range(epochs):
            _consume(batch.images for batch in loader.batches(epoch * per_epoch, (epoch + 1) * per_epoch))
            ends.append(anonymous_bytes())
    return {"seconds_and_bytes": [list(sample) for sample in samples], "epoch_ends_bytes": ends}
