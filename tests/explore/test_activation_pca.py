"""Principal components of activations: against scikit-learn and the definition, and in folders of features."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import alexnet
from alexnet.cli.main import main
from alexnet.data.dataset import PreparedData
from alexnet.data.preparation.prepare import prepare
from alexnet.errors import Interrupted, RequestError, WorkError
from alexnet.explore import activation_pca, feature_writer
from alexnet.explore.activation_pca import fit_projection, read_projection
from alexnet.explore.features import open_features, write_features
from alexnet.model.network import AlexNet
from alexnet.model.weights import Trained, save_trained
from alexnet.runs.folder import RunFolder
from alexnet.runs.recipes import QUICK

HERE: dict[str, Any] = {"device": "cpu", "precision": "float32"}


@settings(max_examples=25, deadline=None)
@given(
    st.integers(2, 14), st.integers(1, 14), st.integers(1, 14), st.integers(0, 2**32 - 1), st.sampled_from([1, 7, 99])
)
def test_components_are_those_of_the_definition(
    num_images: int, num_values: int, rank: int, seed: int, lines: int
) -> None:
    """Of data of any rank, also in blocks of one line: variances, orthonormal components, best approximation."""
    random = np.random.default_rng(seed)
    rows = (random.normal(size=(num_images, rank)) @ random.normal(size=(rank, num_values)) + 5).astype(np.float32)
    num = int(random.integers(1, num_values + 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(activation_pca, "BLOCK_BYTES", lines * 8)
        found = fit_projection(rows, num)
        projected = found(rows)
    centered = rows.astype(np.float64) - rows.astype(np.float64).mean(axis=0)
    # The singular values of the centered data: another algorithm than eigenvectors of products.
    singular = np.zeros(num)
    values = np.linalg.svd(centered, compute_uv=False)[:num]
    singular[: len(values)] = values
    scale = singular[0] ** 2 + 1e-9
    np.testing.assert_allclose(found.explained_variance * (num_images - 1), singular**2, atol=1e-9 * scale)
    np.testing.assert_allclose(found.total_variance * (num_images - 1), (centered**2).sum(), rtol=1e-9, atol=1e-12)
    is_kept = found.explained_variance > 0
    products = found.components @ found.components.T
    np.testing.assert_allclose(products, np.diag(is_kept.astype(float)), atol=1e-6)
    assert not found.components[~is_kept].any()
    np.testing.assert_allclose(projected, centered @ found.components.T, rtol=1e-5, atol=1e-5)
    lost = ((centered - (centered @ found.components.T) @ found.components) ** 2).sum()
    np.testing.assert_allclose(lost, (centered**2).sum() - (singular**2).sum(), atol=1e-7 * scale)
    for one in found.components[is_kept]:
        assert one[np.abs(one).argmax()] > 0


@pytest.mark.parametrize("shape", [(80, 30), (30, 80)])
def test_components_are_those_of_scikit_learn(shape: tuple[int, int]) -> None:
    decomposition = pytest.importorskip("sklearn.decomposition")
    rows = np.random.default_rng(3).gamma(0.5, size=shape).astype(np.float32)
    theirs = decomposition.PCA(7, svd_solver="full").fit(rows.astype(np.float64))
    found = fit_projection(rows, 7)
    np.testing.assert_allclose(found.explained_variance, theirs.explained_variance_, rtol=1e-9)
    np.testing.assert_allclose(found.explained_fraction, theirs.explained_variance_ratio_.sum(), rtol=1e-9)
    signs = np.sign((found.components * theirs.components_).sum(axis=1))
    np.testing.assert_allclose(found.components, theirs.components_ * signs[:, None], atol=1e-8)
    np.testing.assert_allclose(found(rows), theirs.transform(rows.astype(np.float64)) * signs, rtol=1e-4, atol=1e-5)


def test_a_projection_is_kept_in_a_file(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(9, 5)).astype(np.float32)
    found = fit_projection(rows, 3)
    path = tmp_path / "pca.npz"
    path.write_bytes(found.file_content())
    again = read_projection(path, 3, 5, "advice")
    assert again.digest() == found.digest() and again.num_images == 9 and again.total_variance == found.total_variance
    assert path.read_bytes() == fit_projection(rows, 3).file_content()
    with pytest.raises(RequestError, match="have 4 values per image; this projection takes 5"):
        found(rows[:, :4])
    with pytest.raises(WorkError, match=r"is damaged .*expected <f8 \(2, 5\)\); advice"):
        read_projection(path, 2, 5, "advice")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(WorkError, match="is damaged"):
        read_projection(path, 3, 5, "advice")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared data set of 20 training and 9 validation images, and two runs with random weights."""
    folder = tmp_path_factory.mktemp("pca")
    random = np.random.default_rng(5)
    for split, count in (("train", 20), ("val", 9)):
        for number in range(count):
            path = folder / "source" / split / f"color{number % 2}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)
    data = prepare(folder / "source", folder / "data", side=32)
    for seed in (6, 7):
        save_run(data, folder / f"run{seed}", seed)
    return folder


