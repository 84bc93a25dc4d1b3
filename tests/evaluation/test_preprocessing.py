"""What `preprocess` gives is what `predict` and `evaluate` give the network, and what NumPy computes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import alexnet
from alexnet.data.augment import MeanAt
from alexnet.data.dataset import ClassInfo
from alexnet.data.photographs import Fit, square_image
from alexnet.data.preparation.prepare import prepare
from alexnet.errors import RequestError
from alexnet.evaluation.evaluate import predict_split
from alexnet.model.network import AlexNet
from alexnet.model.weights import Trained, save_trained

SIDE, CROP = 32, 28
CORNERS = {
    1: [(2, 2, False)],
    9: [(row, column, False) for row in (0, 2, 4) for column in (0, 2, 4)],
    10: [
        (row, column, mirrored)
        for mirrored in (False, True)
        for row, column in ((0, 0), (0, 4), (2, 2), (4, 0), (4, 4))
    ],
}


@pytest.fixture
def trained() -> Trained:
    network = AlexNet(3, "quick", 0.125, generator=torch.Generator().manual_seed(1)).eval()
    mean_image = torch.rand(SIDE, SIDE, 3, generator=torch.Generator().manual_seed(2)) * 255
    classes = tuple(ClassInfo(f"n{number}", f"kind {number}") for number in range(3))
    return Trained(network=network, classes=classes, mean_image=mean_image, crop=CROP, title="t", generated=False)


@pytest.fixture
def photographs(tmp_path: Path) -> list[Path]:
    """Wide, tall, square."""
    paths = []
    for number, size in enumerate(((40, 61), (90, 33), (SIDE, SIDE))):
        pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(pixels).save(paths[-1])
    return paths


def by_numpy(square: NDArray[np.uint8], trained: Trained, views: int) -> NDArray[np.float32]:
    """Crops of an image minus those of the mean image, (views, 3, C, C)."""
    mean, crops = trained.mean_image.numpy(), []
    for row, column, mirrored in CORNERS[views]:
        crop = square[row : row + CROP, column : column + CROP].astype(np.float32)
        if trained.mean_at == "center":
            crop = crop[:, ::-1] if mirrored else crop
            crop = crop - mean[2:30, 2:30]
        else:
            crop = crop - mean[row : row + CROP, column : column + CROP]
            crop = crop[:, ::-1] if mirrored else crop
        crops.append(crop.transpose(2, 0, 1))
    return np.stack(crops)


@pytest.mark.parametrize("views", [1, 9, 10])
@pytest.mark.parametrize("mean_at", ["crop", "center"])
@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
def test_crops_minus_the_mean(trained: Trained, photographs: list[Path], views: int, mean_at: MeanAt, fit: Fit) -> None:
    trained = replace(trained, mean_at=mean_at, fit=fit)
    batch = alexnet.preprocess(photographs, trained, views=views)
    assert batch.dtype == torch.float32 and not batch.requires_grad
    assert batch.shape == ((3, 3, CROP, CROP) if views == 1 else (3, views, 3, CROP, CROP))
    expected = [by_numpy(square_image(path, SIDE, fit), trained, views) for path in photographs]
    assert np.array_equal(batch.reshape(3, views, 3, CROP, CROP).numpy(), np.stack(expected))


@pytest.mark.parametrize("views", [1, 10])
def test_it_is_what_predictions_and_evaluations_give_the_network(
    trained: Trained, photographs: list[Path], tmp_path: Path, views: int
) -> None:
    given: list[torch.Tensor] = []
    trained.network.register_forward_pre_hook(lambda module, inputs: given.append(inputs[0].float().clone()))
    batch = alexnet.preprocess(photographs, trained, views=views).reshape(3, views, 3, CROP, CROP)
    answers = alexnet.predict(trained, photographs, views=views, precision="float32")
    predicted = torch.cat(given).reshape(views, 3, 3, CROP, CROP)  # each the same view of all images
    assert torch.equal(batch, predicted.transpose(0, 1))
    with torch.inference_mode():
        probabilities = trained.network(batch.flatten(0, 1)).softmax(dim=1).unflatten(0, (-1, views)).mean(dim=1)
    for answer, row in zip(answers, probabilities, strict=True):
        assert answer.top[0].probability == pytest.approx(row.max().item(), abs=1e-5)

    for number, path in enumerate(photographs):
        for folder in (f"train/n{number}", "val/n0"):
            (tmp_path / "source" / folder).mkdir(parents=True, exist_ok=True)
            (tmp_path / "source" / folder / path.name).write_bytes(path.read_bytes())
    data = prepare(tmp_path / "source", tmp_path / "data", side=SIDE)
    given.clear()
    predict_split(trained.network, data, "val", CROP, views, mean_image=trained.mean_image, mean_at=trained.mean_at)
    evaluated = torch.stack(given, dim=1)  # each the same view of all images
    assert torch.equal(batch, evaluated)


def test_images_of_all_types_and_runs_of_all_kinds(trained: Trained, photographs: list[Path], tmp_path: Path) -> None:
    pixels = [np.asarray(Image.open(path)) for path in photographs]
    mixed: list[Any] = [
        str(photographs[0]),
        Image.fromarray(pixels[1]),
        torch.from_numpy(pixels[2] / 255).permute(2, 0, 1),
    ]
    expected = alexnet.preprocess(photographs, trained)
    assert torch.equal(alexnet.preprocess(mixed, trained), expected)
    assert torch.equal(alexnet.preprocess(iter(pixels), trained), expected)
    assert torch.equal(alexnet.preprocess(pixels[0], trained), expected[:1])
    assert torch.equal(alexnet.preprocess(np.stack([pixels[2]] * 2), trained), expected[[2, 2]])
    (tmp_path / "run").mkdir()
    save_trained(tmp_path / "run" / "weights.safetensors", trained)
    for run in (tmp_path / "run", str(tmp_path / "run" / "weights.safetensors")):
        assert torch.equal(alexnet.preprocess(photographs, run), expected)
    assert alexnet.preprocess([], trained).shape == (0, 3, CROP, CROP)


def test_without_a_run_the_papers_sizes_and_imagenets_mean_color(photographs: list[Path]) -> None:
    batch = alexnet.preprocess(photographs[0])
    assert batch.shape == (1, 3, 224, 224)
    image = Image.open(photographs[0]).resize((round(61 * 256 / 40), 256), Image.Resampling.BILINEAR)
    left = (image.width - 256) // 2
    crop = np.asarray(image)[16:240, left + 16 : left + 240].astype(np.float64)
    expected = (crop - [255 * 0.485, 255 * 0.456, 255 * 0.406]).transpose(2, 0, 1)
    assert np.abs(batch[0].numpy() - expected).max() <= 1.001  # resizing differs from Pillow's by a gray level
    with torch.inference_mode():
        assert AlexNet(5, width=0.0625).eval()(batch).shape == (1, 5)


def test_what_cannot_be_preprocessed_is_named(trained: Trained, photographs: list[Path], tmp_path: Path) -> None:
    good, bad = np.zeros((40, 40, 3), np.uint8), np.zeros((40, 40, 3), np.int64)
    with pytest.raises(RequestError, match=r"^images\[1\]: the int64 array of shape \(40, 40, 3\) cannot be"):
        alexnet.preprocess([good, bad], trained)
    with pytest.raises(RequestError, match=r"^the int64 array of shape"):
        alexnet.preprocess(bad, trained)
    with pytest.raises(RequestError, match=r"^cannot read .*none\.png: No such file"):
        alexnet.preprocess([photographs[0], tmp_path / "none.png"], trained)
    with pytest.raises(RequestError, match=r"Is a directory; name image files"):
        alexnet.preprocess(tmp_path, trained)
    with pytest.raises(RequestError, match=r"--views is 5; allowed are 1"):
        alexnet.preprocess(good, trained, views=5)
    with pytest.raises(RequestError, match=r"holds no trained network"):
        alexnet.preprocess(good, tmp_path)
    with pytest.raises(RequestError, match=r"images are of type NoneType"):
        alexnet.preprocess(None, trained)  # type: ignore[arg-type]
