"""Classification of images one after another, and the lines that the challenge's test server expects."""

import io
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from tests.html_page import Page

import alexnet
from alexnet.data.dataset import ClassInfo
from alexnet.data.image_inputs import InputImage
from alexnet.errors import RequestError, TemporaryError, WorkError
from alexnet.evaluation import classify as module
from alexnet.evaluation.classify import (
    ImagePrediction,
    Predictions,
    RankedClass,
    classify,
    ilsvrc_lines,
    predict,
    read_label_order,
)
from alexnet.evaluation.temperature import Calibrator
from alexnet.model.network import AlexNet
from alexnet.model.weights import Trained
from alexnet.system.prefetch import prefetch

CPU = torch.device("cpu")


def make_trained() -> Trained:
    network = AlexNet(7, "quick", 0.125, generator=torch.Generator().manual_seed(1)).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(4)  # else all classes are about as probable
    classes = tuple(ClassInfo(f"n{number}", f"kind {number}") for number in range(7))
    mean_image = torch.from_numpy(np.random.default_rng(8).uniform(90, 150, (32, 32, 3)).astype(np.float32))
    return Trained(network=network, classes=classes, mean_image=mean_image, crop=28, title="test", generated=False)


@pytest.fixture
def trained() -> Trained:
    return make_trained()


