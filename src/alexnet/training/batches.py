"""The images of a training: read batch by batch by a loader, or held on the device from the start."""

import logging
import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import replace

from alexnet.data.augment import Batch
from alexnet.data.device_cache import MAX_FREE_MEMORY_FRACTION, DeviceImageCache, cache_bytes, free_gpu_bytes
from alexnet.data.loader import Loader
from alexnet.parallel.process_group import cores_per_process
from alexnet.runs.recipe import Recipe
from alexnet.system.prefetch import MAX_READERS
from alexnet.training.plan import Phase
from alexnet.training.setup import TrainingSetup, format_bytes, sampling_weights
from alexnet.training.state import TrainingState
from alexnet.training.validation import is_finished

LOG_INTERVAL_S = 10.0

_logger = logging.getLogger(__name__)


def load_device_cache(setup: TrainingSetup, check_stop: Callable[[], None] = lambda: None) -> DeviceImageCache | None:
    """The training images on the device, if the recipe asks for that or they fit; None leaves them to the loader.

    Args:
        check_stop: called repeatedly while they are read; may raise.

    Raises:
        UnreadableSample: an image cannot be read.
    """
    settings, split = setup.recipe.training, setup.data.splits["train"]
    num, side = len(setup.samples), setup.data.side
    cache = settings.cache
    if cache == "auto":
        free = free_gpu_bytes(setup.device)
        fits = free is not None and cache_bytes(num, side) <= MAX_FREE_MEMORY_FRACTION * free
        cache = "device" if fits and settings.on_unreadable == "stop" else "none"
        if free is not None and not fits:
            _logger.info(
                "the training images do not fit into half of the GPU's free memory: they are read when needed"
                + _bc1_hint(setup, free)
            )
    if cache == "none":
        return None
    blocks = cache == "bc1"
    start = last_log = time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal last_log
        check_stop()
        if time.monotonic() - last_log >= LOG_INTERVAL_S and done < total:
            last_log = time.monotonic()
            _logger.info(f"{done:,} of {total:,} training images have been read to {setup.device}")

    workers = num_workers(setup.recipe)
    device_cache = DeviceImageCache(split, setup.samples, setup.device, bc1=blocks, workers=workers, progress=progress)
    how = ", compressed as BC1" if blocks else ""
    seconds = time.monotonic() - start
    size = format_bytes(device_cache.images.nbytes)
    _logger.info(f"{num:,} training images are on {setup.device}: {size}{how}, {seconds:.0f} s")
    return device_cache


def _bc1_hint(setup: TrainingSetup, free: int) -> str:
    """A hint at the compressed cache if the images would fit there and can be compressed, else an empty text."""
    from alexnet.system.numba_jit import unavailable_reason  # loads Numba

    compressed = cache_bytes(len(setup.samples), setup.data.side, bc1=True)
    fits = compressed <= MAX_FREE_MEMORY_FRACTION * free
    if setup.recipe.training.on_unreadable != "stop" or not fits or unavailable_reason:
        return ""
    return f" (--training.cache bc1 holds them in {format_bytes(compressed)}, slightly changed)"


def num_workers(recipe: Recipe) -> int:
    """Threads that read images."""
    return recipe.training.workers or min(cores_per_process(), MAX_READERS)


def make_loader(setup: TrainingSetup, phase: Phase, with_images: bool = True) -> Loader:
    """The loader of one phase of the plan; its step 0 is the plan's `epoch_step`.

    Args:
        with_images: whether batches hold their crops; False if the images are on the device.
    """
    samples = setup.samples[: phase.num_images]
    settings = setup.recipe.data if phase.color_noise else replace(setup.recipe.data, color_noise=0.0)
    return Loader(
        setup.data.splits["train"],
        setup.data.statistics,
        settings,
        setup.recipe.optimizer.batch_size,
        setup.recipe.training.seed,
        sample_ids=samples,
        weights=sampling_weights(setup.recipe, setup.data, samples),
        first_epoch=phase.first_epoch,
        workers=num_workers(setup.recipe),
        rank=setup.mesh.replica.rank,
        num_ranks=setup.mesh.replica.size,
        on_unreadable=setup.recipe.training.on_unreadable,
        pin_memory=setup.device.type == "cuda",
        with_images=with_images,
    )


def remaining_batches(
    setup: TrainingSetup, state: TrainingState, with_images: bool
) -> Generator[tuple[Phase, Batch], None, None]:
    """The remaining batches, each with its phase of the plan; see `make_loader` for `with_images`.

    Closing the generator ends the threads that load batches.
    """
    for phase in setup.plan.phases:
        first, begin = max(state.step, phase.first_step), phase.epoch_step
        if first >= phase.last_step or is_finished(setup, state):
            continue
        loader = make_loader(setup, phase, with_images)
        with closing(loader.batches(first - begin, phase.last_step - begin)) as batches:
            for batch in batches:
                state.waited_s += loader.waited_s
                loader.waited_s = 0.0
                yield phase, batch
