"""Parquet and Arrow data sets: splits, labels and names, random access from threads, and damaged files."""

import json
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet.data.sources import arrow_files
from alexnet.data.sources.formats import is_format
from alexnet.data.sources.listing import Source
from alexnet.data.sources.parquet import open_parquet
from alexnet.errors import RequestError

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

NAMES = ["zebra", "ant", "cat"]
IMAGE = {"_type": "Image"}
LABEL = {"_type": "ClassLabel", "names": NAMES}


def content(number: int) -> bytes:
    return f"image {number} ".encode() * (number % 5 + 1)


def table(
    labels: list[Any],
    *,
    first: int = 0,
    features: dict[str, Any] | None = None,
    plain: bool = False,
    label: str = "label",
) -> Any:
    """Images numbered from `first`, with the hub's description unless it is replaced."""
    images = [content(first + number) for number in range(len(labels))]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    column = pa.array(images) if plain else pa.array([{"bytes": one, "path": "x.jpg"} for one in images], kind)
    described = {"image": IMAGE, label: LABEL} if features is None else features
    made = pa.table({"id": pa.array(range(len(labels))), "image": column, label: pa.array(labels)})
    return made.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": described}})})


def write_parquet(path: Path, made: Any, rows: int = 3) -> None:
    pq.write_table(made, path, row_group_size=rows)


def write_arrow_stream(path: Path, made: Any, rows: int = 3, compression: str | None = None) -> None:
    with pa.ipc.new_stream(str(path), made.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_table(made, max_chunksize=rows)


def write_arrow_file(path: Path, made: Any, rows: int = 3, compression: str | None = "lz4") -> None:
    with pa.ipc.new_file(str(path), made.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_table(made, max_chunksize=rows)


def write_compressed_stream(path: Path, made: Any) -> None:
    write_arrow_stream(path, made, compression="lz4")


WRITERS = [write_parquet, write_arrow_stream, write_compressed_stream, write_arrow_file]
Write = Callable[[Path, Any], None]


def labels_of(source: Source, split: str) -> list[str]:
    return [source.class_ids[label] for label in source.splits[split].labels]


def save(root: Path, name: str, made: Any, write: Write = write_parquet) -> Path:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    write(root / name, made)
    return root / name


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("plain", [False, True])
def test_images_and_labels_of_every_form(tmp_path: Path, write: Write, plain: bool) -> None:
    numbers = [number % 3 for number in range(10)]
    ending = "parquet" if write is write_parquet else "arrow"
    save(tmp_path, f"data/train-00000-of-00002.{ending}", table(numbers, plain=plain), write)
    save(tmp_path, f"data/train-00001-of-00002.{ending}", table(numbers, first=10, plain=plain), write)
    save(tmp_path, f"data/validation-00000-of-00001.{ending}", table([2, 1], first=20, plain=plain), write)
    assert is_format("parquet", tmp_path)
    source = open_parquet(tmp_path)
    assert (source.format, source.title, source.class_ids) == ("parquet", tmp_path.name, NAMES)
    train = source.splits["train"]
    assert train.keys[12] == f"data/train-00001-of-00002.{ending}/0000002"
    assert labels_of(source, "train") == [NAMES[number] for number in numbers * 2]
    assert labels_of(source, "val") == ["cat", "ant"]
    in_order = list(range(20))
    for order in (in_order, in_order[::-1], np.random.default_rng(0).permutation(20).tolist()):
        assert [train.read(index) for index in order] == [content(index) for index in order]
    assert source.splits["val"].read(1) == content(21)


@pytest.mark.parametrize("write", WRITERS)
def test_several_threads_read_at_once(tmp_path: Path, write: Write) -> None:
    path = save(tmp_path, "x.parquet", table([number % 3 for number in range(60)]), write)
    train = open_parquet(path).splits["train"]
    order = np.random.default_rng(1).permutation(np.repeat(np.arange(60), 3)).tolist()
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(train.read, order)) == [content(index) for index in order]


def test_a_large_row_group_is_read_in_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path, "x.parquet", table([number % 3 for number in range(100)]))
    pq.write_table(table([number % 3 for number in range(100)]), path, row_group_size=100)
    monkeypatch.setattr(arrow_files, "WINDOW_BYTES", 300)
    train = open_parquet(path).splits["train"]
    sizes: list[int] = []
    windows = arrow_files.DataFile.windows

    def counted(*arguments: Any) -> Any:
        for window in windows(*arguments):
            sizes.append(len(window[2]))
            yield window

    monkeypatch.setattr(arrow_files.DataFile, "windows", counted)
    assert [train.read(index) for index in range(100)] == [content(index) for index in range(100)]
    # In order, each image is read once, and never many at a time.
    assert sum(sizes) == 100 and max(sizes) <= 12
    order = np.random.default_rng(2).permutation(100).tolist()
    assert [train.read(index) for index in order] == [content(index) for index in order]


