"""Neighbors that were found: as a picture, in words, and as JSON."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from alexnet.explore.approximate_index import ApproximateIndex
from alexnet.explore.binary_codes import CodeSearch
from alexnet.explore.vector_index import VectorIndex
from alexnet.figures.neighbor_rows import NeighborRows, NeighborTile, neighbor_rows_figure
from alexnet.figures.notebook_html import pictures_html, result_html

MOST_DRAWN = 20
"""Queries in a picture, and neighbors of each."""


@dataclass(frozen=True)
class Neighbor:
    """An indexed image near a query."""

    row: int
    """Of the index."""
    key: str
    """Its name in its data set."""
    class_id: str | None
    class_name: str | None
    distance: float
    """Euclidean; of a search by codes that are not ordered exactly, the number of bits that differ."""
    is_duplicate: bool
    """Whether it is stored as the same bytes as the query."""

    def to_dict(self) -> dict[str, Any]:
        """What `--json` prints."""
        return {
            "row": self.row,
            "key": self.key,
            "class": self.class_id,
            "name": self.class_name,
            "distance": self.distance,
            "duplicate": self.is_duplicate,
        }


@dataclass(frozen=True, eq=False)
class QueryNeighbors:
    """A query and its neighbors, the nearest first."""

    name: str
    """Its file, or its name in its data set."""
    image: NDArray[np.uint8]
    """uint8 (S, S, 3), RGB, as the data set of the index would store it."""
    class_id: str | None
    """None if it is not known: a photograph that is not in the index."""
    class_name: str | None
    left_out: str | None
    """The key of the indexed image that is the query itself, which is no neighbor."""
    by_features: tuple[Neighbor, ...]
    by_pixels: tuple[Neighbor, ...] | None
    """None if pixels were not compared."""

    def is_of_same_class(self, other: Neighbor) -> bool:
        """Whether a neighbor has the query's class; not if that is not known."""
        return self.class_id is not None and other.class_id == self.class_id

    def to_dict(self) -> dict[str, Any]:
        """What `--json` prints."""
        return {
            "image": self.name,
            "class": self.class_id,
            "name": self.class_name,
            "left_out": self.left_out,
            "neighbors": [one.to_dict() for one in self.by_features],
            "pixel_neighbors": None if self.by_pixels is None else [one.to_dict() for one in self.by_pixels],
        }


