"""Why a network gives an image a class: probabilities, occlusion, gradients, and the nearest training images."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from alexnet.data.dataset import ClassInfo
from alexnet.evaluation.classify import RankedClass
from alexnet.explore.found_neighbors import Neighbor, distance_text
from alexnet.explore.occlusion import OcclusionMap
from alexnet.figures.explanation_figure import (
    ExplainedImage,
    NearImage,
    explanation_figure,
    gradient_picture,
    guided_picture,
    occlusion_picture,
)
from alexnet.figures.notebook_html import pictures_html, result_html
from alexnet.system.number_text import percent_text


@dataclass(frozen=True, eq=False)
class NearTrainingImage:
    """A training image whose activations are near to those of the explained image."""

    neighbor: Neighbor
    """Its name, class and distance."""
    image: NDArray[np.uint8]
    """(S, S, 3), RGB."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Explanation:
    """Why a network gives an image a class, for one view: the central crop, C pixels on each side."""

    image: str | int
    """Path, URL or `archive.tar/member.jpg`; of an image that was given in memory the index among the inputs."""
    square: NDArray[np.uint8]
    """(S, S, 3), RGB, as the network's data set would store it."""
    corner: tuple[int, int]
    """First row and column of the view in `square`."""
    top: tuple[RankedClass, ...]
    """The most probable classes of this view, best first."""
    explained: ClassInfo
    """The class that is explained."""
    rank: int
    """Of that class among all, 1 is the most probable."""
    score: float
    """Of that class, before softmax."""
    occlusion: OcclusionMap
    gradient: NDArray[np.float32]
    """Of the score, (3, C, C), per unit of the pixels' 0..255 scale."""
    guided_gradient: NDArray[np.float32] | None
    """(3, C, C); None of a network without ReLU."""
    near: tuple[NearTrainingImage, ...] = ()
    """The nearest training images, nearest first; empty without an index."""

    @property
    def probability(self) -> float:
        """Of the explained class, 0..1."""
        return self.occlusion.probability

    def __repr__(self) -> str:
        return f"Explanation({str(self.image)!r}: {self.explained.name!r}, probability {self.probability:.4f})"

    def to_dict(self) -> dict[str, Any]:
        """Everything but pixels and gradients."""
        grid, (row, column) = self.occlusion.grid, self.occlusion.largest
        return {
            "image": self.image,
            "class": {"id": self.explained.id, "name": self.explained.name},
            "probability": self.probability,
            "rank": self.rank,
            "score": self.score,
            "top": [{"id": one.id, "name": one.name, "probability": one.probability} for one in self.top],
            "view": {"row": self.corner[0], "column": self.corner[1], "side_px": grid.view_px},
            "occlusion": {
                "patch_px": grid.patch_px,
                "stride_px": grid.stride_px,
                "replaced_by": "mean image",
                "starts_px": list(grid.starts),
                "drops": self.occlusion.drops.tolist(),
                "largest": {"row": row, "column": column, "drop": self.occlusion.largest_drop},
            },
            "near": [one.neighbor.to_dict() for one in self.near],
        }


