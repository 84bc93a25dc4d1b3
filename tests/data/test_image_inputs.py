"""What people name to have it classified: files, folders, patterns, archives, lists; in order, and nothing is lost."""

import glob
import io
import logging
import os
import tarfile
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from alexnet.data.download import Downloads
from alexnet.data.http_transfer import without_credentials
from alexnet.data.image_inputs import InputImage, list_images, list_named
from alexnet.errors import RequestError

SIDE = 8


def png(seed: int = 0) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels(seed)).save(file, "PNG")
    return file.getvalue()


def pixels(seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)


def listed(*images: str | Path, stdin: bytes | None = None) -> list[InputImage]:
    return list(list_images(images, Downloads(), None if stdin is None else lambda: stdin))


def answers(*images: str | Path, stdin: bytes | None = None) -> list[tuple[str | int, str]]:
    """Name, and `read` or the reason, of each image."""
    found: list[tuple[str | int, str]] = []
    for one in listed(*images, stdin=stdin):
        try:
            assert one.square(SIDE, "crop").shape == (SIDE, SIDE, 3)
            found.append((one.name, "read"))
        except RequestError as error:
            found.append((one.name, str(error)))
    return found


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(*names: str, content: bytes | None = None) -> None:
    for number, name in enumerate(names):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(png(number) if content is None else content)


def test_a_folder_gives_its_images_sorted_by_path_and_skips_what_is_none(caplog: pytest.LogCaptureFixture) -> None:
    write("p/b/1.png", "p/b-c.png", "p/a.png", "p/c/d/2.png", "p/photo.dat", "elsewhere/5.png")
    write("p/.hidden.png", "p/Thumbs.db", "p/notes.txt", content=b"a text")
    write("p/page.jpg", content=b"<html>")
    os.mkfifo("p/pipe.jpg")  # its reader would wait
    Path("p/more").symlink_to("../elsewhere")
    Path("elsewhere/back").symlink_to("../p")
    Path("p/lost.jpg").symlink_to("nowhere")
    with caplog.at_level(logging.INFO):
        found = answers("p")
    names = ["a.png", "b/1.png", "b-c.png", "c/d/2.png", "lost.jpg", "more/5.png", "page.jpg", "photo.dat"]
    assert [name for name, _ in found] == [f"p/{name}" for name in names]
    assert [name for name, what in found if what != "read"] == ["p/lost.jpg", "p/page.jpg"]
    assert "skipped 4 of 12 files in p that are not images" in caplog.text
    assert [one.name for one in list_named(Path("p"), Downloads())] == [f"p/{name}" for name in names]
    write("empty/notes.txt", content=b"a text")
    assert answers("empty", "p/a.png") == [
        ("empty", "the folder empty has no images; name photographs, or folders of them"),
        ("p/a.png", "read"),
    ]
    with pytest.raises(RequestError, match="the folder empty has no images"):
        list_named("empty", Downloads())


def test_a_folder_that_cannot_be_read_is_named_in_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    write("p/a.png", "p/closed/b.png", "q/c.png")
    scan = os.scandir

    def guarded(path: str) -> object:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", guarded)
    assert answers("p", "q") == [
        ("p/a.png", "read"),
        ("p/closed", "cannot read p/closed: Permission denied"),
        ("q/c.png", "read"),
    ]
    with pytest.raises(RequestError, match="cannot read p/closed"):
        list_named("p", Downloads())


def test_what_is_named_is_tried_whatever_it_is() -> None:
    write("notes.txt", content=b"a text")
    write("x.cr2")
    found = answers("notes.txt", "none.jpg", "x.cr2", "\0.jpg", "x" * 300)
    assert "notes.txt is not a readable image" in found[0][1]
    assert found[1][1] == "cannot read none.jpg: No such file or directory"
    assert "x.cr2 is a camera's raw file (.cr2)" in found[2][1]
    assert "has no null characters" in found[3][1] and "File name too long" in found[4][1]