def test_only_labels_are_read_when_it_is_listed(tmp_path: Path) -> None:
    path = save(tmp_path, "x.parquet", table([0, 1, 2] * 4))
    whole = path.read_bytes()
    chunk = next(
        column
        for column in (pq.ParquetFile(path).metadata.row_group(1).column(number) for number in range(4))
        if column.path_in_schema == "image.bytes"
    )
    start = min(chunk.data_page_offset, chunk.dictionary_page_offset or chunk.data_page_offset)
    path.write_bytes(whole[:start] + b"\xff" * 8 + whole[start + 8 :])
    train = open_parquet(path).splits["train"]
    assert len(train) == 12
    with pytest.raises(OSError, match="is damaged"):
        train.read(4)
    assert train.read(2) == content(2) and train.read(6) == content(6)


def test_an_image_without_bytes_cannot_be_read(tmp_path: Path) -> None:
    made = table([0, 1, 2])
    kind = made.schema.field("image").type
    images = pa.array([None, {"bytes": None, "path": "/etc/passwd"}, {"bytes": b"x", "path": None}], kind)
    path = save(tmp_path, "x.parquet", made.set_column(1, "image", images))
    train = open_parquet(path).splits["train"]
    for index in (0, 1):
        with pytest.raises(OSError, match="no bytes"):
            train.read(index)
    assert train.read(2) == b"x"


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (["default/train/0000.parquet", "default/test/0000.parquet"], {"train", "test"}),
        (["train/data-00000-of-00001.arrow", "test/data-00000-of-00001.arrow"], {"train", "test"}),
        (["TRAIN.parquet", "valid_1.parquet", "test.0.parquet"], {"train", "val", "test"}),
        (["0000.parquet", "0001.parquet"], {"train"}),
        (["train-00000-of-00001.parquet", ".cache/test.parquet", "cache-12ab.arrow", "README.md"], {"train"}),
    ],
)
def test_splits_by_names(tmp_path: Path, names: list[str], splits: set[str]) -> None:
    for name in names:
        save(tmp_path, name, table([0, 1, 2]), write_arrow_stream if name.endswith(".arrow") else write_parquet)
    assert is_format("parquet", tmp_path)
    assert set(open_parquet(tmp_path).splits) == splits


def test_files_linked_from_elsewhere_and_a_single_file(tmp_path: Path) -> None:
    path = save(tmp_path, "blobs/0f", table([0, 1, 2]))
    (tmp_path / "snapshot").mkdir()
    link = tmp_path / "snapshot" / "test-00000-of-00001.parquet"
    link.symlink_to(path)
    assert is_format("parquet", tmp_path / "snapshot") and is_format("parquet", link)
    assert len(open_parquet(link).splits["train"]) == 3


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["README.md"], "no Parquet or Arrow files"),
        (["test-00000-of-00001.parquet"], "no training files"),
        (["a/train.parquet", "b/train.parquet"], "files of 2 data sets, in a, b"),
        (
            ["train-0-of-1.parquet", "train_small-0-of-1.parquet"],
            "train_small-0-of-1.parquet of .* belongs to no split",
        ),
    ],
)
def test_folders_that_make_no_sense(tmp_path: Path, names: list[str], message: str) -> None:
    for name in names:
        save(tmp_path, name, table([0, 1, 2]))
    with pytest.raises(RequestError, match=message):
        open_parquet(tmp_path)


