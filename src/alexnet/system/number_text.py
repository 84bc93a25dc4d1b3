"""Numbers for people, never with a power of ten."""

from decimal import Decimal

_LEAST_PERCENT = 0.001


def significant(number: float, digits: int) -> str:
    """A finite number with as many significant digits as `:.2g` writes: 99.7 with two is `100`, not `1e+02`."""
    return f"{Decimal(f'{number:.{digits}g}'):f}"


def percent_text(fraction: float, digits: int) -> str:
    """A fraction, 0 or more, in percent with so many significant digits, such as `0.0021 %`; or `less than 0.001 %`."""
    value = 100 * fraction
    return f"less than {_LEAST_PERCENT:g} %" if 0 < value < _LEAST_PERCENT else f"{significant(value, digits)} %"


def duration_text(seconds: float) -> str:
    """A time such as `45.2 s`, `5 min 41 s`, `3 h 12 min` or `5 d 3 h`."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for size, unit, smaller_size, smaller in ((86_400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // smaller_size} {smaller}"
    raise AssertionError(seconds)
