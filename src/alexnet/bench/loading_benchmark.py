"""`alexnet bench data`: this loader, on both stores, beside the usual way of PyTorch, from the same photographs.

The usual way: `torch.utils.data.DataLoader` with one process a core, Pillow from the originals, shorter side to 256,
a random crop of 224, mirrored half of the time, stacked as uint8. Ours reads what `alexnet prepare` made of the same
files once, which is not timed. Everything comes from the system's cache of files. All hand whole batches to a consumer
that does nothing but, where there is a GPU, copy them to it. The usual way mirrors on the way; ours leaves mirroring,
mean image and noise to the training's device, where they are one pass: the part `finish`, which is not in its rate.
"""

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
from alexnet.bench.loading_limits import copying_alone, decoding_alone
from alexnet.bench.sample_photos import write_photographs
from alexnet.bench.timing import alternate, median_ratio, workers_or_cores
from alexnet.data.augment import draw, to_input
from alexnet.data.dataset import PreparedData
from alexnet.data.loader import Loader, read_crops
from alexnet.data.preparation.prepare import prepare
from alexnet.data.shards import JpegImages
from alexnet.errors import RequestError
from alexnet.runs.recipe import DataSettings
from alexnet.system.machine import machine_facts, num_cores, source_commit
from alexnet.system.process_usage import anonymous_bytes, cpu_seconds, sampled_memory

SIDE_PX, CROP_PX, BATCH_SIZE = 256, 224, 128
STORES = ("jpeg", "pixels")
LIMITS = {"jpeg": "decoding alone", "pixels": "copying alone"}
"""What bounds each store's loading: all threads do nothing else."""
PARTS_OF = 200
"""Images over which the parts of the work are timed."""
SAMPLE_MEMORY_S = 0.05
ROUND_S = 2.0
"""A way runs so long in a round, at least one pass."""


class PillowCrops(Dataset[tuple[torch.Tensor, int]]):
    """What most training scripts do with a file: Pillow, shorter side to 256, a random crop of 224, a mirror."""

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


