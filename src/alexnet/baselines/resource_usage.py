"""Wall time, processor time and memory of a baseline run, by stage, written to the run's log."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from alexnet.runs.folder import RunFolder
from alexnet.system.process_usage import anonymous_bytes


class ResourceUsage:
    """The usage of a run over all its attempts, and of the stages of this attempt.

    Args:
        run: whose run.json and log hold the usage.
    """

    def __init__(self, run: RunFolder) -> None:
        metadata = run.metadata()
        self._run = run
        self._earlier_s = float(metadata.get("duration_s") or 0.0)
        self._earlier_cpu_s = float(metadata.get("cpu_s") or 0.0)
        self._peak_bytes = int(metadata.get("peak_anonymous_bytes") or 0)
        self._start_s, self._cpu_start_s = time.perf_counter(), time.process_time()

    @property
    def elapsed_s(self) -> float:
        """Seconds of work over all attempts."""
        return self._earlier_s + time.perf_counter() - self._start_s

    def update_peak(self) -> None:
        """Compare the memory used now with the peak."""
        self._peak_bytes = max(self._peak_bytes, anonymous_bytes() or 0)

    def save(self) -> None:
        """Write the usage so far to run.json."""
        self._run.update_metadata(
            duration_s=round(self.elapsed_s, 1),
            cpu_s=round(self._earlier_cpu_s + time.process_time() - self._cpu_start_s, 1),
            peak_anonymous_bytes=self._peak_bytes,
        )

    @contextmanager
    def stage(self, name: str) -> Iterator[list[int]]:
        """Measure a stage: append numbers of images to the list it yields; a stage of no images is not logged."""
        images: list[int] = []
        start_s, cpu_start_s = time.perf_counter(), time.process_time()
        try:
            yield images
        finally:
            self.update_peak()
            self.save()
        if not sum(images):
            return
        seconds = time.perf_counter() - start_s
        self._run.log(
            "stage",
            name=name,
            images=sum(images),
            seconds=round(seconds, 2),
            cpu_s=round(time.process_time() - cpu_start_s, 2),
            images_per_second=round(sum(images) / seconds, 2) if seconds > 0 else None,
            elapsed_s=round(self.elapsed_s, 2),
        )
