"""Neighbors of photographs: by features and by pixels, without the query itself, with its copies marked."""

import dataclasses
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.explore.indexed_run import IndexedRun, make_indexed_run, make_run

import alexnet
from alexnet.cli.main import main
from alexnet.data.concatenated import open_data
from alexnet.data.preparation.prepare import prepare
from alexnet.errors import RequestError
from alexnet.explore.found_neighbors import Neighbor, distance_text
from alexnet.explore.neighbors import neighbors, neighbors_of_rows
from alexnet.explore.vector_index import build_index
from alexnet.system.progress import ShowProgress

HERE: dict[str, Any] = {"device": "cpu", "precision": "float32"}


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> IndexedRun:
    return make_indexed_run(tmp_path_factory.mktemp("indexed"))


def order_by(vectors: np.ndarray, query: np.ndarray, without: int | None) -> list[int]:
    """From the definition."""
    distances = np.sqrt(np.square(vectors.astype(np.float64) - query.astype(np.float64)).sum(1))
    return [one for one in np.argsort(distances, kind="stable").tolist() if one != without]


def test_neighbors_are_the_nearest_by_features_and_by_pixels(indexed: IndexedRun) -> None:
    photographs = [indexed.source / "val/color0/0.png", indexed.source / "val/color3/2.png"]
    found = alexnet.neighbors(indexed.run, photographs, num=5, device="cpu")
    vectors = alexnet.features(indexed.run, photographs, **HERE)["relu4"].reshape(2, -1)
    pixels = np.array(indexed.data.splits["train"].images[:]).reshape(24, -1)
    for one, vector, path in zip(found.queries, vectors, photographs, strict=True):
        assert one.name == str(path) and one.class_id is None and one.left_out is None
        assert [other.row for other in one.by_features] == order_by(indexed.index.vectors, vector, None)[:5]
        assert one.by_pixels is not None
        assert [other.row for other in one.by_pixels] == order_by(pixels, one.image.reshape(-1), None)[:5]
        first = one.by_pixels[0]
        difference = pixels[first.row].astype(np.float64) - one.image.reshape(-1)
        assert first.distance == pytest.approx(np.linalg.norm(difference), rel=1e-6)
        assert first.key == indexed.index.keys[first.row] and first.class_name == indexed.index.class_of(first.row)
        assert not any(other.is_duplicate for other in one.by_features)
    assert repr(found) == "Neighbors(2 queries, 5 nearest of 24 images, relu4)" and len(found) == 2
    assert found._repr_html_().count("<img") == 2 * 6
    assert found.describe() == "2 queries and the 5 nearest of 24 images of train, by relu4 and by raw pixels"


@pytest.mark.parametrize("store", ["pixels", "jpeg"])
def test_the_query_itself_is_left_out_and_copies_are_marked(tmp_path: Path, store: str) -> None:
    """Also where images are stored as JPEG files, which are not the photograph's pixels."""
    indexed = make_indexed_run(tmp_path, store=store)
    found = neighbors(indexed.run, indexed.source / "train/color0/0.png", num=30, device="cpu")[0]
    keys = list(indexed.index.keys)
    own, copy = keys.index("train/color0/0.png"), keys.index("train/color0/1.png")
    assert found.left_out == "train/color0/0.png" and found.class_name == indexed.index.class_of(own)
    for others in (found.by_features, found.by_pixels):
        assert others is not None
        assert [one.row for one in others if one.is_duplicate] == [copy] == [others[0].row]
        assert len(others) == 23 and own not in [one.row for one in others]
    assert found.by_pixels is not None and found.by_pixels[0].distance == 0
    np.testing.assert_array_equal(found.image, indexed.index.image(own))
    # A picture in memory is found as well; one that differs in a bit is not.
    square = np.asarray(Image.open(indexed.source / "train/color0/0.png").resize((32, 32), Image.Resampling.BILINEAR))
    again = neighbors(indexed.run, [Image.open(indexed.source / "train/color0/0.png"), square ^ 1], device="cpu")
    assert [one.left_out for one in again.queries] == ["train/color0/0.png", None]
    assert [one.name for one in again.queries] == ["image 0", "image 1"]


