"""`inspect` on data sets with every kind of issue: summary, page and terminal show it safely."""

import json
import os
import re
import shutil

import numpy as np
import pytest
from PIL import Image
from rich.cells import cell_len
from tests.html_page import Page
from tests.prepared_files import redescribe

from alexnet.cli.tables import print_inspection
from alexnet.data.dataset import PreparedData
from alexnet.data.preparation.prepare import prepare
from alexnet.errors import RequestError, WorkError
from alexnet.report.inspection import summarize_data
from alexnet.report.inspection_page import write_inspection
from alexnet.storage.typed_files import DamagedFile

QUOTED, TAG, DOG, LONG = "\"quoted\" & 'more'", "<b onmouseover=alert(1)>", "🐕 dog", "long " + "x" * 150
SCRIPT = "<script>alert(1)</script>"
TRAIN = {QUOTED: 33, TAG: 2, DOG: 5, LONG: 12}
VAL = {QUOTED: 3, TAG: 2, DOG: 0, LONG: 1}


def check(path):
    """The page is whole, escaped, needs nothing from elsewhere, and each of its links and pictures is sound."""
    html = path.read_text(encoding="utf-8")
    page = Page(html)
    assert all(one.startswith(("data:", "#")) for one in page.addresses)
    assert not re.search(r"url\(|@import|https?://", html)
    assert not {"script", "b", "iframe", "object"} & set(page.tags)
    assert not {one for one in page.attribute_names if one.startswith("on")}
    assert len(page.ids) == len(set(page.ids))
    assert {one[1:] for one in page.addresses if one.startswith("#")} <= set(page.ids)
    assert len(page.alts) == page.tags.count("img")
    assert path.stat().st_size < 5_000_000
    return page


def draw(path, seed, size):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def draw_tree(root, counts_by_split, size=(40, 30)):
    seed = 0
    for split, counts in counts_by_split.items():
        for name, count in counts.items():
            for place in range(count):
                draw(root / split / name / f"{place:03}.png", seed := seed + 1, size)


@pytest.fixture(scope="module", params=["jpeg", "pixels"])
def troubled(request, tmp_path_factory):
    """Refused files, copies within a class, over classes and over splits, names of every kind, one class not in val."""
    folder = tmp_path_factory.mktemp("troubled")
    root = folder / "tree"
    draw_tree(root, {"train": TRAIN, "val": VAL})
    draw(root / "train" / QUOTED / "000.png", 1, (16, 20))
    draw(root / "train" / QUOTED / "001.png", 2, (64, 24))
    shutil.copy(root / "val" / QUOTED / "001.png", root / "train" / QUOTED / "leak.png")
    shutil.copy(root / "train" / QUOTED / "005.png", root / "train" / QUOTED / "copy.png")
    shutil.copy(root / "train" / QUOTED / "006.png", root / "train" / DOG / "other.png")
    for place, width in enumerate((1001, 2000, 1500)):
        draw(root / "train" / TAG / f"wide{place}.png", 0, (width, 8))
    (root / "val" / LONG / "empty.png").touch()
    for place in range(7):
        (root / "train" / DOG / f"edit{place}.AAE").write_text("edits")
    (root / "train" / DOG / "<b>.xmp").touch()
    odd = os.fsencode(root / "train" / LONG) + b"/\xff\x1b[2J.png"
    with open(odd, "wb") as file:
        file.write(b"no image")
    return prepare(root, folder / "data", side=24, store=request.param, max_refused=0.5, workers=1, shard_images=20)


