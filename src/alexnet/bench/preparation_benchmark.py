"""`alexnet bench prepare`: a whole preparation beside its decode, resize and encode alone, and beside Pillow.

All three make 256-pixel JPEG files of quality 95 from the same files with the same number of threads. `alone` reads
from memory and keeps nothing: no listing, no reading, no statistics, no digests, no shards, no flush to a disk.
"""

import io
import statistics
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from alexnet.bench.sample_photos import write_photographs
from alexnet.bench.timing import alternate, median_ratio, workers_or_cores
from alexnet.data.decode import decode_image, resize_and_crop
from alexnet.data.preparation.prepare import prepare
from alexnet.data.shards import JPEG_QUALITY, encode_stored
from alexnet.errors import RequestError
from alexnet.system.machine import machine_facts, source_commit

SIDE_PX = 256
TASK_FILES = 5


def bench_prepare(
    source: Path | None,
    num_files: int,
    rounds: int,
    workers: int | None,
    report: Callable[[str], None],
) -> dict[str, Any]:
    """Measure the preparation of JPEG shards.

    Args:
        source: photographs, see `open_source`; None draws 500 x 375 pictures with the texture of photographs.
        num_files: how many of them, 20 or more.
        rounds: how often each way runs, 1 or more.
        workers: threads; None is one for each core.
        report: is given lines for people.

    Returns:
        LearningRates in images a second, processor seconds an image, ratios (medians over the rounds), and the
        circumstances.
    """
    if num_files < 20:
        raise RequestError(f"--files is {num_files}; allowed is 20 or more")
    if rounds < 1:
        raise RequestError(f"--rounds is {rounds}; allowed is 1 or more")
    workers = workers_or_cores(workers)
    num_torch_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory(prefix="alexnet-bench-") as folder, ThreadPoolExecutor(workers) as pool:
            tree = Path(folder) / "photographs"
            contents = write_photographs(tree, source, num_files)
            mean_bytes = statistics.mean(map(len, contents))
            report(
                f"{len(contents):,} files, {mean_bytes / 1000:.1f} kB on average, {workers} threads, {rounds} rounds"
            )
            made = iter(range(10**6))

            def whole() -> None:
                prepare(tree, Path(folder) / f"prepared{next(made)}", side=SIDE_PX, store="jpeg", workers=workers)

            tasks = [contents[start : start + TASK_FILES] for start in range(0, len(contents), TASK_FILES)]
            ways: dict[str, Callable[[], object]] = {
                "alone": lambda: list(pool.map(_codec_alone, tasks)),
                "prepare": whole,
                "pillow": lambda: list(pool.map(_pillow_alone, tasks)),
            }
            timed = alternate(ways, rounds, lambda name, number: report(f"round {number + 1}: {name}"))
    finally:
        torch.set_num_threads(num_torch_threads)
    rows = {
        name: {
            "images_per_second": len(contents) / statistics.median(one.wall_s),
            "cpu_ms_per_image": 1e3 * statistics.median(one.cpu_s) / len(contents),
            "wall_s": list(one.wall_s),
            "cpu_s": list(one.cpu_s),
        }
        for name, one in timed.items()
    }
    return {
        "files": len(contents),
        "mean_file_bytes": mean_bytes,
        "photographs": "drawn" if source is None else source.name,
        "workers": workers,
        "rounds": rounds,
        "ways": rows,
        # Median of the rounds' ratios: of rates, and of the processor's work, which a disturbed machine changes less.
        "prepare_of_alone": median_ratio(timed["alone"].wall_s, timed["prepare"].wall_s),
        "prepare_of_alone_cpu": median_ratio(timed["alone"].cpu_s, timed["prepare"].cpu_s),
        "prepare_of_pillow": median_ratio(timed["pillow"].wall_s, timed["prepare"].wall_s),
        "machine": machine_facts(),
        "commit": source_commit(),
    }


def _codec_alone(contents: list[bytes]) -> int:
    """Decode, resize and encode files, and throw the result away."""
    return sum(
        len(encode_stored(resize_and_crop(decode_image(content, apply_orientation=True), SIDE_PX)))
        for content in contents
    )


def _pillow_alone(contents: list[bytes]) -> int:
    """The same with Pillow, as scripts for this do it."""
    total = 0
    for content in contents:
        with Image.open(io.BytesIO(content)) as image:
            width, height = image.size
            scale = SIDE_PX / min(width, height)
            size = (max(SIDE_PX, round(width * scale)), max(SIDE_PX, round(height * scale)))
            scaled = image.convert("RGB").resize(size, Image.Resampling.BILINEAR)
        left, top = (size[0] - SIDE_PX) // 2, (size[1] - SIDE_PX) // 2
        made = io.BytesIO()
        scaled.crop((left, top, left + SIDE_PX, top + SIDE_PX)).save(made, "JPEG", quality=JPEG_QUALITY)
        total += len(made.getvalue())
    return total
