"""Two made-up runs with known answers for each image, and two runs on a prepared data set."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from alexnet.cli.tables import print_comparison
from alexnet.data.dataset import ClassInfo, PreparedData, Split, Statistics
from alexnet.data.preparation.prepare import prepare
from alexnet.errors import RequestError, WorkError
from alexnet.evaluation.compare import compare_runs
from alexnet.evaluation.predictions import save_predictions
from alexnet.runs.folder import RunFolder
from alexnet.runs.recipes import QUICK

FIRST = np.array(
    [
        [0.8, 0.1, 0.1],  # right, and so is the second
        [0.6, 0.3, 0.1],  # wrong, the second right
        [0.1, 0.2, 0.7],  # right, the second wrong and sure
        [0.5, 0.2, 0.3],  # right, the second wrong and unsure
        [0.9, 0.1, 0.0],  # wrong, the second otherwise wrong
        [0.1, 0.7, 0.2],  # wrong, and so is the second, with the same answer
    ],
    np.float32,
)
SECOND = np.array(
    [
        [0.7, 0.2, 0.1],
        [0.2, 0.5, 0.3],
        [0.9, 0.1, 0.0],
        [0.3, 0.4, 0.3],
        [0.1, 0.2, 0.7],
        [0.0, 0.9, 0.1],
    ],
    np.float32,
)
LABELS = np.array([0, 1, 2, 0, 1, 2])


def made_up_data(labels=LABELS, num_classes=3):
    keys = [f"val/{place}\udcff" for place in range(len(labels))]
    split = Split("val", np.zeros((len(labels), 2, 2, 3), np.uint8), labels, keys)
    return PreparedData(
        folder=Path("made-up"),
        title="made up",
        generated=True,
        classes=tuple(ClassInfo(f"c{one}", f"class {one}") for one in range(num_classes)),
        splits={"val": split},
        side=2,
        statistics=Statistics(np.zeros((2, 2, 3), np.float32), np.eye(3), np.ones(3), np.eye(3)),
        checksum="ab" * 32,
    )


def make_run(path, data, probabilities):
    facts = {"data": {"folder": str(data.folder), "title": data.title, "checksum": data.checksum}}
    run = RunFolder.create(path, QUICK, facts).path
    save_predictions(run / "predictions", "val", 10, probabilities, data)
    return run


@pytest.fixture(autouse=True)
def made_up_folder(tmp_path, monkeypatch):
    """The folder of the data set, which is looked for; its content is made up."""
    (tmp_path / "made-up").mkdir()
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def compared(tmp_path, monkeypatch):
    """A function that compares two runs with given answers."""

    def compare(first, second, data):
        monkeypatch.setattr("alexnet.evaluation.paired.open_data", lambda folders: data)
        return compare_runs(make_run(tmp_path / "a", data, first), make_run(tmp_path / "b", data, second))

    return compare


def test_counts_and_images_by_hand(compared):
    result = compared(FIRST, SECOND, made_up_data())
    found = result.tests["top1"].mcnemar
    assert (found.both_right, found.only_first, found.only_second, found.both_wrong) == (1, 2, 1, 2)
    assert found.p_value == 1
    assert result.tests["top1"].difference.difference == pytest.approx(-1 / 6)
    assert set(result.tests) == {"top1"}
    # The less probable of the two answers: 0.7, 0.7, 0.5, 0.4; equal ones in the split's order.
    listed = [(one.index, one.label, one.first, one.second, one.outcome) for one in result.images]
    assert listed == [
        (2, 2, 2, 0, "only_first"),
        (4, 1, 0, 2, "both_wrong"),
        (1, 1, 0, 1, "only_second"),
        (3, 0, 0, 1, "only_first"),
    ]
    assert result.images[0].first_probability == pytest.approx(0.7)
    assert result.images[0].second_probability == pytest.approx(0.9)


def test_the_comparison_as_json(compared):
    content = json.loads(json.dumps(compared(FIRST, SECOND, made_up_data()).to_dict(), allow_nan=False))
    assert content["top1"]["first"]["wrong"] == 3 and content["top1"]["second"]["wrong"] == 4
    assert content["top1"]["only_first"] == 2 and content["top5"] is None
    assert content["num_images"] == 6 and content["num_differing"] == 4
    assert [one["difference"] for one in content["per_class"]] == [-0.5, 0.5, -0.5]
    assert content["images"][0]["key"] == "val/2\udcff"
    assert content["images"][0]["right"] == {"id": "c2", "name": "class 2"}
    assert content["images"][0]["second"] == {"id": "c0", "name": "class 0", "probability": pytest.approx(0.9)}


def test_a_tie_counts_half_and_is_not_right(compared):
    tied = np.array([[0.5, 0.5, 0.0]], np.float32)
    result = compared(tied, np.array([[0.6, 0.4, 0.0]], np.float32), made_up_data(np.array([0])))
    assert result.tests["top1"].difference.difference == 0.5
    assert result.tests["top1"].mcnemar.only_second == 1
    # Both name class 0, the first one only because it comes first.
    assert [(one.first, one.second, one.outcome) for one in result.images] == [(0, 0, "only_second")]
    # One image of class 0; the other classes have none.
    differences = [one["difference"] for one in result.to_dict()["per_class"]]
    assert differences == [0.5, None, None]


def test_two_equal_runs_do_not_differ(compared, capsys):
    result = compared(FIRST, FIRST, made_up_data())
    assert result.images == () and result.tests["top1"].mcnemar.p_value == 1
    assert result.tests["top1"].difference.interval[1] == 0
    print_comparison(result.to_dict())
    assert "answers differ" not in capsys.readouterr().out


def test_twenty_classes_have_a_top5_error(compared, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    random = np.random.default_rng(0)
    labels = np.arange(200) % 20
    first, second = random.dirichlet(np.ones(20), (2, 200)).astype(np.float32)
    first[np.arange(200), labels] *= 4
    result = compared(first, second, made_up_data(labels, 20))
    among = [(np.argsort(-one, axis=1)[:, :5] == labels[:, None]).any(axis=1) for one in (first, second)]
    found = result.tests["top5"].mcnemar
    assert found.only_first == (among[0] & ~among[1]).sum() and found.both_right == (among[0] & among[1]).sum()
    assert result.tests["top5"].difference.difference == pytest.approx((~among[0]).mean() - (~among[1]).mean())
    assert result.tests["top5"].difference.interval[1] < 0
    guesses = first.argmax(axis=1), second.argmax(axis=1)
    assert len(result.images) == (guesses[0] != guesses[1]).sum()
    print_comparison(result.to_dict())
    printed = capsys.readouterr().out
    for words in ("top-5", "200 images of split val, 10 views", "answers differ", f"{found.only_first}"):
        assert words in printed


def test_data_with_some_of_the_classes_in_another_order(tmp_path, monkeypatch):
    # The networks know c0, c1, c2; the data set has c2 and c0 alone, in this order.
    known = made_up_data()
    fewer = dataclasses.replace(made_up_data(np.array([0, 1, 0, 1, 1, 0]), 2), checksum="cd" * 32)
    fewer = dataclasses.replace(fewer, classes=(known.classes[2], known.classes[0]))
    runs = [make_run(tmp_path / name, known, one) for name, one in (("a", FIRST), ("b", SECOND))]
    for run, one in zip(runs, (FIRST, SECOND), strict=True):
        (run / "predictions" / ("cd" * 6)).mkdir()
        seen = dataclasses.replace(known, checksum=fewer.checksum)
        save_predictions(run / "predictions" / ("cd" * 6), "val", 10, one, seen)
    monkeypatch.setattr("alexnet.evaluation.paired.open_data", lambda folders: fewer)
    result = compare_runs(*runs, data_folder=Path("fewer"))
    right = np.array([2, 0, 2, 0, 0, 2])
    assert [one.id for one in result.classes] == ["c0", "c1", "c2"]
    assert result.first_counts.top1_wrong == (FIRST.argmax(axis=1) != right).sum()
    assert [one.label for one in result.images] == right[[one.index for one in result.images]].tolist()


def test_answers_to_other_images_are_refused(tmp_path, compared):
    compared(FIRST, SECOND, made_up_data())
    path = tmp_path / "b" / "predictions" / "val-10views.safetensors"
    with safetensors.safe_open(path, framework="numpy") as file:
        metadata, probabilities = file.metadata(), file.get_tensor("probabilities")
    del metadata["content_sha256"]
    tensors = {"probabilities": probabilities, "samples": np.arange(6)[::-1].copy()}
    path.write_bytes(safetensors.numpy.save(tensors, metadata))
    with pytest.raises(WorkError, match=r"/b/\S+ is damaged \(its images are not in the order"):
        compare_runs(tmp_path / "a", tmp_path / "b")


def test_a_run_is_not_compared_with_itself(tmp_path, compared):
    compared(FIRST, SECOND, made_up_data())
    with pytest.raises(RequestError, match="named twice"):
        compare_runs(tmp_path / "a", tmp_path / "a")
    with pytest.raises(RequestError, match="not a run folder"):
        compare_runs(tmp_path / "a", tmp_path / "nothing")


def test_runs_on_a_data_set_from_the_disk(tmp_path, make_tree):
    prepare(make_tree("tree", train=3, val=2), tmp_path / "data", side=32)
    data = PreparedData.open(tmp_path / "data")
    answers = np.eye(3, dtype=np.float32)[data.splits["val"].labels]
    first = make_run(tmp_path / "a", data, answers)
    second = make_run(tmp_path / "b", data, np.roll(answers, 1, axis=1))
    result = compare_runs(first, second)
    assert result.tests["top1"].mcnemar.only_first == len(answers) == len(result.images)
    assert compare_runs(first, second, data_folder=[tmp_path / "data"], split="val") == result
