"""Functions compiled by Numba, so that installing the package needs no compiler."""

import contextlib
import pickle
from collections.abc import Callable
from typing import Any, TypeVar

unavailable_reason = ""
"""Why Numba cannot be imported, as a message; empty if it can."""
try:
    import numba

    # Numba asks of every argument whether it is an `np.ma.MaskedArray`. NumPy imports `np.ma` on first use, and
    # recurses without end if two threads are the first.
    import numpy.ma  # noqa: F401
except ImportError as error:  # not installed, or incompatible with this NumPy
    unavailable_reason = str(error)

F = TypeVar("F", bound=Callable[..., Any])


def jit(**options: Any) -> Callable[[F], F]:
    """Decorator that compiles a function on its first call; it releases the interpreter's lock.

    Machine code is cached on disk if a cache folder is writable. Without Numba the function stays uncompiled, hundreds
    of times slower: callers check `unavailable_reason` first.

    Args:
        options: of `numba.njit`, in addition to `nogil` and `cache`.
    """

    def decorate(function: F) -> F:
        if unavailable_reason:
            return function
        chosen = {"nogil": True, **options}
        result: F
        try:
            result = numba.njit(cache=True, **chosen)(function)
        except RuntimeError:  # no writable cache folder
            result = numba.njit(**chosen)(function)
        else:
            _tolerate_cache_errors(getattr(result, "_cache", None))
        return result

    return decorate


def _tolerate_cache_errors(cache: Any) -> None:
    """Compile again if a cache file is damaged, and skip caching if the disk is full."""
    if cache is None:
        return
    load, save = cache.load_overload, cache.save_overload

    def load_or_none(*args: Any) -> Any:
        try:
            return load(*args)
        except (OSError, EOFError, pickle.UnpicklingError, ValueError, IndexError):
            return None  # as if there were no cache file

    def try_to_save(*args: Any) -> None:
        with contextlib.suppress(OSError, EOFError, pickle.UnpicklingError):
            save(*args)

    cache.load_overload, cache.save_overload = load_or_none, try_to_save
