"""Run a function in a new process, which holds none of this process's memory."""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch


def in_fresh_process(function: Callable[..., Any], *arguments: Any, threads: int = 1) -> Any:
    """Return `function(*arguments)`, called in a new process.

    Args:
        threads: torch's threads in that process.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, initializer=torch.set_num_threads, initargs=(threads,)) as pool:
        try:
            return pool.submit(function, *arguments).result()
        except KeyboardInterrupt:
            for child in multiprocessing.active_children():  # the pool would wait for it
                child.terminate()
            raise