def pixels(seed: int, height: int = 32, width: int = 32) -> NDArray[np.uint8]:
    """Coarse patterns, by which the network's answers differ."""
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return coarse.repeat(-(-height // 8), 0).repeat(-(-width // 8), 1)[:height, :width]


@pytest.fixture
def photograph(tmp_path: Path) -> Path:
    Image.fromarray(pixels(2, 40, 50)).save(tmp_path / "one.png")
    return tmp_path / "one.png"


def by_hand(trained: Trained, image: NDArray[np.uint8], num_views: int) -> NDArray[np.float64]:
    """Probabilities in float64, from NumPy's slices: section 4.1 of the paper, written down."""
    network = make_trained().network.double()
    network.load_state_dict({name: tensor.double() for name, tensor in trained.network.state_dict().items()})
    corners = {1: [(2, 2)], 9: [(row, column) for row in (0, 2, 4) for column in (0, 2, 4)],
               10: [(0, 0), (0, 4), (2, 2), (4, 0), (4, 4)]}[num_views]  # fmt: skip
    centered = image.astype(np.float64) - trained.mean_image.numpy()
    total = np.zeros(7)
    for row, column in corners:
        crop = centered[row : row + 28, column : column + 28]
        for view in (crop, crop[:, ::-1]) if num_views == 10 else (crop,):
            with torch.no_grad():
                scores = network(torch.from_numpy(view.transpose(2, 0, 1).copy())[None])[0].numpy()
            powers = np.exp(scores - scores.max())
            total += powers / powers.sum()
    return total / num_views


@pytest.mark.parametrize("num_views", [1, 9, 10])
@pytest.mark.parametrize("mean_at", ["crop", "center"])
def test_probabilities_are_the_mean_over_the_views(num_views: int, mean_at: str, trained: Trained) -> None:
    images = [pixels(number) for number in range(4)]
    if mean_at == "center":  # then the mean of a crop is that of the center: with a constant one the same
        trained.mean_image.fill_(120.0)
        object.__setattr__(trained, "mean_at", "center")
    for batch_size in (1, 3, 64):
        found = predict(trained, images, views=num_views, batch_size=batch_size, precision="float32", device="cpu")
        expected = np.array([by_hand(trained, image, num_views) for image in images])
        assert found.probabilities.dtype == np.float32
        np.testing.assert_allclose(found.probabilities, expected, rtol=0, atol=2e-6)
    assert expected.max() > 0.3 and abs(expected[0] - expected[1]).max() > 0.01


@settings(max_examples=25, deadline=None)
@given(good=st.lists(st.booleans(), max_size=12), batch_size=st.integers(1, 14))
def test_every_image_has_its_row_in_order(good: list[bool], batch_size: int) -> None:
    trained = make_trained()
    images = [pixels(number) if is_good else Path(f"none{number}.png") for number, is_good in enumerate(good)]
    found = predict(trained, images, views=1, batch_size=batch_size, device="cpu", precision="float32")
    assert len(found) == len(good) and found.num_refused == good.count(False)
    alone = [
        predict(trained, pixels(number), views=1, device="cpu", precision="float32") for number in range(len(good))
    ]
    for number, (one, is_good) in enumerate(zip(found, good, strict=True)):
        if is_good:
            assert one.image == number and one.reason is None and len(one.top) == 5
            np.testing.assert_allclose(found.probabilities[number], alone[number].probabilities[0], rtol=0, atol=1e-6)
        else:
            assert one.image == f"none{number}.png" and one.top == () and np.isnan(found.probabilities[number]).all()
            assert one.reason == f"cannot read none{number}.png: No such file or directory"


def test_the_most_probable_classes_come_first(trained: Trained) -> None:
    (one,) = found = predict(trained, pixels(3), top=7, device="cpu", precision="float32")
    order = np.argsort(-found.probabilities[0])
    assert [ranked.id for ranked in one.top] == [f"n{number}" for number in order]
    assert [ranked.name for ranked in one.top] == [f"kind {number}" for number in order]
    assert [ranked.probability for ranked in one.top] == [round(float(found.probabilities[0, n]), 6) for n in order]
    assert len(predict(trained, pixels(3), views=1)[0].top) == 5
    for top in (0, 8, -1):
        with pytest.raises(RequestError, match=rf"--top is {top}; allowed is 1 to 7"):
            predict(trained, pixels(3), top=top)
    for views in (0, 2, "dense"):
        with pytest.raises(RequestError, match=f"--views is {views!r}; allowed are 1"):
            predict(trained, pixels(3), views=views)  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="--batch-size is 0"):
        predict(trained, pixels(3), batch_size=0)
    with pytest.raises(RequestError, match="--fit is 'cover'; allowed is crop, pad, squash"):
        predict(trained, pixels(3), fit="cover")  # type: ignore[arg-type]


def test_a_picture_is_made_square_as_the_runs_data_set_was(trained: Trained) -> None:
    wide = pixels(4, 32, 64)
    ways = {fit: predict(trained, wide, views=1, fit=fit).probabilities for fit in ("crop", "pad", "squash")}
    assert np.array_equal(predict(trained, wide, views=1).probabilities, ways["crop"])
    object.__setattr__(trained, "fit", "pad")
    assert np.array_equal(predict(trained, wide, views=1).probabilities, ways["pad"])
    assert abs(ways["pad"] - ways["crop"]).max() > 1e-3 < abs(ways["squash"] - ways["crop"]).max()


def test_only_some_batches_are_in_memory(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FEW_VIEWS", 4)
    taken, batch_size = [], 8

    def endless() -> Iterator[InputImage]:
        while True:
            taken.append(len(taken))
            yield InputImage(taken[-1], pixels(0))

    found = classify(trained, endless(), num_views=1, batch_size=batch_size, device=CPU, precision="float32")
    for number in range(50):
        assert next(found).image == number
        assert len(taken) <= number + 3 * batch_size
    found.close()
    assert not [one for one in threading.enumerate() if one.name.startswith("alexnet-predict")]


def test_an_iterator_is_not_collected_before_the_work(trained: Trained) -> None:
    steps = []

    def images() -> Iterator[NDArray[np.uint8]]:
        for number in range(70):
            steps.append(number)
            yield pixels(number)

    seen: list[tuple[int, int]] = []
    found = predict(
        trained, images(), views=10, batch_size=2, progress=lambda done, total: seen.append((done, len(steps)))
    )
    assert len(found) == 70 and [done for done, _ in seen] == list(range(1, 71))
    assert seen[0][1] < 40
    both_done: list[tuple[int, int]] = []
    predict(trained, iter([pixels(0)] * 2), views=1, progress=lambda *both: both_done.append(both))
    assert both_done == [(1, 1), (2, 2)]
    totals: list[tuple[int, int]] = []
    predict(trained, [pixels(0)] * 3, views=1, progress=lambda *both: totals.append(both))
    assert totals == [(1, 3), (2, 3), (3, 3)]


def test_a_network_is_left_as_it_was(trained: Trained) -> None:
    trained.network.train()
    before = {name: tensor.clone() for name, tensor in trained.network.state_dict().items()}
    predict(trained, [pixels(0)] * 2, views=1, precision="bfloat16")
    for name, tensor in trained.network.state_dict().items():
        assert tensor.dtype == torch.float32 and torch.equal(tensor, before[name])
    assert trained.network.training and not torch.is_inference_mode_enabled()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"top": "x"}, "--top is 'x'; allowed is 1 to 7"),
        ({"top": 2.5}, "--top is 2.5; allowed is 1 to 7"),
        ({"top": True}, "--top is True; allowed is 1 to 7"),
        ({"top": 8}, "--top is 8; allowed is 1 to 7"),
        ({"reject": "x"}, "--reject is 'x'; allowed is a probability from 0 to 1"),
        ({"reject": np.nan}, "--reject is nan; allowed is a probability from 0 to 1"),
        ({"reject": 0.5}, "give the folder"),
        ({"batch_size": "x"}, "--batch-size is 'x'; allowed is 1 or more"),
        ({"batch_size": 1.5}, "--batch-size is 1.5; allowed is 1 or more"),
        ({"batch_size": 0}, "--batch-size is 0; allowed is 1 or more"),
        ({"views": "10"}, "--views is '10'; allowed are 1 "),
        ({"fit": ""}, "--fit is ''; allowed is crop, pad, squash"),
        ({"progress": "no"}, "progress is 'no'; allowed are True, False, None"),
        ({"progress": 5}, "progress is 5; allowed are True, False, None"),
    ],
    ids=str,
)
def test_arguments_of_another_type_are_refused(change: Any, message: str, trained: Trained) -> None:
    with pytest.raises(RequestError, match=re.escape(message)):
        predict(trained, [pixels(0)], **change)


