"""`export`: what each form holds, that others load it, and what is refused."""

import dataclasses
import hashlib
import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.html_page import Page
from torch import nn

import alexnet
from alexnet.cli.main import main
from alexnet.data.preparation.prepare import prepare
from alexnet.exchange.forms import FORMS
from alexnet.exchange.readers import read_foreign
from alexnet.model.weights import Trained, save_trained
from alexnet.runs.folder import RunFolder
from alexnet.runs.recipe import Recipe

MEAN_COLOR = torch.tensor([123.675, 116.28, 103.53])


def small(variant: str = "torchvision", width: float = 0.0625, *, num_classes: int = 3, color: bool = False) -> Trained:
    """A narrow network with random weights, a mean image (or one color), and names that look like code."""
    network = alexnet.AlexNet(num_classes, variant, width, generator=torch.Generator().manual_seed(4)).eval()
    side = network.spec.image_px + 8
    random = torch.Generator().manual_seed(5)
    mean = MEAN_COLOR.repeat(side, side, 1) if color else 255 * torch.rand(side, side, 3, generator=random)
    names = ["<b>tench</b>", "hen | cock", "#3 - a: b"]
    classes = tuple(alexnet.ClassInfo(f"n{i}", names[i % 3]) for i in range(num_classes))
    crop = network.spec.image_px
    return Trained(network=network, classes=classes, mean_image=mean, crop=crop, title="t", generated=False)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    save_trained(path, small())
    return path


def plain_torchvision(state: dict[str, torch.Tensor], images: torch.Tensor) -> torch.Tensor:
    """torchvision's AlexNet as functions, from its published description, in float64."""
    x = images.double()
    weights = {name: tensor.double() for name, tensor in state.items()}
    for number, stride, padding, pool in (
        (0, 4, 2, True),
        (3, 1, 2, True),
        (6, 1, 1, False),
        (8, 1, 1, False),
        (10, 1, 1, True),
    ):
        x = nn.functional.conv2d(
            x, weights[f"features.{number}.weight"], weights[f"features.{number}.bias"], stride, padding
        )
        x = x.clamp(min=0)
        x = nn.functional.max_pool2d(x, 3, 2) if pool else x
    x = nn.functional.adaptive_avg_pool2d(x, 6).flatten(1)
    for number in (1, 4, 6):
        x = x @ weights[f"classifier.{number}.weight"].T + weights[f"classifier.{number}.bias"]
        x = x.clamp(min=0) if number < 6 else x
    return x


def test_torchvision_form_computes_the_same_with_its_transforms(tmp_path: Path) -> None:
    trained = small(color=True)
    written = alexnet.export(trained, tmp_path / "a.pth", to="torchvision")
    state = torch.load(written, weights_only=True)
    assert list(state) == [
        f"{layer}.{kind}"
        for layer in (
            "features.0",
            "features.3",
            "features.6",
            "features.8",
            "features.10",
            "classifier.1",
            "classifier.4",
            "classifier.6",
        )
        for kind in ("weight", "bias")
    ]
    pixels = np.random.default_rng(3).integers(0, 256, (2, 300, 260, 3), dtype=np.uint8)
    with torch.no_grad():
        ours = trained.network(alexnet.preprocess(list(pixels), trained))
    # What ToTensor and Normalize do, of the same crop.
    zero_mean = dataclasses.replace(trained, mean_image=torch.zeros_like(trained.mean_image))
    crop = alexnet.preprocess(list(pixels), zero_mean)
    assert "mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]" in written.input and written.notes[0].startswith(
        "The network has width"
    )
    normalized = (crop / 255 - torch.tensor([0.485, 0.456, 0.406]).reshape(3, 1, 1)) / torch.tensor(
        [0.229, 0.224, 0.225]
    ).reshape(3, 1, 1)
    torch.testing.assert_close(plain_torchvision(state, normalized), ours.double(), rtol=1e-4, atol=1e-5)


def test_torchvision_form_has_the_bits_of_the_run(tmp_path: Path, file: Path) -> None:
    state = torch.load(alexnet.export(file, tmp_path / "a.pth", to="torchvision"), weights_only=True)
    own = alexnet.load(file).network.state_dict()
    for (own_name, own_tensor), (name, tensor) in zip(own.items(), state.items(), strict=True):
        assert torch.equal(own_tensor, tensor) and tensor.dtype == torch.float32, (own_name, name)
    # Not a byte more than the tensors and their names: no hidden storage of views.
    assert (tmp_path / "a.pth").stat().st_size < 4 * sum(one.numel() for one in own.values()) + 8000


