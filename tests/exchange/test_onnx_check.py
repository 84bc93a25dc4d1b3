"""ONNX models measured beside torch, and in 8 bits, on prepared photographs."""

import dataclasses
import itertools
import json
import logging
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.exchange.trained_networks import trained_network
from tests.prepared_files import write_prepared

import alexnet
from alexnet import PreparedData, RequestError, Trained, WorkError
from alexnet.exchange import onnx_check, onnx_export, onnx_quantization
from alexnet.exchange.onnx_check import check_onnx
from alexnet.exchange.onnx_export import onnx_model, preprocessing_model, write_onnx
from alexnet.model.variants import VARIANTS


@pytest.fixture
def data(tmp_path: Path, make_tree: Callable[..., Path]) -> PreparedData:
    return alexnet.prepare(make_tree("photographs", classes=7, train=4, val=3), tmp_path / "data", side=32)


@pytest.fixture
def trained(data: PreparedData) -> Trained:
    return dataclasses.replace(trained_network("quick", 32), classes=data.classes)


def check(model: Trained, trained: Trained, data: PreparedData) -> object:
    return check_onnx(onnx_model(model).SerializeToString(), preprocessing_model(model), trained, data)


def test_photographs_in_their_own_size(data: PreparedData, trained: Trained, tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    found = write_onnx(trained, tmp_path / "a.onnx", verify=data, progress=lambda *of: calls.append(of)).check
    assert found is not None and found.num_images == found.num_originals == found.num_same_class == 21
    assert found.pixel_difference == found.pixel_share == 0 and found.probability_difference < 1e-6
    assert "21 photographs of split 'val'" in found.describe() and "in their own size" in found.describe()
    assert calls[-1] == (21, 21) and found.to_dict()["num_originals"] == 21


def test_stored_squares_where_the_photographs_are_gone(data: PreparedData, trained: Trained, tmp_path: Path) -> None:
    names = sorted((tmp_path / "photographs" / "val").iterdir())
    shutil.rmtree(names[0])
    damaged = next(names[1].iterdir())
    damaged.write_bytes(damaged.read_bytes()[:30])
    found = check_onnx(onnx_model(trained).SerializeToString(), preprocessing_model(trained), trained, data)
    assert (found.num_images, found.num_originals) == (21, 17)
    assert "17 of them in their own size" in found.describe()


def test_another_network_is_noticed(
    data: PreparedData, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = alexnet.AlexNet(7, "quick", 0.05, generator=torch.Generator().manual_seed(5))
    other.load_state_dict(trained.network.state_dict())
    with torch.no_grad():
        other.fc5.bias[3] += 0.01
    wrong = onnx_model(dataclasses.replace(trained, network=other))
    monkeypatch.setattr(onnx_export, "onnx_model", lambda _: wrong)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(
        WorkError, match=r"differ by 0\.00\d+ in a probability of val/.* and by 0 gray levels"
    ) as raised:
        write_onnx(trained, tmp_path / "a.onnx", verify=data)
    assert "Nothing was written" in str(raised.value) and "\n" not in str(raised.value)
    assert sorted(tmp_path.iterdir()) == before


def test_other_pixels_are_noticed(data: PreparedData, trained: Trained) -> None:
    squashed = dataclasses.replace(trained, fit="squash", mean_image=trained.mean_image + 2)
    with pytest.raises(WorkError, match=r"gray levels in a pixel; allowed are 0\.0001 and 1\."):
        check_onnx(onnx_model(trained).SerializeToString(), preprocessing_model(squashed), trained, data)


def test_scores_that_are_no_numbers_are_noticed(data: PreparedData, trained: Trained) -> None:
    broken = dataclasses.replace(trained, network=alexnet.AlexNet(7, "quick", 0.05).eval())
    with torch.no_grad():
        broken.network.fc5.bias[0] = float("nan")
    with pytest.raises(WorkError, match="differ by nan in a probability"):
        check(broken, broken, data)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), max_size=60))
@example([(50, 50), (1, 1), (1, 1)])
@example([(1, 1)] * 40)
def test_photographs_in_memory_are_limited_by_their_pixels(sizes: list[tuple[int, int]]) -> None:
    photographs = [(str(number), np.zeros((*one, 3), np.uint8), True) for number, one in enumerate(sizes)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_check, "BATCH_PIXELS", 2000)
        batches = [*onnx_check._limited(iter(photographs))]
    assert [one[0] for batch in batches for one in batch] == [one[0] for one in photographs]
    pixels = [[one[1].shape[0] * one[1].shape[1] for one in batch] for batch in batches]
    for batch, following in itertools.zip_longest(pixels, pixels[1:], fillvalue=[2000]):
        assert 1 <= len(batch) <= 16 and (len(batch) == 1 or sum(batch) <= 2000)
        assert len(batch) == 16 or sum(batch) + following[0] > 2000  # no smaller than needed


