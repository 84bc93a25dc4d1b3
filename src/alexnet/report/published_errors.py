"""The errors that the paper reports, for comparison with ours."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class PublishedErrors:
    """Errors that the paper reports, fractions; None if it does not report one."""

    top1_error: float | None
    top5_error: float | None
    test_top5_error: float | None = None
    where: str = "table 2, ILSVRC-2012: validation, test"


FISHER, SPARSE, ONE, FIVE, ONE_STARTED, SEVEN = "SIFT + FVs", "Sparse coding", "1 CNN", "5 CNNs", "1 CNN*", "7 CNNs*"
PAPER_ROWS = {
    FISHER: PublishedErrors(None, None, 0.262),
    SPARSE: PublishedErrors(0.471, 0.282, where="table 1, ILSVRC-2010: test"),
    ONE: PublishedErrors(0.407, 0.182),
    FIVE: PublishedErrors(0.381, 0.164, 0.164),
    ONE_STARTED: PublishedErrors(0.390, 0.166),
    SEVEN: PublishedErrors(0.367, 0.154, 0.153),
}
"""Table 2 by the paper's labels, in its order."""

# By number of images and of views: among splits with 1000 ImageNet classes the number of images is unique.
_SINGLE_NETWORK = {
    (50_000, 10): PublishedErrors(0.407, 0.182, where="table 2, ILSVRC-2012 validation, one network, ten views"),
    (150_000, 10): PublishedErrors(0.375, 0.170, where="table 1, ILSVRC-2010 test, ten views"),
    (150_000, 1): PublishedErrors(0.390, 0.183, where="section 6, ILSVRC-2010 test, center view"),
}


def published_errors(evaluation: Mapping[str, Any], variant: str) -> PublishedErrors | None:
    """The paper's errors for the same images and the same kind of network; None if there are none."""
    ids = [one["id"] for one in evaluation["per_class"]]
    is_imagenet = len(ids) == 1000 and all(re.fullmatch(r"n\d{8}", one) for one in ids)
    if variant not in ("paper", "original") or not is_imagenet:
        return None
    return _SINGLE_NETWORK.get((evaluation["num_images"], evaluation["num_views"]))