def test_patterns_match_what_a_shell_would_and_a_file_of_that_name_wins() -> None:
    write("p/1.png", "p/2.png", "p/sub/3.png", "p/deep/er/4.png", "a[1].png", "a1.png", "p/.hidden.png")
    write("p/notes.txt", content=b"a text")

    def names(*patterns: str) -> list[str | int]:
        return [one.name for one in listed(*patterns)]

    assert names("p/*.png") == ["p/1.png", "p/2.png"]
    assert names("p/?.png", "a1.png") == ["p/1.png", "p/2.png", "a1.png"]
    assert names("p/**/*.png") == ["p/1.png", "p/2.png", "p/deep/er/4.png", "p/sub/3.png"]
    assert names("p/**") == ["p/1.png", "p/2.png", "p/deep/er/4.png", "p/sub/3.png"]  # each once
    assert names("p/*") == ["p/1.png", "p/2.png", "p/deep/er/4.png", "p/sub/3.png"]
    assert names("a[1].png") == ["a[1].png"]
    Path("a[1].png").unlink()
    assert names("a[1].png") == ["a1.png"]
    assert answers("q/*.png") == [("q/*.png", "q/*.png matches no file; name photographs, or folders of them")]
    assert answers("p/*.txt") == [
        ("p/*.txt", "p/*.txt matches only files that are not images; name photographs, or folders of them")
    ]