def bench_data(
    source: Path | None,
    num_files: int,
    rounds: int,
    workers: int | None,
    epochs: int,
    report: Callable[[str], None],
) -> dict[str, Any]:
    """Measure the loading of batches of 128 crops of 224 pixels.

    Args:
        source: photographs, see `open_source`; None draws 500 x 375 pictures with the texture of photographs.
        num_files: how many of them, 256 or more.
        rounds: how often each way runs, 1 or more.
        workers: threads, or processes of the usual way; None is one for each core.
        epochs: passes over which the memory of our loader is watched, with all files and with a quarter of them; 0 is
            not at all.
        report: is given lines for people.

    Returns:
        LearningRates in images a second, shares of the processor, memory, times of the parts, ratios (medians over the
        rounds): to the usual way, and to what the machine does at best (`LIMITS`), in the same turns.
    """
    if num_files < 2 * BATCH_SIZE:
        raise RequestError(f"--files is {num_files}; allowed is {2 * BATCH_SIZE} or more")
    if rounds < 1 or epochs < 0:
        raise RequestError(f"--rounds is {rounds} and --epochs {epochs}; allowed are 1 and 0 or more")
    workers = workers_or_cores(workers)
    with tempfile.TemporaryDirectory(prefix="alexnet-bench-") as folder:
        tree = Path(folder) / "photographs"
        contents = write_photographs(tree, source, num_files)
        mean_bytes = statistics.mean(map(len, contents))
        count = len(contents)
        del contents
        report(f"{count:,} files, {mean_bytes / 1000:.1f} kB on average, {workers} threads, {rounds} rounds")
        prepared = {
            store: prepare(tree, Path(folder) / store, side=SIDE_PX, store=store, workers=workers) for store in STORES
        }
        num_trained = len(prepared["jpeg"].splits["train"])
        usual = _usual_loader(tree, workers)
        loaders = {store: _loader(data, workers) for store, data in prepared.items()}
        memory = {
            name: in_fresh_process(_added_memory, name, tree, Path(folder), workers) for name in ("usual", *STORES)
        }
        passes = iter(range(10**9))
        passes_a_round: dict[str, int] = {}

        def pass_of(store: str) -> Callable[[], object]:
            loader = loaders[store]

            def one_pass() -> int:
                first = next(passes) * loader.steps_per_epoch
                return _consume(batch.images for batch in loader.batches(first, first + loader.steps_per_epoch))

            return one_pass

        once: dict[str, Callable[[], object]] = {
            "usual": lambda: _consume(images for images, _ in usual),
            **{store: pass_of(store) for store in STORES},
            LIMITS["jpeg"]: decoding_alone(prepared["jpeg"], workers),
            LIMITS["pixels"]: copying_alone(num_trained, 3 * CROP_PX**2, BATCH_SIZE),
        }
        for name, way in once.items():
            way()  # processes are started, files are in the system's cache: what is timed is the loading
            start_s = time.perf_counter()
            way()
            passes_a_round[name] = max(1, round(ROUND_S / (time.perf_counter() - start_s)))
            report(f"warmed up: {name}, {passes_a_round[name]} passes a round")

        def repeated(name: str) -> Callable[[], object]:
            return lambda: [once[name]() for _ in range(passes_a_round[name])]

        timed = alternate(
            {name: repeated(name) for name in once},
            rounds,
            lambda name, number: report(f"round {number + 1}: {name}"),
            cpu_seconds,
        )
        parts = {store: _parts(prepared[store]) for store in STORES}
        watched: dict[str, dict[str, Any]] = {}
        for store in STORES if epochs else ():
            watched[store] = {
                f"{used}": in_fresh_process(_memory_over_epochs, Path(folder) / store, used, workers, epochs)
                for used in (num_trained // 4, num_trained)
            }
            report(f"watched the memory of {epochs} epochs, {store}")
    cores = num_cores()
    rows = {
        name: {
            "passes_a_round": passes_a_round[name],
            "images_per_second": passes_a_round[name] * num_trained / statistics.median(one.wall_s),
            "cpu_share": statistics.median(cpu / wall / cores for cpu, wall in zip(one.cpu_s, one.wall_s, strict=True)),
            "cpu_ms_per_image": 1e3 * statistics.median(one.cpu_s) / num_trained / passes_a_round[name],
            "anonymous_bytes": memory.get(name),
            "wall_s": list(one.wall_s),
        }
        for name, one in timed.items()
    }

    def times(one: str, other: str) -> float:
        passes = passes_a_round[one] / passes_a_round[other]
        return median_ratio(timed[other].wall_s, timed[one].wall_s) * passes

    return {
        "files": count,
        "images_per_pass": num_trained,
        "mean_file_bytes": mean_bytes,
        "photographs": "drawn" if source is None else source.name,
        "workers": workers,
        "rounds": rounds,
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "ways": {name: row for name, row in rows.items() if name not in LIMITS.values()},
        "limits": {name: rows[name] for name in LIMITS.values()},
        "limit_of": LIMITS,
        "share_of_limit": {store: times(store, limit) for store, limit in LIMITS.items()},
        "parts_us": parts,
        "bottleneck": {
            store: max((part for part in parts[store] if part != "finish"), key=lambda part: parts[store][part])
            for store in STORES
        },
        **{f"{store}_of_usual": times(store, "usual") for store in STORES},
        "memory": watched,
        "machine": machine_facts(),
        "commit": source_commit(),
    }


def _usual_loader(tree: Path, workers: int) -> "DataLoader[tuple[torch.Tensor, int]]":
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
    """Take all batches, to the GPU where there is one; returns how many images they held."""
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
    """Microseconds an image takes in each part of the work, in one thread.

    `read` brings its bytes from the store, `decode` makes pixels of them, `crop` cuts and copies, `draw` chooses crop,
    mirror and noise, `finish` mirrors and subtracts the mean in the training's own thread, `hand-over` is what threads
    and queue add: a pass over images that cost nothing to cut.
    """
    split = data.splits["train"]
    images, settings = split.images, DataSettings(crop=CROP_PX)
    samples = np.arange(min(PARTS_OF, len(split)), dtype=np.int64)
    corners = np.zeros((len(samples), 2), np.int16)
    parts: dict[str, float] = {}
    if isinstance(images, JpegImages):
        parts["read"] = _microseconds(lambda: [images.stored(int(sample)) for sample in samples], len(samples))
        both = _microseconds(lambda: [images.decode(int(sample)) for sample in samples], len(samples))
        parts["decode"] = max(0.0, both - parts["read"])
        pixels = images[samples]
        parts["crop"] = _microseconds(lambda: read_crops(pixels, samples, corners, CROP_PX), len(samples))
    else:
        # Mapped from the disk: reading and cutting are one.
        parts["read and crop"] = _microseconds(lambda: read_crops(images, samples, corners, CROP_PX), len(samples))
    parts["draw"] = _microseconds(lambda: draw(settings, data.statistics, SIDE_PX, 0, 0, samples), len(samples))
    batch = _loader(data, 1).batch(0)
    mean_image = torch.from_numpy(np.array(data.statistics.mean_image))
    parts["finish"] = _microseconds(lambda: to_input(batch, mean_image, torch.device("cpu")), len(batch.labels))
    blank = replace(split, images=np.broadcast_to(np.zeros((1, SIDE_PX, SIDE_PX, 3), np.uint8), images.shape))
    small = Loader(blank, data.statistics, DataSettings(crop=8), BATCH_SIZE, 0)
    steps = 4 * small.steps_per_epoch
    whole = _microseconds(lambda: sum(1 for _ in small.batches(0, steps)), 4 * small.num_samples)
    parts["hand-over"] = max(0.0, whole - parts["draw"])
    return parts


def _microseconds(work: Callable[[], object], num_images: int) -> float:
    """The median of five."""
    taken = []
    for _ in range(5):
        start_s = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start_s)
    return 1e6 * statistics.median(taken) / num_images


def _added_memory(name: str, tree: Path, prepared: Path, workers: int) -> int | None:
    """The most anonymous memory that two passes of one way add to this process and its children."""
    before = anonymous_bytes()
    if before is None:
        return None
    with sampled_memory(SAMPLE_MEMORY_S) as seen:
        if name == "usual":
            usual = _usual_loader(tree, workers)
            for _ in range(2):
                _consume(images for images, _ in usual)
        else:
            loader = _loader(PreparedData.open(prepared / name), workers)
            _consume(batch.images for batch in loader.batches(0, 2 * loader.steps_per_epoch))
    return max(held for _, held in seen) - before


def _memory_over_epochs(folder: Path, used: int, workers: int, epochs: int) -> dict[str, Any]:
    """Anonymous memory over some epochs of the first `used` images."""
    loader = _loader(PreparedData.open(folder), workers, np.arange(used, dtype=np.int64))
    per_epoch = loader.steps_per_epoch
    ends = []
    with sampled_memory(SAMPLE_MEMORY_S) as seen:
        for epoch in range(epochs):
            _consume(batch.images for batch in loader.batches(epoch * per_epoch, (epoch + 1) * per_epoch))
            ends.append(anonymous_bytes())
    return {"seconds_and_bytes": [list(one) for one in seen], "epoch_ends_bytes": ends}
