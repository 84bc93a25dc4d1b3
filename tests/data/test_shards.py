"""Tar shards: other programs read them, random access gives the same pixels, damage is named."""

import errno
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from alexnet.data import shards
from alexnet.data.dataset import PreparedData
from alexnet.data.loader import read_crops
from alexnet.data.preparation.prepare import prepare
from alexnet.data.shards import JpegImages, UnreadableSample
from alexnet.errors import WorkError

SIDE = 24


@pytest.fixture
def data(tmp_path: Path) -> PreparedData:
    """Seven training images in shards of three, two for validation."""
    random = np.random.default_rng(0)
    for place in ("train/a/1", "train/a/2", "train/a/3", "train/b/1", "train/b/2", "train/b/3", "train/b/4", "val/a/1"):
        path = tmp_path / "source" / f"{place}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(path)
    return prepare(tmp_path / "source", tmp_path / "out", side=SIDE, store="jpeg", shard_images=3)


def test_shards_are_plain_tars_of_jpeg_and_label(data: PreparedData) -> None:
    members = []
    for number, count in enumerate((3, 3, 1)):
        with tarfile.open(data.folder / f"train-{number:06d}.tar") as shard:
            names = shard.getnames()
            assert len(names) == 2 * count
            for image_name, label_name in zip(names[::2], names[1::2], strict=True):
                image, label = shard.extractfile(image_name), shard.extractfile(label_name)
                assert image is not None and label is not None
                members.append((image_name, image.read(), label_name, label.read()))
    for index, (image_name, image, label_name, label) in enumerate(members):
        assert (image_name, label_name) == (f"{index:09d}.jpg", f"{index:09d}.cls")
        assert int(label) == data.splits["train"].labels[index]
        # What is stored is the original at quality 95 with color at half resolution, encoded by the same library.
        with Image.open(data.folder.parent / "source" / data.splits["train"].keys[index]) as original:
            assert image == simplejpeg.encode_jpeg(np.asarray(original), 95, "RGB", "420")
        with Image.open(io.BytesIO(image)) as stored:
            assert np.array_equal(data.splits["train"].images[index], np.asarray(stored))


@settings(max_examples=200, deadline=None)
@given(
    number=st.integers(0, 10**9 - 1),
    size=st.integers(0, 5000) | st.sampled_from([2**21 - 1]),
    label=st.integers(0, 10**6),
)
def test_members_are_what_tarfile_writes(number: int, size: int, label: int) -> None:
    content = bytes(size)
    expected = io.BytesIO()
    with tarfile.open(fileobj=expected, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, member_content in ((f"{number:09d}.jpg", content), (f"{number:09d}.cls", str(label).encode())):
            member = tarfile.TarInfo(name)
            member.size = len(member_content)
            tar.addfile(member, io.BytesIO(member_content))
    written = b"".join(shards.sample_members(number, content, label))
    # An archive ends with empty blocks.
    assert written == expected.getvalue()[: len(written)]
    assert not any(expected.getvalue()[len(written) :])


# The package leaves its own files open.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_webdataset_reads_the_shards(data: PreparedData) -> None:
    webdataset = pytest.importorskip("webdataset", reason="the package webdataset is not installed")
    shards = sorted(str(path) for path in data.folder.glob("train-*.tar"))
    read = webdataset.WebDataset(shards, shardshuffle=False, empty_check=False).decode("rgb8").to_tuple("jpg", "cls")
    for index, (pixels, label) in enumerate(read):
        assert label == data.splits["train"].labels[index]
        assert np.array_equal(pixels, data.splits["train"].images[index])
    assert index == 6


def test_images_are_indexed_like_an_array(data: PreparedData) -> None:
    images = data.splits["train"].images
    assert isinstance(images, JpegImages)
    assert images.shape == (7, SIDE, SIDE, 3) and len(images) == 7 and images.dtype == np.uint8
    one_by_one = np.stack([images[index] for index in range(7)])
    assert np.array_equal(images[2:6], one_by_one[2:6])
    assert np.array_equal(images[np.array([5, 0, 5])], one_by_one[[5, 0, 5]])
    corners = np.array([[0, 4], [3, 1]], np.int16)
    samples = np.array([6, 2])
    cut = read_crops(images, samples, corners, 20)
    assert np.array_equal(cut, read_crops(one_by_one, samples, corners, 20))
    assert np.array_equal(cut[1], one_by_one[2, 3:23, 1:21])


def test_damage_in_a_shard_is_named(data: PreparedData) -> None:
    path = data.folder / "train-000001.tar"
    content = bytearray(path.read_bytes())
    content[512:520] = bytes(8)  # the beginning of its first JPEG
    path.write_bytes(content)
    images = PreparedData.open(data.folder).splits["train"].images
    assert images[2].shape == (SIDE, SIDE, 3)
    with pytest.raises(UnreadableSample, match=r"image 3 in .*train-000001\.tar is damaged"):
        images[3]
    path.unlink()
    with pytest.raises(UnreadableSample, match=r"image 4 cannot be read from .*train-000001\.tar: No such file"):
        images[4]
    with pytest.raises(WorkError, match=r"train-000001\.tar is missing; .*alexnet prepare SOURCE"):
        PreparedData.open(data.folder)


def test_a_cut_shard_is_seen_when_the_data_set_is_opened(data: PreparedData) -> None:
    path = data.folder / "train-000002.tar"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(WorkError, match=r"train-000002\.tar is damaged \(it has [\d,]+ bytes, expected"):
        PreparedData.open(data.folder)


def test_too_many_open_files_are_no_fault_of_an_image(data: PreparedData, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_more(*_: object) -> bytes:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(shards, "read_range", no_more)
    with pytest.raises(OSError, match="Too many open files") as caught:
        data.splits["train"].images[0]
    assert not isinstance(caught.value, UnreadableSample)
    assert caught.value.filename == str(data.folder / "train-000000.tar")