@pytest.mark.parametrize("test_labels", [[-1, -1], [None, None], None])
def test_a_test_split_without_labels_is_unlabeled(tmp_path: Path, test_labels: list[Any] | None) -> None:
    save(tmp_path, "train.parquet", table([0, 1, 2]))
    made = table([0, 1]).drop_columns(["label"]) if test_labels is None else table([0, 1])
    if test_labels is not None:
        made = made.set_column(2, "label", pa.array(test_labels, pa.int64()))
    save(tmp_path, "test.parquet", made)
    (tmp_path / "README.md").write_text("about the data")
    (tmp_path / "train.json").write_text("{}")
    source = open_parquet(tmp_path)
    assert set(source.splits) == {"train", "unlabeled"}
    unlabeled = source.splits["unlabeled"]
    assert list(unlabeled.keys) == ["test.parquet/0000000", "test.parquet/0000001"]
    assert unlabeled.labels.tolist() == [-1, -1]
    assert [unlabeled.read(index) for index in range(2)] == [source.splits["train"].read(index) for index in range(2)]
    assert [name for name, _ in source.skipped] == ["README.md", "train.json"]


def test_labels_that_are_missing_or_out_of_range(tmp_path: Path) -> None:
    save(tmp_path, "train.parquet", table([0, 1, 2]))
    save(tmp_path, "test.parquet", table([0, -1]))
    with pytest.raises(RequestError, match=r"1 images in the test split of .* have no label"):
        open_parquet(tmp_path)
    path = save(tmp_path / "other", "train.parquet", table([0, 1, 2, None]))
    with pytest.raises(RequestError, match="1 images in the train split"):
        open_parquet(path)
    save(tmp_path / "other", "train.parquet", table([0, 1, 2, 3]))
    with pytest.raises(RequestError, match=r"row 3 of .* has the label 3 and there are 3 classes"):
        open_parquet(path)


@pytest.mark.parametrize("write", WRITERS)
def test_labels_that_are_text_or_numbers_without_names(tmp_path: Path, write: Write) -> None:
    text = save(tmp_path, "text.parquet", table(["b", "a", "b"], features={}), write)
    assert (open_parquet(text).class_ids, labels_of(open_parquet(text), "train")) == (["a", "b"], ["b", "a", "b"])
    numbers = save(tmp_path, "numbers.parquet", table([10, 9, 0], features={}), write)
    assert (open_parquet(numbers).class_ids, labels_of(open_parquet(numbers), "train")) == (
        ["0", "9", "10"],
        ["10", "9", "0"],
    )
    made = table(["b", "a", "b"], features={})
    made = made.set_column(2, "label", made["label"].combine_chunks().dictionary_encode())
    packed = save(tmp_path, "packed.parquet", made, write)
    source = open_parquet(packed)
    assert labels_of(source, "train") == ["b", "a", "b"] and source.splits["train"].read(1) == content(1)


def test_names_that_two_classes_share(tmp_path: Path) -> None:
    features = {"image": IMAGE, "label": {"_type": "ClassLabel", "names": ["crane", "n01440764", "crane"]}}
    source = open_parquet(save(tmp_path, "x.parquet", table([0, 1, 2], features=features)))
    assert source.class_ids == ["0", "1", "2"]
    assert source.class_names == {"0": "crane", "1": "n01440764", "2": "crane"}
    features["label"]["names"] = ["crane", "n01440764", "ant"]
    source = open_parquet(save(tmp_path, "x.parquet", table([0, 1, 2], features=features)))
    assert source.class_names == {"crane": "crane", "n01440764": "tench", "ant": "ant"}


@pytest.mark.parametrize(
    ("label", "features"), [("fine_label", {}), ("labels", {}), ("species", {"image": IMAGE, "species": LABEL})]
)
def test_other_columns_of_labels(tmp_path: Path, label: str, features: dict[str, Any]) -> None:
    made = table([0, 1, 2], label=label, features=features)
    made = made.append_column("coarse_label", pa.array([0, 0, 1]))
    source = open_parquet(save(tmp_path, "x.parquet", made))
    assert source.splits["train"].labels.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda made: made.drop_columns(["image"]), r"no column of images.* its columns are id \(int64\), label"),
        (lambda made: made.rename_columns(["id", "image", "kind"]), "0 columns that could be the label"),
        (lambda made: made.set_column(2, "label", pa.array([0.5, 1, 2])), "the type double; allowed are whole numbers"),
        (lambda made: made.set_column(2, "label", pa.array([[1], [2], [0]])), "allowed are whole numbers and text"),
        (lambda made: made.slice(0, 0), "no training images"),
        (lambda made: made.slice(0, 1), "no training images"),
    ],
)
def test_tables_that_make_no_sense(tmp_path: Path, change: Callable[[Any], Any], message: str) -> None:
    path = save(tmp_path, "x.parquet", change(table([0, 1, 2])))
    with pytest.raises(RequestError, match=message):
        open_parquet(path)


