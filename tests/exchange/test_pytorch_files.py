"""Files of torch.save and safetensors: what is read from them gives the scores of the network that wrote them."""

import argparse
import os
import re
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from torch import nn

from alexnet.errors import RequestError, WorkError
from alexnet.exchange.foreign_network import TORCHVISION_CONVENTION, ForeignNetwork
from alexnet.exchange.readers import read_foreign
from alexnet.model.network import AlexNet

NUM_CLASSES = 7


def torchvision_net(width: int = 8, num_classes: int = NUM_CLASSES, seed: int = 3) -> nn.Module:
    """torchvision's `alexnet` written out: its module names and, at width 64, its sizes."""
    torch.manual_seed(seed)
    w = width
    features = nn.Sequential(
        nn.Conv2d(3, w, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(w, 3 * w, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(3 * w, 6 * w, 3, padding=1), nn.ReLU(),
        nn.Conv2d(6 * w, 4 * w, 3, padding=1), nn.ReLU(),
        nn.Conv2d(4 * w, 4 * w, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2),
    )  # fmt: skip
    classifier = nn.Sequential(
        nn.Dropout(), nn.Linear(4 * w * 36, 64 * w), nn.ReLU(),
        nn.Dropout(), nn.Linear(64 * w, 64 * w), nn.ReLU(), nn.Linear(64 * w, num_classes),
    )  # fmt: skip
    parts = {
        "features": features,
        "avgpool": nn.AdaptiveAvgPool2d(6),
        "flatten": nn.Flatten(),
        "classifier": classifier,
    }
    return nn.Sequential(OrderedDict(parts)).eval()


def paper_net(num_classes: int = NUM_CLASSES) -> nn.Module:
    """An AlexNet with two groups, as people write it, of an eighth of the paper's width."""
    torch.manual_seed(5)
    return nn.ModuleDict({
        "first": nn.Conv2d(3, 12, 11, 4),
        "second": nn.Conv2d(12, 32, 5, padding=2, groups=2),
        "third": nn.Conv2d(32, 48, 3, padding=1),
        "fourth": nn.Conv2d(48, 48, 3, padding=1, groups=2),
        "fifth": nn.Conv2d(48, 32, 3, padding=1, groups=2),
        "dense1": nn.Linear(32 * 36, 512),
        "dense2": nn.Linear(512, 512),
        "dense3": nn.Linear(512, num_classes),
    })  # fmt: skip


def loaded(found: ForeignNetwork, variant: str, width: float) -> AlexNet:
    network = AlexNet(found.layers[-1].weight.shape[0], variant, width)
    own = [name.removesuffix(".weight") for name in network.state_dict() if name.endswith(".weight")]
    state = {}
    for name, layer in zip(own, found.layers, strict=True):
        state[f"{name}.weight"], state[f"{name}.bias"] = layer.weight, layer.bias
    network.load_state_dict(state)
    return network.eval()


def photograph() -> torch.Tensor:
    """uint8 (1, 3, 224, 224), smooth and colored."""
    random = np.random.default_rng(4)
    small = Image.fromarray(random.integers(0, 256, (9, 9, 3), np.uint8)).resize((224, 224), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.asarray(small).copy()).permute(2, 0, 1)[None]


def test_torchvisions_network_gives_the_same_scores_from_the_same_photograph(tmp_path: Path) -> None:
    net = torchvision_net()
    pixels = photograph()
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = net((pixels / 255 - mean[:, None, None]) / std[:, None, None])
    ours = pixels.float() - 255 * mean[:, None, None]
    for name, save in SAVES.items():
        path = tmp_path / f"{name}.file"
        save(dict(net.state_dict()), path)
        found = read_foreign(path)
        assert found.variants[0] == "torchvision" and found.convention == TORCHVISION_CONVENTION
        assert found.layers[0].name == "features.0" and found.notes == ()
        network = loaded(found, "torchvision", 0.125)
        torch.testing.assert_close(network(ours), expected, rtol=1e-4, atol=1e-5)
        for layer in found.layers:  # bit for bit
            assert torch.equal(layer.weight, net.state_dict()[f"{layer.name}.weight"]), name
            assert torch.equal(layer.bias, net.state_dict()[f"{layer.name}.bias"]), name


SAVES: dict[str, Callable[[Any, Path], None]] = {
    "zip": lambda content, path: torch.save(content, path),
    "old": lambda content, path: torch.save(content, path, _use_new_zipfile_serialization=False),
    "protocol 4": lambda content, path: torch.save(content, path, pickle_protocol=4),
    "old, protocol 4": lambda content, path: torch.save(
        content, path, pickle_protocol=4, _use_new_zipfile_serialization=False
    ),
    "safetensors": lambda content, path: safetensors.torch.save_file(content, path),
}


def no_checksums(content: Any, path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(content, path)
    finally:
        torch.serialization.set_crc32_options(True)


SAVES["zip without checksums"] = no_checksums


@pytest.mark.parametrize("form", ["zip", "old", "safetensors"])
def test_a_network_of_other_names_is_recognized_by_its_shapes(tmp_path: Path, form: str) -> None:
    net = paper_net()
    SAVES[form](dict(net.state_dict()), tmp_path / "net")
    if form == "safetensors":  # it sorts the names, and these do not say the order
        with pytest.raises(RequestError, match=r"of no known variant: .* in the order of their names"):
            read_foreign(tmp_path / "net")
        return
    found = read_foreign(tmp_path / "net")
    assert found.variants[:2] == ("paper", "original") and "caffe" in found.variants
    assert "torchvision" not in found.variants and found.convention is None
    assert [layer.name for layer in found.layers] == list(dict(net.named_children()))
    network = loaded(found, "paper", 0.125)
    assert torch.equal(network.state_dict()["conv4.weight"], net.state_dict()["fourth.weight"])


TYPES = {torch.float16: 1e-3, torch.bfloat16: 1e-2, torch.float64: 0.0}


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("form", ["zip", "old", "safetensors"])
def test_other_types_become_float32_exactly(tmp_path: Path, dtype: torch.dtype, form: str) -> None:
    state = {name: one.to(dtype) for name, one in torchvision_net().state_dict().items()}
    SAVES[form](state, tmp_path / "net")
    for layer in read_foreign(tmp_path / "net").layers:
        assert layer.weight.dtype == torch.float32 and torch.equal(layer.weight, state[f"{layer.name}.weight"].float())


@pytest.mark.parametrize("form", ["zip", "old"])
def test_views_of_storages_are_read_as_they_are(tmp_path: Path, form: str) -> None:
    state = torchvision_net().state_dict()
    whole = torch.cat([state["features.0.weight"].flatten(), state["features.0.bias"]])
    state["features.0.weight"] = whole[:-8].view(8, 3, 11, 11)
    state["features.0.bias"] = whole[-8:]
    state["features.3.weight"] = state["features.3.weight"].to(memory_format=torch.channels_last)
    state["classifier.4.weight"] = state["classifier.4.weight"].t().contiguous().t()
    state["classifier.6.bias"] = torch.nn.Parameter(state["classifier.6.bias"])
    SAVES[form](state, tmp_path / "net")
    for layer in read_foreign(tmp_path / "net").layers:
        assert torch.equal(layer.weight, state[f"{layer.name}.weight"])
        assert torch.equal(layer.bias, state[f"{layer.name}.bias"])


def prefixed(prefix: str, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"{prefix}{name}": one for name, one in state.items()}


def checkpoint(state: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """What training scripts save: state, optimizer, arguments, NumPy's numbers."""
    return {
        "epoch": 3,
        "arch": "alexnet",
        "state_dict": state,
        "best": np.float64(0.5),
        "args": argparse.Namespace(lr=0.1, path=Path("/data")),
        "optimizer": {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": [{"betas": (0.9, 0.9)}] * 2},
        ("a", 1): None,
    }


CHECKPOINTS: dict[str, tuple[Callable[[dict[str, torch.Tensor]], Any], str]] = {
    "DataParallel": (lambda state: prefixed("module.", state), ""),
    "compiled": (lambda state: prefixed("_orig_mod.module.", state), ""),
    "Lightning": (lambda state: {"state_dict": prefixed("model.net.", state), "callbacks": {}}, "callbacks were left"),
    "checkpoint": (checkpoint, r"entries epoch, arch, best and 2 more were left out"),
    "nested": (lambda state: {"model": {"model_state_dict": state}}, ""),
    "another key": (lambda state: {"alexnet": state, "n": 1}, "entries n were left out"),
    "averaged model": (
        lambda state: {"n_averaged": torch.tensor(3), **prefixed("module.", state)},
        "counters n_averaged were left out",
    ),
    "averaged entry": (
        lambda state: {"model_ema": {name: one + 1 for name, one in state.items()}, "model": state},
        "'model_ema', averaged weights of the same network, was left out",
    ),
    "averaged names": (
        lambda state: {
            **prefixed("ema.", {name: one + 1 for name, one in state.items()}),
            **prefixed("model.", state),
        },
        r"tensors ema.features.0.weight \(8, 3, 11, 11\), .* and 13 more were left out",
    ),
    "buffers": (
        lambda state: {"mean": torch.zeros(3, 1, 1), **state},
        r"tensors mean \(3, 1, 1\) were left out",
    ),
}


@pytest.mark.parametrize("name", CHECKPOINTS)
@pytest.mark.parametrize("form", ["zip", "old"])
def test_the_state_dict_in_a_checkpoint_is_found_and_the_rest_is_named(tmp_path: Path, name: str, form: str) -> None:
    state = dict(torchvision_net().state_dict())
    make, note = CHECKPOINTS[name]
    SAVES[form](make(state), tmp_path / "net")
    found = read_foreign(tmp_path / "net")
    assert found.convention == TORCHVISION_CONVENTION
    for layer, own in zip(found.layers, (n for n in state if n.endswith("weight")), strict=True):
        assert torch.equal(layer.weight, state[own])
    assert [bool(re.search(note, one)) for one in found.notes] == ([True] if note else [])


class Calls:
    """A pickle of it calls a function where it is loaded freely."""

    def __init__(self, function: Any, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


@pytest.mark.parametrize("form", ["zip", "old"])
@pytest.mark.parametrize("place", ["features.0.weight", "extra", "nested"])
def test_nothing_in_a_file_is_run(tmp_path: Path, form: str, place: str) -> None:
    witness = tmp_path / "witness"
    state: dict[str, Any] = dict(torchvision_net().state_dict())
    state[place] = Calls(os.system, f"touch {witness}")
    SAVES[form]({"state_dict": state} if place == "nested" else state, tmp_path / "net")
    torch.load(tmp_path / "net", weights_only=False)  # it does its work there: the refusal below is no accident
    assert witness.exists()
    witness.unlink()
    with pytest.raises(RequestError, match=r"refers to 'posix\.system', which weights do not need; nothing in it was"):
        read_foreign(tmp_path / "net")
    assert not witness.exists()


@pytest.mark.parametrize("form", ["zip", "old"])
def test_a_whole_module_is_refused_with_what_to_do(tmp_path: Path, form: str) -> None:
    SAVES[form](torchvision_net(), tmp_path / "net")
    with pytest.raises(RequestError, match=r"holds a whole module, which is code; .*torch.save\(model.state_dict"):
        read_foreign(tmp_path / "net")


@pytest.mark.parametrize("form", ["zip", "old", "safetensors"])
def test_files_that_are_cut_short_say_so(tmp_path: Path, form: str) -> None:
    SAVES[form](dict(torchvision_net().state_dict()), tmp_path / "net")
    content = (tmp_path / "net").read_bytes()
    for size in (len(content) - 1, len(content) // 2, 5000):
        (tmp_path / "net").write_bytes(content[:size])
        with pytest.raises(WorkError, match=r"cut short or damaged .*; download or copy it again"):
            read_foreign(tmp_path / "net")


def test_a_state_dict_without_dense_layers_gives_the_convolutions(tmp_path: Path) -> None:
    state = torchvision_net().state_dict()
    for form in ("zip", "safetensors"):
        SAVES[form]({name: one for name, one in state.items() if name.startswith("features")}, tmp_path / form)
        found = read_foreign(tmp_path / form)
        assert found.variants == ("torchvision",) and found.convention == TORCHVISION_CONVENTION
        assert [layer.name for layer in found.layers] == [f"features.{number}" for number in (0, 3, 6, 8, 10)]
    SAVES["zip"]({f"backbone.{name}": one for name, one in paper_net().state_dict().items() if "dense" not in name},
                 tmp_path / "net")  # fmt: skip
    assert read_foreign(tmp_path / "net").variants[:2] == ("paper", "original")


def test_another_classifier_is_left_out_and_named(tmp_path: Path) -> None:
    state = {name: one for name, one in torchvision_net().state_dict().items() if name.startswith("features")}
    state |= {"classifier.1.weight": torch.zeros(10, 1152), "classifier.1.bias": torch.zeros(10)}
    SAVES["zip"](state, tmp_path / "net")
    found = read_foreign(tmp_path / "net")
    assert len(found.layers) == 5
    assert found.notes[0] == "The dense layers classifier.1 (10, 1152) were left out: they fit no variant."


def test_own_state_dicts_are_of_the_variant_whose_names_they_have(tmp_path: Path) -> None:
    for variant in ("minus-fc6", "minus-fc7", "tanh"):
        network = AlexNet(4, variant, 0.05)
        SAVES["safetensors"](dict(network.state_dict()), tmp_path / variant)
        found = read_foreign(tmp_path / variant)
        assert variant in found.variants and found.convention is None
        assert variant == "tanh" or found.variants[0] == variant


def without(state: Mapping[str, torch.Tensor], ending: str) -> dict[str, torch.Tensor]:
    return {name: one for name, one in state.items() if not name.endswith(ending)}


def test_missing_biases_are_zero_and_named(tmp_path: Path) -> None:
    state = without(torchvision_net().state_dict(), "10.bias")
    SAVES["zip"]({name.replace("features", "layers"): one for name, one in state.items()}, tmp_path / "net")
    found = read_foreign(tmp_path / "net")
    assert torch.equal(found.layers[4].bias, torch.zeros(32))
    assert found.notes == ("The file has no biases of layers.10; they are 0.",)


def test_torchvisions_network_without_some_biases_is_refused(tmp_path: Path) -> None:
    SAVES["zip"](without(without(torchvision_net().state_dict(), "10.bias"), "6.bias"), tmp_path / "net")
    with pytest.raises(RequestError, match=r"lacks features.6.bias, features.10.bias, classifier.6.bias; all layers"):
        read_foreign(tmp_path / "net")


NORMALIZED = nn.Sequential(nn.Conv2d(3, 8, 11), nn.BatchNorm2d(8), nn.Linear(8, 2)).state_dict()
OTHERS: dict[str, tuple[Any, str]] = {
    "batch normalization": (
        dict(NORMALIZED), r"network with batch normalization \(1.running_mean, 1.running_var\), which no variant has"
    ),
    "no weights": ({"x.bias": torch.zeros(3)}, "is a PyTorch file without weights: its tensors are x.bias"),
    "integers": ({"a.weight": torch.zeros(3, dtype=torch.int8)}, "whose tensor a.weight has the type int8; allowed"),
    "complex": ({"a.weight": torch.zeros(3, dtype=torch.complex64)}, "tensor a.weight has the type complex64"),
    "a number": (3, r"without a state dict \(it holds no dictionary with names\); save the network"),
    "a tensor": (torch.zeros(3), r"without a state dict \(it holds no dictionary with names\)"),
    "an optimizer": (
        {"epoch": 1, "state": {0: {"exp_avg": 1}}, "param_groups": []},
        r"without a state dict \(its entries are epoch, state, param_groups\)",
    ),
    "sparse": ({"a.weight": torch.zeros(3).to_sparse()}, "tensors of a kind that is not read"),
    "another network": (
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)).state_dict(),
        r"of no known variant: its layers are 0 \(8, 3, 3, 3\), 1 \(8, 8, 3, 3\); the closest variant, 'quick-3x3' of "
        r"width 0.3, has conv2 \(14, 8, 3, 3\) where",
    ),
    "one layer less": (
        without(torchvision_net().state_dict(), "4.weight"),
        r"The dense layers|the closest variant, 'torchvision' of width 0.125, has fc7 \(512, 512\) where the file has",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("form", ["zip", "old"])
def test_other_networks_are_refused_with_the_reason(tmp_path: Path, name: str, form: str) -> None:
    content, message = OTHERS[name]
    SAVES[form](content, tmp_path / "net")
    if name == "one layer less":
        found = read_foreign(tmp_path / "net")
        assert len(found.layers) == 5 and "The dense layers classifier.1" in found.notes[0]
        return
    with pytest.raises(RequestError, match=message) as refused:
        read_foreign(tmp_path / "net")
    assert str(refused.value).startswith(str(tmp_path / "net")) and "\n" not in str(refused.value)


def test_programs_and_modules_of_torchscript_are_named(tmp_path: Path) -> None:
    with warnings.catch_warnings(action="ignore"):
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(tmp_path / "a.pth"))
    with pytest.raises(RequestError, match=r"is a TorchScript module; read it with `torch.jit.load`"):
        read_foreign(tmp_path / "a.pth")
    with pytest.raises(RequestError, match=r"nothing.pth does not exist; give a file of weights"):
        read_foreign(tmp_path / "nothing.pth")
    (tmp_path / "b.pth").write_text("<!doctype html><title>404</title>")
    with pytest.raises(RequestError, match="is a web page, not weights"):
        read_foreign(tmp_path / "b.pth")
    (tmp_path / "c.pth").write_bytes(bytes(range(1, 9)))
    with pytest.raises(RequestError, match=r"no weights file of a known format .*; give weights, such as a state dict"):
        read_foreign(tmp_path / "c.pth")
    path = tmp_path / "own.safetensors"
    safetensors.torch.save_file({"a": torch.zeros(3)}, path, metadata={"alexnet": "{}"})
    with pytest.raises(RequestError, match="is a weights file that alexnet wrote, so there is nothing to import"):
        read_foreign(path)
