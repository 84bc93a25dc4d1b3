"""MNIST-family IDX files: plain and compressed, with every name they come under, and damaged ones."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet.data.sources.formats import is_format
from alexnet.data.sources.idx import open_idx
from alexnet.errors import RequestError

SIZES = (6, 5, 5)


def idx(values: np.ndarray) -> bytes:
    """The format, written from its description."""
    return struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + values.astype(np.uint8).tobytes()


def pixels(sizes: tuple[int, ...] = SIZES, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, sizes, np.uint8)


def write(
    folder: Path, *, train: str = "train", test: str = "t10k", mark: str = "-", packed: bool = False, labels: int = 3
) -> Path:
    folder.mkdir(exist_ok=True)
    for seed, split in enumerate((train, test)):
        for name, values in ((f"images{mark}idx3", pixels(seed=seed)), (f"labels{mark}idx1", np.arange(6) % labels)):
            path = folder / f"{split}-{name}-ubyte{'.gz' if packed else ''}"
            path.write_bytes(gzip.compress(idx(values), 1) if packed else idx(values))
    return folder


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("mark", ["-", "."])
@pytest.mark.parametrize(
    ("train", "test"), [("train", "t10k"), ("emnist-balanced-train", "emnist-balanced-test"), ("train", "test")]
)
def test_gray_images_become_rgb(tmp_path: Path, train: str, test: str, mark: str, packed: bool) -> None:
    folder = write(tmp_path / "digits", train=train, test=test, mark=mark, packed=packed)
    assert is_format("idx", folder)
    source = open_idx(folder)
    assert (source.format, source.side, source.class_ids) == ("idx", 5, ["0", "1", "2"])
    assert source.title == ("emnist-balanced" if "emnist" in train else "digits")
    for seed, split in enumerate(("train", "test")):
        listing = source.splits[split]
        assert (len(listing), listing.keys[4]) == (6, f"{split}/000004")
        assert listing.labels.tolist() == [0, 1, 2, 0, 1, 2]
        for index in range(6):
            image = listing.read(index)
            assert isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.flags.writeable
            assert np.array_equal(image, np.stack([pixels(seed=seed)[index]] * 3, axis=2))


def test_plain_and_compressed_files_are_the_same(tmp_path: Path) -> None:
    plain = open_idx(write(tmp_path / "a"))
    assert open_idx(write(tmp_path / "b", packed=True)).digest() == plain.digest()
    # With both there the plain one is read: the other may be no gzip at all.
    both = write(tmp_path / "a", packed=True)
    (both / "train-images-idx3-ubyte.gz").write_bytes(b"no gzip")
    assert open_idx(both).digest() == plain.digest()


def test_images_that_are_not_square_and_classes_in_order_of_numbers(tmp_path: Path) -> None:
    images = pixels((12, 3, 7))
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(images))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(np.arange(12)))
    source = open_idx(tmp_path)
    assert source.side is None and set(source.splits) == {"train"}
    assert source.class_ids == [str(number) for number in range(12)]
    assert source.splits["train"].labels.tolist() == list(range(12))
    image = source.splits["train"].read(11)
    assert isinstance(image, np.ndarray) and image.shape == (3, 7, 3)


def test_one_of_several_data_sets_is_named_by_its_file(tmp_path: Path) -> None:
    for name in ("letters", "digits"):
        write(tmp_path / "emnist", train=f"emnist-{name}-train", test=f"emnist-{name}-test")
    with pytest.raises(RequestError, match=r"2 data sets \(emnist-digits, emnist-letters\)"):
        open_idx(tmp_path / "emnist")
    path = tmp_path / "emnist" / "emnist-digits-train-images-idx3-ubyte"
    assert is_format("idx", path) and open_idx(path).title == "emnist-digits"


@pytest.mark.parametrize(
    ("lines", "first", "names"),
    [
        ("T-shirt\nBag\nBoot\n", 0, {"0": "T-shirt", "1": "Bag", "2": "Boot"}),
        ("a\r\nb\r\nc\r\n\r\n", 1, {"1": "a", "2": "b", "3": "c"}),
        ("none\na\nb\nc", 1, {"1": "a", "2": "b", "3": "c"}),
        ("\ufeffa\n\nc", 0, {"0": "a", "1": "1", "2": "c"}),
    ],
)
def test_names_of_classes(tmp_path: Path, lines: str, first: int, names: dict[str, str]) -> None:
    folder = write(tmp_path / "x")
    for split in ("train", "t10k"):
        (folder / f"{split}-labels-idx1-ubyte").write_bytes(idx(np.arange(6) % 3 + first))
    (folder / "classes.txt").write_text(lines, encoding="utf-8", newline="")
    assert open_idx(folder).class_names == names


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a\nb\n", "has 2 lines"),
        (b"a\n\xff\nb\n", "not a list of class names .*codec"),
        (b"a\n" * 2**20, "it is larger than 1,048,576"),
        (b"a\n\x1b[2J\nb", "has a control character"),
    ],
)
def test_names_that_do_not_fit(tmp_path: Path, content: bytes, message: str) -> None:
    folder = write(tmp_path / "x")
    (folder / "classes.txt").write_bytes(content)
    with pytest.raises(RequestError, match=message):
        open_idx(folder)


IMAGES = idx(pixels())


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "does not begin like an IDX"),
        (IMAGES[:15], "does not begin like an IDX"),
        (b"\x00\x01" + IMAGES[2:], "with 00 01 08 03"),
        (IMAGES[:3] + b"\x04" + IMAGES[4:], "IDX file of 3 dimensions"),
        (IMAGES[:2] + b"\x0d" + IMAGES[3:], "type 0x0d"),
        (IMAGES[:-1], "it has 165 bytes and its header claims 166"),
        (IMAGES + b"\0", "it has 167 bytes and its header claims 166"),
        (idx(np.zeros((0, 5, 5))), "claims 0 x 5 x 5"),
        (idx(pixels((5, 5, 5))), "6 labels and train-images-idx3-ubyte.* 5 images"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, content: bytes, message: str, packed: bool) -> None:
    folder = write(tmp_path / "x", packed=packed)
    path = folder / f"train-images-idx3-ubyte{'.gz' if packed else ''}"
    path.write_bytes(gzip.compress(content, 1) if packed else content)
    with pytest.raises(RequestError, match=f"is damaged: .*{message}"):
        open_idx(folder)


def test_damaged_and_endless_gzip(tmp_path: Path) -> None:
    folder = write(tmp_path / "x", packed=True)
    path = folder / "train-images-idx3-ubyte.gz"
    good = path.read_bytes()
    for damaged in (b"no gzip", good[:-9], good[:-5] + b"\xff" + good[-4:], good[:60] + b"\xff" * 20 + good[80:]):
        path.write_bytes(damaged)
        with pytest.raises(RequestError, match="is damaged"):
            open_idx(folder)
    # A header that claims 3 GiB before a few bytes.
    path.write_bytes(gzip.compress(struct.pack(">BBBBIII", 0, 0, 8, 3, 3 * 2**10, 2**10, 2**10) + b"x"))
    with pytest.raises(RequestError, match="claims 3,221,225,488 bytes unpacked"):
        open_idx(folder)
    # 16 MB of zeros behind a small header: what is unpacked ends one byte above the claim.
    path.write_bytes(gzip.compress(IMAGES + bytes(2**24), 1))
    with pytest.raises(RequestError, match="it has 167 bytes"):
        open_idx(folder)


def test_missing_files_and_other_folders(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no IDX files"):
        open_idx(tmp_path)
    assert not is_format("idx", tmp_path) and not is_format("idx", tmp_path / "missing")
    folder = write(tmp_path / "x")
    (folder / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(RequestError, match="no IDX file of test labels"):
        open_idx(folder)
    (folder / "train-images-idx3-ubyte").unlink()
    assert not is_format("idx", folder)
    (folder / "train-images-idx3-ubyte").mkdir()
    assert not is_format("idx", folder)
    with pytest.raises(RequestError, match="no IDX file of train images"):
        open_idx(folder)


def test_a_file_that_is_cut_later_cannot_be_read(tmp_path: Path) -> None:
    folder = write(tmp_path / "x")
    source = open_idx(folder)
    (folder / "train-images-idx3-ubyte").write_bytes(IMAGES[:-1])
    assert source.splits["train"].read(4) is not None
    with pytest.raises(OSError, match="ends inside"):
        source.splits["train"].read(5)


@settings(deadline=None, max_examples=30)
@given(
    st.tuples(st.integers(2, 9), st.integers(1, 4), st.integers(1, 4)),
    st.binary(max_size=40),
    st.integers(0, 60),
)
def test_any_change_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, sizes: tuple[int, int, int], change: bytes, place: int
) -> None:
    folder = tmp_path_factory.mktemp("idx")
    content = bytearray(idx(pixels(sizes)))
    content[place : place + len(change)] = change
    (folder / "train-images-idx3-ubyte").write_bytes(content)
    (folder / "train-labels-idx1-ubyte").write_bytes(idx(np.arange(sizes[0]) % 2))
    try:
        source = open_idx(folder)
    except RequestError:
        return
    assert len(source.splits["train"]) == sizes[0]
    for index in range(sizes[0]):
        source.splits["train"].read(index)
