"""The neighbors on a page: those of the index, which is never made silently, and refused if it is of other weights."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.html_page import Page
from tests.report.made_up_runs import make_run, write_data

import alexnet
from alexnet.data.concatenated import open_data
from alexnet.data.dataset import PreparedData
from alexnet.explore.vector_index import build_index
from alexnet.model.weights import Trained, save_trained
from alexnet.report.answered_images import answered_images
from alexnet.report.neighbor_section import neighbor_section
from alexnet.runs.folder import RunFolder

pytestmark = pytest.mark.usefixtures("blank_figures")


@pytest.fixture
def data(tmp_path: Path) -> PreparedData:
    return write_data(tmp_path / "data", 30)


@pytest.fixture
def run(tmp_path: Path, data: PreparedData) -> RunFolder:
    """A run with a small network of random weights."""
    run = make_run(tmp_path / "run", data)
    network = alexnet.AlexNet(3, "quick", 0.1, generator=torch.Generator().manual_seed(4))
    mean = torch.zeros(data.side, data.side, 3)
    trained = Trained(network=network, classes=data.classes, mean_image=mean, crop=28, title=data.title, generated=True)
    save_trained(run.weights, trained)
    return run


def test_the_neighbors_are_those_of_the_features(run: RunFolder, data: PreparedData) -> None:
    index = build_index(run.path, device="cpu", precision="float32", progress=False)
    evaluation = run.evaluations()["val-10views"]
    found = neighbor_section(run, answered_images(run, data, evaluation))
    assert found is not None and not found.missing and len(found.rows) == 3
    vectors = np.asarray(index.vectors, np.float64)
    train, val = data.splits["train"], data.splits["val"]
    for number, (query, near) in zip((5, 15, 25), found.rows, strict=True):  # the middles of three thirds of 30
        image = np.asarray(val.images[number])
        features = alexnet.features(run.path, [image], index.layer, device="cpu", precision="float32")[index.layer]
        distances = np.sqrt(np.square(vectors - features.reshape(-1).astype(np.float64)).sum(axis=1))
        order = np.argsort(distances)[:6].tolist()
        assert [re.match("Neighbor (.*), ", str(Page(str(one.picture)).alts[0]))[1] for one in near] == [  # type: ignore[index]
            train.keys[row] for row in order
        ]
        assert [float(one.note.split()[1]) for one in near] == pytest.approx(distances[order].tolist(), rel=1e-3)
        assert [one.is_same_class for one in near] == [train.labels[row] == val.labels[number] for row in order]
        assert query.name == data.classes[int(val.labels[number])].name
    page = Page(alexnet.write_report(run.path).read_text())
    assert "Nearest training images" in page.text and len([one for one in page.alts if "Neighbor" in str(one)]) == 18
    assert "6 images of split train" in found.note
    same = sum(one.is_same_class for _, near in found.rows for one in near)
    assert f"Of the 18 neighbors, {same} have the class of their query" in found.note
    moved = data.folder.rename(data.folder.with_name("moved"))
    assert neighbor_section(run, answered_images(run, open_data(moved), evaluation)) == found


def test_without_an_index_the_page_says_how_to_make_one(run: RunFolder, data: PreparedData) -> None:
    page = Page(alexnet.write_report(run.path).read_text())
    assert f"no index of images. Make one with alexnet index {run.path}" in page.text
    assert not (run.path / "index").exists()


def test_an_index_of_other_weights_or_a_damaged_one_is_not_shown(
    run: RunFolder, data: PreparedData, caplog: pytest.LogCaptureFixture
) -> None:
    build_index(run.path, device="cpu", precision="float32", progress=False)
    before = run.weights.read_bytes()
    trained = alexnet.load(run.path)
    with torch.no_grad():
        trained.network.get_parameter("conv1.weight").add_(1)
    save_trained(run.weights, trained)
    page = Page(alexnet.write_report(run.path).read_text())
    assert "was made with other weights" in page.text and "cannot be shown" in page.text
    run.weights.write_bytes(before)
    (file,) = (run.path / "index").glob("relu*.npy")
    file.write_bytes(file.read_bytes()[:-4])
    assert "cannot be shown" in Page(alexnet.write_report(run.path).read_text()).text
    assert "the report shows no neighbors" in caplog.text


def test_a_run_without_weights_has_no_such_section(tmp_path: Path, data: PreparedData) -> None:
    run = make_run(tmp_path / "bare", data)
    assert neighbor_section(run, answered_images(run, data, None)) is None
