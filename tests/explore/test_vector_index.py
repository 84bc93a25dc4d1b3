"""An index is the training split's activations, of these weights and these images; anything else is refused."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.explore.indexed_run import NUM_CLASSES, NUM_TRAIN, IndexedRun, make_indexed_run, make_run

import alexnet
from alexnet.data.preparation.prepare import prepare
from alexnet.errors import Interrupted, RequestError
from alexnet.explore.features import open_features, write_features
from alexnet.explore.vector_index import build_index, has_index, open_index
from alexnet.storage.typed_files import DamagedFile

HERE: dict[str, Any] = {"device": "cpu", "precision": "float32"}


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> IndexedRun:
    return make_indexed_run(tmp_path_factory.mktemp("indexed"))


@pytest.fixture
def copied(indexed: IndexedRun, tmp_path: Path) -> Path:
    """The run, to be changed."""
    return Path(shutil.copytree(indexed.run, tmp_path / "run"))


def test_an_index_holds_the_activations_of_the_training_split(indexed: IndexedRun) -> None:
    index, split = indexed.index, indexed.data.splits["train"]
    assert index.folder == indexed.run.path / "index" and has_index(indexed.run)
    activations = alexnet.features(indexed.run, split.images[:], **HERE)["relu4"]
    np.testing.assert_allclose(index.vectors, activations.reshape(len(split), -1), rtol=1e-5, atol=1e-5)
    assert len(index) == NUM_CLASSES * NUM_TRAIN and list(index.keys) == list(split.keys)
    assert index.labels is not None
    np.testing.assert_array_equal(index.labels, split.labels)
    assert index.class_of(0) == index.class_names[0] == indexed.data.classes[0].name
    np.testing.assert_array_equal(index.image(7), split.images[7])
    # It is a folder of features like any other.
    np.testing.assert_array_equal(open_features(index.folder).activations["relu4"].reshape(24, -1), index.vectors)
    assert repr(index).endswith("24 images of train, relu4, 576 values each)") and "relu4" in index._repr_html_()


def test_the_same_call_opens_what_is_there_and_others_are_refused(
    indexed: IndexedRun, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = (indexed.index.folder / "relu4.npy").stat().st_mtime_ns
    caplog.set_level(logging.INFO, logger="alexnet")
    assert len(build_index(indexed.run, layer="relu4")) == 24
    assert caplog.messages == [
        f"{indexed.index.folder} is complete: 24 images of train of {indexed.data.folder}, relu4"
    ]
    assert (indexed.index.folder / "relu4.npy").stat().st_mtime_ns == before
    with pytest.raises(RequestError, match=r"is an index of layer relu4, not fc5; remove it, or name another .* --out"):
        build_index(indexed.run, layer="fc5")
    with pytest.raises(RequestError, match=r"is an index of split train, not val"):
        build_index(indexed.run, split="val")
    other = build_index(indexed.run.weights, indexed.data, split="val", layer="fc5", folder=tmp_path / "o", **HERE)
    assert other.vectors.shape == (12, 4) and open_index(indexed.run, tmp_path / "o").split == "val"


def test_interrupted_work_is_resumed(indexed: IndexedRun, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def interrupted(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="rerun the same command to resume"):
        build_index(indexed.run, folder=tmp_path / "out", batch_size=5, progress=interrupted, **HERE)
    assert not has_index(indexed.run, tmp_path / "out")
    caplog.set_level(logging.INFO, logger="alexnet")
    made = build_index(indexed.run, folder=tmp_path / "out", batch_size=5, **HERE)
    assert caplog.messages[0] == "resuming: 5 of 24 images are done"
    np.testing.assert_allclose(made.vectors, indexed.index.vectors, rtol=1e-5, atol=1e-5)


def test_without_an_index_the_command_is_named(indexed: IndexedRun, tmp_path: Path) -> None:
    run = make_run(indexed.data, tmp_path / "my run")
    assert not has_index(run) and not has_index(run.weights)
    with pytest.raises(RequestError, match=r"contains no index; make one with `alexnet index '.*my run'`$"):
        open_index(run)
    with pytest.raises(RequestError, match=r"make one with `alexnet index '.*my run' --out .*elsewhere`$"):
        open_index(run, tmp_path / "elsewhere")
    for call in (open_index, build_index):
        with pytest.raises(RequestError, match=r"is a weights file, which has no folder for an index; name one"):
            call(run.weights)
    with pytest.raises(RequestError, match=r"no data set; name one: `alexnet index .*safetensors'? DATA --out .*new`"):
        build_index(run.weights, folder=tmp_path / "new")
        with pytest.raises(RequestError, match=r"nowhere does not exist; give a run folder, or a weights file"):
            call(tmp_path / "nowhere")


def test_an_index_of_other_weights_is_refused(indexed: IndexedRun, tmp_path: Path) -> None:
    other = make_run(indexed.data, tmp_path / "other", seed=7)
    for call in (
        lambda: open_index(other, indexed.index.folder),
        lambda: build_index(other, folder=indexed.index.folder),
    ):
        with pytest.raises(
            RequestError,
            match=r"was made with other weights than those of .*other \(sha256 .* make one with `alexnet index .*other "
            r"--out FOLDER`$",
        ):
            call()
    write_features(indexed.run, tmp_path / "random", split="train", untrained=True, **HERE)
    with pytest.raises(RequestError, match="has features of untrained weights"):
        open_index(indexed.run, tmp_path / "random")


def test_other_features_are_refused(indexed: IndexedRun, tmp_path: Path) -> None:
    photographs = sorted((indexed.source / "val/color0").iterdir())
    write_features(indexed.run, tmp_path / "photographs", photographs=photographs, **HERE)
    with pytest.raises(RequestError, match="has features of photographs; an index needs those of a prepared data set"):
        open_index(indexed.run, tmp_path / "photographs")
    write_features(indexed.run, tmp_path / "small", pca=2, **HERE)
    with pytest.raises(RequestError, match="has principal components; an index needs the activations"):
        open_index(indexed.run, tmp_path / "small")
    write_features(indexed.run, tmp_path / "two", layers=["relu4", "fc5"], **HERE)
    with pytest.raises(RequestError, match=r"has 2 layers \(relu4, fc5\); an index has one"):
        open_index(indexed.run, tmp_path / "two")


@pytest.mark.parametrize("version", [1, 2, 3])
def test_features_of_earlier_versions_are_refused(copied: Path, version: int) -> None:
    """There, names of layers mean other tensors, or checksums are missing."""
    path = copied / "index/features.json"
    content = json.loads(path.read_text())
    del content["content_sha256"]
    if version == 3:
        del content["crc32"]
    content["format_version"] = version
    path.write_text(json.dumps(content if version > 1 else {**content, "points": content["layers"]}))
    with pytest.raises(RequestError, match=r"an earlier version of alexnet wrote, .*remove .* `alexnet index .*run`"):
        open_index(copied)


@pytest.mark.parametrize("name", ["relu4.npy", "labels.npy", "images.csv", "features.json"])
@pytest.mark.parametrize("change", ["cut", "flip", "gone"])
def test_damage_is_reported(copied: Path, name: str, change: str) -> None:
    path = copied / "index" / name
    content = bytearray(path.read_bytes())
    if change == "gone":
        path.unlink()
    else:
        content[-20] ^= 1
        path.write_bytes(content if change == "flip" else content[:-20])
    if (name, change) == ("features.json", "gone"):
        assert not has_index(copied)
    elif (name, change) == ("labels.npy", "gone"):
        with pytest.raises(DamagedFile, match="labels"):
            open_index(copied)
    else:
        with pytest.raises(
            DamagedFile, match=f"{name} is (damaged|missing).*make the index again with `alexnet index "
        ):
            open_index(copied)


def test_moved_data_are_named_and_compared(indexed: IndexedRun, copied: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(indexed.data, moved)
    for name in ("index/features.json", "run.json"):
        content = json.loads((copied / name).read_text().replace(str(indexed.data.folder), "/gone"))
        del content["content_sha256"]
        (copied / name).write_text(json.dumps(content))
    index = open_index(copied)
    assert index.data is None and index.class_of(0) == indexed.data.classes[0].name
    with pytest.raises(RequestError, match=r"is no longer at /gone; give its new path with --data"):
        index.image(0)
    np.testing.assert_array_equal(open_index(copied, data_folder=moved).image(3), indexed.index.image(3))
    other = prepare(indexed.source, tmp_path / "other", side=32, hold_out=0.0, store="jpeg")
    with pytest.raises(
        RequestError, match=r"other has other images than the data set of which .*index was made \(/gone"
    ):
        open_index(copied, data_folder=other)
    # The run's own data set, where it is now.
    run = json.loads((copied / "run.json").read_text())
    run["data"]["folder"] = str(moved)
    (copied / "run.json").write_text(json.dumps(run))
    assert open_index(copied).require_data().folder == moved
    # Where it was is another folder now.
    content = json.loads((copied / "index/features.json").read_text().replace("/gone", str(tmp_path)))
    (copied / "index/features.json").write_text(json.dumps(content))
    assert open_index(copied).require_data().folder == moved


def test_data_of_other_classes_keep_their_own_labels(indexed: IndexedRun, tmp_path: Path) -> None:
    shutil.copytree(indexed.source, tmp_path / "source")
    for split in ("train", "val"):
        for label in range(NUM_CLASSES):
            (tmp_path / "source" / split / f"color{label}").rename(tmp_path / "source" / split / f"thing{3 - label}")
    data = prepare(tmp_path / "source", tmp_path / "data", side=32)
    index = build_index(indexed.run, data, folder=tmp_path / "index", **HERE)
    assert index.classes == ("thing0", "thing1", "thing2", "thing3")
    assert index.labels is not None and index.labels.tolist() == data.splits["train"].labels.tolist()