def save_run(data: PreparedData, path: Path, seed: int) -> None:
    run = RunFolder.create(path, QUICK, {"data": {"folder": str(data.folder), "checksum": data.checksum}})
    network = AlexNet(data.num_classes, "quick", 0.25, generator=torch.Generator().manual_seed(seed))
    mean_image = torch.from_numpy(data.statistics.mean_image.copy())
    trained = Trained(network=network, classes=data.classes, mean_image=mean_image, crop=28, title="t", generated=True)
    save_trained(run.weights, trained)


LAYERS = ["pool2", "relu4"]


def test_a_split_is_projected_like_another(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_writer, "PROJECTED_BYTES", 7 * 4 * 64 * 9)  # seven images at a time
    run = work / "run6"
    whole = write_features(run, tmp_path / "whole", layers=LAYERS, split="train", **HERE)
    fitted = write_features(run, tmp_path / "fitted", layers=LAYERS, split="train", pca=6, **HERE)
    assert fitted.description["format_version"] == 4 and fitted.description["pca"] == 6
    val = write_features(run, tmp_path / "val-whole", layers=LAYERS, **HERE)
    projected = write_features(run, tmp_path / "val", layers=LAYERS, pca=tmp_path / "fitted", dtype="float16", **HERE)
    for name in LAYERS:
        rows = whole.activations[name].reshape(20, -1).astype(np.float64)
        centered = rows - rows.mean(axis=0)
        left, singular, right = np.linalg.svd(centered, full_matrices=False)
        found = np.asarray(fitted.activations[name])
        assert found.shape == (20, 6) and found.dtype == np.float32
        np.testing.assert_allclose(np.abs(found), np.abs(left * singular)[:, :6], rtol=1e-3, atol=1e-5)
        assert fitted.description["projections"][name]["activation_shape"] == list(whole.activations[name].shape[1:])
        fraction = fitted.description["projections"][name]["explained_fraction"]
        np.testing.assert_allclose(fraction, (singular[:6] ** 2).sum() / (singular**2).sum(), rtol=1e-6)
        # The other split: less the mean of the first, on its components.
        signs = np.sign((fitted.projection(name).components * right[:6]).sum(axis=1))
        want = (val.activations[name].reshape(9, -1).astype(np.float64) - rows.mean(axis=0)) @ right[:6].T * signs
        np.testing.assert_allclose(projected.activations[name], want, rtol=2e-3, atol=1e-3 * np.abs(want).max())
        assert projected.activations[name].dtype == np.float16
        assert projected.projection(name).digest() == fitted.projection(name).digest()
    assert not projected.description["projections"]["relu4"]["fitted_here"]
    open_features(fitted.folder)  # compares all checksums
    assert sorted(path.name for path in fitted.folder.iterdir()) == [
        "features.json", "images.csv", "labels.npy", "pool2.npy", "pool2.pca.npz", "refused.jsonl", "relu4.npy",
        "relu4.pca.npz",
    ]  # fmt: skip
    with pytest.raises(RequestError, match="has no principal components of 'relu4'; write them with --pca N"):
        whole.projection("relu4")