def test_the_summary_of_a_troubled_set(troubled):
    facts = summarize_data(troubled)
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts
    ids = sorted(TRAIN)
    num_train, num_val = sum(TRAIN.values()) + 3, sum(VAL.values())
    assert [one["id"] for one in facts["classes"]] == ids
    train = {**TRAIN, QUOTED: TRAIN[QUOTED] + 2, DOG: TRAIN[DOG] + 1}
    assert [one["images"] for one in facts["classes"]] == [{"train": train[one], "val": VAL[one]} for one in ids]
    of_train, of_val = facts["splits"]["train"], facts["splits"]["val"]
    assert (of_train["images"], of_train["listed"], of_train["refused"]) == (num_train, num_train + 4, 4)
    assert (of_val["images"], of_val["listed"], of_val["refused"]) == (num_val, num_val + 1, 1)
    assert (of_train["largest"]["id"], of_train["smallest"]["id"]) == (QUOTED, TAG)
    assert of_train["imbalance"] == 35 / 2 and of_train["missing"] == []
    assert of_val["imbalance"] is None and of_val["missing"] == [DOG]
    assert facts["bytes"] == sum(one.stat().st_size for one in troubled.folder.iterdir())
    assert facts["store"] == troubled.store and facts["preparation"]["kind"] == "folder"

    reasons = {one["reason"]: one for one in facts["refused"]["reasons"]}
    assert facts["refused"]["images"] == 5 and len(reasons) == 3
    wide = facts["refused"]["reasons"][0]
    assert wide["images"] == 3 and wide["reason"].startswith("… x 8 pixels: more than 100 times")
    assert wide["examples"] == [f"train/{TAG}/wide{place}.png" for place in range(3)]
    (odd,) = (one for reason, one in reasons.items() if "format" in reason)
    assert odd["examples"] == [f"train/{LONG}/\udcff\x1b[2J.png"]

    assert facts["skipped"]["files"] == 8 == troubled.num_skipped
    aae, xmp = facts["skipped"]["reasons"]
    assert aae["images"] == 7 and aae["reason"].endswith("next to a photograph (.aae)")
    assert aae["examples"] == [f"train/{DOG}/edit{place}.AAE" for place in range(5)]
    assert xmp["examples"] == [f"train/{DOG}/<b>.xmp"]

    twice = facts["duplicates"]
    assert (twice["pictures"], twice["surplus_images"]) == (3, 3)
    assert (twice["leaked_images"], twice["other_label"]) == (1, 1)
    assert [(one["leak"], one["other_label"]) for one in twice["groups"]] == [
        (True, False),
        (False, True),
        (False, False),
    ]
    assert {one["path"] for one in twice["groups"][0]["images"]} == {
        f"val/{QUOTED}/001.png",
        f"train/{QUOTED}/leak.png",
    }

    assert facts["sizes"]["splits"]["train"]["width"] == {"min": 16, "median": 40, "max": 64}
    assert facts["sizes"]["splits"]["train"]["height"] == {"min": 20, "median": 30, "max": 30}
    assert facts["sizes"]["splits"]["train"]["enlarged"] == 1 / num_train
    assert sum(facts["sizes"]["shorter_side"]["counts"]) == num_train + num_val

    if troubled.store == "pixels":  # statistics are those of the pixels before they become a JPEG file
        pixels = np.asarray(troubled.splits["train"].images[:], np.float64).reshape(-1, 3)
        assert facts["color"]["mean"] == pytest.approx(pixels.mean(axis=0), abs=1e-4)
        assert facts["color"]["standard_deviation"] == pytest.approx(pixels.std(axis=0), rel=1e-6)
    assert sum(one["fraction"] for one in facts["color"]["components"]) == pytest.approx(1)
    assert [one["topic"] for one in facts["warnings"]] == ["leak", "labels", "missing", "few", "imbalance", "refused"]
    assert facts["warnings"][2]["text"].startswith("1 class has no val images")
    assert facts["warnings"][3]["text"].startswith("2 classes have fewer than 10")


def test_the_page_of_a_troubled_set(troubled, tmp_path):
    path = write_inspection(troubled, tmp_path / "page.html")
    page = check(path)
    for words in (
        QUOTED,
        TAG,
        DOG,
        LONG,
        "of 66; 8 skipped",
        "8 more files of the source are not images",
        "LEAK.",
        "See\xa0refused",
        r"\xff\x1b[2J.png",
        troubled.checksum,
    ):
        assert words in page.text
    # The mean, one picture for each of three duplicates, and at most ten of each class.
    assert len(page.alts) == 1 + 3 + 10 + 2 + 6 + 10
    assert "28 of the 55 training images, from all 4 classes" in page.text
    assert f"{DOG}: train/{DOG}/other.png" in page.alts
    before = path.read_bytes()
    write_inspection(troubled, path, summary=summarize_data(troubled))
    assert path.read_bytes() == before
    assert not list(tmp_path.glob(".*"))


