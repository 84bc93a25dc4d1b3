"""Dense descriptors against OpenCV, scikit-image and plain NumPy; unusual images."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

pytest.importorskip("sklearn")

from alexnet.baselines import color_statistics, local_binary_patterns, sift
from alexnet.baselines.descriptors import DenseDescriptors, gaussian_blur, to_gray
from alexnet.baselines.patch_cells import PatchGrid, cell_sums
from alexnet.errors import RequestError
from alexnet.runs.baseline_recipe import DESCRIPTORS


def texture(side: int, seed: int = 0) -> NDArray[np.uint8]:
    """An image of blurred noise, uint8 (side, side, 3)."""
    noise = torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (1, 3, side // 5, side // 5))).float()
    large = torch.nn.functional.interpolate(noise, size=(side, side), mode="bicubic", align_corners=False)
    return large[0].permute(1, 2, 0).clamp(0, 255).to(torch.uint8).numpy()


@pytest.mark.parametrize(("cell_px", "step_px"), [(4, 4), (6, 5), (5, 7), (10, 9)])
def test_sift_equals_opencvs_at_the_same_positions(cell_px: int, step_px: int) -> None:
    cv2 = pytest.importorskip("cv2")
    gray = cv2.cvtColor(texture(96), cv2.COLOR_RGB2GRAY)
    grid = PatchGrid(96, cell_px, 4, step_px)
    # OpenCV rounds a keypoint to a pixel and blurs from a sigma of 0.5 to 1.6; its cells are 3/2 of the size.
    points = [cv2.KeyPoint(float(x), float(y), cell_px / 1.5, 0) for y in grid.centers for x in grid.centers]
    _, theirs = cv2.SIFT_create().compute(gray, points)
    image = gaussian_blur(torch.from_numpy(gray).float()[None], (1.6**2 - 0.5**2) ** 0.5)
    ours = sift.dense_sift(image[0].numpy(), cell_px, step_px)
    assert ours.shape == theirs.shape == (grid.num**2, 128)
    # OpenCV rounds to multiples of 1/512 and has a fast arctangent.
    assert np.abs(512 * ours - theirs).max() < 1.5
    cosine = (ours * theirs).sum(axis=1) / np.linalg.norm(theirs, axis=1)
    assert cosine.min() > 0.9999


def reference_sift(gray: NDArray[np.float64], center: tuple[float, float], cell_px: int) -> tuple[Any, float]:
    """One descriptor from the definition, in float64, and its contrast."""
    down, right = np.gradient(gray)
    down[[0, -1]] = down[:, [0, -1]] = right[[0, -1]] = right[:, [0, -1]] = 0
    y, x = np.indices(gray.shape)
    v, u = (y - center[0]) / cell_px, (x - center[1]) / cell_px
    turn = (np.arctan2(-down, right) / (np.pi / 4)) % 8
    sums = np.zeros((4, 4, 8))
    for i, j, o in np.ndindex(4, 4, 8):
        away = np.abs(turn - o)
        share = np.maximum(0, 1 - np.minimum(away, 8 - away))
        weight = np.maximum(0, 1 - np.abs(v + 1.5 - i)) * np.maximum(0, 1 - np.abs(u + 1.5 - j)) * share
        sums[i, j, o] = (weight * np.exp(-(v * v + u * u) / 8) * np.hypot(down, right)).sum()
    norm = np.linalg.norm(sums)
    clipped = np.minimum(sums.ravel() / norm, 0.2)
    return clipped / np.linalg.norm(clipped), float(norm / cell_px**2)


def test_patches_of_several_cells_are_smoothed_by_their_size_and_flat_ones_left_out() -> None:
    scipy = pytest.importorskip("scipy.ndimage")
    image = texture(70, 5)
    image[:, 30:] = image[:, 30:] // 48 + 100  # hardly any contrast
    describe = DenseDescriptors("sift", cell_px="4,7", step_px=9, scales=1, smoothing_per_cell=0.3, min_contrast=1.5)
    (found,) = describe.transform([image])
    gray = image @ np.array([0.299, 0.587, 0.114])
    expected, positions = [], []
    for cell_px in (4, 7):
        sigma = ((0.3 * cell_px) ** 2 - 0.25) ** 0.5
        blurred = scipy.gaussian_filter(gray, sigma, mode="mirror", radius=round(4 * sigma))
        centers = PatchGrid(70, cell_px, 4, 9).centers
        for row in centers:
            for column in centers:
                descriptor, contrast = reference_sift(blurred, (row, column), cell_px)
                assert abs(contrast - 1.5) > 1e-3  # rounding decides about none
                if contrast > 1.5:
                    expected.append(descriptor)
                    positions.append((row / 70, column / 70))
    assert 10 < len(expected) < 70
    np.testing.assert_allclose(found.positions, positions, atol=1e-6)
    np.testing.assert_allclose(found.values, expected, atol=2e-5)
    limited = DenseDescriptors(**{**describe.get_params(), "max_descriptors": 7}).transform([image])[0]
    at = [int(np.flatnonzero((found.values == one).all(axis=1))[0]) for one in limited.values]
    assert len(at) == 7 and at == sorted(at)
    np.testing.assert_array_equal(found.positions[at], limited.positions)
    flat, tiny = DenseDescriptors("sift", cell_px="4,40", min_contrast=0.5).transform(
        [np.full((40, 40, 3), 77, np.uint8), texture(30)]
    )
    assert flat.values.shape == (0, 128) and flat.positions.shape == (0, 2)
    assert len(tiny.values)  # cells of 40 pixels do not fit


def test_cell_sums_are_sums_over_pixels() -> None:
    """A patch's cells, pixel by pixel, from the definition."""
    channels = np.random.default_rng(1).random((40, 44, 8)).astype(np.float32)
    rows, columns = PatchGrid(40, 3, 4, 5), PatchGrid(44, 3, 4, 4)
    ours = cell_sums(channels, rows, columns, "gaussian").reshape(rows.num, 4, columns.num, 4, 8)
    for patch in [(0, 0), (2, 3), (rows.num - 1, columns.num - 1)]:
        expected = np.zeros((4, 4, 8))
        for y in range(40):
            for x in range(44):
                v, u = (y - rows.centers[patch[0]]) / 3, (x - columns.centers[patch[1]]) / 3
                for i in range(4):
                    for j in range(4):
                        weight = max(0, 1 - abs(v + 1.5 - i)) * max(0, 1 - abs(u + 1.5 - j))
                        expected[i, j] += weight * np.exp(-(v * v + u * u) / 8) * channels[y, x]
        np.testing.assert_allclose(ours[patch[0], :, patch[1]], expected, rtol=1e-4, atol=1e-5)


