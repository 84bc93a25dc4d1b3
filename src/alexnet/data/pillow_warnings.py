"""Mutes Pillow's warnings in threads that decode: what it warns of is refused there, or harmless.

`warnings.catch_warnings` is no alternative: it changes the filters of all threads.
"""

import contextlib
import threading
import warnings
from collections.abc import Iterator
from typing import Any

from PIL import Image, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, features


class _ThreadState(threading.local):
    """Whether this thread mutes the warnings."""

    is_muted = False


_state = _ThreadState()


class _PillowWarnings:
    """Replaces the module `warnings` inside Pillow: the same, but mute in threads that ask for it."""

    def __getattr__(self, name: str) -> Any:
        return getattr(warnings, name)

    @property
    def warn(self) -> Any:
        """`warnings.warn` itself; a wrapper would shift the line that a warning names."""
        return _ignore if _state.is_muted else warnings.warn


def _ignore(*_: object, **__: object) -> None:
    """Replaces `warnings.warn`."""


for _module in (Image, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, features):
    vars(_module)["warnings"] = _PillowWarnings()


@contextlib.contextmanager
def pillow_warnings_muted() -> Iterator[None]:
    """Mute Pillow's warnings in this thread during the block."""
    _state.is_muted = True
    try:
        yield
    finally:
        _state.is_muted = False
