"""What is skipped as no image, by name and content, and what is refused as a damaged one."""

import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from alexnet.data.not_images import START_BYTES, file_ending, has_image_name, not_an_image
from alexnet.data.preparation.prepare import prepare
from alexnet.data.sources.listing import SkippedFiles


def picture(image_format: str) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (24, 16), (200, 30, 60)).save(content, image_format)
    return content.getvalue()


WEB_PAGE = b"<!DOCTYPE html><title>404</title>"
XML = b'<?xml version="1.0"?><plist></plist>'
MOVIE = b"\0\0\0\x14ftypqt  \0\0\2\0qt  "
APPLE_DOUBLE = bytes.fromhex("00051607 00020000")


@pytest.mark.parametrize(
    ("path", "content", "words"),
    [
        ("a/IMG_1.AAE", XML, "an iPhone stores next to a photograph (.aae)"),
        ("a/IMG_1.jpg.xmp", XML, "a program stores next to"),
        ("a/IMG_1.XML", XML, "data about images (.xml)"),
        ("a/IMG_1.jpg.json", b"{}", "data about images (.json)"),
        ("a/IMG_1.MOV", MOVIE, "a video (.mov)"),
        ("a/IMG_1.mp4", MOVIE, "a video (.mp4)"),
        ("a/notes.txt", b"", "text or a link"),
        ("a/README", b"read me", "text"),
        ("a/SHA256SUMS", b"0", "text"),
        ("a/x.unheardof", b"\1\2\3", "neither its name nor its content is one (.unheardof)"),
        ("a/.DS_Store", b"\0\0\0\1Bud1", "a file that macOS keeps"),
        ("a/._IMG_1.jpg", APPLE_DOUBLE, "data that macOS stores next to a file"),
        ("__MACOSX/a/._IMG_1.jpg", APPLE_DOUBLE, "a folder that macOS keeps"),
        ("a/Thumbs.db", b"\xd0\xcf\x11\xe0", "a file that Windows keeps"),
        ("a/Desktop.ini", b"[x]", "a file that Windows keeps"),
        ("a/@eaDir/IMG_1.jpg/SYNOPHOTO_THUMB_M.jpg", picture("JPEG"), "thumbnails that a Synology NAS keeps"),
        ("a/MVI_1.THM", picture("JPEG"), "a thumbnail that a camera keeps"),
        ("a/CANONMSC/M0100.CTG", b"\0\1", "a camera's catalog"),
        (".git/a.png", picture("PNG"), "a hidden file or folder"),
    ],
)
def test_what_is_skipped(path: str, content: bytes, words: str) -> None:
    reason = not_an_image(path, content)
    assert reason is not None and reason.startswith("not an image: ") and words in reason


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("a/1.jpg", WEB_PAGE),
        ("a/1.JPEG", b""),
        ("a/1.tif", APPLE_DOUBLE),
        ("a/1.heic", MOVIE),
        ("a/1.jpg?width=300", WEB_PAGE),
        ("a/1.svg", b"<svg/>"),
        ("a/1.NEF", b"raw"),
        ("a/1", b"no ending, as images that are named by a number or a checksum have"),
        ("a/2023.05.04", b"no ending either"),
        ("a/1.jpg.part", picture("JPEG")[:100]),
        ("a/1.dat", picture("PNG")),
        ("a/1.txt", picture("WEBP")),
        ("a/../1.bin", picture("TIFF")),
    ],
)
def test_what_is_an_image_sound_or_damaged(path: str, content: bytes) -> None:
    assert not_an_image(path, content) is None and not_an_image(path) is None


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "JPEG2000"])
def test_the_start_of_an_image_is_enough(image_format: str) -> None:
    content = picture(image_format)
    assert not_an_image("a/x.dat", content[:START_BYTES]) is None
    assert not_an_image("a/x.dat", b"x" + content[:START_BYTES]) is not None


@given(st.text(alphabet="aB./?_~ é\n", max_size=12), st.binary(max_size=12))
def test_any_name_and_content_have_one_answer(path: str, content: bytes) -> None:
    assert "/" not in file_ending(path) and file_ending(path) == file_ending(path).lower()
    if has_image_name(path):
        assert not_an_image(path, content) == not_an_image(path)


def test_of_a_folder_that_a_system_keeps_only_the_folder_is_named() -> None:
    skipped = SkippedFiles()
    names = ["a/1.jpg", "__MACOSX/", "__MACOSX/a/._1.jpg", "a/@eaDir/1.jpg/M.jpg", "a/@eaDir/2.jpg/M.jpg", "a/._1.jpg"]
    assert [skipped.add_if_kept_by_a_system(name) for name in names] == [False, True, True, True, True, True]
    assert [name for name, _ in skipped] == ["__MACOSX/", "a/._1.jpg", "a/@eaDir/"] and len(skipped) == 3


def test_sidecars_neither_stop_a_preparation_nor_hide_damage(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="alexnet")
    for class_id in ("a", "b"):
        (tmp_path / "source" / class_id).mkdir(parents=True)
        for number in range(4):
            name = tmp_path / "source" / class_id / f"{number}.jpg"
            Image.new("RGB", (24, 16), (60 * number, 30 * (class_id == "a"), 9)).save(name)
            name.with_suffix(".AAE").write_bytes(XML)
            name.with_suffix(".MOV").write_bytes(MOVIE)
    (tmp_path / "source" / "a" / "page.jpg").write_bytes(WEB_PAGE)
    (tmp_path / "source" / "a" / "odd.dat").write_bytes(picture("PNG"))
    data = prepare(tmp_path / "source", tmp_path / "out", side=8, hold_out=0.25, max_refused=0.1)
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 7, "val": 2}
    assert "a/odd.dat" in {key for split in data.splits.values() for key in split.keys}
    assert data.num_skipped == 16 and data.description["num_refused"] == 1
    assert "skipped 16 files that are not images (" in caplog.text
    lines = (tmp_path / "out" / "skipped.jsonl").read_text().splitlines()
    assert lines == sorted(lines) and len(lines) == 16
    assert '"a/page.jpg"' in (tmp_path / "out" / "refused.jsonl").read_text()
