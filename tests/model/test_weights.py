"""A trained network is read back as it was written, and other files are refused."""

import copy
import filecmp
import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import safetensors.torch
import torch
from torch import nn
from torch.nn.utils import prune
from torch.nn.utils.parametrizations import weight_norm

import alexnet
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
    # Readers of version 4 do not know the key, and would crop.
    assert (b'\\"format_version\\": 4,' in path.read_bytes()) == (fit == "crop")
    assert (b'\\"format_version\\": 5,' in path.read_bytes()) == (fit != "crop")


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
    with pytest.raises(RequestError, match="has weights format 9, but this version reads 2 to 6"):
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
    with pytest.raises(
        RequestError,
        match=r"weights\.pth is a PyTorch file .*; import it with `alexnet import .*weights\.pth --run RUN`",
    ):
        load_trained(path)
    path.write_bytes(pickle.dumps({"code": print}))
    with pytest.raises(RequestError, match="is a Python pickle"):
        load_trained(path)


def test_a_header_whose_length_begins_like_a_pickle_is_none(tmp_path: Path) -> None:
    header = json.dumps({"__metadata__": {}}).encode().ljust(0x0480)
    path = tmp_path / "other.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(RequestError, match="was not written by alexnet"):
        load_trained(path)


def identical(found: AlexNet, expected: AlexNet) -> bool:
    own, other = found.state_dict(), expected.state_dict()
    return own.keys() == other.keys() and all(torch.equal(own[name], other[name]) for name in own)


def test_what_python_saves_is_what_it_loads(tmp_path: Path) -> None:
    trained, path = trained_network(), tmp_path / "mine.safetensors"
    alexnet.save(trained, str(path))
    assert identical(alexnet.load(str(path)).network, trained.network)
    with pytest.raises(RequestError, match=r"mine.safetensors exists already; .* overwrite=True to replace it"):
        alexnet.save(trained, path)
    other = replace(trained, network=AlexNet(2, "quick", 0.25, generator=torch.Generator().manual_seed(9)))
    alexnet.save(other, path, overwrite=True)
    assert identical(alexnet.load(path).network, other.network)
    assert [one.name for one in tmp_path.iterdir()] == [path.name]
    same = copy.deepcopy(other.network)
    same.relu1 = nn.ReLU(inplace=True)
    same.relu2.register_full_backward_hook(lambda *_: None)
    alexnet.save(replace(other, network=same), tmp_path / "same.safetensors")
    assert filecmp.cmp(tmp_path / "same.safetensors", path, shallow=False)
    alexnet.save(replace(other, network=copy.deepcopy(other.network).double()), tmp_path / "double.safetensors")
    assert filecmp.cmp(tmp_path / "double.safetensors", path, shallow=False)
    save_trained(tmp_path / "training.safetensors", other)
    assert filecmp.cmp(tmp_path / "training.safetensors", path, shallow=False)


def test_a_new_last_layer_is_saved_with_its_classes(tmp_path: Path) -> None:
    trained = trained_network()
    trained.network.fc5 = nn.Linear(trained.network.fc5.in_features, 3)
    with pytest.raises(RequestError, match=r"has 3 classes, but `classes` names 2; pass both: `dataclasses.replace\("):
        alexnet.save(trained, tmp_path / "a")
    changed = replace(trained, classes=(*trained.classes, ClassInfo("n3", "dog")))
    alexnet.save(changed, tmp_path / "a")
    loaded = alexnet.load(tmp_path / "a")
    assert identical(loaded.network, trained.network) and loaded.classes == changed.classes


