"""Occlusion maps, against captum, against loops, and against photographs with the mean image's pixels in them."""

from typing import Any

import captum.attr
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.model.varied_networks import varied_network
from torch import nn

from alexnet.errors import RequestError, WorkError
from alexnet.explore.occlusion import OcclusionGrid, OcclusionMap, occlusion_map


class Scores(nn.Module):
    """Scores of three classes that depend on every pixel in another way."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.weight = torch.randn(3, 3 * side * side, generator=torch.Generator().manual_seed(side)) / side

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1) @ self.weight.T


def looped(network: nn.Module, view: torch.Tensor, target: int, grid: OcclusionGrid) -> NDArray[np.float64]:
    """The drop of the probability for each place of the patch, one by one."""

    def probability(pixels: NDArray[Any]) -> float:
        scores = network(torch.from_numpy(pixels)[None])[0].double().numpy()
        return float(np.exp(scores[target]) / np.exp(scores).sum())

    rows = []
    for top in grid.starts:
        for left in grid.starts:
            hidden = view.numpy().copy()
            for row in range(top, top + grid.patch_px):
                for column in range(left, left + grid.patch_px):
                    hidden[:, row, column] = 0
            rows.append(probability(view.numpy()) - probability(hidden))
    return np.array(rows).reshape(len(grid.starts), -1)


@st.composite
def grids(draw: st.DrawFn) -> OcclusionGrid:
    side = draw(st.integers(1, 12))
    patch = draw(st.integers(1, side))
    return OcclusionGrid.of(side, patch, draw(st.integers(1, patch)))


@settings(max_examples=40)
@given(grids(), st.integers(1, 150), st.integers(0, 2))
def test_drops_are_those_of_a_loop(grid: OcclusionGrid, batch_size: int, target: int) -> None:
    view = torch.randn(3, grid.view_px, grid.view_px, generator=torch.Generator().manual_seed(4))
    done: list[int] = []
    network = Scores(grid.view_px)
    found = occlusion_map(network, view, target, grid, batch_size=batch_size, progress=done.append)
    np.testing.assert_allclose(found.drops, looped(network, view, target, grid), atol=1e-6)
    assert found.drops.shape == (len(grid.starts),) * 2 and done[-1] == grid.num_places == found.drops.size
    assert max(np.diff([0, *done])) <= batch_size
    top, left = found.largest
    assert found.drops[grid.starts.index(top), grid.starts.index(left)] == found.drops.max()


@given(grids())
def test_every_pixel_is_hidden_and_every_patch_is_inside(grid: OcclusionGrid) -> None:
    starts = np.array(grid.starts)
    assert starts[0] == 0 and starts[-1] + grid.patch_px == grid.view_px
    assert (np.diff(starts) > 0).all() and (np.diff(starts) <= grid.stride_px).all()
    counts, sums = np.zeros((grid.view_px,) * 2), np.zeros((grid.view_px,) * 2)
    drops = np.random.default_rng(1).normal(size=(len(starts),) * 2).astype(np.float32)
    for row in range(grid.view_px):
        for column in range(grid.view_px):
            over = [((one <= row) & (row < one + grid.patch_px)) for one in starts]
            beside = [((one <= column) & (column < one + grid.patch_px)) for one in starts]
            inside = drops[np.ix_(over, beside)]
            counts[row, column], sums[row, column] = inside.size, inside.sum(dtype=np.float64)
    assert counts.min() > 0
    np.testing.assert_allclose(OcclusionMap(grid, 0.5, drops).per_pixel(), sums / counts, atol=1e-6)


@pytest.mark.parametrize("variant", ["quick", pytest.param("cifar-11pct", marks=pytest.mark.slow)])
def test_maps_are_captums(variant: str) -> None:
    network, images, _ = varied_network(variant)
    side, patch, stride = network.spec.image_px, 8, 4
    assert (side - patch) % stride == 0  # captum cuts off what is beyond the edge, and we move it inside
    grid = OcclusionGrid.of(side, patch, stride)
    found = occlusion_map(network, images[0], 3, grid, batch_size=16).per_pixel()
    reference = captum.attr.Occlusion(lambda x: network(x).double().softmax(1)).attribute(
        images[:1], (3, patch, patch), (3, stride, stride), baselines=0, target=3, perturbations_per_eval=16
    )
    want = reference[0, 0].numpy()
    assert np.abs(want).max() > 1e-4
    np.testing.assert_allclose(found, want, atol=1e-5 * np.abs(want).max() + 1e-7)


@pytest.mark.parametrize(("view", "patch", "stride"), [(224, 32, 8), (227, 32, 8), (28, 4, 1), (24, 3, 1), (1, 1, 1)])
def test_default_sizes(view: int, patch: int, stride: int) -> None:
    assert OcclusionGrid.of(view) == OcclusionGrid(view, patch, stride)
    assert OcclusionGrid.of(np.int64(view), np.int64(patch)) == OcclusionGrid(view, patch, max(1, patch // 4))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"patch_px": 0}, "--patch is 0; allowed is 1 to 28 pixels"),
        ({"patch_px": 29}, "--patch is 29; allowed is 1 to 28"),
        ({"patch_px": 4.0}, "--patch is 4.0"),
        ({"patch_px": 4, "stride_px": 5}, "--stride is 5; allowed is 1 to 4 pixels"),
        ({"stride_px": 0}, "--stride is 0"),
        ({"stride_px": True}, "--stride is True"),
    ],
)
def test_sizes_that_are_refused(sizes: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        OcclusionGrid.of(28, **sizes)


def test_scores_that_are_not_finite_are_an_error() -> None:
    network = Scores(4)
    network.weight[1] = torch.nan
    with pytest.raises(WorkError, match="scores are not finite"):
        occlusion_map(network, torch.ones(3, 4, 4), 0, OcclusionGrid.of(4), batch_size=2)
