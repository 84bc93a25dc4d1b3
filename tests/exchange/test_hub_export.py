"""The folder for Hugging Face's hub: a card that says what the run says, and files that load."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from tests.exchange.test_export import small

import alexnet
from alexnet.exchange.model_card import escaped
from alexnet.model.weights import save_trained
from alexnet.runs.folder import RunFolder
from alexnet.runs.recipe import Recipe, ScheduleSettings
from alexnet.storage.typed_files import write_sealed_json
from alexnet.system.visible_text import visible

NAMES = ["<b>tench</b>", "hen | cock", "#3 - a: b"]
CHECKSUM = "5890b46e06012541"


def evaluation(views: int, checksum: str = CHECKSUM) -> dict[str, Any]:
    wrong = [0, 2, 4]
    return {
        "run": "r", "split": "val", "num_views": views, "num_images": 30, "num_classes": 3, "classes_absent": 0,
        "top1_error": 0.2, "top1_interval": [0.0951, 0.3731], "top5_error": 0.0, "top5_interval": [0.0, 0.1135],
        "loss": 0.5, "data_checksum": checksum, "confused_pairs": [],
        "calibration": {"expected_error": 0.0375, "bins": []},
        "per_class": [
            {"id": f"n{i}", "name": NAMES[i], "num_images": 10, "top1_error": wrong[i] / 10} for i in range(3)
        ],
    }  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run with a title that looks like markup, as training leaves it."""
    title = "my [cats](javascript:x)\n---\n<script>"
    data = {
        "checksum": CHECKSUM, "folders": ["/home/someone/secret"], "title": title, "splits": {"train": 90, "val": 30},
        "leaks": 2,
    }  # fmt: skip
    metadata = {"data": data, "versions": {"torch": "2.13.0+cpu"}, "duration_s": 5400.0, "commit": None}
    recipe = Recipe(name="pa`per", schedule=ScheduleSettings(epochs=7))
    run = RunFolder.create(tmp_path / "net *1*", recipe, {**metadata, "machine": {"cores": 2, "processor": "EPYC"}})
    run.update_metadata(state="finished")
    save_trained(run.weights, dataclasses.replace(small(), title=title))
    run.save_evaluation("val-1views", evaluation(1))
    run.save_evaluation("val-10views", evaluation(10, "feed" * 4))
    return run


def card(folder: Path) -> tuple[dict[str, Any], str]:
    """Front matter and Markdown."""
    _, front, body = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(front), body


def shown(markdown: str) -> tuple[str, set[str]]:
    """The text that a reader sees, and the types of what is not text."""
    text, types = [], set()
    for token in MarkdownIt("gfm-like", {"linkify": False}).parse(markdown):
        types.add(token.type)
        for child in token.children or []:
            types.add(child.type)
            text.append(child.content if child.type in ("text", "code_inline") else "\n")
        text.append("\n")
    return "".join(text), types


def test_the_card_has_the_figures_of_the_run(run: RunFolder, tmp_path: Path) -> None:
    front, body = card(alexnet.export(run, tmp_path / "hub", to="hub").path)
    assert (front["license"], front["library_name"], front["pipeline_tag"]) == (
        "unknown", "alexnet", "image-classification",
    )  # fmt: skip
    assert "datasets" not in front  # the title is not an identifier
    (index,) = front["model-index"]
    assert index["name"] == "net *1*"
    first, tenth = index["results"]
    assert first["dataset"] == {"name": visible(alexnet.load(run).title), "type": "custom", "split": "val"}
    assert tenth["dataset"]["name"] == "data set with checksum feedfeedfeed"
    assert first["metrics"] == [
        {"type": "accuracy", "value": 80.0, "name": "top-1 accuracy, 1 view, percent (95 % interval 62.69 to 90.49)"},
        {"type": "accuracy", "value": 100.0, "name": "top-5 accuracy, 1 view, percent (95 % interval 88.65 to 100.00)"},
    ]
    text, _ = shown(body)
    for sentence in (
        "20.00 % (9.51 to 37.31)",
        "0.00 % (0.00 to 11.35)",
        "Recipe pa`per: 7 epochs, batches of 128, optimizer sgd, learning rate 0.01 (steps)",
        "(images: train 90, val 30), checksum 5890b46e0601.",
        "Training took 5,400 s on 2 cores of EPYC.",
        "torch 2.13.0+cpu",
        "2 images of the evaluation splits are also among the training images.",
        "the top-1 error is 0.0 % for <b>tench</b> and 40.0 % for #3 - a: b.",
        "the expected calibration error is 3.8 %",
        "<b>tench</b>, hen | cock, #3 - a: b.",
    ):
        assert sentence in text, sentence
    assert "secret" not in body and "not finished" not in text