def test_torchvision_form_comes_back_bit_for_bit(tmp_path: Path) -> None:
    trained = small(color=True)
    first = alexnet.export(trained, tmp_path / "first.pth", to="torchvision")
    run = alexnet.import_weights(first, tmp_path / "run", classes=trained.classes)
    imported = alexnet.load(run)
    assert all(map(torch.equal, imported.network.state_dict().values(), trained.network.state_dict().values()))
    assert torch.equal(imported.mean_image[0, 0], MEAN_COLOR)
    command = re.search(r"`alexnet (import .*) --run RUN` makes it a run again", first.notes[-1])
    assert command is not None and "--mean 123.675,116.28,103.53 --fit crop" in command[1]
    assert main([*shlex.split(command[1]), "--run", str(tmp_path / "again"), "--side", str(trained.side)]) == 0
    again = alexnet.load(tmp_path / "again")
    assert torch.equal(again.mean_image, trained.mean_image)
    second = alexnet.export(run, tmp_path / "second.pth", to="torchvision")
    assert second.files[0].sha256 == first.files[0].sha256


def test_a_mean_image_is_said_where_torchvision_takes_one_color(file: Path, tmp_path: Path) -> None:
    written = alexnet.export(file, tmp_path / "a.pth", to="torchvision")
    crop = alexnet.load(file).mean_image.numpy()[4:-4, 4:-4]
    farthest = np.abs(crop - crop.mean(axis=(0, 1))).max()
    assert f"up to {farthest:.1f} gray levels" in written.notes[0]


def test_safetensors_form_is_read_by_the_library_and_by_alexnet(tmp_path: Path, file: Path) -> None:
    written = alexnet.export(file, tmp_path / "b.safetensors", to="safetensors")
    tensors, own = load_file(written), alexnet.load(file)
    assert torch.equal(tensors.pop("mean_image"), own.mean_image)
    assert tensors.keys() == own.network.state_dict().keys()
    assert all(torch.equal(tensor, own.network.state_dict()[name]) for name, tensor in tensors.items())
    assert alexnet.load(written).classes == own.classes
    assert Path(written).read_bytes() == file.read_bytes()
    assert written.files[0].sha256 == hashlib.sha256(file.read_bytes()).hexdigest()


