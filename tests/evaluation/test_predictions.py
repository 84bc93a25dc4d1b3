"""Saved probabilities are read back unchanged, and only for their own data set."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from alexnet.data.dataset import ClassInfo, PreparedData, Split, Statistics
from alexnet.errors import RequestError, WorkError
from alexnet.evaluation.predictions import load_predictions, predictions_path, save_predictions, views_sort_key
from alexnet.evaluation.run_evaluation import remap_classes

NUM, NUM_CLASSES = 5, 3


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "predictions"


@pytest.fixture
def data():
    keys = [str(place) for place in range(NUM)]
    split = Split("val", np.zeros((NUM, 2, 2, 3), np.uint8), np.zeros(NUM, np.int64), keys)
    return PreparedData(
        folder=Path("made-up"),
        title="made up",
        generated=True,
        classes=tuple(ClassInfo(f'c"{one}', f"class {one}") for one in range(NUM_CLASSES)),
        splits={"val": split},
        side=2,
        statistics=Statistics(np.zeros((2, 2, 3), np.float32), np.eye(3), np.ones(3), np.eye(3)),
        checksum="ab" * 32,
    )


@pytest.fixture
def probabilities():
    return np.random.default_rng(0).uniform(0, 1, (NUM, NUM_CLASSES)).astype(np.float32)


def test_round_trip(folder, data, probabilities):
    path = save_predictions(folder, "val", 10, probabilities, data)
    assert path == folder / "val-10views.safetensors"
    assert [one.name for one in path.parent.iterdir()] == [path.name]
    found = load_predictions(folder, "val", 10, data)
    np.testing.assert_array_equal(found.probabilities, probabilities)
    np.testing.assert_array_equal(safetensors.numpy.load_file(path)["samples"], np.arange(NUM))
    assert (found.split, found.num_views, found.data_checksum) == ("val", 10, data.checksum)
    assert found.class_ids == tuple(one.id for one in data.classes)
    assert found.saved_labels.dtype == np.int64 and found.saved_labels.tolist() == [0] * NUM


def test_dense_has_its_own_file_name(folder, data, probabilities):
    path = save_predictions(folder, "val", "dense", probabilities, data)
    assert path == folder / "val-dense.safetensors"
    assert load_predictions(folder, "val", "dense", data).num_views == "dense"
    path.rename(predictions_path(folder, "val", 1))
    with pytest.raises(WorkError, match="was renamed: it contains dense views of split 'val'"):
        load_predictions(folder, "val", 1, data)
    assert sorted([10, "dense", 1, 9], key=views_sort_key) == ["dense", 1, 9, 10]


def test_columns_of_a_network_with_more_classes_in_another_order(folder, data):
    labeled = dataclasses.replace(data.splits["val"], labels=np.array([0, 1, 2, 2, 0]))
    data = dataclasses.replace(data, splits={"val": labeled})
    known = [data.classes[2], ClassInfo("zebra", "zebra"), data.classes[0], data.classes[1]]
    wider = np.random.default_rng(1).uniform(0, 1, (NUM, 4)).astype(np.float32)
    with pytest.raises(ValueError, match="shape"):
        save_predictions(folder, "val", 1, wider, data)
    counted = remap_classes(known, data)
    save_predictions(folder, "val", 1, wider, counted)
    for one in (data, counted):
        found = load_predictions(folder, "val", 1, one)
        np.testing.assert_array_equal(found.probabilities, wider)
        assert found.class_ids == tuple(one.id for one in known)
        assert found.labels(one).tolist() == found.saved_labels.tolist() == [2, 3, 0, 0, 2]


@pytest.mark.parametrize(
    ("ids", "word"), [(["a", "b", 'c"2'], """no class 'c"0'"""), (None, "twice"), ([], "of 0 classes")]
)
def test_wrong_classes_are_damage(folder, data, probabilities, ids, word):
    names = [ClassInfo(one, "") for one in ids] if ids is not None else [*data.classes[:2], *data.classes[1:]]
    columns = len(names)
    # As the file would be had it been written for other classes under the same checksum.
    other = dataclasses.replace(data, classes=tuple(names))
    save_predictions(folder, "val", 1, np.zeros((NUM, columns), np.float32), other)
    with pytest.raises(WorkError, match=f"damaged .*{word}"):
        load_predictions(folder, "val", 1, data)


def test_another_data_set_is_refused(folder, data, probabilities):
    save_predictions(folder, "val", 1, probabilities, data)
    with pytest.raises(RequestError, match="cdcdcdcd"):
        load_predictions(folder, "val", 1, dataclasses.replace(data, checksum="cd" * 32))


def test_missing_predictions_name_the_command(folder, data):
    with pytest.raises(RequestError, match="alexnet evaluate"):
        load_predictions(folder, "val", 1, data)


def test_every_damaged_byte_is_noticed(folder, data, probabilities):
    content = save_predictions(folder, "val", 1, probabilities, data).read_bytes()
    path = predictions_path(folder, "val", 1)
    header_bytes = 8 + int.from_bytes(content[:8], "little")
    # Samples, labels and probabilities lie after the header.
    num_caught = 0
    for place in (0, 3, 8, 9, header_bytes // 2, *range(header_bytes, len(content), 7)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])
        try:
            found = load_predictions(folder, "val", 1, data)
        except (RequestError, WorkError):
            num_caught += 1
        else:
            np.testing.assert_array_equal(found.probabilities, probabilities)
            assert found.saved_labels.tolist() == [0] * NUM
    assert num_caught >= 5 + probabilities.nbytes // 7 - 1
    for length in (0, 5, header_bytes, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(WorkError, match="damaged"):
            load_predictions(folder, "val", 1, data)


def test_another_format_and_a_renamed_file_are_refused(folder, data, probabilities):
    path = save_predictions(folder, "val", 1, probabilities, data)
    path.rename(predictions_path(folder, "val", 10))
    with pytest.raises(WorkError, match="renamed"):
        load_predictions(folder, "val", 10, data)
    path.write_bytes(safetensors.numpy.save({"probabilities": probabilities}, {"format_version": "99"}))
    with pytest.raises(RequestError, match="format 99"):
        load_predictions(folder, "val", 1, data)


def test_a_wrong_shape_is_not_stored(folder, data, probabilities):
    with pytest.raises(ValueError, match="shape"):
        save_predictions(folder, "val", 1, probabilities[:-1], data)
    assert not folder.exists()


def test_a_folder_that_cannot_be_written_is_a_work_error(folder, data, probabilities):
    folder.write_text("in the way")
    with pytest.raises(WorkError, match="cannot write"):
        save_predictions(folder, "val", 1, probabilities, data)