def test_queries_from_a_split_have_classes(indexed: IndexedRun) -> None:
    """An image whose bytes are in the index is left out, whatever its split; other copies are marked."""
    keys = list(indexed.data.splits["val"].keys)
    copy = keys.index("val/color0/1.png")
    found = neighbors_of_rows(indexed.run, indexed.data, "val", [copy, 5], index=indexed.index, device="cpu")
    assert found[0].left_out == "train/color0/0.png" and found[0].name == "val/color0/1.png"
    assert found[1].left_out is None and found[0].by_features[0].key == "train/color0/1.png"
    assert [one.is_duplicate for one in found[0].by_features[:3]] == [True, False, False]
    assert found[1].class_id == indexed.data.classes[indexed.data.splits["val"].labels[5]].id
    right = sum(one.class_id == query.class_id for query in found.queries for one in query.by_features)
    assert f"of the query's class are {right} of 12 by features, " in found.describe()
    copied = neighbors_of_rows(indexed.run, indexed.data, "train", [1], with_pixels=False, device="cpu")[0]
    assert (copied.left_out, copied.by_features[0].key) == ("train/color0/1.png", "train/color0/0.png")
    own = neighbors_of_rows(indexed.run, indexed.data, "train", [3], num=24, with_pixels=False, device="cpu")[0]
    assert own.left_out == indexed.index.keys[3] and own.by_pixels is None and len(own.by_features) == 23
    for rows in ([], [12], [-1]):
        with pytest.raises(RequestError, match=r"allowed are one or more of 0 to 11"):
            neighbors_of_rows(indexed.run, indexed.data, "val", rows)


