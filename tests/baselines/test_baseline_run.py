"""Whole baselines on small data: the run folder, its readers, interruption, unusual data."""

import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("sklearn")

from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from tests.prepared_files import redescribe

from alexnet.baselines.averaged_sgd import AveragedSGDClassifier
from alexnet.baselines.baseline_evaluation import evaluate_baseline, select_evaluation_split
from alexnet.baselines.baseline_model import load_baseline
from alexnet.baselines.baseline_run import run_baseline
from alexnet.baselines.channels import Channel
from alexnet.baselines.descriptor_pca import DescriptorPCA
from alexnet.baselines.descriptors import DenseDescriptors
from alexnet.baselines.feature_cache import cached_features
from alexnet.baselines.fisher_vectors import FisherVectorEncoder
from alexnet.baselines.training_subset import draw_per_class
from alexnet.cli import main as cli
from alexnet.data.concatenated import open_data
from alexnet.data.dataset import PreparedData
from alexnet.data.decode import PAD_COLOR
from alexnet.data.preparation.prepare import prepare
from alexnet.errors import Interrupted, RequestError, WorkError
from alexnet.evaluation.predictions import load_predictions
from alexnet.runs.baseline_recipe import (
    BaselineRecipe,
    ClassifierSettings,
    CodingSettings,
    DescriptorSettings,
    FisherSettings,
    ProtocolSettings,
    baseline_from_dict,
    baseline_to_dict,
    named_baseline,
)
from alexnet.runs.folder import RunFolder

DESCRIPTORS = DescriptorSettings(cell_px="4", step_px=4, scales=2)
FISHER = BaselineRecipe(
    name="sift-fisher",
    descriptors=DESCRIPTORS,
    encoder=FisherSettings(components=16, dimensions=8, sample_size=2000),
)
SPARSE = replace(
    FISHER,
    name="sparse-coding",
    descriptors=replace(DESCRIPTORS, kinds="sift,patterns", scales=1),
    encoder=CodingSettings(codings="locality,l1", atoms=24, max_descriptors=12, sample_size=800, pyramid="1x1,2x2"),
)


def run(data: Path, recipe: BaselineRecipe, folder: Path, workers: int = 2) -> RunFolder:
    return run_baseline(data, recipe, folder, workers=workers)