def test_color_statistics_are_means_and_standard_deviations_of_cells() -> None:
    image = texture(50, 2)
    grid = PatchGrid(50, 4, 4, 6)
    ours = color_statistics.dense_color_statistics(image.astype(np.float32), 4, 6)
    scaled = image.astype(np.float64) / 255
    for row, top in enumerate(grid.starts):
        for column, left in enumerate(grid.starts):
            patch = scaled[top : top + 16, left : left + 16].reshape(4, 4, 4, 4, 3)  # cell rows, pixels, ...
            means, deviations = patch.mean(axis=(1, 3)), patch.std(axis=(1, 3))
            expected = np.concatenate([means, deviations], axis=-1).ravel()
            np.testing.assert_allclose(ours[row * grid.num + column], expected, atol=2e-4)


def test_patterns_equal_scikit_images() -> None:
    feature = pytest.importorskip("skimage.feature")
    gray = np.random.default_rng(3).integers(0, 256, (40, 37)).astype(np.uint8)
    theirs = feature.local_binary_pattern(gray, 8, 1, "nri_uniform")[1:-1, 1:-1].astype(int)
    ours = local_binary_patterns.pattern_labels(torch.from_numpy(gray).float()[None])[0, 1:-1, 1:-1].numpy()
    # The labels are numbered differently, one to one.
    pairs = {(int(a), int(b)) for a, b in zip(ours.ravel(), theirs.ravel(), strict=True)}
    assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs}) > 40


def test_counts_of_patterns_are_those_of_the_cells() -> None:
    gray = torch.from_numpy(np.random.default_rng(4).integers(0, 256, (1, 45, 41))).float()
    labels = local_binary_patterns.pattern_labels(gray)[0].numpy()
    rows, columns = PatchGrid(45, 8, 2, 4), PatchGrid(41, 8, 2, 4)
    ours = local_binary_patterns.dense_binary_patterns(gray, 8, 4)[0].numpy()
    assert ours.shape == (rows.num * columns.num, local_binary_patterns.DIMENSIONS)
    for row, top in enumerate(rows.starts):
        for column, left in enumerate(columns.starts):
            cells = [
                labels[top + 8 * i : top + 8 * i + 8, left + 8 * j : left + 8 * j + 8] for i in (0, 1) for j in (0, 1)
            ]
            counts = np.concatenate([np.bincount(one.ravel(), minlength=59) for one in cells]).astype(float)
            expected = counts / np.linalg.norm(counts)
            np.testing.assert_allclose(ours[row * columns.num + column], expected, atol=1e-6)