def test_the_terminal_shows_a_troubled_set(troubled, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    print_inspection(summarize_data(troubled))
    printed = capsys.readouterr().out
    assert max(map(cell_len, printed.splitlines())) <= 80
    for words in ("LEAK: 1 image", "warning: 5 of 66 files were refused", "17.5", TAG, DOG, "wide0.png", "two classes"):
        assert words in printed
    assert "skipped files" in printed and "edit0.AAE" in printed
    assert "\x1b" not in printed


def test_no_more_classes_than_requested_are_shown(troubled, tmp_path):
    page = check(write_inspection(troubled, tmp_path / "page.html", most_classes=2))
    assert "from 2 of the 4 classes, evenly spaced" in page.text
    second, fourth = sorted(TRAIN)[1::2]
    shown = {one.partition(": train/")[0] for one in page.alts if ": train/" in one}
    assert shown == {second, fourth}


def test_a_name_that_is_a_script_is_shown_as_text(troubled, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(troubled.folder, folder)
    description = json.loads((folder / "dataset.json").read_text())
    description["classes"][0]["name"] = SCRIPT
    redescribe(folder, title=SCRIPT, classes=description["classes"])
    page = check(write_inspection(PreparedData.open(folder), tmp_path / "page.html"))
    assert page.text.count(SCRIPT) >= 5


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """One image for each class, all gray and of the stored size; one class is not in val."""
    folder = tmp_path_factory.mktemp("tiny")
    for level, place in enumerate(("train/cat", "train/dog", "val/dog")):
        (folder / "tree" / place).mkdir(parents=True)
        gray = np.full((8, 8), 80 * level, np.uint8)
        Image.fromarray(gray).save(folder / "tree" / place / "1.png")
    (folder / "tree" / "SOURCE.json").write_text(json.dumps({"title": "Tiny", "generated": True}))
    return prepare(folder / "tree", folder / "data", side=8, workers=1)


def test_a_tiny_generated_set(tiny, tmp_path, capsys):
    facts = summarize_data(tiny)
    assert facts["generated"] and facts["splits"]["train"]["imbalance"] == 1
    assert facts["splits"]["val"]["missing"] == ["cat"]
    assert facts["duplicates"]["groups"] == [] and facts["refused"]["reasons"] == []
    shares = [one["fraction"] for one in facts["color"]["components"]]
    assert shares == pytest.approx([1, 0, 0]) and facts["color"]["components"][0]["meaning"] == "dark to light"
    page = check(write_inspection(tiny, tmp_path / "page.html"))
    for words in (
        "Generated images.",
        "All original images have 8 × 8 pixels and are stored unchanged",
        "every file was used",
    ):
        assert words in page.text
    assert "LEAK" not in page.text and page.tags.count("svg") == 0
    print_inspection(facts)
    assert "generated: these are not photographs" in capsys.readouterr().out


def test_a_set_with_test_and_no_val(tiny, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(tiny.folder, folder)
    for file in folder.glob("val-*"):
        file.rename(file.with_name(file.name.replace("val-", "test-")))
    description = json.loads((folder / "dataset.json").read_text())
    description["splits"]["test"] = description["splits"].pop("val")
    redescribe(folder, splits=description["splits"])
    data = PreparedData.open(folder)
    assert summarize_data(data)["warnings"][0]["text"].startswith("1 class has no test images")
    assert "1 image in test" in check(write_inspection(data, tmp_path / "page.html")).text


@pytest.mark.parametrize(("fit", "enlarged"), [("crop", 1), ("pad", 0), ("squash", 1)])
def test_how_photographs_became_square_is_shown(tmp_path, capsys, fit, enlarged):
    draw_tree(tmp_path / "tree", {"train": {"a": 2, "b": 2}, "val": {"a": 1}}, (40, 20))
    draw(tmp_path / "tree" / "train" / "a" / "other.png", 9, (24, 50))
    data = prepare(tmp_path / "tree", tmp_path / "data", side=32, fit=fit)
    facts = summarize_data(data)
    # The longer side is above the stored one, the shorter below.
    assert facts["fit"] == fit and facts["sizes"]["enlarged"] == facts["sizes"]["splits"]["val"]["enlarged"] == enlarged
    text = check(write_inspection(data, tmp_path / "page.html")).text
    assert f"({fit})" in text
    assert ("central square was cropped" in text) == ("outside the central square" in text) == (fit == "crop")
    assert ("longer side was resized to 32" in text) == ("between gray bars" in text) == (fit == "pad")
    assert ("both sides were resized to 32" in text) == ("stretched to a square" in text) == (fit == "squash")
    print_inspection(facts)
    printed = " ".join(capsys.readouterr().out.split())
    assert f"fit {fit}" in printed and ("images below 32 were enlarged" in printed) == (fit != "pad")


def test_many_classes_are_listed_by_their_extremes(tmp_path, capsys, monkeypatch):
    counts = {f"c{place:03}": 1 + (place == 70) + 2 * (place == 80) for place in range(120)}
    draw_tree(tmp_path / "tree", {"train": counts, "val": {"c000": 1}}, (8, 8))
    data = prepare(tmp_path / "tree", tmp_path / "data", side=8, workers=1)
    facts = summarize_data(data)
    assert len(facts["classes"]) == 120 and len(facts["splits"]["val"]["missing"]) == 119
    page = check(write_inspection(data, tmp_path / "page.html"))
    # The middles of 100 equal phases of 0 .. 119 hold class 70 and not class 80.
    assert "from 100 of the 120 classes" in page.text and "and 109 more" in page.text
    assert page.tags.count("svg") == 1 and page.tags.count("img") == 1 + 100 + 1
    monkeypatch.setenv("COLUMNS", "80")
    print_inspection(facts)
    printed = capsys.readouterr().out
    names = re.findall(r"^ (c\d+) ", printed, re.MULTILINE)
    assert names == ["c080", "c070", *(f"c{place:03}" for place in (*range(8), *range(110, 120)))]
    assert "... and 100 more" in printed


def test_damage_is_named(troubled, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(troubled.folder, folder)
    data = PreparedData.open(folder)
    (tmp_path / "notes.html").write_text("my notes")
    with pytest.raises(RequestError, match=r"notes\.html exists and is not a picture or page that alexnet made"):
        write_inspection(data, tmp_path / "notes.html")
    if data.store == "jpeg":
        shard = folder / "train-000000.tar"
        shard.write_bytes(bytes(shard.stat().st_size))
        with pytest.raises(WorkError, match=r"train-000000\.tar.*prepare the data set again"):
            write_inspection(data, tmp_path / "page.html")
    (folder / "duplicates.jsonl").unlink()
    with pytest.raises(DamagedFile, match=r"duplicates\.jsonl is missing"):
        summarize_data(data)