@dataclass(frozen=True, eq=False)
class Neighbors:
    """Queries with their neighbors."""

    name: str
    """Of the run."""
    queries: tuple[QueryNeighbors, ...]
    refused: tuple[tuple[str, str], ...]
    """Images that could not be read, and why."""
    index: VectorIndex
    num: int
    """Neighbors that were asked for; an index of fewer images gives fewer."""
    approximate: ApproximateIndex | None = None
    """What searched the features; None is an exact search. Pixels are always compared exactly."""
    codes: CodeSearch | None = None
    """The same, of a search by binary codes."""

    def __getitem__(self, which: int) -> QueryNeighbors:
        return self.queries[which]

    def __len__(self) -> int:
        return len(self.queries)

    def __repr__(self) -> str:
        refused = f", {len(self.refused):,} cannot be read" if self.refused else ""
        return (
            f"Neighbors({len(self):,} queries{refused}, {self.num} nearest of {len(self.index):,} images, "
            f"{self.index.layer})"
        )

    def _repr_html_(self) -> str:
        parts = []
        for one in self.queries[:MOST_DRAWN]:
            pictures = [(one.image, f"query: {one.class_name or one.name}")]
            pictures += [
                (self.index.image(other.row), f"{other.class_name or other.key}, {self._distance(other)}")
                for other in one.by_features[:MOST_DRAWN]
            ]
            parts.append(pictures_html(pictures, side=96))
        return result_html(self.title, *parts)

    @property
    def title(self) -> str:
        """What a picture of these shows."""
        return f"{self.name}: the nearest of {len(self.index):,} images of {self.index.split}"

    def describe(self) -> str:
        """What is seen, in one sentence."""
        by = self.index.layer if self.queries[0].by_pixels is None else f"{self.index.layer} and by raw pixels"
        queries = "1 query" if len(self) == 1 else f"{len(self):,} queries"
        num = max(len(one.by_features) for one in self.queries)
        text = f"{queries} and the {num} nearest of {len(self.index):,} images of {self.index.split}, by {by}"
        known = [one for one in self.queries if one.class_id is not None]
        if not known:
            return text
        by_features = [(one, other) for one in known for other in one.by_features]
        by_pixels = [(one, other) for one in known for other in one.by_pixels or ()]
        same = [
            f"{sum(one.is_of_same_class(other) for one, other in pairs)} of {len(pairs)} by {measure}"
            for measure, pairs in ((self._measure, by_features), ("pixels", by_pixels))
            if pairs
        ]
        return f"{text}; of the query's class are {', '.join(same)}"

    def to_dict(self) -> dict[str, Any]:
        """What `alexnet neighbors --json` prints."""
        return {
            "index": str(self.index.folder),
            "layer": self.index.layer,
            "split": self.index.split,
            "indexed_images": len(self.index),
            "num": self.num,
            "approximate": None if self.approximate is None else self.approximate.description,
            "codes": None if self.codes is None else self.codes.to_dict(),
            "queries": [one.to_dict() for one in self.queries],
            "refused": [{"image": image, "reason": reason} for image, reason in self.refused],
        }

    def figure(self) -> Figure:
        """The queries, of many the first 20, each beside its neighbors, of many the first 20."""
        num = max(len(one.by_features) for one in self.queries)
        return neighbor_rows_figure(
            [self._drawn(one) for one in self.queries[:MOST_DRAWN]],
            title=self.title,
            note=self._measure_text()
            + ("" if len(self) <= MOST_DRAWN else f"; the first {MOST_DRAWN} of {len(self):,} queries")
            + ("" if num <= MOST_DRAWN else f"; the first {MOST_DRAWN} of {num:,} neighbors")
            + ("" if self.searched_by is None else f"\n{self.searched_by}"),
        )

    @property
    def searched_by(self) -> str | None:
        """What searched the features, and how good its answers are; None of an exact search."""
        by = self.approximate or self.codes
        return None if by is None else by.describe()

    @property
    def _measure(self) -> str:
        """What neighbors are nearest by, besides pixels."""
        return "features" if self.codes is None else "codes"

    @property
    def _counts_bits(self) -> bool:
        """Whether distances by features are numbers of bits."""
        return self.codes is not None and self.codes.rerank is None

    def _measure_text(self) -> str:
        """What the distances are."""
        values = f"{self.index.layer} ({self.index.vectors.shape[1]:,} values)"
        pixels = None if self.queries[0].by_pixels is None else f"of pixels ({self.queries[0].image.size:,} values)"
        if self.codes is not None and self._counts_bits:
            text = f"bits that differ in {self.codes.codes.bits}-bit codes of {values}"
            return text if pixels is None else f"{text}, and Euclidean distance {pixels}"
        return f"Euclidean distance of {values}" + ("" if pixels is None else f" and {pixels}")

    def _distance(self, one: Neighbor) -> str:
        return f"{one.distance:.0f} bits differ" if self._counts_bits else distance_text(one)

    def _drawn(self, one: QueryNeighbors) -> NeighborRows:
        tiles = self._tiles(one, one.by_features, self._distance)
        rows = [(f"by {self._measure}", self.index.layer, tiles)]
        if one.by_pixels is not None:
            rows.append(("by pixels", "raw RGB", self._tiles(one, one.by_pixels, distance_text)))
        name = one.class_name or Path(one.name).name
        return NeighborRows(NeighborTile(one.image, name, "query"), rows)

    def _tiles(
        self, query: QueryNeighbors, found: Sequence[Neighbor], text: Callable[[Neighbor], str]
    ) -> list[NeighborTile]:
        return [
            NeighborTile(
                image=self.index.image(one.row),
                name=one.class_name or Path(one.key).name,
                note=text(one),
                is_same_class=query.is_of_same_class(one),
                is_duplicate=one.is_duplicate,
            )
            for one in found[:MOST_DRAWN]
        ]


def distance_text(one: Neighbor) -> str:
    """The distance of a neighbor in four digits, as captions have it."""
    return f"distance {one.distance:,.0f}" if one.distance >= 1000 else f"distance {one.distance:#.4g}"