def test_text_of_users_is_shown_as_it_is(run: RunFolder, tmp_path: Path) -> None:
    _, body = card(alexnet.export(run, tmp_path / "hub", to="hub").path)
    text, types = shown(body)
    assert not types & {"html_inline", "html_block", "link_open", "image", "hr", "em_open", "strong_open"}
    assert "net *1*" in text and visible(alexnet.load(run).title) in text
    # Six columns in every row: a name with a bar adds none.
    assert "| --- | --- | --- | --- | --- | --- |" in body


@given(st.text(st.characters(exclude_categories=["Zs", "Zl", "Zp"]), min_size=1, max_size=40))
@settings(max_examples=300)
@example("- a")
@example("+ a")
@example("1. a")
@example("1) a")
@example("# a")
@example("&lt;b&gt;")
@example("a | b")
@example(">a")
@example("![a](b)")
@example("~~a~~ **a** _a_ `a`")
@example("<a@b.c>")
@example("\\&amp;")
@example("===")
@example("---")
def test_any_text_is_shown_as_it_is(name: str) -> None:
    """In a paragraph, in a list and in a cell."""
    for before, after in (("", ""), ("- ", ""), ("| a |\n| --- |\n| ", " |")):
        tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(f"{before}{escaped(name)}{after}")
        inline = [token for token in tokens if token.type == "inline"][-1]
        children = inline.children or []
        assert {child.type for child in children} <= {"text", "text_special"}
        assert "".join(child.content for child in children) == visible(name)
        assert len([token for token in tokens if token.type in ("list_item_open", "td_open", "heading_open")]) == (
            0 if not before else 1
        )


def test_addresses_become_no_links() -> None:
    """GitHub and the hub make links of these where they stand alone."""
    assert escaped("see www.a.b, http://a.b or me@a.b") == r"see www\.a.b, http\://a.b or me\@a.b"


def test_the_files_load(run: RunFolder, tmp_path: Path) -> None:
    written = alexnet.export(run, tmp_path / "hub", to="hub")
    assert [file.name for file in written.files] == [
        "README.md", "config.json", "model.safetensors", "preprocessor_config.json",
    ]  # fmt: skip
    assert sorted(os.listdir(written)) == [file.name for file in written.files]
    assert (written.path / "model.safetensors").read_bytes() == run.weights.read_bytes()
    with pytest.raises(alexnet.RequestError, match=r"give the weights in it, .*hub/model\.safetensors"):
        alexnet.load(written)
    config = json.loads((written.path / "config.json").read_text())
    assert (config["architecture"], config["num_classes"], config["label_names"]) == ("alexnet", 3, NAMES)
    assert config["model_args"] == {"variant": "torchvision", "width": 0.0625, "dropout": 0.5}
    cfg = config["pretrained_cfg"]
    mean = alexnet.load(run).mean_image[4:-4, 4:-4].double().mean(dim=(0, 1))
    torch.testing.assert_close(torch.tensor(cfg["mean"]).double() * 255, mean)
    assert (cfg["input_size"], cfg["crop_mode"], cfg["classifier"]) == ([3, 224, 224], "center", "fc8")
    assert round(224 / cfg["crop_pct"]) == 232
    processor = json.loads((written.path / "preprocessor_config.json").read_text())
    assert processor["size"] == {"shortest_edge": 232} and processor["crop_size"] == {"height": 224, "width": 224}
    torch.testing.assert_close(torch.tensor(processor["image_mean"]).double(), mean)


