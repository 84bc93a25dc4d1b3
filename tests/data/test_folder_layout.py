"""Which folders of a tree are splits and which are classes: by name, by what is in them, or as the user says."""

import tarfile
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet.cli.main import main
from alexnet.data.sources.formats import open_source
from alexnet.data.sources.listing import Source
from alexnet.data.sources.split_names import split_in_name
from alexnet.errors import RequestError

PNG = b"\x89PNG\r\n\x1a\n"
Content = dict[str, dict[str, str]]
"""Class by key, by split; the class is empty without a label."""


def write_tree(folder: Path, places: Iterable[str]) -> Path:
    """Files that begin like images, and empty folders, whose places end with `/`."""
    for place in places:
        path = folder / place
        (path if place.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not place.endswith("/"):
            path.write_bytes(b"text" if place.endswith((".txt", ".xml")) else PNG)
    return folder


def content(source: Source) -> Content:
    """What the splits of a source hold."""
    ids = [*source.class_ids, ""]  # the last one is that of the label -1
    return {
        name: {key: ids[label] for key, label in zip(listing.keys, listing.labels.tolist(), strict=True)}
        for name, listing in source.splits.items()
    }


def images(*folders: str, num: int = 2) -> list[str]:
    """Images in some folders."""
    return [f"{folder}/{number}.png" for folder in folders for number in range(num)]


def of_class(*folders: str, up: str = "") -> dict[str, str]:
    """Keys and classes of `images`, the class being the last part of the folder."""
    return {place.removeprefix(up): place.split("/")[-2] for place in images(*folders)}


def unlabeled(*places: str) -> dict[str, str]:
    return dict.fromkeys(places, "")


@pytest.mark.parametrize(
    ("name", "split"),
    [
        *(
            ("train", "train"),
            ("Training", "train"),
            ("TRAIN", "train"),
            ("seg_train", "train"),
            ("TrainImages", "train"),
        ),
        *(
            ("val", "val"),
            ("valid", "val"),
            ("Validation", "val"),
            ("dev", "val"),
            ("dev-set", "val"),
            ("val2017", "val"),
        ),
        *(("test", "test"), ("Testing", "test"), ("seg_test", "test"), ("test1", "test"), ("train_val", None)),
        *(("strain", None), ("testimony", None), ("device", None), ("cat", None), ("", None), ("train_test", None)),
    ],
)
def test_words_of_splits_in_names(name: str, split: str | None) -> None:
    assert split_in_name(name) == split


TRAIN_AND_VAL = {"train": of_class("train/a", "train/b"), "val": of_class("val/a", "val/b")}


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        # Splits by name, in upper or lower case, as a word of the name, one or more levels deeper.
        (images("train/a", "train/b", "val/a", "val/b"), TRAIN_AND_VAL),
        (
            images("Training/a", "Training/b", "Testing/a", "Testing/b"),
            {"train": of_class("Training/a", "Training/b"), "val": of_class("Testing/a", "Testing/b")},
        ),
        (images("TRAIN/a", "TRAIN/b", "Dev/b"), {"train": of_class("TRAIN/a", "TRAIN/b"), "val": of_class("Dev/b")}),
        (
            images("train/a", "train/b", "valid/a", "test/b"),
            {"train": of_class("train/a", "train/b"), "val": of_class("valid/a"), "test": of_class("test/b")},
        ),
        (
            images("x/seg_train/seg_train/a", "x/seg_train/seg_train/b", "x/seg_test/seg_test/a"),
            {
                "train": of_class("x/seg_train/seg_train/a", "x/seg_train/seg_train/b", up="x/"),
                "val": of_class("x/seg_test/seg_test/a", up="x/"),
            },
        ),
        (
            images("archive/data/train/a", "archive/data/train/b", "archive/data/val/a"),
            {
                "train": of_class("archive/data/train/a", "archive/data/train/b", up="archive/data/"),
                "val": of_class("archive/data/val/a", up="archive/data/"),
            },
        ),
        (
            images("training data/train/a", "training data/train/b", "training data/test/a"),
            {
                "train": of_class("training data/train/a", "training data/train/b", up="training data/"),
                "val": of_class("training data/test/a", up="training data/"),
            },
        ),
        (images("train/a", "train/b"), {"train": of_class("train/a", "train/b")}),
        (images("train/all/a", "train/all/b"), {"train": of_class("train/all/a", "train/all/b")}),
        # What lies around them and is no image is no folder of images.
        (
            [*images("photos/a", "photos/b"), "labels/1.txt", "README.txt"],
            {"train": of_class("photos/a", "photos/b", up="photos/")},
        ),
        ([*images("train/a", "train/b", "val/a", "val/b"), "Annotations/x/1.xml"], TRAIN_AND_VAL),
        # Classes with names of splits are next to other classes.
        (images("bicycle", "bus", "train"), {"train": of_class("bicycle", "bus", "train")}),
        (images("control", "test"), {"train": of_class("control", "test")}),
        (images("bullet train", "steam train"), {"train": of_class("bullet train", "steam train")}),
        (
            images("train/bus", "train/train", "val/train", "val/bus"),
            {"train": of_class("train/bus", "train/train"), "val": of_class("val/bus", "val/train")},
        ),
        (
            images("train/bus", "train/val", "val/val"),
            {"train": of_class("train/bus", "train/val"), "val": of_class("val/val")},
        ),
        # Folders in classes are no classes.
        (
            images("a/left", "a/right", "b/left"),
            {"train": {**dict.fromkeys(images("a/left", "a/right"), "a"), **dict.fromkeys(images("b/left"), "b")}},
        ),
        (
            images("a/images", "b/images", "c/images"),
            {"train": {place: place[0] for place in images("a/images", "b/images", "c/images")}},
        ),
        (
            images("train/a/x", "train/b", "val/a/x", "val/a/y"),
            {
                "train": {**dict.fromkeys(images("train/a/x"), "a"), **of_class("train/b")},
                "val": dict.fromkeys(images("val/a/x", "val/a/y"), "a"),
            },
        ),
        # Images in no class folder.
        (
            [*images("train/a", "train/b"), "val/1.png", "val/2.png", "cover.png"],
            {"train": of_class("train/a", "train/b"), "unlabeled": unlabeled("val/1.png", "val/2.png", "cover.png")},
        ),
        (
            [*images("train/a", "train/b", "val/a", "val/b"), *images("test/test")],
            {**TRAIN_AND_VAL, "unlabeled": unlabeled(*images("test/test"))},
        ),
        (
            [*images("train/a", "train/b", "val/a", "val/b"), *images("seg_pred/seg_pred")],
            {**TRAIN_AND_VAL, "unlabeled": unlabeled(*images("seg_pred/seg_pred"))},
        ),
        (
            [*images("train/a", "train/b", "val/b"), *images("more")],
            {
                "train": of_class("train/a", "train/b"),
                "val": of_class("val/b"),
                "unlabeled": unlabeled(*images("more")),
            },
        ),
        (
            [
                *images("I/Data/CLS-LOC/train/a", "I/Data/CLS-LOC/train/b", num=2),
                *("I/Data/CLS-LOC/val/1.JPEG", "I/Data/CLS-LOC/test/2.JPEG", "I/ImageSets/val.txt", "words.txt"),
                *("I/Annotations/CLS-LOC/train/a/1.xml", "I/Annotations/CLS-LOC/val/1.xml"),
            ],
            {
                "train": of_class("I/Data/CLS-LOC/train/a", "I/Data/CLS-LOC/train/b", up="I/Data/CLS-LOC/"),
                "unlabeled": unlabeled("val/1.JPEG", "test/2.JPEG"),
            },
        ),
        ([*images("a", "b"), "1.png"], {"train": of_class("a", "b"), "unlabeled": unlabeled("1.png")}),
        (
            [*images("photos/a", "photos/b"), "1.png"],
            {
                "train": {place: place.split("/")[1] for place in images("photos/a", "photos/b")},
                "unlabeled": unlabeled("1.png"),
            },
        ),
    ],
)
def test_what_a_tree_means(tmp_path: Path, places: list[str], expected: Content) -> None:
    found = content(open_source(write_tree(tmp_path / "tree", places)))
    assert {name: split for name, split in found.items()} == expected