def test_components_beyond_the_rank_are_zero_and_said_to_be(
    work: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Of twenty images, one of them nineteen times: the activations span a line."""
    data = PreparedData.open(work / "data")
    images = np.array(data.splits["train"].images[:2])
    paths = [tmp_path / f"{number:02}.png" for number in range(8)]
    for number, path in enumerate(paths):
        Image.fromarray(images[int(number == 3)]).save(path)
    # The same batch for each image, so that equal images have equal activations to the last bit.
    made = write_features(work / "run6", tmp_path / "out", photographs=paths, pca=3, batch_size=1, **HERE)
    assert "the activations relu4 span 1 dimensions; the other 2 of 3 components are zero" in caplog.messages
    assert made.activations["relu4"][:, 0].any() and not made.activations["relu4"][:, 1:].any()


@pytest.mark.parametrize("moment", ["rows", "fit", "project", "parquet"])
def test_interrupted_work_ends_as_whole_work(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    wanted: dict[str, Any] = {
        "layers": LAYERS, "split": "train", "pca": 5, "batch_size": 4, "file_format": "parquet", **HERE,
    }  # fmt: skip
    whole = write_features(work / "run6", tmp_path / "whole", **wanted)

    def interrupt(*words: Any, **options: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        if moment == "fit":
            patched.setattr(feature_writer, "fit_projection", interrupt)
        elif moment == "project":
            patched.setattr(feature_writer, "_convert", lambda v, d, n: interrupt() if v.shape[1:] == (5,) else v)
        elif moment == "parquet":
            patched.setattr(feature_writer, "write_feature_parquet", interrupt)
        progress = {"progress": interrupt} if moment == "rows" else {}
        with pytest.raises(Interrupted, match="rerun the same command to resume"):
            write_features(work / "run6", tmp_path / "out", **wanted, **progress)
    with pytest.raises(RequestError, match=r"pca was 5 and is 4"):
        write_features(work / "run6", tmp_path / "out", **{**wanted, "pca": 4})
    made = write_features(work / "run6", tmp_path / "out", **wanted)
    for path in whole.folder.iterdir():
        assert (made.folder / path.name).read_bytes() == path.read_bytes(), path.name


def test_wrong_requests_are_refused(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, out = work / "run6", tmp_path / "out"
    plain = write_features(run, tmp_path / "plain", split="train", **HERE)
    fitted = write_features(run, tmp_path / "fitted", split="train", pca=2, **HERE)
    for options, message in [
        ({"pca": 0}, "--pca is 0; allowed is a number of components, 1 or more, or a folder of features"),
        ({"pca": 2.5}, "--pca is 2.5; allowed is"),
        ({"pca": 3, "layers": "fc5"}, "--pca is 3; fc5 has 2 values per image, so use at most that"),
        ({"pca": 9}, "--pca is 9, but 9 images span fewer dimensions; use at most 8 components, or more images"),
        ({"pca": tmp_path / "nowhere"}, "nowhere contains no features"),
        ({"pca": plain.folder}, "plain has no principal components of 'relu4'"),
        ({"pca": fitted.folder, "layers": "pool2"}, "has no principal components of 'pool2'"),
        ({"pca": fitted.folder, "untrained": True}, "has principal components of other weights than those of"),
    ]:
        with pytest.raises(RequestError, match=message):
            write_features(run, out, **{**HERE, **options})
    with pytest.raises(RequestError, match="of other weights than those of"):
        write_features(work / "run7", out, pca=fitted.folder, **HERE)
    monkeypatch.setattr(activation_pca, "MOST_SIDE", 8)
    with pytest.raises(RequestError, match=r"needs a matrix of 9 rows; at most 8 fit in memory: choose a layer with"):
        write_features(run, out, pca=2, **HERE)
    assert not out.exists()


def test_changed_files_are_noticed(work: Path, tmp_path: Path) -> None:
    made = write_features(work / "run6", tmp_path / "out", pca=2, **HERE)
    other = write_features(work / "run6", tmp_path / "other", pca=2, split="train", **HERE)
    (made.folder / "relu4.pca.npz").write_bytes((other.folder / "relu4.pca.npz").read_bytes())
    with pytest.raises(WorkError, match=r"relu4\.pca\.npz is damaged \(its checksum differs\)"):
        open_features(made.folder)
    description = json.loads((other.folder / "features.json").read_text())
    del description["content_sha256"]
    for name, shape in [("relu4", [7]), ("../relu4", [2, 2]), ("conv1", [2, 2])]:
        changed = {**description, "projections": {name: {"activation_shape": shape}}}
        changed["shapes"]["relu4"] = [20, 8]
        (other.folder / "features.json").write_text(json.dumps(changed))
        with pytest.raises(WorkError, match=r"features\.json is damaged"):
            open_features(other.folder)


def test_the_command(work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["features", str(work / "run6"), "--device", "cpu"]
    assert main([*words, "--split", "train", "--pca", "4", "--out", str(tmp_path / "fitted")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "20 x 4, float32" in said and "4 principal components of 576 numbers: " in said
    assert "% of the variance of the 20 images that they were fitted to" in said
    assert main([*words, "--pca", str(tmp_path / "fitted"), "--out", str(tmp_path / "val"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["projections"]["relu4"]["fitted_to_images"] == 20
    assert main([*words, "--pca", "-1", "--out", str(tmp_path / "none")]) == 2
    assert "--pca" in capsys.readouterr().err


def test_activations_in_memory_are_projected_alike(work: Path, tmp_path: Path) -> None:
    fitted = write_features(work / "run6", tmp_path / "fitted", pca=4, **HERE)
    images = np.array(PreparedData.open(work / "data").splits["val"].images[:])
    activations = alexnet.features(work / "run6", images, **HERE)["relu4"]
    np.testing.assert_allclose(fitted.projection("relu4")(activations), fitted.activations["relu4"], atol=1e-4)
