"""Numbers as text."""

import pytest

from alexnet.system.number_text import percent_text, significant


@pytest.mark.parametrize(
    ("number", "digits", "expected"),
    [
        (99.7, 2, "100"),
        (12.345, 3, "12.3"),
        (0.000021, 1, "0.00002"),
        (-1234.5, 2, "-1200"),
        (0.0, 2, "0"),
        (7, 3, "7"),
    ],
)
def test_numbers_have_no_power_of_ten(number: float, digits: int, expected: str) -> None:
    assert significant(number, digits) == expected
    assert float(significant(number, digits)) == float(f"{number:.{digits}g}")


def test_percentages_end_where_nobody_reads_on() -> None:
    assert [percent_text(one, 2) for one in (1.0, 0.996, 0.1234, 0.000021, 1e-5, 1e-30, 0.0)] == [
        "100 %", "100 %", "12 %", "0.0021 %", "0.001 %", "less than 0.001 %", "0 %",
    ]  # fmt: skip