@given(
    height=st.integers(20, 60), width=st.integers(20, 60), cell_px=st.integers(1, 5), step_px=st.integers(1, 9),
    scales=st.integers(1, 4), kind=st.sampled_from([one for one in DESCRIPTORS if one != "patterns"]),
)  # fmt: skip
@settings(max_examples=25)
def test_any_size_gives_as_many_descriptors_as_positions(
    height: int, width: int, cell_px: int, step_px: int, scales: int, kind: str
) -> None:
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)
    describe = DenseDescriptors(kind, cell_px=cell_px, step_px=step_px, scales=scales)
    (found,) = describe.transform([image])
    patch = 4 * cell_px
    assert (
        len(found.values)
        == len(found.positions)
        >= ((height - patch) // step_px + 1) * ((width - patch) // step_px + 1)
    )
    assert np.isfinite(found.values).all() and ((found.positions > 0) & (found.positions < 1)).all()


@pytest.mark.parametrize("kind", DESCRIPTORS)
def test_a_constant_image_has_no_contrast_and_no_nan(kind: str) -> None:
    (found,) = DenseDescriptors(kind, scales=2).transform([np.full((40, 40, 3), 77, np.uint8)])
    assert np.isfinite(found.values).all()
    if kind == "sift":
        assert (found.values == 0).all()
    if kind == "color":
        np.testing.assert_allclose(found.values.reshape(-1, 16, 6)[:, :, :3], 77 / 255, atol=1e-5)
        np.testing.assert_allclose(found.values.reshape(-1, 16, 6)[:, :, 3:], 0, atol=1e-3)


@pytest.mark.parametrize("kind", DESCRIPTORS)
def test_an_image_smaller_than_a_patch_is_enlarged_until_one_fits(kind: str) -> None:
    image = texture(80)[:12, :75]
    describe = DenseDescriptors(kind)
    (found,) = describe.transform([image])
    # Twice the size, by bilinear interpolation: cv2's is exact and independent.
    cv2 = pytest.importorskip("cv2")
    enlarged = cv2.resize(image.astype(np.float32), (150, 24), interpolation=cv2.INTER_LINEAR)
    planes = torch.from_numpy(enlarged).permute(2, 0, 1)[None]
    if kind == "color":
        expected = color_statistics.dense_color_statistics(np.ascontiguousarray(enlarged), 6, 6)
    elif kind == "sift":
        expected = sift.dense_sift(to_gray(planes)[0].numpy(), 6, 6)
    else:
        expected = local_binary_patterns.dense_binary_patterns(to_gray(planes), 12, 6)[0].numpy()
    assert len(found.values) == (150 - 24) // 6 + 1
    # A pattern is of signs, which rounding turns where neighbors are nearly equal.
    np.testing.assert_allclose(found.values, expected, atol=0.1 if kind == "patterns" else 1e-4)
    for height, width in ((1, 1), (1, 100), (23, 24)):
        (found,) = describe.transform([np.full((height, width, 3), 9, np.uint8)])
        assert len(found.values) >= 1 and np.isfinite(found.values).all()


def test_a_grid_refuses_what_is_smaller_than_a_patch() -> None:
    with pytest.raises(RequestError, match="20 pixels is smaller than a patch of 24"):
        sift.dense_sift(np.zeros((20, 30), np.float32), 6, 6)


def test_large_images_are_scaled_down_and_max_descriptors_draws_the_same_positions() -> None:
    images = np.stack([texture(100, 1), texture(100, 2)])
    whole = DenseDescriptors("sift", scales=1).transform(images)
    small = DenseDescriptors("sift", scales=1, max_pixels=2500).transform(images)
    limited = DenseDescriptors("sift", scales=1, max_descriptors=7).transform(images)
    assert len(small[0].values) == ((50 - 24) // 6 + 1) ** 2 < len(whole[0].values)
    assert len(limited[0].values) == 7 and (limited[0].positions == limited[1].positions).all()
    at = [int(np.flatnonzero((whole[1].positions == position).all(axis=1))[0]) for position in limited[1].positions]
    np.testing.assert_array_equal(whole[1].values[at], limited[1].values)


def test_invalid_images_and_settings_out_of_range_are_refused() -> None:
    for wrong in (np.zeros((40, 40), np.uint8), np.zeros((40, 40, 3), np.float32)):
        with pytest.raises(RequestError, match="allowed is uint8"):
            DenseDescriptors("sift").transform([wrong])
    for setting in (
        {"kind": "surf"},
        {"cell_px": 0},
        {"cell_px": "6,4"},
        {"cell_px": "4,x"},
        {"min_contrast": -1},
        {"scale_factor": 1.0},
        {"max_descriptors": -1},
    ):
        with pytest.raises(RequestError, match=r"(allowed|known)"):
            DenseDescriptors(**{"kind": "sift", **setting}).fit([])  # type: ignore[arg-type]
    with pytest.raises(RequestError, match=r"multiple of --descriptors\.step_px, which is 4"):
        DenseDescriptors("patterns", cell_px=3, step_px=4).transform([np.zeros((40, 40, 3), np.uint8)])


def test_gray_is_luminance() -> None:
    colors = torch.tensor([255.0, 0, 0]).reshape(1, 3, 1, 1)
    assert to_gray(colors).item() == pytest.approx(0.299 * 255)