def test_numbers_of_numpy_are_numbers(trained: Trained) -> None:
    (one,) = predict(trained, pixels(0), top=np.int64(2), batch_size=np.int32(3), device="cpu")  # type: ignore[arg-type]
    assert len(one.top) == 2 and json.dumps(one.to_dict())


def _with_head(trained: Trained, head: torch.nn.Module) -> Trained:
    trained.network.fc5 = head
    return trained


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda one: replace(one, network=one.network.bfloat16()), "conv1.weight of the network is bfloat16; allowed"),
        (lambda one: replace(one, network=one.network.double()), "conv1.weight of the network is float64; allowed"),
        (lambda one: replace(one, network=one.network.to("meta")), "conv1.weight of the network has no values"),
        (lambda one: replace(one, classes=list("abcdefg")), "classes[0] is 'a'; allowed is alexnet.ClassInfo(id"),
        (lambda one: replace(one, classes=one.classes[:3]), "the network scores 7 classes and `classes` names 3; pass"),
        (lambda one: _with_head(one, torch.nn.Linear(2304, 3)), "scores 3 classes and `classes` names 7; pass"),
    ],
    ids=["bfloat16", "float64", "meta", "text", "classes", "head"],
)
def test_a_network_that_cannot_predict_is_refused(change: Any, message: str, trained: Trained) -> None:
    changed = change(trained)
    with pytest.raises(RequestError, match=re.escape(message)):
        predict(changed, [pixels(0)], device="cpu")


def test_a_diverged_network_ends_the_work(trained: Trained) -> None:
    with torch.no_grad():
        next(trained.network.parameters()).fill_(float("nan"))
    with pytest.raises(WorkError, match="scores are not finite: its training has diverged"):
        predict(trained, pixels(0))


def test_a_machine_that_fails_ends_the_work(trained: Trained) -> None:
    def read() -> bytes:
        raise OSError(24, "Too many open files")

    with pytest.raises(TemporaryError, match=r"cannot read a\.png: Too many open files; raise the limit"):
        list(classify(trained, [InputImage("a.png", read)], num_views=1, device=CPU, precision="float32"))


def test_an_image_that_needs_too_much_memory_is_a_row(trained: Trained) -> None:
    def read() -> bytes:
        raise MemoryError

    (one,) = classify(trained, [InputImage("a.png", read)], num_views=1, device=CPU, precision="float32")
    assert one.reason == "cannot read a.png: it needs more memory than this machine has free"


