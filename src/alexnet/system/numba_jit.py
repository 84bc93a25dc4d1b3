"""Python functions over arrays and numbers, compiled by Numba: nobody who installs the package needs a compiler."""

import contextlib
import pickle
from collections.abc import Callable
from typing import Any, TypeVar

why_not = ""
"""Why nothing is compiled here; empty where Numba can be imported."""
try:
    import numba
except ImportError as error:  # not installed, or not for this NumPy
    why_not = str(error)

F = TypeVar("F", bound=Callable[..., Any])


def jit(**options: Any) -> Callable[[F], F]:
    """Compile a function on its first call; it runs without the interpreter's lock.

    The machine code is kept on disk where some place for it is writable. Without Numba the function stays as it is,
    hundreds of times slower: whoever calls it asks `why_not` first.

    Args:
        options: of `numba.njit`, beside or instead of those that hold for all.
    """

    def compile_it(function: F) -> F:
        if why_not:
            return function
        chosen = {"nogil": True, **options}
        result: F
        try:
            result = numba.njit(cache=True, **chosen)(function)
        except RuntimeError:  # no place to keep it
            result = numba.njit(**chosen)(function)
        else:
            _forgive(getattr(result, "_cache", None))
        return result

    return compile_it


def _forgive(cache: Any) -> None:
    """Let a full disk or a damaged file of the kept machine code cost time, and nothing else."""
    if cache is None:
        return
    load, save = cache.load_overload, cache.save_overload

    def load_if_sound(*words: Any) -> Any:
        try:
            return load(*words)
        except (OSError, EOFError, pickle.UnpicklingError, ValueError, IndexError):
            return None  # as where there is none yet

    def save_if_there_is_room(*words: Any) -> None:
        with contextlib.suppress(OSError, EOFError, pickle.UnpicklingError):
            save(*words)

    cache.load_overload, cache.save_overload = load_if_sound, save_if_there_is_room