SAY = r"name the split folders, as in --split train=FOLDER --split val=FOLDER"


@pytest.mark.parametrize(
    ("places", "message"),
    [
        (
            images("Lernen/a", "Lernen/b", "Lernen/c", "Pruefen/a", "Pruefen/b"),
            "Lernen, Pruefen of .* each have folders called a, b, c: they look like splits and not like classes; "
            f"{SAY}, or add --split none if they are classes",
        ),
        (
            images("A/a", "A/b", "B/a", "B/b", "loose"),
            "A, B of .* each have folders called a, b: they look like splits",
        ),
        (
            images("cat/train", "cat/test", "dog/train", "dog/test"),
            "cat, dog of .* each have folders called test, train: splits inside classes; .* --split none",
        ),
        (
            images("bus", "car", "train/electric", "train/steam"),
            "train of .* has the name of a split and class folders, such as electric, steam, but is next to bus, car, "
            f"which have images too; {SAY}, or add --split none",
        ),
        (
            images("train/a", "train/b", "test/a", "test/b", "extra/a"),
            f"extra of .* is next to the split folders test, train and has folders, such as a; {SAY}, and --split "
            "unlabeled=FOLDER",
        ),
        (images("train", "test"), "test, train of .* have images and no class folders; list the images .* CSV"),
        (images("train/a", "train/b", "val/a", "valid/a"), f"has both val and valid for its val split; .*{SAY}"),
        (
            images("train/a", "train/b", "train_masks/a", "train_masks/b"),
            "has both train and train_masks for its train",
        ),
        (images("val/a", "val/b"), f"has val and no train; .*{SAY}"),
        ([*images("val/a", "val/b"), *images("train")], "has val and no train"),
        # Data sets inside folders, which are no classes.
        (
            images("x/x y/train/a", "x/x y/train/b", "x/x y/valid/a", "test/test"),
            "x of .* has split folders in it and lies beside test; to use them alone, add --split 'train=x/x y/train' "
            "--split 'val=x/x y/valid', or add --split none if they are classes",
        ),
        (
            images("x/train/a", "x/train/b", "x/test/a", "small/a", "small/b"),
            "x of .* has split folders in it and lies beside small; .*, add --split train=x/train --split val=x/test",
        ),
        (images("1/train/a", "1/train/b", "1/val/a", "2/train/a", "2/train/b", "2/val/a"), "1 of .* has split folders"),
        (
            images("no", "yes", "all data/no", "all data/yes"),
            "all data of .* has folders called no, yes, as there are beside it: it looks like a copy of them and not "
            "like a class; remove it, use it alone with --split 'train=all data', or add --split none if it is a class",
        ),
        (images("trainA", "trainB", "testA", "testB"), "testA, testB, trainA, trainB of .* no class folders"),
        # Splits without a class of the training split.
        (
            images("x/train/a/images", "x/train/b/images", "x/val/images"),
            "x/val of .* has images and no folder called like one in x/train, such as a, b; name its folders like "
            "these, or, if its images have no classes, add --split train=x/train --split unlabeled=x/val",
        ),
        (["1.png", "2.png"], "has files but no class folder with images"),
        ([*images("a"), "b/"], "1 class with images"),
        ([*images("a/x", "a/y"), "b/"], "1 class with images"),
    ],
)
def test_what_can_be_read_in_two_ways_is_refused_with_what_was_seen(
    tmp_path: Path, places: list[str], message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        open_source(write_tree(tmp_path / "tree", places))


@pytest.mark.parametrize(
    ("places", "named", "expected"),
    [
        (
            images("Lernen/a", "Lernen/b", "Pruefen/Pruefen/a"),
            {"train": "Lernen", "val": "Pruefen/"},
            {"train": of_class("Lernen/a", "Lernen/b"), "val": of_class("Pruefen/Pruefen/a")},
        ),
        (
            [*images("x/A/a", "x/A/b", "x/B/a", "x/C/deep/er"), "x/A/1.png"],
            {"test": "x/B", "train": "./x/A", "unlabeled": "x/C"},
            {
                "train": of_class("x/A/a", "x/A/b", up="x/"),
                "test": of_class("x/B/a", up="x/"),
                "unlabeled": unlabeled("A/1.png", *images("C/deep/er")),
            },
        ),
        (
            images("bus", "car", "train/electric", "train/steam"),
            {},
            {
                "train": of_class("bus", "car") | dict.fromkeys(images("train/electric", "train/steam"), "train"),
            },
        ),
        (images("train", "test"), {}, {"train": of_class("train", "test")}),
        (images("x/train", "x/test"), {}, {"train": of_class("x/train", "x/test", up="x/")}),
        (
            images("no", "yes", "all/no", "all/yes"),
            {"train": "all"},
            {"train": of_class("all/no", "all/yes")},
        ),
    ],
)
def test_the_user_can_say_what_is_what(
    tmp_path: Path, places: list[str], named: Mapping[str, str], expected: Content
) -> None:
    assert content(open_source(write_tree(tmp_path / "tree", places), None, named)) == expected


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"val": "b"}, "--split names val and no train; add --split train=FOLDER"),
        ({"training": "a"}, "--split names 'training'; allowed are train, val, test, unlabeled"),
        ({"train": "a/c"}, r"--split is train=a/c, and .* has no such folder: a has x, y"),
        ({"train": "c"}, r"--split is train=c, and .* has no such folder: it has a, b, empty"),
        ({"train": "empty"}, "--split is train=empty, and this folder of .* has no images"),
        (
            {"train": "a", "val": "a/x"},
            "--split names a/x for val and a for train, which is the same folder or one inside",
        ),
        ({"train": ".", "val": "a"}, r"--split names a for val and \. for train"),
    ],
)
def test_what_the_user_says_is_checked(tmp_path: Path, named: Mapping[str, str], message: str) -> None:
    write_tree(tmp_path, [*images("a/x", "a/y", "b/x", "b/y"), "empty/"])
    with pytest.raises(RequestError, match=message):
        open_source(tmp_path, None, named)


