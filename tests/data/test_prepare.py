"""Preparing: what is stored, and what is refused."""

import json
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from PIL import Image
from tests.prepared_files import redescribe

from alexnet.data.concatenated import open_data
from alexnet.data.dataset import PreparedData, prepare_again_words
from alexnet.data.decode import Fit, decode_image
from alexnet.data.photographs import square_image
from alexnet.data.preparation.prepare import prepare, prepared_summary
from alexnet.data.shards import encode_stored
from alexnet.errors import Interrupted, RequestError, WorkError


def write_pictures(folder: Path, counts: dict[str, int], seed: int = 0) -> dict[str, np.ndarray]:
    """Random 16 x 16 PNG files, `counts` per class folder; returns the pixels by place."""
    generator = np.random.default_rng(seed)
    pictures = {}
    for place, num in counts.items():
        (folder / place).mkdir(parents=True)
        for number in range(num):
            pixels = generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / place / f"{number}.png")
            pictures[f"{place}/{number}.png"] = pixels
    return pictures


COUNTS = {"train/b": 3, "train/a": 4, "val/a": 2, "val/b": 1}


def test_pixels_labels_keys_and_statistics(tmp_path: Path) -> None:
    pictures = write_pictures(tmp_path / "source", COUNTS)
    told: list[tuple[int, int]] = []
    data = prepare(tmp_path / "source", tmp_path / "out", side=16, progress=lambda done, of: told.append((done, of)))
    assert told[-1] == (10, 10)
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 7, "val": 3}
    for split in data.splits.values():
        for index in range(len(split)):
            assert np.array_equal(split.images[index], pictures[split.keys[index]])
            assert data.classes[split.labels[index]].id == split.keys[index].split("/")[1]
    train = np.stack([pixels for place, pixels in pictures.items() if place.startswith("train")]).astype(np.float64)
    statistics = data.statistics
    assert statistics.mean_image.dtype == np.float32
    assert np.allclose(statistics.mean_image, train.mean(axis=0), atol=1e-4)
    assert np.allclose(statistics.covariance, np.cov(train.reshape(-1, 3).T, bias=True), rtol=1e-12)
    vectors, values = statistics.eigenvectors, statistics.eigenvalues
    assert np.allclose(vectors @ np.diag(values) @ vectors.T, statistics.covariance)
    assert np.array_equal(values, np.sort(values))
    assert all(column[np.abs(column).argmax()] > 0 for column in vectors.T)
    assert (tmp_path / "out" / "refused.jsonl").read_text() == ""


@pytest.mark.parametrize("store", ["pixels", "jpeg"])
def test_workers_and_groups_do_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: str) -> None:
    write_pictures(tmp_path / "source", COUNTS)
    prepare(tmp_path / "source", tmp_path / "one", side=24, store=store, workers=1)
    monkeypatch.setattr("alexnet.data.preparation.workers.GROUP_BYTES", 1)
    prepare(tmp_path / "source", tmp_path / "three", side=24, store=store, workers=3)
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "three").iterdir())
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "three" / name).read_bytes(), name


def test_chunks_do_not_change_images_and_statistics(tmp_path: Path) -> None:
    write_pictures(tmp_path / "source", COUNTS)
    whole = prepare(tmp_path / "source", tmp_path / "whole", side=24)
    cut = prepare(tmp_path / "source", tmp_path / "cut", side=24, shard_images=2)
    assert whole.checksum == cut.checksum
    assert np.array_equal(whole.statistics.mean_image, cut.statistics.mean_image)
    assert np.array_equal(whole.splits["train"].images, cut.splits["train"].images)


def test_the_store_follows_the_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pictures(tmp_path / "source", COUNTS)
    assert prepare(tmp_path / "source", tmp_path / "small", side=16).store == "pixels"
    monkeypatch.setattr("alexnet.data.preparation.prepare.MAX_PIXELS_STORE_BYTES", 10 * 16 * 16 * 3 - 1)
    assert prepare(tmp_path / "source", tmp_path / "large", side=16).store == "jpeg"


def test_exif_is_applied_or_ignored(tmp_path: Path) -> None:
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:8] = 255
    for place in ("train/a", "train/b", "val/a"):
        folder = tmp_path / "source" / place
        folder.mkdir(parents=True)
        exif = Image.Exif()
        exif[274] = 3  # upside down
        Image.fromarray(pixels).save(folder / "1.png", exif=exif)
    turned = prepare(tmp_path / "source", tmp_path / "auto", side=16)
    assert np.array_equal(turned.splits["val"].images[0], pixels[::-1])
    assert turned.description["plan"]["exif"] == "apply"
    stored = prepare(tmp_path / "source", tmp_path / "ignore", side=16, exif="ignore")
    assert np.array_equal(stored.splits["val"].images[0], pixels)


