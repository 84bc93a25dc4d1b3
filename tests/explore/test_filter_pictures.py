"""`alexnet filters` and `alexnet.filters`: the files, what is printed, and bad requests."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from tests.explore.indexed_run import make_run
from tests.html_page import Page
from tests.prepared_files import write_prepared

import alexnet
from alexnet.cli.filters_command import _DRAWN
from alexnet.cli.main import main
from alexnet.data.dataset import PreparedData
from alexnet.errors import RequestError
from alexnet.explore.filter_colors import color_test
from alexnet.explore.filter_pictures import FilterColumns, _main_class, _range
from alexnet.explore.top_patches import TopPatches
from alexnet.model.layer_specs import WeightedSpec
from alexnet.model.variants import VARIANTS
from alexnet.runs.folder import RunFolder

CPU = ["--device", "cpu", "--precision", "float32"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = tmp_path_factory.mktemp("filters")
    write_prepared(folder / "data", {"train": 12, "val": 10}, side=32, classes=[("a", "<b>first</b>"), ("b", "$2$")])
    return make_run(PreparedData.open(folder / "data"), folder / "my run")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_first_layer_is_drawn_beside_the_run_and_described(
    run: RunFolder, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["filters", str(run.path)]) == 0
    mean = color_test(alexnet.load(run.path).network.get_parameter("conv1.weight").detach().numpy(), 1).colors.mean()
    assert capsys.readouterr().out.splitlines() == [
        "my run-filters.png: the 8 filters of conv1, 5 x 5 pixels",
        f"mean color of the 8 filters: {mean:.2f}; the network has no columns to compare",
    ]
    with PIL.Image.open("my run-filters.png") as picture:
        assert picture.format == "PNG" and picture.width == 1500
    # In place of the older picture.
    assert main(["filters", str(run.path)]) == 0
    assert main(["filters", str(run.path), "--layer", "conv1"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["my run-filters.png"]


def test_several_layers_have_a_file_each_and_one_json_object(
    run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--layer", "conv1", "--layer", "relu2", "--layer", "fc5", "--channels", "1", "0", "--out", "new/look.svg"]
    assert main(["filters", str(run.path), *words, "--json", *CPU]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["files"] == {name: f"new/look-{name}.svg" for name in ("conv1", "relu2", "fc5")}
    assert (printed["run"], printed["variant"], printed["split"]) == ("my run", "quick", "val")
    for name in printed["files"].values():
        content = Path(name).read_text(encoding="utf-8")
        assert content.startswith("<?xml") and "my run" in content
        assert not any(link in content for link in ('href="http', 'src="http', "url(http", "<script"))
    assert "&lt;b&gt;first&lt;/b&gt;" in Path("new/look-fc5.svg").read_text(encoding="utf-8")
    shown = printed["layers"]["relu2"]
    assert [one["channel"] for one in shown["channels"]] == [1, 0] and shown["receptive_field_px"] == 15
    patch = shown["channels"][0]["patches"][0]
    assert patch["key"] == f"val/é/{patch['image']}" and patch["class"] in ("<b>first</b>", "$2$")
    result = alexnet.filters(run.path, "relu2", channels=[1, 0], device="cpu", precision="float32")
    layer = result.layers["relu2"]
    assert isinstance(layer, TopPatches)
    assert patch["activation"] == pytest.approx(layer.activations[0, 0])
    assert patch["window_px"] == layer.windows[0, 0].tolist()
    assert [one["name"] for one in printed["layers"]["fc5"]["channels"]] == ["unit 1: $2$", "unit 0: <b>first</b>"]


@pytest.mark.slow
def test_formats(run: RunFolder) -> None:
    for words, name, start in (
        (["--format", "pdf"], "my run-filters.pdf", b"%PDF"),
        (["--out", "plain", "--format", "png"], "plain", b"\x89PNG"),
    ):
        assert main(["filters", str(run.path), *words]) == 0
        assert Path(name).read_bytes().startswith(start)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--layer", "conv9"], "variant 'quick' has no layer 'conv9'; it has conv1, pool1"),
        (["--layer", "a/b", "--layer", "..", "--out", "x.png"], "variant 'quick' has no layer 'a/b'; it has conv1"),
        (["--format", "jpg"], "--format is 'jpg'; allowed is png, svg, pdf"),
        (["--layer", "relu2", "--split", "test"], "has no split 'test'"),
        (["--layer", "relu2", "--out", "photo.png"], "photo.png exists and is not a picture or page that alexnet made"),
        (["--channels", "1"], "the filters of conv1 are drawn without images"),
        (["--layer", "relu2", "--layer", "relu2"], "requested twice"),
        (["--layer", "relu2", "--batch-size", "0"], "--batch-size is 0"),
    ],
)
def test_bad_requests_write_nothing(
    words: list[str], message: str, run: RunFolder, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "photo.png").write_bytes(b"\x89PNG of somebody")
    assert main(["filters", str(run.path), *words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["photo.png"]


def test_a_weights_file_names_no_data(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["filters", str(run.weights), "--layer", "relu2"]) == 2
    assert "name one with --data" in capsys.readouterr().err


def test_results_in_python(run: RunFolder) -> None:
    trained = alexnet.load(run.path)
    result = alexnet.filters(trained, ["conv1", "fc5"], data=run.path.parent / "data", device="cpu")
    first = result.layers["conv1"]
    assert isinstance(first, FilterColumns) and result.name == "quick"
    weight = trained.network.get_parameter("conv1.weight").detach().double().numpy()
    np.testing.assert_array_equal(first.color.colors, color_test(weight, 1).colors)
    assert len(result.figure("conv1").axes) == 2 and len(result.figure("fc5").axes) == 2
    for layer in (None, "relu2"):
        with pytest.raises(RequestError, match="allowed is conv1, fc5"):
            result.figure(layer)
    assert repr(result).startswith("Filters('quick': the 8 filters of conv1, 5 x 5 pixels; all 2 units of fc5: ")
    page = Page(result._repr_html_())
    assert "filters of quick" in page.text and page.tags.count("img") == 2


@pytest.mark.parametrize("layer", ["conv2", "relu2"])
def test_a_channel_that_is_0_everywhere_says_so(layer: str, run: RunFolder) -> None:
    trained = alexnet.load(run.path)
    with torch.no_grad():
        trained.network.get_parameter("conv2.weight")[1] = 0
        trained.network.get_parameter("conv2.bias")[1] = 0
    result = alexnet.filters(trained, layer, data=run.path.parent / "data", channels=[1], device="cpu")
    assert [axes.texts[0].get_text() for axes in result.figure().axes] == ["0 in every image"]


def test_images_that_tie_are_said_and_give_no_class(run: RunFolder) -> None:
    trained = alexnet.load(run.path)
    with torch.no_grad():
        trained.network.get_parameter("conv2.weight")[1] = 0
        trained.network.get_parameter("conv2.bias")[1] = 138.7
    result = alexnet.filters(trained, "relu2", data=run.path.parent / "data", channels=[1, 0], device="cpu")
    figure, printed = result.figure(), result.to_dict()["layers"]["relu2"]["channels"]
    assert figure.axes[0].texts[0].get_text() == "activation 139\n10 images tie"
    assert [one["images_tied"] for one in printed] == [10, 0]
    assert "more images tie than are shown for 1 of these" in result.layers["relu2"].describe()
    (subtitle,) = [text.get_text() for text in figure.texts if "below: " in text.get_text()]
    assert "the first in the data set are shown" in subtitle and "tie" not in figure.axes[1].texts[0].get_text()


def test_activations_are_float32_where_the_machine_has_bfloat16(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("alexnet.system.device.has_bfloat16", lambda flags: True)
    layer = alexnet.filters(run.path, "fc5", device="cpu").layers["fc5"]
    exact = alexnet.filters(run.path, "fc5", device="cpu", precision="float32").layers["fc5"]
    assert isinstance(layer, TopPatches) and isinstance(exact, TopPatches)
    np.testing.assert_array_equal(layer.activations, exact.activations)
    assert main(["filters", str(run.path), "--layer", "fc5", "--json", "--device", "cpu"]) == 0
    (unit, _) = json.loads(capsys.readouterr().out)["layers"]["fc5"]["channels"]
    assert [one["activation"] for one in unit["patches"]] == exact.activations[0].tolist()


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ([34.5, 26.375], "34.5 to 26.4"),
        ([4, 3.5512], "4.00 to 3.55"),
        ([139.2, 138.9], "139"),
        ([-0.5, -12], "-0.5 to -12.0"),
        ([12345, 9], "12345 to 9"),
        ([2.5e-6, 1e-6], "2.5e-06 to 1.0e-06"),
    ],
)
def test_activations_have_as_many_decimals(values: list[float], line: str) -> None:
    assert _range(np.array(values, np.float32)) == f"activation {line}"


@pytest.mark.parametrize(
    ("names", "lines"),
    [
        (["a"] * 5 + ["b"] * 4, ["5 of 9: a"]),
        (["a"] * 4 + ["b"] * 3 + ["c"] * 2, ["mixed classes"]),
        (["a"] * 4 + [None] * 5, ["mixed classes"]),
        (["a", "b"], ["mixed classes"]),
        ([None] * 9, []),
    ],
)
def test_a_class_is_named_if_most_patches_are_of_it(names: list[str | None], lines: list[str]) -> None:
    assert _main_class(names) == lines


def test_the_layer_that_is_drawn_is_called_conv1_in_all_variants() -> None:
    """The command names files by it before it reads a network."""
    for spec in VARIANTS.values():
        assert next(one.name for one in spec.named_layers if isinstance(one.spec, WeightedSpec)) == _DRAWN


def test_data_with_other_classes_has_patches_without_class_names(run: RunFolder, tmp_path: Path) -> None:
    write_prepared(tmp_path / "other", {"train": 2, "val": 3}, side=32, classes=[("c", "third"), ("b", "second")])
    result = alexnet.filters(run.path, "fc5", data=[run.path.parent / "data", tmp_path / "other"], device="cpu")
    layer = result.layers["fc5"]
    assert isinstance(layer, TopPatches) and layer.num_images == 13
    assert {one for names in layer.class_names for one in names} == {None}
    assert all("of 9" not in axes.texts[0].get_text() for axes in result.figure().axes)


def test_long_names_of_runs_are_cut_above_the_picture(run: RunFolder) -> None:
    result = replace(alexnet.filters(run.path), name="long-name" * 30)
    (title,) = [text.get_text() for text in result.figure().texts if text.get_text().startswith("long-name")]
    assert title.startswith("long-namelong-name") and len(title) < 100


def test_two_columns_are_compared(tmp_path: Path) -> None:
    network = alexnet.AlexNet(2, "caffe", 0.1)
    weight: Any = network.get_parameter("conv1.weight")
    weight.data[:5] = weight.data[:5].mean(1, keepdim=True)
    trained = alexnet.Trained(
        network=network,
        classes=(alexnet.ClassInfo("a", "a"), alexnet.ClassInfo("b", "b")),
        mean_image=torch.zeros(256, 256, 3),
        crop=227,
        title="t",
        generated=True,
    )
    first = alexnet.filters(trained).layers["conv1"]
    assert isinstance(first, FilterColumns) and first.filters.columns == 2
    assert first.color.p_value == pytest.approx(2 / 252) and first.color.is_exact
    assert "the 10 filters of conv1 in 2 columns" in first.describe()
