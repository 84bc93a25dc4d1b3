"""`alexnet bench prepare`: a whole preparation, its decode, resize and encode only, and the same with Pillow.

All three make 256-pixel JPEG files of quality 95 from the same files with the same number of threads. `codec only` and
`Pillow` read from memory and keep nothing: no listing, reading, statistics, checksums, shards or flush to the disk.
"""

import io
import itertools
import logging
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
from alexnet.data.decode import decode_image, make_square
from alexnet.data.preparation.prepare import prepare
from alexnet.data.shards import JPEG_QUALITY, encode_stored
from alexnet.errors import RequestError
from alexnet.system.machine import machine_summary, source_commit

_logger = logging.getLogger(__name__)

SIDE_PX = 256
FILES_PER_TASK = 5
PREPARE, CODEC, PILLOW = "prepare", "codec only", "Pillow"


def measure_preparation(source: Path | None, num_files: int, rounds: int, workers: int | None) -> dict[str, Any]:
    """Measure the preparation of JPEG shards.

    Args:
        source: photographs, see `open_source`; None generates 500 x 375 pictures with the texture of photographs.
        num_files: photographs, 20 or more.
        rounds: measurements of each method, 1 or more.
        workers: threads; None is one per core.

    Returns:
        `methods`: by name images per second and processor time per image (medians over the rounds). `relative_speed`:
        of `prepare` as a fraction of each other method's. `relative_cpu_speed`: the same by processor time, which
        other work on the machine disturbs less.

    Raises:
        RequestError: a number is out of range.
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
            _logger.info("%d files, %.1f kB on average, %d threads", len(contents), mean_bytes / 1000, workers)
            numbers = itertools.count()

            def whole() -> None:
                prepare(tree, Path(folder) / f"prepared{next(numbers)}", side=SIDE_PX, store="jpeg", workers=workers)

            tasks = [contents[start : start + FILES_PER_TASK] for start in range(0, len(contents), FILES_PER_TASK)]
            methods: dict[str, Callable[[], object]] = {
                CODEC: lambda: list(pool.map(_codec_only, tasks)),
                PREPARE: whole,
                PILLOW: lambda: list(pool.map(_with_pillow, tasks)),
            }
            timings = alternate(methods, rounds)
    finally:
        torch.set_num_threads(num_torch_threads)
    ours = timings[PREPARE]
    return {
        "files": len(contents),
        "mean_file_bytes": mean_bytes,
        "photographs": "generated" if source is None else source.name,
        "workers": workers,
        "rounds": rounds,
        "methods": {
            name: {
                "images_per_second": len(contents) / statistics.median(timing.wall_s),
                "cpu_ms_per_image": 1e3 * statistics.median(timing.cpu_s) / len(contents),
                "wall_s": list(timing.wall_s),
                "cpu_s": list(timing.cpu_s),
            }
            for name, timing in timings.items()
        },
        "relative_speed": {name: median_ratio(timings[name].wall_s, ours.wall_s) for name in (CODEC, PILLOW)},
        "relative_cpu_speed": {name: median_ratio(timings[name].cpu_s, ours.cpu_s) for name in (CODEC, PILLOW)},
        "machine": machine_summary(),
        "commit": source_commit(),
    }


def _codec_only(contents: list[bytes]) -> int:
    """Decode, resize and encode files; returns the bytes of the results."""
    return sum(
        len(encode_stored(make_square(decode_image(content, apply_orientation=True), SIDE_PX))) for content in contents
    )


def _with_pillow(contents: list[bytes]) -> int:
    """The same with Pillow, as most scripts do it."""
    total = 0
    for content in contents:
        with Image.open(io.BytesIO(content)) as image:
            width, height = image.size
            scale = SIDE_PX / min(width, height)
            size = (max(SIDE_PX, round(width * scale)), max(SIDE_PX, round(height * scale)))
            scaled = image.convert("RGB").resize(size, Image.Resampling.BILINEAR)
        left, top = (size[0] - SIDE_PX) // 2, (size[1] - SIDE_PX) // 2
        encoded = io.BytesIO()
        scaled.crop((left, top, left + SIDE_PX, top + SIDE_PX)).save(encoded, "JPEG", quality=JPEG_QUALITY)
        total += len(encoded.getvalue())
    return total