@pytest.mark.parametrize(("fit", "mode"), [("pad", "border"), ("squash", "squash")])
def test_other_fits_are_named(fit: Any, mode: str, tmp_path: Path) -> None:
    written = alexnet.export(dataclasses.replace(small(), fit=fit), tmp_path / "hub", to="hub")
    assert json.loads((written.path / "config.json").read_text())["pretrained_cfg"]["crop_mode"] == mode
    assert json.loads((written.path / "preprocessor_config.json").read_text())["fit"] == fit


def test_a_network_without_a_run_or_a_finished_training_says_so(run: RunFolder, tmp_path: Path) -> None:
    front, body = card(alexnet.export(small(), tmp_path / "a", to="hub").path)
    assert "model-index" not in front and front["datasets"] == ["t"]
    assert "so no evaluation is recorded" in body and "so its training is not recorded" in body
    run.update_metadata(state="interrupted")
    written = alexnet.export(run, tmp_path / "b", to="hub")
    assert "The training has not finished: the run is interrupted." in card(written.path)[1]
    assert written.notes[0] == "The training has not finished; the run is interrupted."
    untrained = alexnet.load(run, untrained=True, seed=3)
    assert (
        "untrained: its weights are random, of seed 3"
        in card(alexnet.export(untrained, tmp_path / "c", to="hub").path)[1]
    )
    generated = dataclasses.replace(small(), generated=True)
    assert "were generated by a program" in card(alexnet.export(generated, tmp_path / "d", to="hub").path)[1]


def test_a_damaged_run_leaves_nothing(run: RunFolder, tmp_path: Path) -> None:
    write_sealed_json(run.path / "evaluations" / "val-1views.json", {**evaluation(1), "top1_error": 0.1})
    with pytest.raises(alexnet.WorkError, match="top1_error"):
        alexnet.export(run, tmp_path / "hub", to="hub")
    assert [path.name for path in tmp_path.iterdir()] == ["net *1*"]


def test_an_imported_network_tells_its_file_and_the_proof(tmp_path: Path) -> None:
    file = alexnet.export(small(color=True), tmp_path / "<x>.pth", to="torchvision")
    run = alexnet.import_weights(file, tmp_path / "net", color_order="bgr", classes=small().classes)
    run.update_metadata(proved_on={"checksum": CHECKSUM, "title": "nette", "folders": ["/home/someone/secret"]})
    run.save_evaluation("val-1views", evaluation(1))
    front, body = card(alexnet.export(run, tmp_path / "hub", to="hub").path)
    text, types = shown(body)
    assert "html_inline" not in types and "secret" not in body
    written = file.files[0]
    assert "Imported from the file <x>.pth, " in text
    assert f": {written.size_bytes:,} bytes, SHA-256 {written.sha256}." in text
    assert "reads BGR, colors 0..1 divided by ImageNet's standard deviations, minus the color (123.675, " in text
    assert "The file's classes were named when it was imported." in text
    assert "--color-order was given when it was imported. Of the rest: The file " in text
    proof = run.proof()
    assert proof is not None and proof["findings"]
    assert f"imported: {proof['status']}. {proof['verdict']}" in text.replace("\n", "")
    assert all(one["text"] in text for one in proof["findings"])
    assert front["model-index"][0]["results"][0]["dataset"] == {"name": "nette", "type": "nette", "split": "val"}
    assert "datasets" not in front  # on which it was trained is not known
