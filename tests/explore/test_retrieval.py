"""Mean average precision is scikit-learn's, for each query without itself."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score
from tests.explore.indexed_run import IndexedRun, make_indexed_run, make_run

import alexnet
from alexnet.cli.main import main
from alexnet.data.preparation.prepare import prepare
from alexnet.errors import RequestError
from alexnet.explore.retrieval import average_precision, measure_retrieval
from alexnet.explore.vector_index import VectorIndex, build_index


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> IndexedRun:
    return make_indexed_run(tmp_path_factory.mktemp("indexed"))


@given(st.data())
def test_average_precision_is_that_of_scikit_learn(data: Any) -> None:
    """With ties, too: few different distances."""
    num = data.draw(st.integers(1, 40))
    distances = np.array(data.draw(st.lists(st.integers(0, 8), min_size=num, max_size=num)), np.float32)
    is_relevant = np.array(data.draw(st.lists(st.booleans(), min_size=num, max_size=num)))
    is_relevant[data.draw(st.integers(0, num - 1))] = True
    expected = average_precision_score(is_relevant, -distances)
    assert average_precision(distances, is_relevant) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("split", ["val", "train"])
def test_every_image_of_a_split_is_a_query(indexed: IndexedRun, split: str) -> None:
    found = measure_retrieval(indexed.run, split=split, device="cpu")
    images = indexed.data.splits[split]
    queries = alexnet.features(indexed.run, images.images[:], device="cpu", precision="float32")["relu4"]
    queries = queries.reshape(len(images), -1).astype(np.float64)
    vectors, labels = indexed.index.vectors.astype(np.float64), indexed.index.labels
    assert labels is not None
    # The same bytes are stored of val/color0/1.png and of train/color0/0.png: in either split, that is the query.
    leak = list(images.keys).index("val/color0/1.png") if split == "val" else None
    assert leak is None or np.array_equal(images.images[leak], indexed.index.image(0))
    precisions, right = [], []
    for row, query in enumerate(queries):
        distances = np.linalg.norm(vectors - query, axis=1).astype(np.float32)
        is_relevant = labels == images.labels[row]
        if split == "train" or row == leak:
            own = row if split == "train" else 0
            distances, is_relevant = np.delete(distances, own), np.delete(is_relevant, own)
        precisions.append(average_precision_score(is_relevant, -distances))
        right.append(is_relevant[np.argmin(distances)])
    np.testing.assert_allclose(found.average_precision, precisions, rtol=1e-6)
    assert found.mean_average_precision == pytest.approx(np.mean(precisions), rel=1e-6)
    assert found.nearest_accuracy == np.mean(right) and found.num_without == 0
    assert found.chance == pytest.approx(5 / 23 if split == "train" else (11 * 6 / 24 + 5 / 23) / 12)
    low, high = found.interval
    num, mean = len(images), float(np.mean(precisions))
    for end in (low, high):  # where the score test of zeros and ones with this mean just accepts
        assert abs(mean - end) == pytest.approx(1.959964 * (end * (1 - end) / num) ** 0.5, rel=1e-5)
    for one, number in zip(found.by_class, range(4), strict=True):
        of_class = [value for value, label in zip(precisions, images.labels, strict=True) if label == number]
        assert one.mean_average_precision == pytest.approx(np.mean(of_class), rel=1e-6)
        assert (one.num_queries, one.num_indexed, one.id) == (len(of_class), 6, f"color{number}")
    assert f"{found.mean_average_precision:.3f}" in repr(found) and "color2" in found._repr_html_()


@pytest.mark.slow
def test_queries_of_another_data_set_with_the_same_bytes_are_left_out(indexed: IndexedRun, tmp_path: Path) -> None:
    """The same photographs prepared twice, and an index of two data sets: no image is in its own ranking."""
    own = measure_retrieval(indexed.run, split="train", device="cpu")
    shutil.copytree(indexed.source, tmp_path / "source")
    (tmp_path / "source/val/color3/2.png").unlink()
    again = prepare(tmp_path / "source", tmp_path / "again", side=32)
    assert again.checksum != indexed.data.checksum
    found = measure_retrieval(indexed.run, again, "train", device="cpu")
    np.testing.assert_allclose(found.average_precision[2:], own.average_precision[2:], rtol=1e-5)
    assert found.chance == own.chance
    # In an index of both sets, the copy in the other set stays.
    both = build_index(indexed.run, [again.folder, indexed.data.folder], folder=tmp_path / "both", device="cpu")
    found = measure_retrieval(indexed.run, indexed.data, "train", index=both, device="cpu")
    assert found.chance == pytest.approx(11 / 47)


def test_an_opened_index_and_data_must_fit_the_network(indexed: IndexedRun, tmp_path: Path) -> None:
    other = make_run(indexed.data, tmp_path / "other", seed=7)
    with pytest.raises(RequestError, match=r"index was made with other weights than those of .*other"):
        measure_retrieval(other, index=indexed.index, device="cpu")
    small = prepare(indexed.source, tmp_path / "small", side=24)
    with pytest.raises(RequestError, match=r"trained on images of 32 pixels, but .*small stores 24; prepare"):
        measure_retrieval(indexed.run, small, device="cpu")


def with_labels(indexed: IndexedRun, labels: Any) -> VectorIndex:
    return dataclasses.replace(indexed.index, labels=None if labels is None else np.array(labels, np.int64))


def test_one_class_and_lonely_images(indexed: IndexedRun) -> None:
    """All images of one class are all relevant; an image without another of its class cannot be measured."""
    one = measure_retrieval(indexed.run, index=with_labels(indexed, [2] * 24), device="cpu")
    assert one.mean_average_precision == one.chance == one.nearest_accuracy == 1
    assert (len(one.rows), one.num_without) == (3, 9)
    assert one.interval == (pytest.approx(1 / (1 + 1.959964**2 / 3)), 1.0)
    assert [other.mean_average_precision for other in one.by_class] == [None, None, 1.0, None]
    lonely = measure_retrieval(indexed.run, split="train", index=with_labels(indexed, [0] + [1] * 6 + [-1] * 17))
    assert 0 not in lonely.rows and lonely.num_without == 24 - len(lonely.rows) > 0


def test_what_has_no_classes_is_refused(indexed: IndexedRun) -> None:
    for labels, message in (
        (None, "have no classes, so nothing says which are relevant"),
        ([-1] * 24, "no class of .* has images in"),
    ):
        with pytest.raises(RequestError, match=message):
            measure_retrieval(indexed.run, index=with_labels(indexed, labels), device="cpu")
    with pytest.raises(RequestError, match="has no split 'test'"):
        measure_retrieval(indexed.run, split="test")


def test_the_command(indexed: IndexedRun, tmp_path: Path, monkeypatch: Any, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["neighbors", str(indexed.run.path), "--data", str(indexed.data.folder), "--device", "cpu"]
    assert main([*words, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [one["queries"] for one in said["classes"]] == [3] * 4 and said["split"] == "val"
    assert 0 < said["interval"][0] < said["mean_average_precision"] < said["interval"][1] <= 1
    assert Path(said["picture"]).read_bytes().startswith(b"\x89PNG") and said["picture"] == "run-retrieval.png"
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert f"{said['mean_average_precision']:.3f}" in printed and "color3" in printed
