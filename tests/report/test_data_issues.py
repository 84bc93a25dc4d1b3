"""Refused files are grouped by reason and duplicates are listed most serious first, from lists of any length."""

import json

import pytest

from alexnet.report.data_issues import summarize_duplicates, summarize_refused, summarize_skipped
from alexnet.storage.typed_files import DamagedFile


def write_refused(folder, reasons):
    lines = [
        {"path": f"train/a/{place}.png", "split": "train", "class": "a", "reason": reason}
        for place, reason in enumerate(reasons)
    ]
    (folder / "refused.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_reasons_that_differ_only_in_details_are_grouped(tmp_path):
    write_refused(
        tmp_path,
        [
            "empty file",
            "30000 x 10 pixels: more than 100 times longer than wide",
            "300 x 10,001 pixels: more than 100 times longer than wide",
            "cannot be read: '/a/b c' is away from /mnt/x1",
            "4,000 x 10 pixels: more than 100 times longer than wide",
            "cannot be read: '/d' is away from /mnt/x1",
            "400 pixels: more than 100 times longer than wide",
        ],
    )
    facts = summarize_refused(tmp_path)
    assert facts["images"] == 7
    assert [(one["reason"], one["images"]) for one in facts["reasons"]] == [
        ("… x … pixels: more than 100 times longer than wide", 3),
        ("cannot be read: … is away from /mnt/x1", 2),
        ("empty file", 1),
        ("400 pixels: more than 100 times longer than wide", 1),
    ]
    assert facts["reasons"][0]["examples"] == ["train/a/1.png", "train/a/2.png", "train/a/4.png"]


def test_only_a_few_examples_are_kept(tmp_path):
    write_refused(tmp_path, ["empty file"] * 1000)
    (one,) = summarize_refused(tmp_path)["reasons"]
    assert one["images"] == 1000 and one["examples"] == [f"train/a/{place}.png" for place in range(5)]


def test_nothing_refused(tmp_path):
    write_refused(tmp_path, [])
    assert summarize_refused(tmp_path) == {"images": 0, "reasons": []}


def write_duplicates(folder, groups):
    lines = []
    for leak, other, images in groups:
        places = [{"split": split, "path": path, "class": class_id} for split, path, class_id in images]
        lines.append({"leak": leak, "other_label": other, "images": places})
    (folder / "duplicates.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_the_most_serious_duplicates_come_first(tmp_path):
    plain = [(False, False, [("train", f"p{place}", "a"), ("train", f"q{place}", "a")]) for place in range(20)]
    other = (False, True, [("train", "o1", "a"), ("train", "o2", "b")])
    leaks = [(True, False, [("train", f"l{place}", "a"), ("val", f"m{place}", "a")]) for place in range(2)]
    both = (True, True, [("train", "b1", "a"), ("val", "b2", "b")])
    write_duplicates(tmp_path, [*plain, other, *leaks, both])
    facts = summarize_duplicates(tmp_path, {"pictures": 24})
    assert facts["pictures"] == 24
    assert [group["images"][0]["path"] for group in facts["groups"]] == [
        "b1", "l0", "l1", "o1", *(f"p{place}" for place in range(8)),
    ]  # fmt: skip


def test_copies_that_show_the_fault_are_listed(tmp_path):
    images = [("train", f"t{place}", "a") for place in range(50)] + [("val", "v", "a"), ("val", "w", "b")]
    write_duplicates(tmp_path, [(True, True, images)])
    (group,) = summarize_duplicates(tmp_path, {})["groups"]
    assert group["copies"] == 52
    assert [one["path"] for one in group["images"]] == ["t0", "v", "w", "t1", "t2", "t3"]


@pytest.mark.parametrize("content", [b'{"path": ', b"7\n", b'{"path": "a"}\n', b"\xff\n"])
def test_a_damaged_list_is_named(tmp_path, content):
    (tmp_path / "refused.jsonl").write_bytes(content)
    with pytest.raises(DamagedFile, match=r"refused\.jsonl.*prepare it again"):
        summarize_refused(tmp_path)


def test_a_missing_list_is_named(tmp_path):
    with pytest.raises(DamagedFile, match=r"duplicates\.jsonl"):
        summarize_duplicates(tmp_path, {})


def test_skipped_files_of_older_data_sets_and_missing_lists(tmp_path):
    assert summarize_skipped(tmp_path, {}) == {"files": 0, "reasons": []}
    with pytest.raises(DamagedFile, match=r"skipped\.jsonl.*prepare it again"):
        summarize_skipped(tmp_path, {"num_skipped": 0})
    (tmp_path / "skipped.jsonl").write_text('{"path": "a.AAE", "reason": "not an image"}\n')
    (reason,) = summarize_skipped(tmp_path, {"num_skipped": 1})["reasons"]
    assert reason == {"reason": "not an image", "images": 1, "examples": ["a.AAE"]}