def draw_tree(root: Path, classes: int, train: int, val: int) -> Path:
    """A class-per-folder tree whose classes are textures: stripes along, stripes across, squares."""
    random = np.random.default_rng(5)
    for split, count in (("train", train), ("val", val)):
        for one in range(classes):
            folder = root / split / f"texture{one}"
            folder.mkdir(parents=True)
            for number in range(count):
                rows, columns = np.indices((32, 32)) + random.integers(0, 6, 2)[:, None, None]
                bright = [rows // 3 % 2, columns // 3 % 2, (rows // 3 + columns // 3) % 2][one]
                pixels = random.integers(40, 90, 3) + 120 * bright[:, :, None] + random.integers(0, 40, (32, 32, 3))
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    return root


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    prepare(draw_tree(tmp_path / "tree", 3, 20, 5), folder, side=32)
    return folder


def probabilities(folder: Path, data: Path, split: str = "val") -> Any:
    return load_predictions(folder / "predictions", split, 1, PreparedData.open(data)).probabilities


def test_both_baselines_fill_a_run_folder_that_every_command_reads(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [tmp_path / "runs" / name for name in ("fisher", "sparse")]
    for recipe, folder in zip((FISHER, SPARSE), runs, strict=True):
        run(data, recipe, folder)
        metadata = RunFolder.open(folder).metadata()
        assert metadata["state"] == "finished" and metadata["cpu_s"] > 0 and metadata["peak_anonymous_bytes"] > 0
        assert RunFolder.open(folder).any_recipe() == recipe
        with pytest.raises(RequestError, match="run of a baseline"):
            RunFolder.open(folder).recipe()
        stages = {event["name"] for event in RunFolder.open(folder).events() if event["event"] == "stage"}
        assert {"train classifiers", "evaluate"} < stages and any(name.startswith("encode") for name in stages)
    # The classes are textures, which gradients tell apart.
    assert RunFolder.open(runs[0]).evaluations()["val-1views"]["top1_error"] == 0
    before = probabilities(runs[0], data)
    assert cli.main(["evaluate", *map(str, runs), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["evaluations"]
    assert [one["num_views"] for one in found] == [1, 1] and found[0]["mean_class_accuracy"] == 1
    # Recomputed from the images, and rounded as in the cache.
    np.testing.assert_allclose(probabilities(runs[0], data), before, atol=1e-5)
    for words in (
        ["ensemble", *map(str, runs)],
        ["compare", *map(str, runs)],
        ["table", *map(str, runs)],
        ["runs", str(runs[0].parent)],
    ):
        assert cli.main([*words, "--json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["num_views"] for line in lines[:3]] == [1, 1, 1]
    assert [row["name"] for row in json.loads(lines[2])["rows"] if row["runs"]] == ["SIFT + FVs", "Sparse coding"]
    listed = json.loads(lines[3])["runs"]
    assert [one["recipe"] for one in listed] == ["sift-fisher", "sparse-coding"] and listed[0]["top1_error"] == 0
    for folder in runs:
        assert cli.main(["report", str(folder)]) == 0
        page = (folder / "report.html").read_text()
        assert "a baseline" in page and "alexnet predict" not in page and "reads the whole image once" in page
        assert "Learning curves" not in page
    assert cli.main(["evaluate", str(runs[0]), "--views", "10"]) == 2
    assert "has one view per image" in capsys.readouterr().err
    assert cli.main(["predict", str(runs[0]), str(data)]) == 2
    assert "holds a baseline, not a network" in capsys.readouterr().err
    assert cli.main(["resume", str(runs[0])]) == 2


@pytest.mark.parametrize("where", ["vocabulary", "features", "classifiers"])
def test_a_resumed_run_has_the_same_probabilities(
    where: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = probabilities(run(data, FISHER, tmp_path / "whole" / "run", workers=1).path, data)
    calls = {"num": 0}
    made = Channel.transform

    def some_rows(self: Channel, images: Any) -> Any:
        calls["num"] += 1
        if calls["num"] > 7:
            raise KeyboardInterrupt
        return made(self, images)

    def stop(*arguments: Any, **named: Any) -> Any:
        raise KeyboardInterrupt

    target: dict[str, tuple[Any, str, Any]] = {
        "vocabulary": (sys.modules["alexnet.baselines.vocabulary"], "sample_descriptors", stop),
        "features": (Channel, "transform", some_rows),
        "classifiers": (sys.modules["alexnet.baselines.svm_training"], "optimal_temperature", stop),
    }
    folder = tmp_path / "broken" / "run"
    with monkeypatch.context() as patch:
        patch.setattr(*target[where])
        with pytest.raises(Interrupted, match="rerun the same command to resume"):
            run(data, FISHER, folder)
    assert RunFolder.open(folder).state == "interrupted"
    with pytest.raises(RequestError, match=r"started with other settings.*classifier\.c"):
        run(data, replace(FISHER, classifier=ClassifierSettings(c=2)), folder)
    run(data, FISHER, folder)
    np.testing.assert_array_equal(probabilities(folder, data), whole)
    with pytest.raises(RequestError, match="is finished"):
        run(data, FISHER, folder)


@pytest.mark.slow
def test_the_cache_keeps_the_features_of_a_killed_process(tmp_path: Path) -> None:
    program = (
        "import os, sys, numpy as np; from pathlib import Path; from alexnet.baselines import feature_cache\n"
        "feature_cache.CURSOR_EVERY_S = 0\n"
        "def make(first, last):\n"
        "    if first >= 40: os._exit(9)\n"
        "    return np.arange(first, last, dtype=np.float32)[:, None] * np.ones(3, np.float32)\n"
        "feature_cache.cached_features(Path(sys.argv[1]), 'train', (100, 3), make, 1)\n"
    )
    killed = subprocess.run([sys.executable, "-c", program, str(tmp_path)], timeout=300)
    assert killed.returncode == 9
    done = json.loads((tmp_path / "train.json").read_text())["done"]
    assert 0 < done <= 40
    with (tmp_path / "train.f16").open("ab") as file:
        file.write(b"half a r")  # a partial row after those that the cursor counts
    starts: list[int] = []

    def make(first: int, last: int) -> Any:
        starts.append(first)
        return np.arange(first, last, dtype=np.float32)[:, None] * np.ones(3, np.float32)

    rows = cached_features(tmp_path, "train", (100, 3), make, 2)
    assert min(starts) == done
    np.testing.assert_array_equal(rows[:], np.arange(100)[:, None] * np.ones(3))
    assert cached_features(tmp_path, "train", (100, 3), make, 2)[:][99, 0] == 99 and len(starts) == 25 - done // 4
    with pytest.raises(WorkError, match="images 0 to 3 are not finite"):
        cached_features(
            tmp_path, "other", (4, 3), lambda first, last: np.full((last - first, 3), np.nan, np.float32), 1
        )


def test_another_run_reuses_the_features_and_a_bag_of_words_the_vocabulary(data: Path, tmp_path: Path) -> None:
    first = run(data, FISHER, tmp_path / "runs" / "first")
    second = run(data, replace(FISHER, classifier=ClassifierSettings(c=1)), tmp_path / "runs" / "second")
    bag = run(data, replace(FISHER, encoder=replace(FISHER.encoder, kind="bag-of-words")), tmp_path / "runs" / "bag")  # type: ignore[arg-type]

    def stages(one: RunFolder) -> set[str]:
        return {event["name"].split()[0] for event in one.events() if event["event"] == "stage"}

    assert stages(first) == {"fit", "encode", "train", "evaluate"}
    assert stages(second) == {"train", "evaluate"}
    assert stages(bag) == {"encode", "train", "evaluate"}
    models = [load_baseline(one.path) for one in (first, bag)]
    for name in ("weights_", "means_", "variances_"):
        one, other = (getattr(model.channels[0].steps[-1], name) for model in models)
        np.testing.assert_array_equal(one, other)


def test_per_class_draws_images_and_the_rest_is_evaluated(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["baseline", "sift-fisher", str(data), "--per-class", "12", "--seed", "3", "--protocol.evaluate_on", "rest"]
    words += ["--descriptors.cell_px", "4", "--encoder.components", "16", "--encoder.dimensions", "8"]
    words += [
        "--classifier.kind",
        "sgd",
        "--classifier.epochs",
        "3",
        "--run",
        str(tmp_path / "runs" / "rest"),
        "--workers",
        "1",
    ]
    assert cli.main([*words, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    made = RunFolder.open(tmp_path / "runs" / "rest")
    (result,) = made.evaluations().values()
    metadata = made.metadata()
    effort = {key: metadata[key] for key in ("duration_s", "cpu_s", "peak_anonymous_bytes", "features")}
    effort["classifier_c"] = None  # by SGD
    assert printed.pop("evaluations") == [stored := {"run": str(made.path), **result}]
    assert printed == {**stored, "baseline": "sift-fisher", **effort}
    assert (result["split"], result["num_images"]) == ("rest", 24)
    errors = [one["top1_error"] for one in result["per_class"]]
    assert result["mean_class_accuracy"] == pytest.approx(1 - np.mean(errors)) and np.mean(errors) < 0.5
    again = evaluate_baseline(made.path, split="val")
    assert again["num_images"] == 15
    labels = np.array([0] * 5 + [1] * 2 + [2] * 9)
    drawn = draw_per_class(labels, 3, 1)
    assert np.bincount(labels[drawn]).tolist() == [3, 2, 3] and len(set(drawn.tolist())) == 8
    assert not np.array_equal(drawn, draw_per_class(labels, 3, 2))
    with pytest.raises(RequestError, match="the largest class has"):
        draw_per_class(labels, 1000, 1)
    with pytest.raises(RequestError, match="nothing is left"):
        run(data, replace(FISHER, protocol=ProtocolSettings(per_class=20, evaluate_on="rest")), tmp_path / "none")


def test_data_made_square_in_another_way_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tree = draw_tree(tmp_path / "few", 2, 3, 1)
    for fit in ("pad", "squash"):
        prepare(tree, tmp_path / fit, side=32, fit=fit)
    made = run(tmp_path / "pad", replace(FISHER, encoder=FisherSettings(components=16, dimensions=8)), tmp_path / "run")
    evaluate_baseline(made.path)
    assert "--fit" not in caplog.text
    evaluate_baseline(made.path, data_folder=tmp_path / "squash")
    assert "prepared with --fit pad, but those of" in caplog.text


def test_a_baseline_describes_photographs_without_borders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a padded set, of the images that were not drawn, and of several sets, of which each has its own sizes."""
    shapes = {"first": (40, 23), "second": (17, 60)}
    random = np.random.default_rng(3)
    for name, shape in shapes.items():
        for one in range(2):
            folder = tmp_path / f"{name}-tree" / f"class{one}"
            folder.mkdir(parents=True)
            for number in range(4):
                pixels = random.integers(0, 256, (*shape, 3)).astype(np.uint8)
                Image.fromarray(pixels).resize((shape[1], shape[0] + number)).save(folder / f"{number}.png")
        prepare(tmp_path / f"{name}-tree", tmp_path / name, side=32, fit="pad")
    seen: list[tuple[int, ...]] = []

    def transform(self: DenseDescriptors, images: Any) -> Any:
        for image in images:
            seen.append(image.shape)
            assert (image != PAD_COLOR).any(axis=2).mean() > 0.99
        return original(self, images)

    original = DenseDescriptors.transform
    monkeypatch.setattr(DenseDescriptors, "transform", transform)
    recipe = replace(
        FISHER,
        descriptors=replace(DESCRIPTORS, kinds="sift", cell_px="2"),
        encoder=FisherSettings(components=16, dimensions=8),
        protocol=ProtocolSettings(per_class=2, evaluate_on="rest"),
    )
    # The rounding of preparation, from the definition: the longer side becomes 32.
    expected = {
        name: {tuple(round(length * 32 / max(h + n, w)) for length in (h + n, w)) for n in range(4)}
        for name, (h, w) in shapes.items()
    }
    both = [tmp_path / name for name in shapes]
    made = run_baseline(both, recipe, tmp_path / "run", workers=1)
    assert {one[:2] for one in seen} == expected["first"] | expected["second"] and len(seen) > 16
    data, _ = select_evaluation_split(open_data(both), recipe, None)
    stored = [load_predictions(made.path / "predictions", "rest", 1, data).probabilities]
    evaluate_baseline(made.path)
    stored.append(load_predictions(made.path / "predictions", "rest", 1, data).probabilities)
    np.testing.assert_allclose(stored[0], stored[1], atol=1e-5)
    seen.clear()
    evaluate_baseline(made.path, data_folder=tmp_path / "second", split="train")
    assert {one[:2] for one in seen} == expected["second"] and len(seen) == 8
    assert open_data(both).original_sizes("train").tolist() == [
        [h + n, w] for h, w in shapes.values() for _ in range(2) for n in range(4)
    ]


def test_unusual_data(data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    small = tmp_path / "small"
    prepare(draw_tree(tmp_path / "few", 2, 1, 1), small, side=32)
    one_each = replace(FISHER, encoder=FisherSettings(components=16, dimensions=8))
    made = run(small, one_each, tmp_path / "runs" / "one-image")  # a class with one image
    assert RunFolder.open(made.path).evaluations()["val-1views"]["num_images"] == 2
    with pytest.raises(RequestError, match="mixture of 1024 Gaussians from"):
        run(small, replace(one_each, encoder=FisherSettings(components=1024, dimensions=8)), tmp_path / "runs" / "many")
    assert RunFolder.open(tmp_path / "runs" / "many").state == "failed"
    unknown = PreparedData.open(data)
    labels = np.load(data / "train-labels.npy")
    np.save(data / "train-labels.npy", np.where(np.arange(len(labels)) < 2, -1, labels))
    redescribe(data)
    with pytest.raises(RequestError, match=r"2 of 60 training images.*no label"):
        run(data, FISHER, tmp_path / "runs" / "unlabeled")
    np.save(data / "train-labels.npy", np.zeros_like(labels))
    redescribe(data)
    with pytest.raises(RequestError, match="1 class; a classifier needs 2"):
        run(data, FISHER, tmp_path / "runs" / "one-class")
    np.save(data / "train-labels.npy", labels)
    redescribe(data)
    np.save(data / "val-labels.npy", np.full_like(unknown.splits["val"].labels, -1))
    redescribe(data)
    caplog.set_level(logging.INFO, logger="alexnet")
    unlabeled = run(data, FISHER, tmp_path / "runs" / "unlabeled-val")
    assert unlabeled.state == "finished" and not unlabeled.evaluations()
    assert "trained but not evaluated" in caplog.text
    with pytest.raises(RequestError, match=r"15 of 15 images of split 'val'.*no label"):
        evaluate_baseline(unlabeled.path)


def test_too_many_images_for_products_are_refused_before_any_work(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["alexnet.baselines.svm_training"], "MAX_IMAGES", 59)
    with pytest.raises(RequestError, match=r"on 60 training images need .* allowed are 59 images"):
        run(data, FISHER, tmp_path / "runs" / "many")
    assert not (tmp_path / "runs").exists()
    run(data, replace(FISHER, protocol=ProtocolSettings(per_class=19)), tmp_path / "runs" / "fewer")


def test_damaged_and_missing_baseline_files_are_refused(data: Path, tmp_path: Path) -> None:
    made = run(data, FISHER, tmp_path / "runs" / "one")
    file = made.path / "baseline.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-100])
    with pytest.raises(WorkError, match="damaged"):
        load_baseline(made.path)
    file.write_bytes(whole.replace(b'\\"pca\\"', b'\\"pcb\\"'))
    with pytest.raises(WorkError, match="was changed after it was written: content_sha256 does not match"):
        load_baseline(made.path)
    file.write_bytes(file.read_bytes().replace(b'"content_sha256"', b'"of_no_checksum"'))
    with pytest.raises(WorkError, match="is a pcb, which is unknown"):
        load_baseline(made.path)
    file.unlink()
    with pytest.raises(RequestError, match="has no baseline yet"):
        load_baseline(made.path)


def test_recipes_survive_a_file_and_invalid_settings_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for kind, name in (("sift-fisher", "sift-fisher-caltech101"), ("sparse-coding", "sparse-coding-caltech101")):
        recipe = named_baseline(kind, name)  # type: ignore[arg-type]
        assert baseline_from_dict(baseline_to_dict(recipe)) == recipe
        assert recipe.protocol.per_class == 30 and recipe.protocol.evaluate_on == "rest"
    earlier = {"baseline": "sift-fisher", "classifier": {"epochs": 3}}  # by which classifiers were trained then
    assert baseline_from_dict(earlier).classifier == ClassifierSettings(kind="sgd", epochs=3)
    with pytest.raises(RequestError, match="known are sift-fisher, "):
        named_baseline("sift-fisher", "sparse-coding")
    with pytest.raises(RequestError, match="unknown keys"):
        baseline_from_dict({"baseline": "sift-fisher", "encoder": {"atoms": 3}})
    for words, message in (
        (["bag"], "'bag' is not one of them"),
        (["sift-fisher", "d", "--run", "r", "--encoder.components", "8"], "allowed is 16 to 1024"),
        (["sift-fisher", "d", "--run", "r", "--descriptors.kinds", "sift,surf"], "allowed are some of sift"),
        (["sparse-coding", "d", "--run", "r", "--protocol.evaluate_on", "rest"], "without --per-class"),
        (["sift-fisher", "d", "--run", "r", "--recipe", "none"], "unknown recipe 'none'"),
        (["sift-fisher", "d", "--run", "r", "--classifier.epochs", "3"], "add --classifier.kind sgd"),
        (["sift-fisher", "d", "--run", "r", "--classifier.c", "-1"], "--classifier.c is -1"),
        (["sift-fisher", "d", "--run", "r", "--recipe", "sift-fisher-2011", "--classifier.c", "1"], "kind svm"),
    ):
        with pytest.raises((SystemExit, RequestError)) as raised:
            code = cli.main(["baseline", *words])
            raise SystemExit(code)
        assert raised.value.code == 2  # type: ignore[union-attr]
        assert message in " ".join(capsys.readouterr().err.split())


def test_without_scikit_learn_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    from alexnet.cli import baseline_command as baseline_options

    monkeypatch.setattr(baseline_options.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RequestError, match=r"alexnet\[baselines\]"):
        baseline_options.require_libraries()


def test_a_pipeline_of_the_estimators_trains_clones_and_gives_a_runs_features(data: Path, tmp_path: Path) -> None:
    opened = PreparedData.open(data)
    images, labels = np.asarray(opened.splits["train"].images), opened.splits["train"].labels
    steps = (DenseDescriptors("sift", cell_px=4, step_px=4, scales=2), DescriptorPCA(8), FisherVectorEncoder(16))
    pipeline = make_pipeline(*steps, AveragedSGDClassifier(1e-3))
    with pytest.raises(NotFittedError):
        pipeline.predict(images)
    copy = clone(pipeline).set_params(averagedsgdclassifier__epochs=6).fit(images, labels)
    assert (
        copy.named_steps["averagedsgdclassifier"].epochs == 6
        and pipeline.named_steps["averagedsgdclassifier"].epochs == 10
    )
    held = opened.splits["val"]
    assert copy.score(np.asarray(held.images), held.labels) == 1.0
    channel = load_baseline(run(data, FISHER, tmp_path / "runs" / "one").path).channels[0]
    rows = make_pipeline(*channel.steps).transform(images[:5])
    np.testing.assert_array_equal(channel.transform(images[:5]), rows.astype(np.float16).astype(np.float32))


@pytest.mark.slow
def test_memory_does_not_grow_with_the_images(tmp_path: Path) -> None:
    """Rows of 64 kB: 40 MB are written with less than half of that held."""
    program = (
        "import sys, numpy as np; from pathlib import Path\n"
        "from alexnet.baselines import feature_cache\n"
        "from alexnet.system.process_usage import anonymous_bytes\n"
        "make = lambda first, last: np.ones((last - first, 32768), np.float32)\n"
        "feature_cache.cached_features(Path(sys.argv[1]), 'warm', (16, 32768), make, 2)\n"
        "before, most = anonymous_bytes(), 0\n"
        "def watch(done, total):\n"
        "    global most\n"
        "    most = max(most, anonymous_bytes())\n"
        "rows = feature_cache.cached_features(Path(sys.argv[1]), 'rows', (640, 32768), make, 2, watch)\n"
        "print(len(rows) * rows.row_bytes, most - before)\n"
    )
    found = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    written, held = map(int, found.stdout.split())
    assert written == 640 * 65536 and held < written / 2


def test_every_stage_that_may_be_long_shows_its_progress(data: Path, tmp_path: Path) -> None:
    seen: dict[str, list[tuple[int, int]]] = {}

    @contextmanager
    def bar(title: str) -> Iterator[Callable[[int, int], None]]:
        seen.setdefault(title, [])  # the second run finds the first one's features
        yield lambda done, total: seen[title].append((done, total))

    by_sgd = replace(FISHER, classifier=ClassifierSettings(kind="sgd", epochs=4))
    for recipe in (FISHER, by_sgd):
        run_baseline(data, recipe, tmp_path / recipe.classifier.kind, workers=2, progress_bar=bar)
    num = len(PreparedData.open(data).splits["train"])
    stages = {title.partition(": ")[2] or title for title in seen}
    assert stages == {"vocabulary", "train", "products", "classifiers", "weights", "val", "evaluating"}
    for title, calls in seen.items():
        assert len(calls) >= 1 and calls[-1][0] == calls[-1][1] > 0, title
    assert seen["sift: products"][-1][1] == seen["color: classifiers"][-1][1] == seen["sift: weights"][-1][1] == num
    # By SGD: two channels, each also without the fifth that fits the temperature.
    assert seen["classifiers"][-1][1] == 4 * 2 * (num + num - -(-num // 5))


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_damaged_image_is_named_by_its_split_and_key(data: Path, tmp_path: Path, split: str) -> None:
    file = data / f"{split}-images.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1  # the last pixel of the last image
    file.write_bytes(content)
    last = list(PreparedData.open(data).splits[split].keys)[-1]
    assert last.startswith(f"{split}/texture2/")
    with pytest.raises(WorkError, match=rf"^{last}: image \d+ in \S+{split}-images.npy is damaged"):
        run(data, FISHER, tmp_path / "run")
