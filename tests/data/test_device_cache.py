"""A batch cropped and normalized on the device, by torch's operations or the Triton kernel, equals the CPU's."""

import numpy as np
import pytest
import torch

from alexnet.data.augment import Batch, MeanAt, to_input
from alexnet.data.bc1 import decode_crops, encode
from alexnet.data.dataset import Split
from alexnet.data.device_cache import DeviceImageCache
from alexnet.data.loader import read_crops

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SIDE, CROP = 14, 9


def batch_of(images: np.ndarray, samples: np.ndarray, seed: int = 0) -> Batch:
    random = np.random.default_rng(seed)
    corners = random.integers(0, SIDE - CROP + 1, (len(samples), 2)).astype(np.int16)
    return Batch(
        images=torch.from_numpy(read_crops(images, samples, corners, CROP)),
        labels=torch.zeros(len(samples), dtype=torch.int64),
        samples=torch.from_numpy(samples),
        corners=torch.from_numpy(corners),
        mirror=torch.from_numpy(random.random(len(samples)) < 0.5),
        noise=torch.from_numpy(random.normal(size=(len(samples), 3)).astype(np.float32)),
    )


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (20, SIDE, SIDE, 3), dtype=np.uint8)


@pytest.fixture
def mean_image() -> torch.Tensor:
    return torch.rand(SIDE, SIDE, 3, generator=torch.Generator().manual_seed(2)) * 255


@pytest.mark.parametrize("mean_at", ["crop", "center"])
@pytest.mark.parametrize("divisor", [1.0, 1.1])
def test_cached_images_give_the_same_input(
    images: np.ndarray, mean_image: torch.Tensor, mean_at: MeanAt, divisor: float
) -> None:
    batch = batch_of(images, np.array([3, 19, 0, 3, 7]))
    want = to_input(batch, mean_image, torch.device("cpu"), mean_at=mean_at, divisor=divisor)
    uncut = batch.map(lambda tensor: tensor)
    uncut = Batch(**{**vars(uncut), "images": torch.empty(5, 0, 0, 3, dtype=torch.uint8)})
    got = to_input(
        uncut,
        mean_image,
        DEVICE,
        mean_at=mean_at,
        divisor=divisor,
        device_cache=torch.from_numpy(images).to(DEVICE),
        crop=CROP,
    )
    assert got.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(got.cpu(), want, rtol=1e-6, atol=2e-5)


@pytest.mark.parametrize("mean_at", ["crop", "center"])
@pytest.mark.parametrize("stored", ["crops", "whole", "bc1"])
def test_the_kernel_gives_the_same_input(
    images: np.ndarray, mean_image: torch.Tensor, mean_at: MeanAt, stored: str
) -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    from alexnet.data.crop_kernel import crop_and_normalize

    samples = np.array([3, 19, 0, 3, 7])
    device_cache = torch.from_numpy(images)
    if stored == "bc1":
        device_cache = torch.from_numpy(encode(images))
        whole = torch.zeros(len(images), 2, dtype=torch.int16)
        images = decode_crops(device_cache, torch.arange(len(images)), whole, SIDE).numpy()
    batch = batch_of(images, samples)
    want = to_input(batch, mean_image, torch.device("cpu"), mean_at=mean_at, divisor=1.1)
    given = batch.map(lambda tensor: tensor.to(DEVICE))
    for dtype in (torch.float32, torch.bfloat16):
        got = crop_and_normalize(
            given,
            None if stored == "crops" else device_cache.to(DEVICE),
            mean_image.to(DEVICE),
            CROP,
            center=mean_at == "center",
            divisor=1.1,
            dtype=dtype,
        ).permute(0, 3, 1, 2)
        assert got.dtype == dtype
        tolerance = {"rtol": 1e-6, "atol": 2e-5} if dtype == torch.float32 else {"rtol": 2**-7, "atol": 1e-2}
        torch.testing.assert_close(got.float().cpu(), want, **tolerance)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs 9 GB of a GPU")
def test_images_beyond_two_thousand_million_words(images: np.ndarray, mean_image: torch.Tensor) -> None:
    """All of ImageNet in blocks is 10,500 million words: indices are 64 bits wide."""
    blocks = torch.from_numpy(encode(images)).to(DEVICE)
    num = 2**31 // blocks[0].numel() + len(images)
    many = torch.empty(num, *blocks.shape[1:], dtype=torch.int32, device=DEVICE)
    many[-len(images) :] = blocks
    batch = batch_of(images, np.array([3, 19, 0]))
    found = []
    for device_cache, first in ((many, num - len(images)), (blocks, 0)):
        placed = batch.map(lambda tensor: tensor)
        placed = Batch(**{**vars(placed), "samples": batch.samples + first, "images": torch.empty(3, 0, 0, 3)})
        found.append(to_input(placed, mean_image, DEVICE, device_cache=device_cache, crop=CROP))
    assert torch.equal(*found)


def test_cached_images_of_some_samples(images: np.ndarray) -> None:
    split = Split("train", images, np.arange(20), [""] * 20)
    told: list[tuple[int, int]] = []
    samples = np.array([2, 5, 6, 19])
    device_cache = DeviceImageCache(split, samples, DEVICE, progress=lambda done, num: told.append((done, num)))
    assert np.array_equal(device_cache.images.cpu().numpy(), images[samples])
    batch = batch_of(images, np.array([19, 2, 6]))
    assert device_cache.with_cache_rows(batch).samples.tolist() == [3, 0, 2]
    assert told == [(4, 4)]
