"""The calibration of a report says in which direction a network is wrong about itself."""

from typing import Any

import pytest

from alexnet.report.calibration_plot import calibration_section

pytestmark = pytest.mark.usefixtures("blank_figures")


def stored(*bins: tuple[int, float, float]) -> dict[str, Any]:
    """Bins of (images, confidence, accuracy)."""
    error = sum(num * abs(confidence - accuracy) for num, confidence, accuracy in bins) / sum(one[0] for one in bins)
    return {
        "calibration": {
            "expected_error": error,
            "bins": [
                {"low": 0.0, "high": 1.0, "num_images": num, "confidence": confidence, "accuracy": accuracy}
                for num, confidence, accuracy in bins
            ],
        }
    }


@pytest.mark.parametrize(
    ("bins", "expected"),
    [
        (
            ((30, 0.9, 0.5), (10, 0.5, 0.5)),
            "probability of 80.0 % on average and is right for 50.0 % of the images: it is too certain",
        ),
        (((10, 0.5, 0.8),), "Expected calibration error 30.0 % (mean gap between confidence and accuracy over 10"),
        (((10, 0.5, 0.8),), "it is too cautious: right more often"),
        (((10, 0.8, 0.805),), "on average as certain as it is right"),
    ],
)
def test_the_note_says_how_certain_it_is(bins: tuple[tuple[int, float, float], ...], expected: str) -> None:
    assert expected in calibration_section(stored(*bins)).note


def test_an_evaluation_of_an_earlier_version_has_none() -> None:
    assert "evaluate the run again" in calibration_section({}).missing