@pytest.mark.parametrize("top", ["p/", ""])
def test_a_pattern_enters_each_folder_once_whatever_its_links(top: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write("p/1.png", "p/sub/2.png", "p/.hidden/3.png", "p/sub/deep/sub/4.png")
    for link in ("p/self", "p/sub/back", "p/sub/deep/again"):
        Path(link).symlink_to(Path("p").resolve())
    if not top:
        monkeypatch.chdir("p")

    def names(pattern: str) -> list[str]:
        return [str(one.name).removeprefix(top) for one in listed(top + pattern)]

    assert names("**/*.png") == names("**/**/*.png") == ["1.png", "sub/2.png", "sub/deep/sub/4.png"]
    assert names("**/sub/*.png") == ["sub/2.png", "sub/deep/sub/4.png"]
    assert names("**/deep/**/*.png") == ["sub/deep/again/1.png", "sub/deep/again/sub/2.png", "sub/deep/sub/4.png"]
    assert names("**") == ["1.png", "sub/2.png", "sub/deep/sub/4.png"]


TREES = st.sets(st.lists(st.sampled_from(["a", "b", ".c", "[d]"]), max_size=3).map("/".join), max_size=6)
PARTS = st.lists(st.sampled_from(["**", "*", "a", "b*", "[[]d]"]), min_size=1, max_size=4)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(folders=TREES, parts=PARTS)
def test_a_pattern_matches_the_files_that_pythons_glob_does(
    folders: set[str], parts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tempfile.mkdtemp(dir=tmp_path))
    for folder in folders:
        write(os.path.join(folder, "x.png"))
    pattern = "/".join([*parts, "*.png"])
    expected = sorted(set(glob.glob(pattern, recursive=True)), key=lambda path: path.split("/"))
    found = [str(one.name) for one in listed(pattern)]
    assert found == (expected or [pattern])


def test_a_folder_that_a_pattern_may_not_read_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    write("p/a.png", "p/closed/b.png", "p/d/e.png")
    scan = os.scandir

    def guarded(path: str) -> object:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", guarded)
    refused = ("p/closed", "cannot read p/closed: Permission denied")
    assert answers("p/**/*.png") == [("p/a.png", "read"), refused, ("p/d/e.png", "read")]
    assert answers("p/closed/*") == [refused]
    assert answers("p") == [("p/a.png", "read"), refused, ("p/d/e.png", "read")]


def add(tar: tarfile.TarFile, name: str, content: bytes, kind: bytes = tarfile.REGTYPE) -> None:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(content) if kind == tarfile.REGTYPE else 0
    info.linkname = "b.png" if kind == tarfile.SYMTYPE else ""
    tar.addfile(info, io.BytesIO(content))


def test_the_images_of_a_tar_are_read_in_its_order(caplog: pytest.LogCaptureFixture) -> None:
    with tarfile.open("photos.tar", "w") as tar:
        add(tar, "folder", b"", tarfile.DIRTYPE)
        add(tar, "folder/z.png", png())
        add(tar, "b.png", png(1))
        add(tar, "a.cls", b"1")
        add(tar, "../out.png", png())
        add(tar, "link.png", b"", tarfile.SYMTYPE)
        add(tar, "bad.jpg", png()[:40])
        add(tar, "caf\udce9.dat", png(2))
    with caplog.at_level(logging.INFO):
        found = answers("photos.tar")
    assert [name for name, _ in found] == [
        f"photos.tar/{name}" for name in ("folder/z.png", "b.png", "link.png", "bad.jpg", "caf\udce9.dat")
    ]
    assert [what == "read" for _, what in found] == [True, True, False, False, True]
    assert "links, pipes and devices inside an archive are not read" in found[2][1]
    assert "skipped 1 of 7 files in photos.tar that are not images" in caplog.text
    assert "skipped 1 file with an empty name or one such as `../a.jpg` in photos.tar; to have" in caplog.text
    assert np.array_equal(listed("photos.tar")[1].square(SIDE, "crop"), pixels(1))


def test_an_image_that_is_named_like_an_archive_is_an_image() -> None:
    write("photo.zip", "photo.tar", "photo.gz")
    assert answers("photo.zip", "photo.tar", "photo.gz") == [(f"photo.{end}", "read") for end in ("zip", "tar", "gz")]
    with tarfile.open("real.tar", "w") as tar:
        add(tar, "BMW/1.png", png())
    assert answers("real.tar") == [("real.tar/BMW/1.png", "read")]
    Path("archives").mkdir()
    with tarfile.open("archives/a.tar", "w") as tar:
        add(tar, "1.png", png())
    assert answers("archives") == [
        (
            "archives",
            "the folder archives has no images; archives are read where they are named, such as archives/a.tar",
        )
    ]


def test_a_file_named_like_the_home_folder_is_a_file() -> None:
    write("~")
    assert answers("~") == answers("?") == [("~", "read")]


def test_a_pattern_on_standard_input_is_said() -> None:
    write("p/1.png")
    ((name, reason),) = answers("-", stdin=b"p/*\n")
    assert name == "p/*" and reason.endswith("patterns are not expanded on standard input")


def test_an_archive_whose_names_all_lead_out_of_it_says_so() -> None:
    with tarfile.open("up.tar", "w") as tar:
        add(tar, "../pics/1.png", png())
        add(tar, "../pics/2.png", png())
    with zipfile.ZipFile("up.zip", "w") as archive:
        archive.writestr("../pics/1.png", png())
        archive.writestr("../pics/2.png", png())
    for name, reason in answers("up.tar", "up.zip"):
        assert reason == (
            f"the archive {name} has no images besides 2 files with an empty name or one such as `../a.jpg`; unpack it "
            "and name the folder"
        )


def test_of_a_damaged_archive_what_can_be_read_is_and_the_rest_is_named() -> None:
    with tarfile.open("photos.tar", "w") as tar:
        for number in range(3):
            add(tar, f"{number}.png", png(number))
    content = Path("photos.tar").read_bytes()
    write("cut.tar", content=content[:1600])
    write("no.tar", content=b"no tar at all" * 100)
    write("packed.tar.gz", content=b"\x1f\x8b" + b"\0" * 600)
    with zipfile.ZipFile("empty.zip", "w") as archive:
        archive.writestr("notes.txt", "a text")
    found = answers("cut.tar", "no.tar", "packed.tar.gz", "empty.zip", "none.tar", "photos.tar")
    assert found[0] == ("cut.tar/0.png", "read")
    assert [name for name, _ in found[1:6]] == ["cut.tar", "no.tar", "packed.tar.gz", "empty.zip", "none.tar"]
    for (_, reason), text in zip(
        found[1:6],
        ("is not a tar, or a damaged one", "it begins with no header", "is compressed (gzip); unpack it",
         "has no images", "No such file or directory"),
        strict=True,
    ):  # fmt: skip
        assert text in reason
    assert found[6:] == [(f"photos.tar/{number}.png", "read") for number in range(3)]
    reader = listed("photos.tar")[2]
    write("photos.tar", content=content[:2000])  # after it was listed
    with pytest.raises(RequestError, match=r"cannot read photos\.tar/2\.png: photos\.tar ends inside this file"):
        reader.square(SIDE, "crop")


def test_the_images_of_a_zip_are_read() -> None:
    with zipfile.ZipFile("photos.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("b/1.png", png(1))
        archive.writestr("Thumbs.db", b"abcd")
        archive.writestr("a.png", png(2))
    assert answers("photos.zip") == [("photos.zip/b/1.png", "read"), ("photos.zip/a.png", "read")]


def test_a_list_on_standard_input_may_be_lines_or_separated_by_nul() -> None:
    write("BMW x.png", "b*.png", "p/1.png", "p/2.png", "line\nbreak.png")
    for content in (
        b"BMW x.png\nb*.png\np\nnone.png\n",
        b"BMW x.png\r\nb*.png\r\np\r\nnone.png",
        b"\xef\xbb\xbfBMW x.png\n\nb*.png\np\nnone.png\n",
        b"BMW x.png\0b*.png\0p\0none.png\0",
    ):
        found = answers("-", stdin=content)
        assert [name for name, _ in found] == ["BMW x.png", "b*.png", "p/1.png", "p/2.png", "none.png"]
        assert [what == "read" for _, what in found] == [True, True, True, True, False]
    assert answers("-", stdin=b"line\nbreak.png\0") == [("line\nbreak.png", "read")]
    assert answers("-", "p/1.png", stdin=b"p/2.png") == [("p/2.png", "read"), ("p/1.png", "read")]
    assert answers("-", stdin=b"caf\xe9.png")[0][0] == "caf\udce9.png"
    assert answers("-", stdin=b"\n\n") == [
        ("-", "standard input is empty; expected are paths, one per line, or an image")
    ]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "PPM"])