def test_what_is_said_runs(tmp_path: Path, file: Path) -> None:
    """The lines under `load` are code that works."""
    pixels = np.zeros((2, 250, 300, 3), dtype=np.uint8)
    names: dict[str, Any] = {"pixels": pixels}
    exec("\n".join(alexnet.export(file, tmp_path / "it's.onnx", to="onnx").load), names)
    assert names["probabilities"].shape == (2, 3) and names["names"][0] == "<b>tench</b>"
    names["pixels"] = torch.from_numpy(pixels)
    exec("\n".join(alexnet.export(file, tmp_path / "it's.pt2", to="torch-export").load), names)
    assert names["probabilities"].shape == (2, 3)
    assert names["names"] == [one.name for one in alexnet.load(file).classes]
    exec("\n".join(alexnet.export(file, tmp_path / "it's.safetensors", to="safetensors").load), names)
    exec("\n".join(alexnet.export(file, tmp_path / "it's.pth", to="torchvision").load), names)
    assert "conv1.weight" in names["tensors"] and "features.0.weight" in names["state"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"to": "tflite"},
            "cannot export to 'tflite'; allowed are onnx, torch-export, safetensors, torchvision, caffe, hub",
        ),
        ({"run": "nothing"}, "nothing does not exist"),
        ({"path": ""}, "the exported file is ''"),
        (
            {"path": "caffe.safetensors/a.pth"},
            "cannot write caffe.safetensors/a.pth: caffe.safetensors is a file, not a folder; name another",
        ),
        ({"path": "taken"}, "taken is a folder that exists already; name another path"),
        ({"path": "dangling"}, "dangling exists already"),
        ({"run": "caffe.safetensors"}, "variant 'caffe' is not the network of torchvision.models.alexnet"),
    ],
)
def test_refusals_leave_nothing(
    change: dict[str, str], message: str, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("taken").mkdir()
    Path("dangling").symlink_to("nowhere")
    save_trained(Path("caffe.safetensors"), small("caffe"))
    before = sorted(path.name for path in tmp_path.rglob("*"))
    given: dict[str, Any] = {"run": file, "path": "a.pth", "to": "torchvision", **change}
    with pytest.raises(alexnet.RequestError) as refused:
        alexnet.export(given["run"], given["path"], to=given["to"])
    assert message in str(refused.value)
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


def test_what_no_program_can_load_is_refused(tmp_path: Path) -> None:
    wrong = dataclasses.replace(small("caffe"), crop=224)
    for form in FORMS:
        with pytest.raises(alexnet.RequestError, match=r"crop is 224, but variant 'caffe' takes images of 227 pixels"):
            alexnet.export(wrong, tmp_path / "new" / "a", to=form)
    with pytest.raises(alexnet.RequestError, match="crop is 224, but variant"):
        alexnet.save(wrong, tmp_path / "a.safetensors")
    assert [*tmp_path.iterdir()] == []


def test_a_run_whose_proof_was_contradicted_says_so(tmp_path: Path) -> None:
    file = alexnet.export(small(color=True), tmp_path / "a.pth", to="torchvision")
    run = alexnet.import_weights(file, tmp_path / "run", classes=small().classes)
    proof = run.proof()
    assert proof is not None and proof["status"] == "contradicted"  # its weights are random
    (note, *_) = alexnet.export(run, tmp_path / "b.pth", to="torchvision").notes
    assert note.endswith(f"found not to be what they claim to be. {proof['verdict']}")


def test_a_changed_network_and_a_baseline_are_refused(tmp_path: Path) -> None:
    trained = small()
    trained.network.relu1.register_forward_hook(lambda module, images, output: output * 2)
    with pytest.raises(alexnet.RequestError, match="relu1 has hooks"):
        alexnet.export(trained, tmp_path / "a.pth", to="torchvision")
    (tmp_path / "fisher").mkdir()
    (tmp_path / "fisher" / "baseline.safetensors").touch()
    with pytest.raises(alexnet.RequestError, match="holds a baseline, not a network"):
        alexnet.export(tmp_path / "fisher", tmp_path / "a.pth", to="torchvision")


def test_a_network_without_trained_dense_layers_goes_out_only_where_that_can_be_said(tmp_path: Path) -> None:
    trained = dataclasses.replace(small(), untrained_layers=("fc6", "fc7", "fc8"))
    for form in FORMS:
        if form == "safetensors":
            continue
        with pytest.raises(
            alexnet.RequestError, match=r"class scores need fc6, fc7, fc8, .*`alexnet finetune RUN DATA`"
        ):
            alexnet.export(trained, tmp_path / "a", to=form)
    written = alexnet.export(trained, tmp_path / "b", to="safetensors")
    assert alexnet.load(written).untrained_layers == ("fc6", "fc7", "fc8")
    assert "fc6, fc7, fc8 are not trained" in written.notes[0] and written.output.startswith("features;")


def test_an_untrained_network_says_so(tmp_path: Path, file: Path) -> None:
    written = alexnet.export(alexnet.load(file, untrained=True, seed=7), tmp_path / "a.pth", to="torchvision")
    assert written.notes[0] == "The network is untrained: its weights are random, of seed 7."


def test_what_a_notebook_shows(tmp_path: Path, file: Path) -> None:
    written = alexnet.export(file, tmp_path / "<i>.pth", to="torchvision")
    assert repr(written) == f"Export({str(tmp_path / '<i>.pth')!r}: torchvision, 907 kB)"
    page = Page(f"<div>{written._repr_html_()}</div>")
    assert written.files[0].sha256 in page.text and "<b>tench</b>, hen | cock" in page.text and "<i>.pth" in page.text


def test_the_command(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", str(file), "--to", "torchvision"]) == 0
    shown = capsys.readouterr().out.splitlines()
    digest = hashlib.sha256(Path("small.pth").read_bytes()).hexdigest()
    assert shown[:2] == ["small.pth: 907 kB", f"sha256 of small.pth: {digest}"]
    assert "3 classes, in the order of the outputs: <b>tench</b>, hen | cock, #3 - a: b" in shown
    assert shown[-3:] == ["load it:", "    import torch", "    state = torch.load('small.pth', weights_only=True)"]
    assert main(["export", str(file), "--to", "safetensors", "--out", "new/other", "--json"]) == 0
    written = json.loads(capsys.readouterr().out)
    assert (written["path"], written["to"], written["files"][0]["bytes"]) == (
        "new/other",
        "safetensors",
        file.stat().st_size,
    )
    assert main(["export", str(file), "--to", "torchvision"]) == 2
    assert "small.pth exists already" in capsys.readouterr().err
    assert main(["export", str(file)]) == 2
    assert "--to" in capsys.readouterr().err


@pytest.mark.parametrize(
    "given", ["runs/first", "runs/first/", "runs/first/weights.safetensors", "first.safetensors", "."]
)
def test_an_export_without_a_name_is_named_after_its_run(
    given: str, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "runs/first"
    RunFolder.create(run, Recipe(), {})
    (run / "weights.safetensors").write_bytes(file.read_bytes())
    (tmp_path / "first.safetensors").write_bytes(file.read_bytes())
    monkeypatch.chdir(run if given == "." else tmp_path)
    assert main(["export", given, "--to", "torchvision"]) == 0
    assert Path("first.pth").is_file()


def test_options_of_one_form_are_refused_for_others(file: Path, tmp_path: Path) -> None:
    for form in FORMS:
        for option in ("verify", "int8"):
            if form != "onnx":
                with pytest.raises(alexnet.RequestError, match=f"--{option} applies to onnx only"):
                    alexnet.export(file, tmp_path / "a", to=form, **{option: tmp_path})
    with pytest.raises(alexnet.RequestError, match="nowhere does not exist"):
        alexnet.export(file, tmp_path / "a", to="onnx", verify="nowhere")
    assert list(tmp_path.iterdir()) == []


def test_the_command_verifies_and_quantizes(
    make_tree: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    data = prepare(make_tree("photographs"), "data", side=32)
    network = alexnet.AlexNet(3, "quick", 0.125, generator=torch.Generator().manual_seed(1)).eval()
    mean = torch.full((32, 32, 3), 100.0)
    trained = Trained(network=network, classes=data.classes, mean_image=mean, crop=28, title="t", generated=False)
    save_trained(Path("net.safetensors"), trained)
    assert main(["export", "net.safetensors", "--to", "onnx", "--verify", "data"]) == 0
    shown = capsys.readouterr().out
    assert "verified: 12 photographs of split 'val'" in shown and Path("net.onnx").is_file()
    assert main(["export", "net.safetensors", "--to", "onnx", "--int8", "data"]) == 0
    assert "top-1 error" in capsys.readouterr().out
    assert Path("net-int8.onnx").stat().st_size < Path("net.onnx").stat().st_size
    words = ["export", "net.safetensors", "--to", "onnx", "--verify", "data", "--int8", "data", "--out", "b", "--json"]
    assert main(words) == 0
    written = json.loads(capsys.readouterr().out)
    assert (written["verify"]["num_images"], written["int8"]["num_images"]) == (12, 12)
    assert main([*words[:-3], "--out", "c"]) == 0
    assert "\nverified in float32, before quantization: 12 photographs" in capsys.readouterr().out
    assert Path("b").read_bytes() == Path("net-int8.onnx").read_bytes()


@pytest.mark.slow
def test_published_size(tmp_path: Path) -> None:
    trained = small(width=1, num_classes=1000, color=True)
    written = alexnet.export(trained, tmp_path / "a.pth", to="torchvision")
    state = torch.load(written, weights_only=True)
    assert {name: tuple(tensor.shape) for name, tensor in state.items() if name.endswith("weight")} == {
        "features.0.weight": (64, 3, 11, 11), "features.3.weight": (192, 64, 5, 5),
        "features.6.weight": (384, 192, 3, 3), "features.8.weight": (256, 384, 3, 3),
        "features.10.weight": (256, 256, 3, 3),
        "classifier.1.weight": (4096, 9216), "classifier.4.weight": (4096, 4096), "classifier.6.weight": (1000, 4096),
    }  # fmt: skip
    assert sum(tensor.numel() for tensor in state.values()) == 61_100_840
    read = [tensor for layer in read_foreign(written.path).layers for tensor in (layer.weight, layer.bias)]
    assert all(torch.equal(a, b) for a, b in zip(read, trained.network.state_dict().values(), strict=True))
    assert "network = torchvision.models.alexnet(num_classes=1000)" in written.load
    assert not any("width" in note or "mean image" in note for note in written.notes)
