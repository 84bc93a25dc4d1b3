"""Prepared data sets of earlier versions are read: images, labels, keys, classes, statistics, checksum, batches."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from alexnet.cli.main import main
from alexnet.data.dataset import PreparedData
from alexnet.data.dataset_files import data_checksum
from alexnet.data.loader import Loader
from alexnet.data.shards import JpegImages
from alexnet.runs.recipe import DataSettings

CLASSES = [("circle", "circle"), ("n01440764", "tench"), ("square", "square")]
CHECKSUMS = {
    "pixels": "ae4f6644f942a3069fd08db6a295898a132fc181e6001cb6e80fd638619f49b1",
    "jpeg": "6f3bd34f148dc2761217a9fb0b89a2b5ea513b3028c419125b8d598ffefc822a",
}
BATCH = {"pixels": "78dc0af2817ef2ef", "jpeg": "49db8e0a1fd8de2d"}


def source_images() -> dict[str, np.ndarray]:
    """The images that the golden data sets were prepared from, uint8 (28, 28, 3) by key."""
    generator = np.random.default_rng(0)
    images = {}
    for split, num in (("train", 3), ("val", 2)):
        for label, (class_id, _) in enumerate(CLASSES):
            for number in range(num):
                image = np.zeros((28, 28, 3), np.uint8)
                image[:] = generator.integers(0, 256, 3)
                image[4 * label : 4 * label + 12, 3 * number : 3 * number + 10] = generator.integers(0, 256, 3)
                image[:, 20 - number] = 9
                images[f"{split}/{class_id}/{number}.png"] = image
    images["train/square/copy.png"] = images["train/square/0.png"]
    return images


@pytest.mark.parametrize("store", ["pixels", "jpeg"])
def test_a_prepared_data_set_is_read(golden: Path, store: str) -> None:
    data = PreparedData.open(golden / store)
    assert (data.title, data.generated, data.side, data.store) == ("source", False, 28, store)
    assert [(one.id, one.name) for one in data.classes] == CLASSES
    expected = source_images()
    labels = {class_id: label for label, (class_id, _) in enumerate(CLASSES)}
    for name, split in data.splits.items():
        keys = sorted(key for key in expected if key.startswith(name))
        assert list(split.keys) == keys
        assert split.labels.tolist() == [labels[key.split("/")[1]] for key in keys]
        assert data.original_sizes(name).tolist() == [[28, 28]] * len(keys)
        for index, key in enumerate(keys):
            difference = np.abs(split.images[index].astype(int) - expected[key])
            assert difference.max() == 0 if store == "pixels" else difference.mean() < 12
    train = np.stack([data.splits["train"].images[index] for index in range(10)])
    # The statistics are those of the pixels before compression.
    if store == "pixels":
        pixels = train.reshape(-1, 3).astype(np.float64)
        assert np.array_equal(data.statistics.mean_image, train.astype(np.float64).mean(axis=0).astype(np.float32))
        assert np.allclose(data.statistics.covariance, np.cov(pixels.T, bias=True), rtol=1e-12)
    statistics = PreparedData.open(golden / "pixels").statistics
    for field in ("mean_image", "covariance", "eigenvalues", "eigenvectors"):
        assert np.array_equal(getattr(data.statistics, field), getattr(statistics, field))


@pytest.mark.parametrize("store", ["pixels", "jpeg"])
def test_the_checksum_is_that_of_the_files(golden: Path, store: str) -> None:
    data = PreparedData.open(golden / store)
    digests = {}
    for name, split in data.splits.items():
        images_of = split.images
        stored = [
            images_of.stored(index) if isinstance(images_of, JpegImages) else images_of[index].tobytes()
            for index in range(len(split))
        ]
        images = b"".join(hashlib.sha256(content).digest()[:16] for content in stored)
        assert data.digests(name).tobytes() == images
        digests[name] = (hashlib.sha256(images).hexdigest(), hashlib.sha256(split.labels.tobytes()).hexdigest())
        for shard in data.description["splits"][name].get("shards", ()):
            assert hashlib.sha256((data.folder / shard["file"]).read_bytes()).hexdigest() == shard["sha256"]
    assert data.checksum == CHECKSUMS[store] == data_checksum(digests, [class_id for class_id, _ in CLASSES])


@pytest.mark.parametrize("store", ["pixels", "jpeg"])
def test_a_batch_is_the_one_that_earlier_versions_drew(golden: Path, store: str) -> None:
    data = PreparedData.open(golden / store)
    batch = Loader(data.splits["train"], data.statistics, DataSettings(crop=24), 4, seed=5).batch(3)
    assert batch.samples.tolist() == [6, 3, 1, 2]
    assert batch.labels.tolist() == [2, 1, 0, 0]
    assert batch.corners.tolist() == [[1, 0], [0, 2], [0, 0], [0, 2]]
    assert batch.mirror.tolist() == [True, False, False, False]
    assert np.allclose(batch.noise[0].numpy(), [0.10737406462430954, 1.513563871383667, 2.7482235431671143], rtol=1e-6)
    assert hashlib.sha256(batch.images.numpy().tobytes()).hexdigest()[:16] == BATCH[store]


@pytest.mark.parametrize("store", ["pixels", "jpeg"])
def test_inspect_reads_a_prepared_data_set(golden: Path, store: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(golden / store), "--json"]) == 0
    inspected = json.loads(capsys.readouterr().out)
    assert inspected["splits"]["train"]["images"] == 10 and inspected["splits"]["val"]["images"] == 6
    assert inspected["duplicates"]["surplus_images"] == 1
    assert main(["inspect", str(golden / store)]) == 0
    page = (golden / store / "inspect.html").read_text()
    assert "train/circle/broken.png" in page and "tench" in page