@dataclass(frozen=True, eq=False, kw_only=True)
class Explanations(Sequence[Explanation]):
    """Explanations of the images that could be read, in their order."""

    explanations: tuple[Explanation, ...]
    refused: tuple[tuple[str | int, str], ...]
    """Images that could not be read, and why."""
    title: str
    """The network: the name of its run, or its variant."""
    network: str
    """What the network is, in words."""
    num_classes: int
    unguided_reason: str | None
    """Why there are no guided gradients; None if there are."""
    near_title: str
    """What the nearest training images are, or why there are none."""

    def __len__(self) -> int:
        return len(self.explanations)

    @overload
    def __getitem__(self, index: int) -> Explanation: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Explanation, ...]: ...
    def __getitem__(self, index: int | slice) -> Explanation | tuple[Explanation, ...]:
        return self.explanations[index]

    def __repr__(self) -> str:
        refused = f", {len(self.refused)} cannot be read" if self.refused else ""
        return f"Explanations({self.title!r}: {len(self)} image{'' if len(self) == 1 else 's'}{refused})"

    def to_dict(self) -> dict[str, Any]:
        """All values but pixels and gradients."""
        return {
            "title": self.title,
            "network": self.network,
            "images": [one.to_dict() for one in self.explanations],
            "refused": [{"image": image, "reason": reason} for image, reason in self.refused],
            "guided_gradient": self.unguided_reason is None,
            "notes": self.notes(),
        }

    def notes(self) -> list[str]:
        """How everything was computed, and what it does not show."""
        grid = self.explanations[0].occlusion.grid
        side, patch = grid.view_px, grid.patch_px
        notes = [
            f"All of one view, the central {side} × {side} pixels, in float32; `alexnet predict` averages ten views.",
            f"Occlusion: a patch of {patch} × {patch} pixels moves by {grid.stride_px}, and its pixels become those of "
            "the mean image (0 for the network). Shown is by how much the probability of the class falls, in "
            "percentage points: the mean over the patches that hide a pixel. " + self._dashed_patch(),
            "Gradient: of the score of the class before softmax, the largest magnitude over red, green and blue.",
        ]
        if self.unguided_reason is None:
            notes.append(
                "Guided gradient: the same in colors, but every ReLU passes positive gradients only (Springenberg et "
                "al. 2014). It barely changes with the class, or if the layers that decide the class get random "
                "weights (Adebayo et al. 2018): it draws edges that the network can see, and does not say what the "
                "class rests on."
            )
        return notes

    def _dashed_patch(self) -> str:
        lowered = [one.occlusion.largest_drop > 0 for one in self.explanations]
        if all(lowered):
            return "The dashed patch lowers it most."
        if any(lowered):
            return "The dashed patch lowers it most; where no patch lowers it, it is the one that raises it least."
        return "No patch lowers it; the dashed one raises it least."

    def figure(self) -> Figure:
        """All images, one below the other, as `alexnet explain` draws them."""
        return explanation_figure(
            [self.drawn(one) for one in self.explanations],
            title=f"{self.title}: why these classes?",
            subtitle=self.network,
            near_title=self.near_title,
            notes=self.notes(),
        )

    def drawn(self, one: Explanation) -> ExplainedImage:
        """What is drawn of an explanation."""
        occlusion, explained = one.occlusion, one.explained
        before, after = occlusion.probability, occlusion.probability - occlusion.largest_drop
        bars = [(ranked.name, ranked.probability, ranked.id == explained.id) for ranked in one.top]
        if one.rank > len(bars):
            bars.append((explained.name, one.probability, True))
        rank = "the most probable" if one.rank == 1 else f"number {one.rank:,}"
        return ExplainedImage(
            name=str(one.image) if isinstance(one.image, str) else f"image {one.image}",
            image=one.square,
            corner=one.corner,
            bars=bars,
            class_name=explained.name,
            standing=f"{percent(before)}, {rank} of {self.num_classes:,} classes",
            drops=occlusion.per_pixel(),
            patch=(*occlusion.largest, occlusion.grid.patch_px),
            patch_effect=f"{percent(before)} → {percent(after)}",
            gradient=one.gradient,
            guided_gradient=one.guided_gradient,
            unguided_reason=self.unguided_reason or "",
            near=[
                NearImage(
                    image=near.image,
                    class_name=near.neighbor.class_name or "no class",
                    note="exact copy" if near.neighbor.is_duplicate else distance_text(near.neighbor),
                    is_explained_class=near.neighbor.class_id == explained.id,
                )
                for near in one.near
            ],
        )

    def _repr_html_(self) -> str:
        parts = []
        for one in map(self.drawn, self.explanations):
            pictures = [
                (one.image, one.name),
                (occlusion_picture(one.view, one.drops), f"occlusion of {one.class_name}: {one.patch_effect}"),
                (gradient_picture(one.gradient), "gradient of the score"),
            ]
            if one.guided_gradient is not None:
                pictures.append((guided_picture(one.guided_gradient), "guided gradient"))
            parts.append(pictures_html(pictures, side=160))
        return result_html(f"{self.title}, {self.network}", *parts)


def percent(probability: float) -> str:
    """A probability in percent, with digits enough to see a small one."""
    value = 100 * probability
    return f"{value:.1f} %" if value >= 0.1 or value <= 0 else percent_text(probability, 1)


def describe_effect(one: Explanation) -> str:
    """An explanation in one line."""
    occlusion, patch, (row, column) = one.occlusion, one.occlusion.grid.patch_px, one.occlusion.largest
    after = occlusion.probability - occlusion.largest_drop
    lowest = "" if occlusion.largest_drop > 0 else " (no patch lowers it)"
    rank = "" if one.rank == 1 else f" (number {one.rank:,}; the most probable is {one.top[0].name})"
    return (
        f"{one.explained.name} {percent(one.probability)}{rank}; hiding {patch} × {patch} pixels at row {row}, column "
        f"{column} of the view makes it {percent(after)}{lowest}"
    )
