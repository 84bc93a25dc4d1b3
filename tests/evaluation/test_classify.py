"""Classification of photographs, and the lines that the challenge's test server expects."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from alexnet.data.dataset import ClassInfo
from alexnet.errors import RequestError
from alexnet.evaluation.classify import classify_photographs, ilsvrc_lines, list_photographs, read_label_order
from alexnet.model.network import AlexNet
from alexnet.model.weights import Trained


@pytest.fixture
def trained() -> Trained:
    network = AlexNet(7, "quick", 0.125, generator=torch.Generator().manual_seed(1)).eval()
    classes = tuple(ClassInfo(f"n{number}", f"kind {number}") for number in range(7))
    mean_image = torch.full((32, 32, 3), 120.0)
    return Trained(network=network, classes=classes, mean_image=mean_image, crop=28, title="test", generated=False)


@pytest.fixture
def photograph(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(2).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "one.png")
    return tmp_path / "one.png"


def test_five_labels_per_line_starting_at_one(trained: Trained, photograph: Path) -> None:
    answers, _ = classify_photographs(trained, [photograph, photograph])
    lines = ilsvrc_lines(answers, trained)
    assert len(lines) == 2 and lines[0] == lines[1]
    labels = [int(word) for word in lines[0].split()]
    assert len(set(labels)) == 5 and all(1 <= label <= 7 for label in labels)
    assert [f"n{label - 1}" for label in labels] == [one["id"] for one in answers[0]["top"]]
    probabilities = [one["probability"] for one in answers[0]["top"]]
    assert probabilities == sorted(probabilities, reverse=True)


def test_labels_in_another_order(trained: Trained, photograph: Path, tmp_path: Path) -> None:
    answers, _ = classify_photographs(trained, [photograph])
    order = tmp_path / "order.txt"
    order.write_text("n9 not known here\n\n" + "".join(f"n{number} kind\n" for number in reversed(range(7))))
    names = read_label_order(order)
    assert names == ["n9", *(f"n{number}" for number in reversed(range(7)))]
    labels = [int(word) for word in ilsvrc_lines(answers, trained, names)[0].split()]
    assert [names[label - 1] for label in labels] == [one["id"] for one in answers[0]["top"]]


def test_an_invalid_label_order_is_refused(trained: Trained, photograph: Path, tmp_path: Path) -> None:
    answers, _ = classify_photographs(trained, [photograph])
    with pytest.raises(RequestError, match="has no line for n1, n2"):
        ilsvrc_lines(answers, trained, ["n0"])
    with pytest.raises(RequestError, match="names n0 twice"):
        ilsvrc_lines(answers, trained, ["n0", "n0"])
    with pytest.raises(RequestError, match="cannot read"):
        read_label_order(tmp_path / "none.txt")


def test_a_folder_lists_its_photographs(photograph: Path, tmp_path: Path) -> None:
    (tmp_path / "b" / "c").mkdir(parents=True)
    (tmp_path / "b" / ".hidden").write_bytes(b"")
    for name in ("b/z.png", "b/c/a.png"):
        (tmp_path / name).write_bytes(photograph.read_bytes())
    assert list_photographs([photograph, tmp_path / "b"]) == [photograph, tmp_path / "b/c/a.png", tmp_path / "b/z.png"]
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "Thumbs.db").write_bytes(b"abcd")
    with pytest.raises(RequestError, match="has no images"):
        list_photographs([tmp_path / "empty"])


def test_links_in_a_folder_are_followed_and_those_to_nothing_are_refused(
    trained: Trained, photograph: Path, tmp_path: Path
) -> None:
    for name in ("photos", "elsewhere"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(photograph.read_bytes())
    (tmp_path / "photos" / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "photos")
    (tmp_path / "photos" / "lost.jpg").symlink_to("nowhere")
    found = list_photographs([tmp_path / "photos"])
    assert found == [tmp_path / "photos" / name for name in ("a.png", "lost.jpg", "more/a.png")]
    answers, refused = classify_photographs(trained, found)
    assert len(answers) == 2 and [one["image"] for one in refused] == [str(tmp_path / "photos" / "lost.jpg")]


def test_what_is_no_image_is_passed_over_in_a_folder_and_taken_where_named(
    photograph: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, content in {
        "a.png": photograph.read_bytes(),
        "page.jpg": b"<html>",  # a damaged image
        "photo.dat": photograph.read_bytes(),  # an image by its content
        "Thumbs.db": b"abcd",
        "IMG_1.AAE": b"<?xml",
        "notes.txt": b"a text",
    }.items():
        (folder / name).write_bytes(content)
    with caplog.at_level("INFO"):
        found = list_photographs([folder])
    assert [one.name for one in found] == ["a.png", "page.jpg", "photo.dat"]
    assert "skipped 3 of 6 files" in caplog.text
    assert list_photographs([folder / "notes.txt"]) == [folder / "notes.txt"]


def test_twelve_bits_in_sixteen_are_said(
    trained: Trained, photograph: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name, largest in (("dark.png", 4095), ("bright.png", 65535)):
        Image.fromarray(np.linspace(0, largest, 1600).astype(np.uint16).reshape(40, 40)).save(tmp_path / name)
    classify_photographs(trained, [tmp_path / "dark.png", tmp_path / "bright.png", photograph])
    assert caplog.text.count("uses only the lower 12") == 1 and "dark.png has 16 bits" in caplog.text


def test_a_photograph_that_cannot_be_read_is_named_and_the_others_are_answered(
    trained: Trained, photograph: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cut, empty = tmp_path / "cut.png", tmp_path / "empty.jpg"
    cut.write_bytes(photograph.read_bytes()[:-20])
    empty.write_bytes(b"")
    (alone,), _ = classify_photographs(trained, [photograph])
    answers, refused = classify_photographs(trained, [cut, photograph, empty, photograph])
    assert answers == [alone, alone]
    assert [one["image"] for one in refused] == [str(cut), str(empty)]
    assert "the PNG ends early" in refused[0]["reason"] and "empty file" in refused[1]["reason"]
    assert all(one["reason"] in caplog.text for one in refused)
    with pytest.raises(RequestError, match=r"none of the 2 files can be read: .*cut\.png is not a readable image"):
        classify_photographs(trained, [cut, empty])
    with pytest.raises(RequestError, match=r"cut\.png is not a readable image"):
        classify_photographs(trained, [cut])
    with pytest.raises(RequestError, match=r"cannot read .*none\.jpg: No such file"):
        classify_photographs(trained, [photograph, tmp_path / "none.jpg"])