def write_wide_and_tall(folder: Path) -> None:
    """Two classes with a wide and a tall picture each, and one of them to validate."""
    generator = np.random.default_rng(3)
    for place in ("train/a", "train/b", "val/a"):
        (folder / place).mkdir(parents=True)
        for name, size in (("wide", (20, 61)), ("tall", (50, 17))):
            pixels = generator.integers(0, 256, (*size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / place / f"{name}.png")


@pytest.mark.parametrize("store", ["pixels", "jpeg"])
@pytest.mark.parametrize("fit", get_args(Fit))
def test_photographs_become_square_as_asked_and_as_predictions_make_them(tmp_path: Path, fit: Fit, store: str) -> None:
    write_wide_and_tall(tmp_path / "source")
    data = prepare(tmp_path / "source", tmp_path / "out", side=32, fit=fit, store=store)
    assert data.fit == PreparedData.open(tmp_path / "out").fit == fit == prepared_summary(data)["fit"]
    assert ("fit" in data.description["plan"]) == (fit != "crop")  # defaults keep their bytes
    assert data.original_sizes("val").tolist() == [[50, 17], [20, 61]]
    for split in data.splits.values():
        for index, key in enumerate(split.keys):
            expected = square_image(tmp_path / "source" / key, 32, fit)
            if store == "jpeg":
                expected = decode_image(encode_stored(expected), apply_orientation=False)
            assert np.array_equal(split.images[index], expected)
    again = prepare_again_words(data, 16)
    assert again[again.index("--fit") + 1 :][:1] == [fit] if fit != "crop" else "--fit" not in again


def test_a_preparation_of_another_fit_is_not_continued_nor_concatenated(tmp_path: Path) -> None:
    write_wide_and_tall(tmp_path / "source")

    def interrupt(done: int, of: int) -> None:
        if done > 3:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        prepare(tmp_path / "source", tmp_path / "pad", side=16, fit="pad", shard_images=2, progress=interrupt)
    with pytest.raises(RequestError, match=r"started by another command \(fit was 'pad' and is not given\)"):
        prepare(tmp_path / "source", tmp_path / "pad", side=16, shard_images=2)
    prepare(tmp_path / "source", tmp_path / "pad", side=16, fit="pad", shard_images=2)
    prepare(tmp_path / "source", tmp_path / "crop", side=16)
    with pytest.raises(RequestError, match=r"made square in different ways .*crop: crop, .*pad: pad\); .*same --fit"):
        open_data([tmp_path / "crop", tmp_path / "pad"])
    prepare(tmp_path / "source" / "train", tmp_path / "more", side=16, fit="pad")
    assert open_data([tmp_path / "pad", tmp_path / "more"]).fit == "pad"


def test_an_unknown_fit_is_refused(tmp_path: Path) -> None:
    write_pictures(tmp_path / "source", COUNTS)
    with pytest.raises(RequestError, match="--fit is 'stretch'; allowed is crop, pad, squash"):
        prepare(tmp_path / "source", tmp_path / "out", fit="stretch")  # type: ignore[arg-type]
    prepare(tmp_path / "source", tmp_path / "out", side=16, fit="pad")
    redescribe(tmp_path / "out", plan={**PreparedData.open(tmp_path / "out").description["plan"], "fit": "stretch"})
    with pytest.raises(WorkError, match=r"plan\.fit"):
        PreparedData.open(tmp_path / "out")


def test_unreadable_files_are_named_and_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_pictures(tmp_path / "source", COUNTS)
    folder = tmp_path / "source" / "train" / "a"
    (folder / "0.png").write_bytes((folder / "0.png").read_bytes()[:200])
    (folder / "gone.png").symlink_to(tmp_path / "nowhere")
    (folder / "note.txt").write_text("hello")
    data = prepare(tmp_path / "source", tmp_path / "out", side=16, max_refused=0.5)
    assert len(data.splits["train"]) == 6
    assert data.splits["train"].images.shape == (6, 16, 16, 3)
    refused = [json.loads(line) for line in (tmp_path / "out" / "refused.jsonl").read_text().splitlines()]
    assert [one["path"] for one in refused] == ["train/a/0.png", "train/a/gone.png"]
    assert "No such file" in refused[1]["reason"]
    assert [(one["split"], one["class"]) for one in refused] == [("train", "a")] * 2
    assert "refused 2 of 11 files" in caplog.messages[-1]
    (skipped,) = (json.loads(line) for line in (tmp_path / "out" / "skipped.jsonl").read_text().splitlines())
    assert skipped == {"path": "train/a/note.txt", "reason": "not an image: text or a link (.txt)"}
    assert data.num_skipped == 1


def test_twelve_bits_in_sixteen_are_counted_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_pictures(tmp_path / "source", COUNTS)
    random = np.random.default_rng(2)
    for number, (bits, suffix) in enumerate([(12, "tif"), (12, "png"), (13, "tif"), (16, "png")]):
        values = random.integers(0, 2**bits, (16, 16), np.uint16)
        values[0, 0] = 2**bits - 1
        Image.fromarray(values).save(tmp_path / "source" / "train" / "a" / f"deep{number}.{suffix}")
    data = prepare(tmp_path / "source", tmp_path / "out", side=16, shard_images=3)
    assert "2 of 4 images with 16 bits per channel use only the lower 12 bits" in caplog.text
    assert (data.description["num_16_bit"], data.description["num_12_in_16_bit"]) == (4, 2)
    caplog.clear()
    assert prepare(tmp_path / "source" / "val", tmp_path / "other", side=16).description["num_16_bit"] == 0
    assert "16 bits" not in caplog.text


def test_a_class_without_a_readable_image_fails(tmp_path: Path) -> None:
    write_pictures(tmp_path / "source", {"train/a": 2, "val/a": 1})
    (tmp_path / "source" / "train" / "b").mkdir()
    (tmp_path / "source" / "train" / "b" / "x.png").write_bytes(b"no picture")
    with pytest.raises(WorkError, match="class b of source can be read"):
        prepare(tmp_path / "source", tmp_path / "out", side=16, max_refused=0.5)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out.preparing", "source"]


def test_wrong_requests_write_nothing(tmp_path: Path) -> None:
    write_pictures(tmp_path / "source", {"a": 2, "b": 2})
    taken = tmp_path / "source" / "a"
    with pytest.raises(RequestError, match="exists already"):
        prepare(tmp_path / "source", taken, hold_out=0.5)
    with pytest.raises(RequestError, match="--side is 4"):
        prepare(tmp_path / "source", tmp_path / "out", side=4)
    with pytest.raises(RequestError, match="--workers is 0"):
        prepare(tmp_path / "source", tmp_path / "out", workers=0)
    with pytest.raises(RequestError, match=r"--store is 'png'; allowed is auto, pixels, jpeg"):
        prepare(tmp_path / "source", tmp_path / "out", store="png")
    with pytest.raises(RequestError, match="--max-refused is 5"):
        prepare(tmp_path / "source", tmp_path / "out", max_refused=5)
    with pytest.raises(RequestError, match="--source-format is 'files'"):
        prepare(tmp_path / "source", tmp_path / "out", source_format="files")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]
    assert len(prepare(tmp_path / "source", tmp_path / "out", side=16, hold_out=0.5).splits["val"]) == 2