@pytest.mark.parametrize(
    "words", [["train"], ["=a"], ["train="], ["none", "train=a"], ["train=a", "train=b"]], ids=" ".join
)
def test_the_option_is_a_name_and_a_folder_or_none(
    tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    tree = write_tree(tmp_path / "tree", images("a/x", "a/y", "b/x", "b/y"))
    options = [part for word in words for part in ("--split", word)]
    assert main(["prepare", str(tree), str(tmp_path / "out"), *options]) == 2
    assert (
        "allowed is NAME=FOLDER, once for each of train, val, test and unlabeled, or none alone"
        in capsys.readouterr().err
    )
    assert not (tmp_path / "out").exists()


def test_splits_can_be_said_of_folders_only(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("path,label\na,b\n")
    with pytest.raises(RequestError, match=r"--split names folders, and .*x\.csv is a source of format csv; omit it"):
        open_source(tmp_path / "x.csv", None, {"train": "a"})


def test_images_outside_of_named_folders_are_skipped_by_name(tmp_path: Path) -> None:
    source = open_source(write_tree(tmp_path, images("A/a", "A/b", "B/c", num=1)), None, {"train": "A"})
    assert list(source.skipped) == [("B/c/0.png", "outside of the folders that --split names")]


def test_files_around_the_folder_of_classes_are_skipped_by_name(tmp_path: Path) -> None:
    places = [*images("photos/a", "photos/b"), "README.txt", "labels/1.xml", "photos/notes.txt"]
    source = open_source(write_tree(tmp_path, places))
    assert sorted(source.skipped) == [
        ("README.txt", "outside of the class folders and not named like an image"),
        ("labels/1.xml", "outside of the class folders and not named like an image"),
        ("photos/notes.txt", "not an image: text or a link (.txt)"),
    ]


def test_a_class_with_the_name_of_a_split_is_pointed_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    open_source(write_tree(tmp_path, images("bus", "car", "train")))
    assert (
        "train is taken as a class, since it is next to bus, car; if it is a split, name the split folders"
        in caplog.text
    )


def test_images_in_no_class_folder_are_counted_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tree = write_tree(tmp_path, [*images("train/a", "train/b"), *images("val", num=3), "1.png"])
    open_source(tree)
    assert "4 images in no class folder (3 in val, 1 in the top folder); stored as the split 'unlabeled'" in caplog.text


@pytest.mark.parametrize(
    ("places", "said"),
    [
        ([*images("train/a", "train/b", "val/a"), "val/b/", "val/c/"], ""),
        ([*images("train/a", "train/b", "val/a"), "train/c/"], "c has no images and is no class"),
        ([*images("a", "b"), "c/", "d/notes.txt"], "c, d have no images and are no classes"),
    ],
)
def test_an_empty_class_folder_is_as_if_absent(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, places: list[str], said: str
) -> None:
    with_folder = open_source(write_tree(tmp_path / "tree", places))
    assert said in caplog.text and bool(said) == bool(caplog.text)
    plain = [place for place in places if place.endswith(".png")]
    without = open_source(write_tree(tmp_path / "plain" / "tree", plain))
    assert content(with_folder) == content(without) and with_folder.class_ids == without.class_ids == ["a", "b"]


FOLDERS = st.lists(st.sampled_from(["train", "Testing", "val", "a", "b", "c", "x_train", "README"]), max_size=3).map(
    "/".join
)
FILES = st.lists(
    st.tuples(FOLDERS, st.sampled_from(["1.png", "2.JPG", "3", "notes.txt", "SOURCE.json"])), min_size=1, max_size=14
)


@settings(deadline=None)
@given(FILES, st.sampled_from([None, None, {}, {"train": "a"}, {"train": "train", "unlabeled": "b"}]))
def test_every_file_of_any_tree_is_accounted_for_in_folder_tar_and_zip(
    tmp_path_factory: pytest.TempPathFactory, files: list[tuple[str, str]], named: dict[str, str] | None
) -> None:
    top = tmp_path_factory.mktemp("tree")
    places = {"/".join(filter(None, one)) for one in files}
    places -= {place for place in places if any(other.startswith(f"{place}/") for other in places)}
    tree = write_tree(top / "tree", sorted(places))
    with tarfile.open(top / "tree.tar", "w") as archive:
        archive.add(tree, "")
    with zipfile.ZipFile(top / "tree.zip", "w") as packed:
        for place in sorted(places):
            packed.write(tree / place, place)
    found = []
    for path in (tree, top / "tree.tar", top / "tree.zip"):
        try:
            source = open_source(path, path.suffix[1:] or "folder", named)
        except RequestError as error:
            found.append(str(error).replace(str(path), "SOURCE"))
            continue
        held = content(source)
        listed = [key for split in held.values() for key in split]
        base = next(place for place in _bases(places) if {f"{place}{key}" for key in listed} <= places)
        accounted = sorted([*(base + key for key in listed), *(name for name, _ in source.skipped)])
        # A description of the source is read and neither listed nor skipped.
        described = {place for place in places if place == f"{base}SOURCE.json"}
        assert accounted == sorted(places - described)
        assert all(class_id == "" for class_id in held.get("unlabeled", {}).values())
        assert all(class_id for name, split in held.items() if name != "unlabeled" for class_id in split.values())
        found.append(str((held, sorted(source.skipped), source.class_ids)))
    assert len(set(found)) == 1, found


def _bases(places: Iterable[str]) -> list[str]:
    """All folders of these places, shortest first, as beginnings of paths."""
    parts = [place.split("/")[:-1] for place in places]
    return sorted(
        {"".join(f"{one}/" for one in part[:depth]) for part in parts for depth in range(len(part) + 1)}, key=len
    )