def test_an_image_on_standard_input_is_that_image(kind: str) -> None:
    file = io.BytesIO()
    Image.fromarray(pixels()).save(file, kind)
    assert answers("-", stdin=file.getvalue()) == [("-", "read")]
    assert "not a readable image" in answers("-", stdin=file.getvalue()[:50])[0][1]


def test_a_dash_is_a_file_where_there_is_no_standard_input() -> None:
    assert "cannot read -" in answers("-")[0][1]
    write("-")
    assert answers("-") == [("-", "read")]


def test_images_in_memory_are_named_by_their_index() -> None:
    write("1.png")
    images = [Image.fromarray(pixels()), "1.png", pixels(), torch.zeros(3, 9, 12, dtype=torch.uint8), "2.png"]
    found = list(list_images(images, Downloads()))
    assert [one.name for one in found] == [0, "1.png", 2, 3, "2.png"]
    assert np.array_equal(found[0].square(SIDE, "crop"), pixels()) and np.array_equal(
        found[2].square(SIDE, "crop"), pixels()
    )
    with pytest.raises(RequestError, match=r"images\[5\] is of type int; allowed are paths, "):
        list(list_images([*images, 5], Downloads()))  # type: ignore[list-item]
    assert [one.name for one in list_images(np.zeros((3, 4, 4, 3), np.uint8), Downloads())] == [0, 1, 2]


def test_other_schemes_are_refused_and_no_file_is_read_through_one() -> None:
    write("1.png")
    for url in (f"file://{Path('1.png').resolve()}", "ftp://127.0.0.1/1.png", "data://x"):
        (found,) = answers(url)
        assert "is not an http or https URL" in found[1]


@pytest.mark.parametrize(
    "user", ["me:sec/ret", "me:sec@ret", "me:42sec/ret", "secret", "me:", ":secret", "me:s?ec#ret"]
)
@pytest.mark.parametrize("scheme", ["http", "HTTPS", "ftp"])
def test_a_password_in_a_url_is_refused_and_never_shown(user: str, scheme: str) -> None:
    url, shown = f"{scheme}://{user}@127.0.0.1:9/a@b.png", f"{scheme}://***@"
    for one, reason in (*answers(url), *answers("-", stdin=f"{url}\n".encode())):
        assert str(one).startswith(shown) and reason.startswith(f"{shown}") and "(not shown)" in reason
        assert "sec" not in f"{one}{reason}" and "me:" not in f"{one}{reason}"
        assert str(one).endswith("b.png")


@pytest.mark.parametrize("url", ["http://[::1]:9/@me/a.png", "http://127.0.0.1:9/a@b.png", "http://127.0.0.1:9?a:b@c"])
def test_an_at_sign_in_a_path_is_no_password(url: str) -> None:
    assert without_credentials(url) == url
    ((name, reason),) = answers(url)
    assert name == url and "Connection refused" in reason


NAMES = st.binary(min_size=1, max_size=12).filter(lambda name: name not in (b".", b"..") and not set(name) & {0, 47})


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.sets(NAMES, min_size=1, max_size=6))
def test_any_name_is_found_by_every_way_to_name_it(names: set[bytes], tmp_path: Path) -> None:
    folder = Path(tempfile.mkdtemp(dir=tmp_path))
    paths = [os.fsencode(folder) + b"/" + name + b".png" for name in sorted(names)]
    for number, path in enumerate(paths):
        with open(path, "wb") as file:
            file.write(png(number))
    expected = [(os.fsdecode(path), "read") for path in paths]
    assert answers(*map(os.fsdecode, paths)) == expected
    assert answers("-", stdin=b"\0".join(paths) + b"\0") == expected
    shown = {path for path in paths if not os.path.basename(path).startswith((b".", b"._"))}
    inside_folder = {os.fsencode(str(name)) for name, what in answers(folder) if what == "read"}
    assert inside_folder == shown