def test_what_is_compared_is_said(
    indexed: IndexedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    titles: list[str] = []

    @contextmanager
    def noted(name: str, *, shown: ShowProgress) -> Iterator[Any]:
        titles.append(name)
        yield lambda *_: None
        if name == "comparing pixels":
            raise KeyboardInterrupt

    monkeypatch.setattr("alexnet.explore.neighbors.counted", noted)
    query, picture = indexed.source / "val/color0/0.png", tmp_path / "a.png"
    words = ["neighbors", str(indexed.run.path), str(query), "--out", str(picture), "--device", "cpu"]
    assert main(words) == 3 and titles == ["comparing features", "comparing pixels"]
    assert "interrupted while comparing pixels, which --no-pixels omits" in capsys.readouterr().err
    assert main([*words, "--no-pixels"]) == 0 and titles[2:] == ["comparing features"]


def test_an_opened_index_and_data_must_fit_the_network(indexed: IndexedRun, tmp_path: Path) -> None:
    other = make_run(indexed.data, tmp_path / "other", seed=7)
    photograph = indexed.source / "val/color0/0.png"
    with pytest.raises(RequestError, match=r"index was made with other weights than those of .*other"):
        neighbors(other, photograph, index=indexed.index, device="cpu")
    small = prepare(indexed.source, tmp_path / "small", side=24)
    with pytest.raises(RequestError, match=r"trained on images of 32 pixels, but .*small stores 24; prepare"):
        neighbors_of_rows(indexed.run, small, "val", [0], device="cpu")


def test_concatenated_data_sets(indexed: IndexedRun, tmp_path: Path) -> None:
    other = make_indexed_run(tmp_path, store="jpeg")
    data = [indexed.data.folder, other.data.folder]
    index = build_index(indexed.run, data, folder=tmp_path / "both", **HERE)
    assert len(index) == 48 and index.require_data().checksum == open_data(data).checksum
    found = neighbors(indexed.run, other.source / "train/color2/3.png", index=index, num=47, device="cpu")[0]
    place = list(indexed.index.keys).index("train/color2/3.png")
    # Stored as pixels in the first set: that is the query itself; as a JPEG file in the second.
    assert found.left_out == index.keys[place]
    assert [one.row for one in found.by_features if one.is_duplicate] == [24 + place]


def test_fewer_images_than_neighbors(indexed: IndexedRun, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(indexed.source / "train/color1", source / "train/color1")
    (source / "train/color0").mkdir()
    shutil.copy(indexed.source / "train/color0/0.png", source / "train/color0")
    data = prepare(source, tmp_path / "data", side=32)
    build_index(indexed.run, data, folder=tmp_path / "index", **HERE)
    found = neighbors(indexed.run, source / "train/color1/2.png", index=tmp_path / "index", num=9, device="cpu")
    assert len(found[0].by_features) == 6
    text = "1 query and the 6 nearest of 7 images of train, by relu4 and by raw pixels"
    assert found.describe() == f"{text}; of the query's class are 5 of 6 by features, 5 of 6 by pixels"
    assert found.figure() is not None


def test_wrong_requests_are_refused(indexed: IndexedRun, tmp_path: Path) -> None:
    photograph = indexed.source / "val/color0/0.png"
    (tmp_path / "bad.jpg").write_bytes(b"\xff\xd8\xff not a picture")
    for images, options, message in (
        (photograph, {"num": 0}, r"--num is 0; allowed is a whole number, 1 or more"),
        (photograph, {"num": True}, r"--num is True"),
        ([], {}, "no images are given; pass one or more"),
        (tmp_path / "none.png", {}, "No such file"),
        (tmp_path / "bad.jpg", {}, r"^[^:]*bad.jpg is not a readable image"),
        ([tmp_path / "bad.jpg"] * 2, {}, r"none of the 2 images can be read: .*bad.jpg is not a readable image"),
        ([photograph] * 1001, {}, r"1,001 images are given; allowed is up to 1,000 at a time.* with --split"),
        (indexed.data.folder, {}, r"is a prepared data set, .*`alexnet neighbors` with --data instead of photographs"),
        (photograph, {"index": tmp_path / "none"}, "contains no index; make one with `alexnet index "),
        (
            photograph,
            {"codes": 64},
            r"index has no codes of 64 bits; make them with `alexnet codes \S*/run --bits 64`",
        ),
        (photograph, {"codes": True}, "--codes is True; allowed is the number of bits"),
        (photograph, {"rerank": 10}, "--rerank orders what codes find; name their length with --codes"),
        (photograph, {"codes": 64, "approximate": True}, "both --approximate and --codes are given"),
        (photograph, {"approximate": True}, r"has no approximate index; rerun `alexnet index` with --approximate hnsw"),
    ):
        with pytest.raises(RequestError, match=message):
            neighbors(indexed.run, images, device="cpu", **options)  # type: ignore[arg-type]


def test_unreadable_photographs_are_left_out(
    indexed: IndexedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "photographs"
    folder.mkdir()
    for number in (0, 2):
        shutil.copy(indexed.source / f"val/color2/{number}.png", folder)
    (folder / "1.png").write_bytes(b"\x89PNG not a picture")
    words = ["neighbors", str(indexed.run.path), str(folder), "--no-pixels", "--out", str(tmp_path / "x.png")]
    assert main([*words, "--device", "cpu", "--json"]) == 0
    output = capsys.readouterr()
    said = json.loads(output.out)
    assert [Path(one["image"]).name for one in said["queries"]] == ["0.png", "2.png"]
    assert [Path(one["image"]).name for one in said["refused"]] == ["1.png"]
    assert "left out: " in output.err and "1.png is not a readable image" in " ".join(output.err.split())


@pytest.mark.slow
def test_many_queries_and_many_neighbors(indexed: IndexedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """Queries in parts of two have the same answers as all at once; a picture has the first 20 neighbors."""
    photographs = sorted((indexed.source / "train/color1").iterdir())[:5]
    seen: list[tuple[int, int]] = []
    whole = neighbors(indexed.run, photographs, num=23, device="cpu")
    monkeypatch.setattr("alexnet.explore.neighbors._QUERIES_BYTES", 2 * 4 * 32 * 32 * 3)
    parts = neighbors(indexed.run, photographs, num=23, device="cpu", progress=lambda *words: seen.append(words))
    assert seen[-3:] == [(24, 72), (48, 72), (72, 72)]
    for one, other in zip(whole.queries, parts.queries, strict=True):
        assert one.left_out is not None and one.left_out == other.left_out
        for found, again in ((one.by_features, other.by_features), (one.by_pixels, other.by_pixels)):
            assert found is not None and again is not None and len(found) == 23
            assert [one.row for one in found] == [one.row for one in again]
    figure = dataclasses.replace(whole, queries=whole.queries[:1]).figure()
    assert len(figure.axes) == 1 + 2 * 20
    texts = [one.get_text() for one in figure.texts]
    assert texts[0] == "run: the nearest of 24 images of train" and "; the first 20 of 23 neighbors" in texts[1]


def test_distances_are_written_with_four_digits() -> None:
    texts = [distance_text(Neighbor(0, "", None, None, value, False)) for value in (0.0, 1.33649, 31.999, 22458.4)]
    assert texts == ["distance 0.000", "distance 1.336", "distance 32.00", "distance 22,458"]


def test_the_command(indexed: IndexedRun, tmp_path: Path, monkeypatch: Any, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    run, photograph = str(indexed.run.path), str(indexed.source / "train/color0/0.png")
    assert main(["neighbors", run, photograph, "--num", "3", "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert "itself left out: train/color0/0.png" in " ".join(said.split()) and "color0/1.png (copy)" in said
    assert said.splitlines()[-1].startswith("run-neighbors.png: 1 query and the 3 nearest of 24 images of train, by")
    with Image.open("run-neighbors.png") as picture:
        assert picture.size[0] > 600
    words = ["neighbors", run, photograph, "--no-pixels", "--out", "made.svg", "--json", "--device", "cpu"]
    assert main(words) == 0
    said = json.loads(capsys.readouterr().out)
    (query,) = said["queries"]
    assert len(query["neighbors"]) == 6 and query["pixel_neighbors"] is None and said["approximate"] is None
    assert query["neighbors"][0]["duplicate"] and query["left_out"] == "train/color0/0.png"
    assert said["picture"] == "made.svg" and Path("made.svg").read_text().startswith("<?xml")
    for words, message in (
        (["neighbors", run], "neighbors needs queries; name photographs, or"),
        (["neighbors", run, photograph, "--split", "val"], "name one or the other as queries"),
        (["neighbors", run, "--split", "val", "--num", "3"], "--num is for photographs"),
        (["neighbors", run, "--split", "val", "--approximate"], "--approximate is for photographs"),
        (["neighbors", run, photograph, "--format", "jpg"], "--format is 'jpg'; allowed is png, svg, pdf"),
        (["neighbors", run, photograph, "--format", "png", "--out", str(indexed.run.path)], "is a folder; name a file"),
    ):
        assert main(words) == 2, words
        assert message in capsys.readouterr().err


def test_the_index_command(indexed: IndexedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["index", str(indexed.run.path), str(indexed.data.folder), "--split", "val", "--layer", "fc5"]
    assert main([*words, "--out", str(tmp_path / "i"), "--device", "cpu", "--precision", "float32"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'i'}: 12 images of val, fc5, 4 values each, 192 bytes\n"
    assert main([*words, "--out", str(tmp_path / "i"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["images"] == 12 and said["layers"] == ["fc5"] and said["approximate"] is None
    assert main(["index", str(indexed.run.path), "--layer", "conv9", "--out", str(tmp_path / "j")]) == 2
    assert "variant 'quick' has no layer 'conv9'; it has conv1, " in capsys.readouterr().err
