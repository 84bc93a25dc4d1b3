"""A trained network is read back as it was written, and other files are refused."""

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import safetensors.torch
import torch

from alexnet.data.dataset import ClassInfo
from alexnet.data.decode import Fit
from alexnet.errors import RequestError, WorkError
from alexnet.model.network import AlexNet
from alexnet.model.variants import VARIANTS
from alexnet.model.weights import Trained, load_trained, save_trained


def trained_network() -> Trained:
    network = AlexNet(2, "quick", 0.25, dropout=0.3, generator=torch.Generator().manual_seed(1))
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    classes = (ClassInfo(id="n1", name='a "quoted" cat'), ClassInfo(id="n2", name="Ä"))
    return Trained(
        network=network, classes=classes, mean_image=torch.rand(32, 32, 3) * 255, crop=28, title="T", generated=True
    )


def test_round_trip(tmp_path: Path) -> None:
    trained, path = trained_network(), tmp_path / "weights.safetensors"
    save_trained(path, trained)
    loaded = load_trained(str(tmp_path))  # a run folder is accepted like a file, also as a string
    assert (loaded.classes, loaded.crop, loaded.side, loaded.title, loaded.generated) == (
        trained.classes,
        28,
        32,
        "T",
        True,
    )
    assert torch.equal(loaded.mean_image, trained.mean_image)
    assert (loaded.network.variant, loaded.network.width, loaded.network.dropout) == ("quick", 0.25, 0.3)
    images = torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(2)) * 60
    with torch.no_grad():
        torch.testing.assert_close(loaded.network(images), trained.network.eval()(images))
    assert not loaded.network.training


def described_preprocessing(path: Path) -> dict[str, Any]:
    with safetensors.safe_open(path, "pt") as file:
        preprocessing: dict[str, Any] = json.loads(file.metadata()["alexnet"])["preprocessing"]
    return preprocessing


@pytest.mark.parametrize("fit", get_args(Fit))
def test_how_photographs_become_square_is_kept(tmp_path: Path, fit: Fit) -> None:
    path = tmp_path / "weights.safetensors"
    save_trained(path, replace(trained_network(), fit=fit))
    assert load_trained(path).fit == fit
    assert described_preprocessing(path).get("fit") == (None if fit == "crop" else fit)  # crops as in earlier versions


def test_an_unknown_way_to_become_square_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_trained(path, replace(trained_network(), fit="pad"))
    content = path.read_bytes().replace(b'\\"fit\\": \\"pad\\"', b'\\"fit\\": \\"bad\\"')
    path.write_bytes(content.replace(b'"content_sha256"', b'"of_no_checksum"'))
    with pytest.raises(WorkError, match=r"preprocessing\.fit"):
        load_trained(path)


def test_what_is_not_a_trained_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"holds no trained network \(weights.safetensors is missing\)"):
        load_trained(tmp_path)
    path = tmp_path / "weights.safetensors"
    save_trained(path, trained_network())
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(WorkError, match="is damaged"):
        load_trained(path)
    path.write_bytes(safetensors.torch.save({"conv1.weight": torch.zeros(1)}))
    with pytest.raises(RequestError, match="was not written by alexnet"):
        load_trained(path)
    changed = content.replace(b'\\"format_version\\": 4', b'\\"format_version\\": 9')
    path.write_bytes(changed)
    with pytest.raises(WorkError, match="was changed after it was written: content_sha256 does not match"):
        load_trained(path)
    path.write_bytes(changed.replace(b'"content_sha256"', b'"of_no_checksum"'))
    with pytest.raises(RequestError, match="has weights format 9, but this version reads 2 to 4"):
        load_trained(path)


def test_a_variant_that_has_changed_since_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "weights.safetensors"
    save_trained(path, trained_network())
    now = VARIANTS["quick"]
    # The same layers in another order have the same weights and give other scores.
    swapped = replace(now, layers=(now.layers[0], now.layers[2], now.layers[1], *now.layers[3:]))
    for other in (swapped, replace(now, input_scale=1.0)):
        monkeypatch.setitem(VARIANTS, "quick", other)
        with pytest.raises(RequestError, match=r"holds variant 'quick', which is a different network in this version"):
            load_trained(path)
    monkeypatch.setitem(VARIANTS, "quick", now)
    load_trained(path)


@pytest.mark.parametrize("is_zip", [True, False])
def test_a_sound_file_of_torch_save_is_not_called_damaged_and_never_loaded(tmp_path: Path, is_zip: bool) -> None:
    path = tmp_path / "weights.pth"
    torch.save(trained_network().network.state_dict(), path, _use_new_zipfile_serialization=is_zip)
    with pytest.raises(RequestError, match=r"weights.pth is a pickle.*`torch.load\(..., weights_only=True\)`"):
        load_trained(path)
    path.write_bytes(pickle.dumps({"code": print}))
    with pytest.raises(RequestError, match="is a pickle"):
        load_trained(path)


def test_a_header_whose_length_begins_like_a_pickle_is_none(tmp_path: Path) -> None:
    header = json.dumps({"__metadata__": {}}).encode().ljust(0x0480)
    path = tmp_path / "other.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(RequestError, match="was not written by alexnet"):
        load_trained(path)