def test_images_of_every_kind_side_by_side(trained: Trained, photograph: Path) -> None:
    square = pixels(2, 40, 50)
    images = [photograph, str(photograph), Image.fromarray(square), square, torch.from_numpy(square).permute(2, 0, 1)]
    found = predict(trained, images, precision="float32")
    assert [one.image for one in found] == [str(photograph), str(photograph), 2, 3, 4]
    assert all(np.array_equal(row, found.probabilities[0]) for row in found.probabilities)
    assert alexnet.predict is predict
    assert len(predict(trained, photograph.parent)) == 1 == len(predict(trained, str(photograph.parent / "*.png")))
    assert len(predict(trained, np.stack([pixels(0)] * 3))) == 3


def test_twelve_bits_in_sixteen_are_said(trained: Trained, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name, largest in (("dark.png", 4095), ("bright.png", 65535)):
        Image.fromarray(np.linspace(0, largest, 1600).astype(np.uint16).reshape(40, 40)).save(tmp_path / name)
    predict(trained, [tmp_path / "dark.png", tmp_path / "bright.png"], views=1)
    assert caplog.text.count("uses only the lower 12") == 1 and "dark.png has 16 bits" in caplog.text


def test_predictions_are_a_sequence_and_a_page(trained: Trained) -> None:
    object.__setattr__(trained, "classes", tuple(ClassInfo(f"n{n}", f"<b>kind\x1b[31m {n}") for n in range(7)))
    found = predict(trained, [pixels(n) for n in range(13)] + [Path("<script>alert(1)</script>.png")] * 2, views=1)
    assert isinstance(found, Predictions) and len(found) == 15 and found.num_refused == 2
    assert found[-1].reason and len(found[:3]) == 3 and [one.image for one in found][:2] == [0, 1]
    assert repr(found) == "Predictions(15 images, 2 of which cannot be read)"
    page = Page(found._repr_html_())
    assert page.tags.count("img") == 12 and "script" not in page.tags and "b" not in page.tags
    assert page.text.count("cannot read") == 2 and "1 more image" in page.text and r"<b>kind\x1b[31m 3" in page.text
    page = Page(predict(trained, found[-1].image)._repr_html_())  # type: ignore[arg-type]
    assert "cannot read <script>alert(1)</script>.png: No such file" in page.text and page.tags.count("img") == 0
    assert len(predict(trained, [])) == 0 and predict(trained, []).probabilities.shape == (0, 7)
    assert "0 images" in predict(trained, [])._repr_html_()


def test_a_prediction_as_json() -> None:
    one = ImagePrediction(image="a.png", top=(RankedClass("n1", "kind", 0.25),))
    assert json.loads(json.dumps(one.to_dict())) == {
        "image": "a.png",
        "top": [{"id": "n1", "name": "kind", "probability": 0.25}],
    }
    assert ImagePrediction(image=3, reason="none").to_dict() == {"image": 3, "reason": "none"}


def test_five_labels_per_line_starting_at_one(trained: Trained) -> None:
    found = predict(trained, [pixels(1)] * 2)
    lines = ilsvrc_lines(found, trained)
    assert len(lines) == 2 and lines[0] == lines[1]
    labels = [int(word) for word in lines[0].split()]
    assert len(set(labels)) == 5 and all(1 <= label <= 7 for label in labels)
    assert [f"n{label - 1}" for label in labels] == [one.id for one in found[0].top]
    with pytest.raises(RequestError, match=r"one line per image, and 1 of 2 cannot be read \(cannot read none\.png"):
        ilsvrc_lines(predict(trained, [pixels(1), "none.png"]), trained)


def test_labels_in_another_order(trained: Trained, tmp_path: Path) -> None:
    found = predict(trained, pixels(1))
    order = tmp_path / "order.txt"
    order.write_text("n9 not known here\n\n" + "".join(f"n{number} kind\n" for number in reversed(range(7))))
    names = read_label_order(order)
    assert names == ["n9", *(f"n{number}" for number in reversed(range(7)))]
    labels = [int(word) for word in ilsvrc_lines(found, trained, names)[0].split()]
    assert [names[label - 1] for label in labels] == [one.id for one in found[0].top]


def test_an_invalid_label_order_is_refused(trained: Trained, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="has no line for n1, n2"):
        ilsvrc_lines([], trained, ["n0"])
    with pytest.raises(RequestError, match="names n0 twice"):
        ilsvrc_lines([], trained, ["n0", "n0"])
    with pytest.raises(RequestError, match="cannot read"):
        read_label_order(tmp_path / "none.txt")


def test_downloads_end_before_the_reader_waits_for_them(trained: Trained) -> None:
    """A slow server must not delay the end of the work, for example by Ctrl-C."""
    waiting, ended = threading.Event(), threading.Event()

    class Slow(module.Downloads):
        def get(self, url: str) -> bytes:
            waiting.set()
            ended.wait(60)
            raise RequestError("ended")

        def close(self) -> None:
            ended.set()

    downloads = Slow()
    content = io.BytesIO()
    Image.fromarray(pixels(0)).save(content, "PNG")

    def images() -> Iterator[InputImage]:
        yield InputImage("a.png", content.getvalue)
        for number in range(40):
            yield InputImage(f"http://x/{number}.png", lambda: downloads.get("x"))

    found = classify(
        trained, images(), num_views=10, batch_size=1, device=CPU, precision="float32", downloads=downloads
    )
    assert next(found).image == "a.png" and waiting.wait(60)
    found.close()
    assert ended.is_set()


@pytest.mark.parametrize(("has_url", "is_list", "num"), [(True, True, 8), (True, False, 8), (False, True, 2)])
def test_urls_are_awaited_side_by_side_wherever_they_are(
    trained: Trained, monkeypatch: pytest.MonkeyPatch, has_url: bool, is_list: bool, num: int
) -> None:
    monkeypatch.setattr(module, "num_cores", lambda: 2)
    monkeypatch.setattr(module, "FEW_VIEWS", 4)
    asked: list[int] = []

    def watched(*args: Any, workers: int, **options: Any) -> Any:
        asked.append(workers)
        return prefetch(*args, workers=workers, **options)

    monkeypatch.setattr(module, "prefetch", watched)
    images = [InputImage(f"{number}.png", pixels(0)) for number in range(60)]
    if has_url:
        images.append(InputImage("https://x.invalid/a.png", pixels(0)))
    given = images if is_list else iter(images)
    assert len(list(classify(trained, given, num_views=1, device=CPU, precision="float32"))) == len(images)
    assert asked == [num]


def calibrator(temperature: float) -> Calibrator:
    return Calibrator(
        temperature=temperature,
        split="val",
        num_views=1,
        error_before=0.2,
        error_after=0.1,
        num_classes_absent=0,
        confidence=np.array([0.5, 0.9]),
        credit=np.array([0.0, 1.0]),
    )


def test_an_answer_is_unknown_below_a_calibrated_probability(
    trained: Trained, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    images = [pixels(number) for number in range(6)]
    plain = predict(trained, images, views=1, precision="float32")
    powers = plain.probabilities.astype(np.float64) ** (1 / 3)  # temperature 3
    expected = (powers / powers.sum(axis=1, keepdims=True)).max(axis=1)
    limit = float(np.median(expected))
    monkeypatch.setattr(module, "load_trained", lambda path: trained)
    monkeypatch.setattr(module, "calibrator_for", lambda run, views: calibrator(3.0) if views == 1 else None)
    with caplog.at_level("INFO"):
        found = predict("run", [*images, "none.png"], views=1, precision="float32", reject=limit)
    assert caplog.text.count("calibrated on 2 images of split 'val'") == 1
    for one, before, probability in zip(found, plain, expected, strict=False):
        assert one.calibrated_probability == pytest.approx(probability, abs=2e-6)
        assert one.is_rejected == (probability < limit) and one.top == before.top
        assert one.to_dict()["rejected"] is one.is_rejected
        assert one.to_dict()["calibrated_probability"] == one.calibrated_probability
    assert 1 <= sum(one.is_rejected for one in found) <= 5 and set(found[6].to_dict()) == {"image", "reason"}
    assert found._repr_html_().count("unknown, calibrated probability") == sum(one.is_rejected for one in found)
    assert not any(one.is_rejected for one in predict("run", images, views=1, reject=0))
    with pytest.raises(RequestError, match=r"--reject is 1\.5; allowed is a probability"):
        predict("run", images, views=1, reject=1.5)
    with pytest.raises(RequestError, match="reject needs the probabilities that an evaluation saves in a run folder"):
        predict(trained, images, views=1, reject=0.5)
    predict("run", images, views=1, reject=0.5, fit="pad")
    assert "not for --fit pad" in caplog.text