def test_the_bytes_that_are_written_are_those_that_were_measured(
    data: PreparedData, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[bytes] = []
    open_session = onnx_quantization.open_session

    def open_counting(model: bytes) -> object:
        opened.append(model)
        return open_session(model)

    monkeypatch.setattr(onnx_quantization, "open_session", open_counting)
    write_onnx(trained, tmp_path / "int8.onnx", int8=data)
    assert opened[-1] == (tmp_path / "int8.onnx").read_bytes()

    def open_another(model: bytes) -> object:
        """As if the metadata changed what is computed: the third session is that of the written file."""
        opened.append(model)
        return open_session(opened[-3] if len(opened) == 3 else model)

    opened.clear()
    monkeypatch.setattr(onnx_quantization, "open_session", open_another)
    with pytest.raises(WorkError, match="other probabilities from the int8 file than were measured; nothing was writ"):
        write_onnx(trained, tmp_path / "b.onnx", int8=data)
    assert not (tmp_path / "b.onnx").exists()


def test_int8(data: PreparedData, trained: Trained, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    handlers = list(logging.getLogger().handlers)
    found = write_onnx(trained, tmp_path / "int8.onnx", int8=data).int8
    assert found is not None and logging.getLogger().handlers == handlers
    assert not caplog.records
    write_onnx(trained, tmp_path / "float.onnx")
    assert (tmp_path / "float.onnx").stat().st_size == found.float_bytes
    model = onnx.load(tmp_path / "int8.onnx")
    onnx.checker.check_model(model)
    properties = {one.key: one.value for one in model.metadata_props}
    assert json.loads(properties["int8"]) == found.to_dict() and set(properties) == {"alexnet", "version", "int8"}
    split = data.splits["val"]
    images, labels = np.asarray(split.images[:]), np.asarray(split.labels)
    answers = {}
    for name, errors in (("int8", found.int8_errors), ("float", found.float_errors)):
        run = onnxruntime.InferenceSession(tmp_path / f"{name}.onnx")
        probabilities = run.run(["probabilities"], {"images": images})[0]
        answers[name] = probabilities.argmax(axis=1)
        assert errors.top1_wrong == (answers[name] != labels).sum()
        assert list(run.run(["class_names"], {"images": images[:1]})[0]) == [one.name for one in data.classes]
    assert found.num_changed == (answers["int8"] != answers["float"]).sum()
    assert (found.num_images, found.num_calibration) == (21, 28)
    # Every convolution and dense layer, and nothing before the network or after its scores.
    made_by = {output: node for node in model.graph.node for output in node.output}
    for node in model.graph.node:
        inputs = [made_by[one].op_type for one in node.input if one in made_by]
        is_layer = node.op_type in ("Conv", "Gemm")
        assert not is_layer or inputs[:2] == ["DequantizeLinear"] * 2
        if node.name in ("columns_sums", "rows_sums", "network_input"):
            assert "DequantizeLinear" not in inputs


def test_int8_of_every_kind_of_layer(tmp_path: Path) -> None:
    """Dense columns, local layers and norms: the network still answers, nearly as in float."""
    for variant in ("original", "no-communication", "cifar-11pct", "cifar-18pct"):
        assert variant in VARIANTS
        trained = trained_network(variant)
        classes = [(one.id, one.name) for one in trained.classes]
        write_prepared(tmp_path / variant, {"train": 14, "val": 14}, classes=classes, side=trained.side)
        data = PreparedData.open(tmp_path / variant)
        found = write_onnx(trained, tmp_path / f"{variant}.onnx", int8=data).int8
        assert found is not None and found.num_changed <= 3


@pytest.mark.parametrize(
    ("splits", "side", "classes", "message"),
    [
        ({"train": 7, "val": 7}, 30, 7, "prepare the data with --side 32"),
        ({"train": 7}, 32, 7, "has no validation or test split"),
        ({"train": 8, "val": 8}, 32, 8, "the network lacks number 7"),
    ],
)
def test_data_that_do_not_fit_int8(
    tmp_path: Path, splits: dict[str, int], side: int, classes: int, message: str
) -> None:
    write_prepared(
        tmp_path / "data", splits, classes=[(f"n{one}", f"class {one}") for one in range(classes)], side=side
    )
    with pytest.raises(RequestError, match=message):
        write_onnx(trained_network("quick", 32), tmp_path / "a.onnx", int8=PreparedData.open(tmp_path / "data"))
    assert [one.name for one in tmp_path.iterdir()] == ["data"]


def test_without_onnx_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_prepared(tmp_path / "data", {"train": 1, "val": 2}, classes=[("a", "a"), ("b", "b")], side=32)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(
        RequestError, match=r"onnxruntime, which is not installed; run: pip install 'alexnet\[export\]'"
    ):
        write_onnx(trained_network("quick", 32), tmp_path / "a.onnx", verify=PreparedData.open(tmp_path / "data"))


def test_a_file_outside_of_the_source_is_not_read(tmp_path: Path) -> None:
    write_prepared(tmp_path / "data", {"train": 1, "val": 3}, classes=[("a", "a"), ("b", "b")], side=32)
    data = PreparedData.open(tmp_path / "data")
    (tmp_path / "source").mkdir()
    (tmp_path / "outside.ppm").write_bytes(b"P6 1 1 255 abc")
    keys = ["../outside.ppm", str(tmp_path / "outside.ppm"), "missing"]
    splits = {"val": dataclasses.replace(data.splits["val"], keys=keys)}
    plan = {**data.description, "plan": {"source": str(tmp_path / "source")}}
    trained = trained_network("quick", 32)
    moved = dataclasses.replace(data, splits=splits, description=plan)
    assert (
        check_onnx(onnx_model(trained).SerializeToString(), preprocessing_model(trained), trained, moved).num_originals
        == 0
    )
