"""Tables of paths and labels: what is listed, what is refused, and that no path leads out of the folder."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet.data.sources.csv_list import open_csv
from alexnet.data.sources.formats import is_format, open_source
from alexnet.data.sources.listing import Source
from alexnet.errors import RequestError


def write(folder: Path, text: str, name: str = "images.csv", images: tuple[str, ...] = ("a/1.png", "a/2.png")) -> Path:
    """A table, and files whose content is their own place."""
    for image in images:
        (folder / image).parent.mkdir(parents=True, exist_ok=True)
        (folder / image).write_bytes(image.encode())
    (folder / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    return folder / name


def rows(source: Source, split: str = "train") -> list[tuple[str, str]]:
    listing = source.splits[split]
    return [(listing.keys[index], source.class_ids[listing.labels[index]]) for index in range(len(listing))]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize(
    ("name", "delimiter", "header"),
    [
        ("x.csv", ",", "path label SPLIT"),
        ("x.TSV", "\t", "Filename Category subset"),
        ("x.Csv", ",", "image class set"),
        ("x.tsv", "\t", "FILE label split"),
    ],
)
def test_rows_become_images(tmp_path: Path, name: str, delimiter: str, header: str, end: str, encoding: str) -> None:
    lines = [
        header.split(),
        ["b/ü 2.png", "n01440764", "Train"],
        ["./a//1.png", " zebra", "train"],
        [],
        ["a/1.png", "zebra", "validation"],
        ["a/3.png", "zebra", "test"],
    ]
    write(tmp_path, "", name, ("a/1.png", "b/ü 2.png"))
    (tmp_path / name).write_bytes("".join(delimiter.join(line) + end for line in lines).encode(encoding))
    assert is_format("csv", tmp_path / name)
    source = open_csv(tmp_path / name)
    assert (source.format, source.title, source.side) == ("csv", "x", None)
    assert source.class_ids == ["n01440764", "zebra"]
    assert source.class_names == {"n01440764": "tench", "zebra": "zebra"}
    assert rows(source) == [("a/1.png", "zebra"), ("b/ü 2.png", "n01440764")]
    assert (rows(source, "val"), rows(source, "test")) == ([("a/1.png", "zebra")], [("a/3.png", "zebra")])
    assert source.splits["train"].read(1) == "b/ü 2.png".encode()
    with pytest.raises(FileNotFoundError):
        source.splits["test"].read(0)


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("file_name,label\na/1.png,x\na/2.png,y\n", "utf-8"),
        ("image_id;Class Name\na/1;x\na/2;y\n", "utf-8-sig"),
        ("class id,filepaths,labels,data set\n0,a/1.png,x,train\n1,a/2.png,y,train\n", "utf-8"),
        ('"image";"label"\n"a/1";"x"\n"a/2";"y"\n', "utf-8"),
        ("sep=;\nimage;target\na/1.png;x\na/2.png;y\n", "utf-16"),
        ("path\tlabel\na\\1.png\tx\n.\\a\\2.png\ty\n", "utf-16"),
        ("path\tlabel\na/1.png\tx\na/2.png\ty\n", "utf-16-le"),
        ("path,label\na/1.png,x\na/2.png,y\n", "utf-16-be"),
        ("path|label\r\na\\1|x\r\na\\2|y\r\n", "utf-8"),
        ("id,image,label\n0,a/1,x\n1,a/2,y\n", "utf-8"),
    ],
)
def test_tables_of_other_programs(tmp_path: Path, text: str, encoding: str) -> None:
    path = write(tmp_path, "")
    path.write_bytes(text.encode(encoding))
    source = open_csv(path)
    assert rows(source) == [("a/1.png", "x"), ("a/2.png", "y")]
    assert [source.splits["train"].read(index) for index in range(2)] == [b"a/1.png", b"a/2.png"]


def test_a_file_whose_name_has_a_backslash_is_itself(tmp_path: Path) -> None:
    text = "path,label\na\\1.png,x\na/2.png,y\n"
    source = open_csv(write(tmp_path, text, images=("a\\1.png", "a/1.png", "a/2.png")))
    assert source.splits["train"].read(list(source.splits["train"].keys).index("a\\1.png")) == b"a\\1.png"


def test_files_that_are_not_there_are_the_cause(tmp_path: Path) -> None:
    path = write(tmp_path, "path,label\nimg/1.png,x\nimg/2.png,y\n")
    with pytest.raises(RequestError, match=r"none of the files that .* lists exists, such as 'img/1\.png'; write"):
        open_csv(path)
    path = write(tmp_path, "path,label\nC:\\pictures\\1.png,x\na/2.png,y\n")
    listing = open_csv(path).splits["train"]
    with pytest.raises(OSError, match=r"a path of another computer; write it relative to the folder of images\.csv"):
        listing.read(list(listing.keys).index("C:\\pictures\\1.png"))


def test_other_columns_and_quoted_fields(tmp_path: Path) -> None:
    text = 'id,label,note,path\n1,"cat, black","two\nlines","a/1, ""x"".png"\n2,dog,,a/2.png\n'
    source = open_csv(write(tmp_path, text, images=('a/1, "x".png',)))
    assert rows(source) == [('a/1, "x".png', "cat, black"), ("a/2.png", "dog")]
    assert set(source.splits) == {"train"}
    assert source.splits["train"].read(0) == b'a/1, "x".png'


def test_a_changed_image_changes_the_digest(tmp_path: Path) -> None:
    path = write(tmp_path, "path,label\na/1.png,x\na/2.png,y\n")
    before = open_csv(path).digest()
    assert open_csv(path).digest() == before
    (tmp_path / "a" / "1.png").write_bytes(b"something else")
    assert open_csv(path).digest() != before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no column for the path: its columns are none; name one such as path, file_name"),
        (
            "path:label\na:b\n",
            "its columns are 'path:label'; name one such as .* separate columns by commas, semicolons",
        ),
        ("path,\x1b[2Jkind\na,b\n", r"no column for the label: its columns are 'path', '\\x1b\[2Jkind'"),
        ("path,file,label\na,b,c\n", "2 columns for the path"),
        ("path,label\na/1.png,x\na/2.png\n", "line 3 of .* has no label"),
        ("path,label\n\n,x\n", "line 3 of .* has no path"),
        ("path,label,split\na,x,train\nb,x, \n", "line 3 of .* has no split"),
        ("path,label\na,b,c\n", "line 2 of .* has 3 fields and the first line 2"),
        (
            "path,label,split\na,x,train\nb,x,some\n",
            "line 3 of .* has the split 'some'; allowed are train, training, val",
        ),
        ('path,label\n"a"b,x\n', "or a damaged one"),
        ('path,label\n"a,x\n', "or a damaged one"),
        ("path,label\n" + "a" * 140000 + ",x\n", "or a damaged one"),
        ("path,label\n" + "a," * 2**19, "a line has more than 1,048,576 characters"),
        ("\0" * 2**21, "a line has more than 1,048,576 characters"),
        ("path,label\na,x\nb,\udcff\n", "not UTF-8"),
        ("path,label\na,x\nb,y\nc,x\n./b,x\n", "lines 3 and 5 of .* both have b in the split train"),
        ("path,label\na,x\n", "1 class"),
        ("path,label,split\na,x,val\n", "no training images"),
        ("path,label,split\na,x,train\nb,y,train\nb,z,val\n", "class z"),
    ],
)
def test_tables_that_make_no_sense(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        open_csv(write(tmp_path, text))


def test_no_path_leads_out_of_the_folder(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    folder = tmp_path / "table"
    (folder / "a").mkdir(parents=True)
    (tmp_path / "table2").mkdir()
    (tmp_path / "table2" / "x").write_bytes(b"secret")
    (folder / "link").symlink_to(secret)
    (folder / "links").symlink_to(tmp_path)
    (folder / "inside").symlink_to("a/1.png")
    os.mkfifo(folder / "pipe")
    bad = [
        "../secret",
        "a/../../secret",
        str(secret),
        "link",
        "links/secret",
        "../table2/x",
        "a",
        "pipe",
        "x\0y",
        ".",
        "~",
    ]
    bad += [f"/proc/self/fd/0{''}", "a" * 5000, "loop"]
    (folder / "loop").symlink_to("loop")
    good = ["a/1.png", "inside", "a/../a/1.png", "../table/a/1.png", str(folder / "a" / "1.png")]
    lines = "".join(f"{name},{'xy'[number % 2]}\n" for number, name in enumerate([*bad, *good]))
    source = open_csv(write(folder, f"path,label\n{lines}", images=("a/1.png",)))
    listing = source.splits["train"]
    assert len(listing) == len(bad) + len(good)
    for index in range(len(listing)):
        if listing.keys[index] in good:
            assert listing.read(index) == b"a/1.png"
        else:
            with pytest.raises(OSError):
                listing.read(index)


def test_a_table_behind_a_link_to_its_folder(tmp_path: Path) -> None:
    write(tmp_path / "real", "path,label\na/1.png,x\na/2.png,y\n")
    (tmp_path / "link").symlink_to("real")
    assert open_csv(tmp_path / "link" / "images.csv").splits["train"].read(0) == b"a/1.png"


def test_other_files_are_not_claimed(tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "x.txt").write_text("path,label\n")
    for name in ("folder.csv", "x.txt", "missing.csv", "a" * 5000 + ".csv"):
        assert not is_format("csv", tmp_path / name)
    with pytest.raises(RequestError, match="cannot read"):
        open_source(tmp_path / "folder.csv", "csv")


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.text(max_size=6), st.text(max_size=4), st.text(max_size=3)), max_size=6), st.booleans())
def test_any_text_is_listed_or_refused(
    tmp_path_factory: pytest.TempPathFactory, fields: list[tuple[str, str, str]], quoted: bool
) -> None:
    folder = tmp_path_factory.mktemp("table")
    mark = '"' if quoted else ""
    lines = [",".join(f"{mark}{field}{mark}" for field in line) for line in fields]
    text = "\n".join(["path,label,note", *lines])
    (folder / "x.csv").write_bytes(text.encode("utf-8", "replace"))
    try:
        source = open_csv(folder / "x.csv")
    except RequestError:
        return
    for index in range(len(source.splits["train"])):
        with pytest.raises(OSError):
            assert source.splits["train"].read(index) != (folder / "x.csv").read_bytes()