def test_sound_and_other_records_are_no_images(tmp_path: Path) -> None:
    made = (
        table([0, 1, 2])
        .append_column("mask", table([0, 1, 2], first=5)["image"])
        .rename_columns(["id", "sound", "label", "image"])
    )
    features = {"sound": {"_type": "Audio"}, "label": LABEL, "image": IMAGE, "list": [IMAGE]}
    made = made.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    assert open_parquet(save(tmp_path, "x.parquet", made)).splits["train"].read(0) == content(5)


def test_files_that_do_not_go_together(tmp_path: Path) -> None:
    save(tmp_path, "train-0-of-2.parquet", table([0, 1, 2]))
    features = {"image": IMAGE, "label": {"_type": "ClassLabel", "names": NAMES[::-1]}}
    for other in (
        table([0, 1, 2], features=features),
        table([0, 1, 2], plain=True),
        table(["a", "b", "c"], features={}),
    ):
        save(tmp_path, "train-1-of-2.parquet", other)
        with pytest.raises(RequestError, match="has other columns, types or class names than"):
            open_parquet(tmp_path)


@pytest.mark.parametrize(
    "metadata", [b"no json", b"[]", b'{"info": 1}', b'{"info": {"features": [1]}}', b"\xff", b"[" * 10**6]
)
def test_a_damaged_description_is_passed_over(tmp_path: Path, metadata: bytes) -> None:
    made = table([5, 6, 7]).replace_schema_metadata({b"huggingface": metadata})
    assert open_parquet(save(tmp_path, "x.parquet", made)).class_ids == ["5", "6", "7"]


def test_places_outside_an_arrow_file_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path, "x.arrow", table([0, 1, 2], plain=True), write_arrow_stream)
    ends = np.cumsum([0, *(len(content(number)) for number in range(3))]).astype("<i4")
    wrong = ends.copy()
    wrong[2:] = 2**31 - 1
    whole = path.read_bytes()
    assert whole.count(ends.tobytes()) == 1
    path.write_bytes(whole.replace(ends.tobytes(), wrong.tobytes()))
    train = open_parquet(path).splits["train"]
    with pytest.raises(OSError, match=r"x\.arrow is damaged"):
        train.read(2)


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(WRITERS), st.floats(0, 1), st.one_of(st.none(), st.binary(min_size=1, max_size=6)))
def test_any_damage_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, write: Write, place: float, change: bytes | None
) -> None:
    path = tmp_path_factory.mktemp("damaged") / "x.parquet"
    write(path, table([0, 1, 2] * 2))
    whole = path.read_bytes()
    start = int(place * len(whole))
    path.write_bytes(whole[:start] + (b"" if change is None else change + whole[start + len(change) :]))
    try:
        source = open_parquet(path)
    except RequestError:
        return
    for index in range(len(source.splits["train"])):
        try:
            source.splits["train"].read(index)
        except OSError as error:
            assert "x.parquet" in str(error)


def test_a_file_that_is_gone_or_shorter_cannot_be_read(tmp_path: Path) -> None:
    for write in WRITERS:
        path = save(tmp_path, "x.parquet", table([0, 1, 2] * 3), write)
        train = open_parquet(path).splits["train"]
        save(tmp_path, "new.parquet", table([0, 1, 2, 0]), write).replace(path)
        with pytest.raises(OSError, match=r"x\.parquet is damaged or has changed"):
            train.read(8)
        assert train.read(0) == content(0)
        path.unlink()
        with pytest.raises(FileNotFoundError):
            open_parquet_again(train)


def open_parquet_again(train: Any) -> None:
    """Reads in a thread that has no file open yet."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(train.read, 0).result()


def test_without_pyarrow_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path, "x.parquet", table([0, 1, 2]))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert is_format("parquet", path)
    with pytest.raises(RequestError, match=r"pip install 'alexnet\[parquet\]'"):
        open_parquet(path)


def test_other_folders_are_not_claimed(tmp_path: Path) -> None:
    for place in ("train/a/1.png", "train/b/1.png", "x.parquet/1.png"):
        (tmp_path / place).parent.mkdir(parents=True)
        (tmp_path / place).write_bytes(b"x")
    assert not is_format("parquet", tmp_path) and not is_format("parquet", tmp_path / "missing")
    assert not is_format("parquet", tmp_path / "train" / "a" / "1.png")
