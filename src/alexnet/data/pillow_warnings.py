"""Pillow without its warnings, in the threads that decode: what it warns of is refused here, or harmless.

`warnings.catch_warnings` would change the filters of all threads, and what one thread restores another one loses.
"""

import contextlib
import threading
import warnings
from collections.abc import Iterator
from typing import Any

from PIL import Image, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, features


class _ThreadState(threading.local):
    """What this thread is doing."""

    decodes = False


_state = _ThreadState()


class _PillowWarnings:
    """Stands for the module `warnings` inside Pillow: that module itself, but mute in a thread that decodes here."""

    def __getattr__(self, name: str) -> Any:
        return getattr(warnings, name)

    @property
    def warn(self) -> Any:
        """`warnings.warn` itself and no wrapper, which would shift the line that a warning names."""
        return _say_nothing if _state.decodes else warnings.warn


def _say_nothing(*_: object, **__: object) -> None:
    """Takes the place of `warnings.warn`."""


for _module in (Image, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, features):
    vars(_module)["warnings"] = _PillowWarnings()


@contextlib.contextmanager
def pillow_warnings_muted() -> Iterator[None]:
    """Mute Pillow's warnings in this thread while the block lasts."""
    _state.decodes = True
    try:
        yield
    finally:
        _state.decodes = False
