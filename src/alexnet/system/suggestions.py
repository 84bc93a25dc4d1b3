"""Suggests what was meant by an unknown name."""

import difflib
from collections.abc import Iterable


def suggestion(name: str, known: Iterable[str]) -> str:
    """`did you mean NAME? ` with the nearest of the known names; empty if none is near."""
    nearest = difflib.get_close_matches(name, list(known), 1)
    return f"did you mean {nearest[0]}? " if nearest else ""