CHANGES: dict[str, tuple[Callable[[AlexNet], object], str]] = {
    "another type": (
        lambda net: setattr(net, "conv2", nn.Sequential(net.conv2, nn.BatchNorm2d(16))),
        r"conv2 of the network is Sequential\(\), but in variant 'quick' of width 0.25 with 2 classes it is Conv",
    ),
    "other settings": (lambda net: setattr(net.conv2, "padding", (0, 0)), "conv2 .* it is Conv2d.*padding"),
    "another width": (lambda net: setattr(net, "fc5", nn.Linear(7, 2)), r"fc5 of the network is Linear\(in_features=7"),
    "no bias": (lambda net: setattr(net.fc5, "bias", None), r"fc5 of the network is .*, but .*, bias \(2,\)"),
    "an added layer": (
        lambda net: net.add_module("extra", nn.Linear(2, 2)),
        r"extra of the network is Linear\(.* it is missing",
    ),
    "another activation": (lambda net: setattr(net, "relu1", nn.GELU()), r"relu1 of the network is GELU\(.*it is ReLU"),
    "pruned": (
        lambda net: prune.l1_unstructured(net.fc5, "weight", 0.5),
        r"fc5 of the network is Linear\(.*weight_mask .*, but in variant 'quick'",
    ),
    "parametrized": (lambda net: weight_norm(net.fc5), "fc5 of the network is ParametrizedLinear"),
    "a hook": (
        lambda net: net.relu2.register_forward_hook(lambda module, images, scores: scores * 0),
        r"relu2 has hooks, which may change what it computes, and which no file keeps; remove them first",
    ),
    "a hook before": (lambda net: net.register_forward_pre_hook(lambda *_: None), "the network has hooks, which may"),
    "another forward": (lambda net: setattr(net.relu2, "forward", torch.tanh), "relu2 has another `forward`"),
    "no values": (lambda net: net.to("meta"), r"conv1.weight has no values \(its device is `meta`\)"),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_a_network_that_no_file_describes_is_refused(tmp_path: Path, name: str) -> None:
    change, message = CHANGES[name]
    trained = trained_network()
    change(trained.network)
    with pytest.raises(RequestError, match=message):
        alexnet.save(trained, tmp_path / "a")
    assert not any(tmp_path.iterdir())


def test_what_is_no_trained_network_is_refused(tmp_path: Path) -> None:
    trained, path = trained_network(), tmp_path / "a"
    with pytest.raises(RequestError, match=r"save takes a Trained, .* got AlexNet; .*`dataclasses.replace\(trained"):
        alexnet.save(trained.network, path)  # type: ignore[arg-type]
    wrapped: Any = nn.DataParallel(trained.network)
    with pytest.raises(RequestError, match=r"the network is a DataParallel, of which .*; pass the AlexNet in it"):
        alexnet.save(replace(trained, network=wrapped), path)

    class Changed(AlexNet):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return -super().forward(images)

    with pytest.raises(RequestError, match="the network is a Changed, of which a file cannot say what it computes"):
        alexnet.save(replace(trained, network=Changed(2, "quick", 0.25)), path)
    no_classes: Any = replace(trained, classes=(trained.classes[0], "dog"))
    with pytest.raises(RequestError, match=r"classes\[1\] is of type str; allowed is alexnet.ClassInfo\(id, name\)"):
        alexnet.save(no_classes, path)
    for change, message in [
        ({"mean_image": torch.zeros(32, 32)}, "mean_image: it is torch.float32"),
        ({"mean_image": torch.zeros(32, 32, 3, dtype=torch.float64)}, "mean_image: it is torch.float64"),
        ({"crop": 33}, "mean_image: it is"),
        ({"classes": (ClassInfo("a", "a"), ClassInfo("a", "b"))}, "classes: they are not num_classes different ones"),
        ({"mean_at": "corner"}, "preprocessing.mean_at: it is 'corner'"),
        ({"fit": "stretch"}, "stretch"),
        ({"title": 3}, "title: expected str"),
        ({"untrained_seed": -1}, "untrained_seed"),
    ]:
        with pytest.raises(RequestError, match=f"this network cannot be saved: .*{message}"):
            alexnet.save(replace(trained, **change), path)
    assert not any(tmp_path.iterdir())


def test_where_nothing_can_be_saved(tmp_path: Path) -> None:
    trained = trained_network()
    with pytest.raises(RequestError, match=r"is a folder; name a file, such as \S+weights.safetensors"):
        alexnet.save(trained, tmp_path)
    with pytest.raises(RequestError, match=r"cannot write .*nowhere"):
        alexnet.save(trained, tmp_path / "nowhere" / "a")
    (tmp_path / "run.json").touch()
    with pytest.raises(RequestError, match="belongs to a run, whose log and evaluations are of other weights"):
        alexnet.save(trained, tmp_path / "weights.safetensors", overwrite=True)
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    with pytest.raises(RequestError, match="link exists already"):
        alexnet.save(trained, tmp_path / "link")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
@pytest.mark.parametrize("with_checksum", [False, True])
def test_a_file_saved_again_from_a_wrapped_network(tmp_path: Path, prefix: str, with_checksum: bool) -> None:
    trained, path = trained_network(), tmp_path / "weights.safetensors"
    save_trained(path, trained)
    with safetensors.safe_open(path, "pt") as content:
        metadata = content.metadata()
        tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
    assert "content_sha256" in metadata
    if not with_checksum:
        del metadata["content_sha256"]
    renamed = {name if name == "mean_image" else prefix + name: tensor for name, tensor in tensors.items()}
    safetensors.torch.save_file(renamed, path, metadata)
    assert identical(load_trained(path).network, trained.network)
    renamed[f"{prefix}conv1.weight"] = torch.zeros(1)
    safetensors.torch.save_file(renamed, path, metadata)
    with pytest.raises(
        RequestError, match=r"not the weights of variant 'quick' of width 0.25: conv1.weight is \(1,\)"
    ) as caught:
        load_trained(path)
    assert str(caught.value).startswith(f"{path}: these are") and "alexnet.load" not in str(caught.value)
    safetensors.torch.save_file({**renamed, "conv1.weight": tensors["conv1.weight"]}, path, metadata)
    with pytest.raises(RequestError, match=r"would be conv1.weight of the network; pass one of the two"):
        load_trained(path)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_parameters_are_float32_whatever_the_file_has(tmp_path: Path, dtype: torch.dtype) -> None:
    trained, path = trained_network(), tmp_path / "weights.safetensors"
    save_trained(path, trained)
    with safetensors.safe_open(path, "pt") as content:
        metadata = content.metadata()
    del metadata["content_sha256"]
    tensors = {name: tensor.to(dtype).contiguous() for name, tensor in trained.network.state_dict().items()}
    safetensors.torch.save_file({**tensors, "mean_image": trained.mean_image}, path, metadata)
    for name, tensor in load_trained(path).network.state_dict().items():
        assert tensor.dtype == torch.float32 and torch.equal(tensor, tensors[name].float())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_file_saved_again_in_another_precision_is_not_called_damaged(tmp_path: Path, dtype: torch.dtype) -> None:
    trained, path = trained_network(), tmp_path / "weights.safetensors"
    save_trained(path, trained)
    with safetensors.safe_open(path, "pt") as content:
        metadata = content.metadata()
        tensors = {f"module.{name}": content.get_tensor(name).to(dtype) for name in content.keys()}  # noqa: SIM118
    assert "content_sha256" in metadata
    safetensors.torch.save_file({name.removeprefix("module."): one for name, one in tensors.items()}, path, metadata)
    safetensors.torch.save_file(tensors, tmp_path / "wrapped", metadata)
    for loaded in (alexnet.load(path), alexnet.load(tmp_path / "wrapped")):
        found = {**loaded.network.state_dict(), "mean_image": loaded.mean_image}
        assert all(torch.equal(one, tensors[f"module.{name}"].float()) for name, one in found.items())
        assert all(one.dtype == torch.float32 for one in found.values())
    changed = {name: tensor.contiguous() + 1 for name, tensor in trained.network.state_dict().items()}
    safetensors.torch.save_file({**changed, "mean_image": trained.mean_image}, path, metadata)
    with pytest.raises(WorkError, match=r"changed it on purpose, remove content_sha256 from its metadata"):
        alexnet.load(path)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_torchs_default_type_changes_no_weights(tmp_path: Path, dtype: torch.dtype) -> None:
    path = tmp_path / "weights.safetensors"
    save_trained(path, trained_network())
    wanted = alexnet.load(path, untrained=True)
    torch.set_default_dtype(dtype)
    try:
        control, trained = alexnet.load(path, untrained=True), alexnet.load(path)
        alexnet.save(control, tmp_path / "control")
        assert torch.get_default_dtype() == dtype
    finally:
        torch.set_default_dtype(torch.float32)
    assert identical(control.network, wanted.network) and identical(trained.network, alexnet.load(path).network)


def test_an_untrained_control_has_everything_but_the_weights(tmp_path: Path) -> None:
    trained, path = trained_network(), tmp_path / "weights.safetensors"
    save_trained(path, trained)
    control = alexnet.load(path, untrained=True)
    assert (control.classes, control.crop, control.title) == (trained.classes, trained.crop, trained.title)
    assert torch.equal(control.mean_image, trained.mean_image) and control.network.dropout == trained.network.dropout
    assert not control.network.training and control.untrained_seed == 0
    assert identical(control.network, AlexNet(2, "quick", 0.25, generator=torch.Generator().manual_seed(0)))
    other = alexnet.load(path, untrained=True, seed=5)
    assert other.untrained_seed == 5 and not identical(other.network, control.network)
    assert "untrained (seed 5), for 'T'" in repr(other) and "untrained" not in repr(trained)
    assert "untrained network" in other._repr_html_() and "untrained (seed 5), for" in other._repr_html_()
    assert "trained on 'T'" in repr(trained) and trained.untrained_seed is None
    with pytest.raises(RequestError, match="pass untrained=True too, or omit the seed"):
        alexnet.load(path, seed=5)
    for seed, shown in ((-1, "-1"), ("x", "'x'"), (1.0, r"1\.0")):
        with pytest.raises(RequestError, match=f"seed is {shown}; allowed is a whole number, 0 to"):
            alexnet.load(path, untrained=True, seed=seed)  # type: ignore[arg-type]
    state = torch.get_rng_state()
    alexnet.load(path, untrained=True)
    assert torch.equal(torch.get_rng_state(), state)


def test_an_untrained_control_is_known_when_it_is_saved(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_trained(path, trained_network())
    control = alexnet.load(path, untrained=True, seed=3)
    alexnet.save(control, tmp_path / "control.safetensors")
    assert alexnet.load(tmp_path / "control.safetensors").untrained_seed == 3
    assert b"untrained_seed" not in path.read_bytes() and b'\\"format_version\\": 4,' in path.read_bytes()
    assert b'\\"format_version\\": 5,' in (tmp_path / "control.safetensors").read_bytes()
    with torch.no_grad():
        control.network.fc5.bias.add_(1)
    with pytest.raises(
        RequestError, match=r"untrained_seed is 3, but these are not the weights .* untrained_seed=None"
    ):
        alexnet.save(control, tmp_path / "trained.safetensors")
    alexnet.save(replace(control, untrained_seed=None), tmp_path / "trained.safetensors")


def test_torchvisions_tensors_become_a_network_as_the_page_says(tmp_path: Path) -> None:
    """docs/python.md, "Weights from elsewhere", with random tensors."""
    own = AlexNet(1000, "torchvision", 0.05, generator=torch.Generator().manual_seed(4))
    names = [f"features.{number}" for number in (0, 3, 6, 8, 10)] + [f"classifier.{number}" for number in (1, 4, 6)]
    theirs = {f"{name}.{kind}": None for name in names for kind in ("weight", "bias")}
    published = dict(zip(theirs, own.state_dict().values(), strict=True))
    network = AlexNet(1000, "torchvision", 0.05)
    network.load_state_dict(dict(zip(network.state_dict(), published.values(), strict=True)))
    mean_image = torch.tensor([123.675, 116.28, 103.53]).repeat(256, 256, 1)
    classes = tuple(alexnet.ClassInfo(f"class{number}", f"class {number}") for number in range(1000))
    trained = Trained(
        network=network, classes=classes, mean_image=mean_image, crop=224, title="ImageNet", generated=False
    )
    alexnet.save(trained, tmp_path / "published.safetensors")
    assert identical(alexnet.load(tmp_path / "published.safetensors").network, own)
