"""What a stage of a baseline costs: wall time, processor time, memory; written to the run's log."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from alexnet.runs.folder import RunFolder
from alexnet.system.process_usage import anonymous_bytes


class ResourceUsage:
    """The cost of a run so far, over all its attempts, and the stages of this one.

    Args:
        run: whose log and facts tell it.
    """

    def __init__(self, run: RunFolder) -> None:
        facts = run.facts()
        self._run = run
        self._before_s = float(facts.get("duration_s") or 0.0)
        self._cpu_before_s = float(facts.get("cpu_s") or 0.0)
        self._peak_bytes = int(facts.get("peak_anonymous_bytes") or 0)
        self._start_s, self._cpu_start_s = time.perf_counter(), time.process_time()

    @property
    def elapsed_s(self) -> float:
        """Seconds of work, over all attempts."""
        return self._before_s + time.perf_counter() - self._start_s

    def watch(self) -> None:
        """Look how much memory is held now."""
        self._peak_bytes = max(self._peak_bytes, anonymous_bytes() or 0)

    def keep(self) -> None:
        """Write the cost so far to run.json."""
        self._run.update_facts(
            duration_s=round(self.elapsed_s, 1),
            cpu_s=round(self._cpu_before_s + time.process_time() - self._cpu_start_s, 1),
            peak_anonymous_bytes=self._peak_bytes,
        )

    @contextmanager
    def stage(self, name: str, num_images: int | None = None) -> Iterator[list[int]]:
        """Log a stage and keep the cost when it ends.

        Args:
            num_images: that it works on; None is the sum of the list it yields, and a stage of none is not logged.
        """
        worked_on: list[int] = []
        start_s, cpu_s = time.perf_counter(), time.process_time()
        try:
            yield worked_on
        finally:
            self.watch()
            self.keep()
        num_images = sum(worked_on) if num_images is None else num_images
        if not num_images:
            return
        seconds = time.perf_counter() - start_s
        self._run.log(
            "stage",
            name=name,
            images=num_images,
            seconds=round(seconds, 2),
            cpu_s=round(time.process_time() - cpu_s, 2),
            images_per_second=round(num_images / seconds, 2) if seconds > 0 else None,
            elapsed_s=round(self.elapsed_s, 2),
        )