def test_numbers_of_numpy_are_numbers(tmp_path: Path) -> None:
    write_pictures(tmp_path / "source", {"a": 4, "b": 4})
    given = {"side": 16, "hold_out": 0.5, "seed": 3, "max_refused": 0.25, "shard_images": 4, "workers": 1}
    kinds = (np.int64, np.float32, np.uint8, np.float16, np.int32, np.int64)
    plain = prepare(tmp_path / "source", tmp_path / "plain", **given)
    numpys = {name: kind(value) for (name, value), kind in zip(given.items(), kinds, strict=True)}
    made = prepare(tmp_path / "source", tmp_path / "numpy", **numpys)
    assert made.description["plan"] == plain.description["plan"] and made.checksum == plain.checksum
    for wrong in (np.int64(4), np.float64(16), np.bool_(True)):
        with pytest.raises(RequestError, match=r"--side is .*; allowed is 8 to 1024 pixels"):
            prepare(tmp_path / "source", tmp_path / "out", side=wrong)  # type: ignore[arg-type]


def test_a_source_without_validation_split_is_prepared_and_said_to_have_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_pictures(tmp_path / "source", {"a": 2, "b": 2})
    data = prepare(tmp_path / "source", tmp_path / "out", side=16)
    assert list(data.splits) == ["train"] and not data.has_evaluation_split
    assert "no validation split" in caplog.text and "--hold-out 0.1" in caplog.text
    with pytest.raises(RequestError, match="has no validation or test split; it has train"):
        _ = data.evaluation_split


def test_images_that_are_not_asked_for_are_not_said_to_be_no_images(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="alexnet")
    write_pictures(tmp_path / "source" / "used", {"a": 2, "b": 2})
    write_pictures(tmp_path / "source" / "other", {"a": 2})
    prepare(tmp_path / "source", tmp_path / "out", side=16, split_folders={"train": "used"})
    assert "skipped 2 files (outside of the folders that --split names: 2); see" in caplog.text


def test_a_source_keeps_its_own_validation_split(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_pictures(tmp_path / "source", COUNTS)
    caplog.set_level("INFO", logger="alexnet")
    own = prepare(tmp_path / "source", tmp_path / "own", side=16)
    assert "kept" not in caplog.text
    kept = prepare(tmp_path / "source", tmp_path / "kept", side=16, hold_out=0.5)
    assert "has a validation split, which is kept: --hold-out 0.5 changes nothing" in caplog.text
    assert (tmp_path / "own" / "dataset.json").read_bytes() == (tmp_path / "kept" / "dataset.json").read_bytes()
    assert kept.checksum == own.checksum
