"""Binary codes of an index's vectors, and the search among them."""

from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet.errors import RequestError
from alexnet.explore.code_measures import CodeMeasures, describe_measures
from alexnet.explore.code_training import CodeEncoder, CodeTraining
from alexnet.explore.hamming import HammingCodes
from alexnet.explore.nearest import Nearest, nearest_of_candidates
from alexnet.explore.vector_index import VectorIndex
from alexnet.figures.notebook_html import result_html, table_html
from alexnet.storage.arguments import is_whole
from alexnet.storage.paths import described


@dataclass(frozen=True, eq=False)
class BinaryCodes:
    """The binary codes of one length of all vectors of an index."""

    index: VectorIndex
    codes: NDArray[np.uint8]
    """(N, bits / 8), of the index's vectors in their order; the first bit is the highest of the first byte."""
    encoder: CodeEncoder
    training: CodeTraining
    measures: CodeMeasures

    @property
    def bits(self) -> int:
        """Bits of a code."""
        return self.encoder.bits

    @property
    def file(self) -> Path:
        """The file that holds them."""
        return codes_file(self.index.folder, self.bits)

    def nearest(
        self,
        queries: NDArray[Any],
        num: int,
        *,
        rerank: int | None = None,
        exclude: NDArray[np.int64] | None = None,
    ) -> Nearest:
        """The vectors of the index whose codes are nearest to those of the queries.

        Args:
            queries: vectors, (Q, D).
            num: vectors for each query, 1 or more.
            rerank: order this many nearest codes by exact Euclidean distance, and return the nearest of them; `num` or
                more. None orders by Hamming distance.
            exclude: int64 (Q,), a vector that is no neighbor of each query, such as the query itself; -1 for none.

        Returns:
            Distances are Euclidean with `rerank`, else those of Hamming, in bits; at the same distance by index.

        Raises:
            RequestError: queries of another form, a number below 1, or fewer to order than `num`.
        """
        require_rerank(rerank, num)
        codes = self.encoder.encode(queries)
        found = self._search.nearest(codes, num if rerank is None else rerank, exclude=exclude)
        return found if rerank is None else nearest_of_candidates(self.index.vectors, queries, found.indices, num)

    @cached_property
    def _search(self) -> HammingCodes:
        return HammingCodes(self.codes)

    def to_dict(self) -> dict[str, Any]:
        """What `alexnet codes --json` prints of them."""
        return {
            "bits": self.bits,
            "file": str(self.file),
            "images": len(self.codes),
            "training": asdict(self.training),
            **self.measures,
        }

    def __repr__(self) -> str:
        recall = self.measures["recall"][-1]
        return (
            f"BinaryCodes({str(self.file)!r}: {len(self.codes):,} images, {self.bits} bits, "
            f"{100 * recall['recall']:.1f} % of the nearest among {recall['among']:,})"
        )

    def _repr_html_(self) -> str:
        return result_html(f"codes {self.file}", table_html([], list(describe_measures(self.measures).items())))


@dataclass(frozen=True)
class CodeSearch:
    """A search by codes."""

    codes: BinaryCodes
    rerank: int | None
    """As in `BinaryCodes.nearest`."""

    def describe(self) -> str:
        """How good its answers are."""
        measures = self.codes.measures
        ordered = measures["neighbors"] if self.rerank is None else self.rerank
        method = f"by codes of {self.codes.bits} bits"
        if self.rerank is not None:
            method += f", the first {self.rerank:,} ordered by Euclidean distance"
        measured = [one for one in measures["recall"] if one["among"] <= ordered]
        if not measured:
            return f"{method}: recall was not measured among fewer than the first {measures['recall'][0]['among']:,}"
        recall, (low, high) = measured[-1]["recall"], measured[-1]["interval"]
        return (
            f"{method}: {100 * recall:.1f} % [{100 * low:.1f}, {100 * high:.1f}] of the exact {measures['neighbors']} "
            f"nearest are among the first {measured[-1]['among']:,}, measured on {measures['queries']:,} indexed images"
        )

    def to_dict(self) -> dict[str, Any]:
        """What `alexnet neighbors --json` prints of it."""
        return {"bits": self.codes.bits, "rerank": self.rerank, "recall": self.codes.measures["recall"]}


def require_rerank(rerank: int | None, num: int) -> int | None:
    """The number of nearest codes to order exactly.

    Raises:
        RequestError: it is not a number, or is below the number of neighbors.
    """
    if rerank is not None and (not is_whole(rerank, 1) or rerank < num):
        raise RequestError(f"--rerank is {described(rerank)}; allowed is a whole number, {num:,} (--num) or more")
    return rerank


def codes_file(folder: Path, bits: int) -> Path:
    """The file of the codes of a length in an index folder."""
    return folder / f"codes-{bits}.safetensors"
