"""How photographs became square goes from the data set to the weights, and from there to predictions."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.training.small_trainings import small_recipe

from alexnet.data.augment import crop_view, views
from alexnet.data.dataset import PreparedData
from alexnet.data.photographs import square_image
from alexnet.data.preparation.prepare import prepare
from alexnet.evaluation.classify import predict, require_fitting
from alexnet.evaluation.run_evaluation import evaluate
from alexnet.explore.features import features, write_features
from alexnet.model.weights import load_trained
from alexnet.training.loop import train

WARNING = "prepared with --fit pad, but those of"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Wide and tall photographs whose class is the color of their ends, which a crop cuts off."""
    random = np.random.default_rng(0)
    for place, count in (("train/a", 8), ("train/b", 8), ("val/a", 3), ("val/b", 3)):
        folder = tmp_path / "source" / place
        folder.mkdir(parents=True)
        for number in range(count):
            pixels = random.integers(0, 256, (40, 100, 3), dtype=np.uint8)
            pixels[:, :25] = pixels[:, 75:] = 255 * (folder.name == "b")
            Image.fromarray(pixels if number % 2 else pixels.swapaxes(0, 1)).save(folder / f"{number}.png")
    return tmp_path / "source"


def test_a_network_looks_at_photographs_as_its_data_were_prepared(
    source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    padded = prepare(source, tmp_path / "padded", side=32, fit="pad")
    cropped = prepare(source, tmp_path / "cropped", side=32)
    run = train(tmp_path / "padded", tmp_path / "run", small_recipe(epochs=1))
    trained = load_trained(run.path)
    assert trained.fit == "pad" and run.data()["fit"] == "pad"
    key = padded.splits["val"].keys[0]
    square = square_image(source / key, 32, "pad")
    assert np.array_equal(padded.splits["val"].images[0], square)
    view = views(1, 32, 28)[0]
    with torch.inference_mode():
        batch = crop_view(torch.from_numpy(square)[None], view, 28, trained.mean_image, trained.mean_at)
        expected = trained.network(batch).softmax(dim=1)[0]
    (answer,) = predict(trained, source / key, views=1, device="cpu", precision="float32")
    found = {one.id: one.probability for one in answer.top}
    assert [found["a"], found["b"]] == pytest.approx(expected.tolist(), abs=1e-5)
    here = {"device": "cpu", "precision": "float32"}
    of_file = features(run.path, [source / key], **here)
    of_square = features(run.path, square[None], **here)
    assert all(np.array_equal(of_file[name], of_square[name]) for name in of_square)

    caplog.clear()
    evaluate(run.path, **here)
    write_features(run.path, tmp_path / "own", **here)
    assert "--fit" not in caplog.text
    for work in (
        lambda: evaluate(run.path, cropped.folder, **here),
        lambda: write_features(run.path, tmp_path / "other", data_folder=cropped.folder, **here),
        lambda: require_fitting(cropped, trained),
        lambda: train(cropped.folder, tmp_path / "tuned", small_recipe(epochs=1), run.path),
    ):
        caplog.clear()
        work()
        assert caplog.text.count(WARNING) == 1 and f"{cropped.folder} with --fit crop" in caplog.text
    assert load_trained(tmp_path / "tuned").fit == "crop"


def test_weights_and_runs_of_cropped_photographs_are_as_before(data: Path, tmp_path: Path) -> None:
    run = train(data, tmp_path / "run", small_recipe(epochs=1))
    assert "fit" not in run.data() and PreparedData.open(data).fit == load_trained(run.path).fit == "crop"
