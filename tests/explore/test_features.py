"""Features of a split and of photographs: the network's activations, whole after a kill; bad input is refused."""

import csv
import io
import json
import logging
import multiprocessing
import os
import resource
import signal
import tarfile
import time
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import alexnet
from alexnet.cli.main import main
from alexnet.data.dataset import PreparedData
from alexnet.data.download import Downloads
from alexnet.data.preparation.prepare import prepare
from alexnet.errors import Interrupted, RequestError, WorkError
from alexnet.explore.features import features, open_features, write_features
from alexnet.model.network import AlexNet
from alexnet.model.weights import Trained, save_trained
from alexnet.runs.folder import RunFolder
from alexnet.runs.recipes import QUICK
from alexnet.storage.staging import staging_folder

HERE = {"device": "cpu", "precision": "float32"}


@pytest.fixture
def data(make_tree: Any, tmp_path: Path) -> PreparedData:
    return prepare(make_tree("source", classes=5, val=3), tmp_path / "data", side=32)


def a_run(data: PreparedData, path: Path, factor: float = 1.0) -> RunFolder:
    """A run whose network has random weights."""
    run = RunFolder.create(path, QUICK, {"data": {"folder": str(data.folder), "checksum": data.checksum}})
    network = AlexNet(data.num_classes, "quick", 0.25, generator=torch.Generator().manual_seed(6))
    with torch.no_grad():
        network.get_parameter("conv4.weight").mul_(factor)
    mean_image = torch.from_numpy(data.statistics.mean_image.copy())
    save_trained(
        run.weights,
        Trained(network=network, classes=data.classes, mean_image=mean_image, crop=28, title="t", generated=True),
    )
    return run


@pytest.fixture
def run(data: PreparedData, tmp_path: Path) -> RunFolder:
    return a_run(data, tmp_path / "run")


def own_activations(run: RunFolder, images: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores, and what the last layer reads but for dropout, of the central crop less the mean's."""
    trained = alexnet.load(run.path)
    read: list[torch.Tensor] = []
    trained.network.dropout5.register_forward_pre_hook(lambda module, given: read.append(given[0]))
    centered = torch.from_numpy(images.astype(np.float32)) - trained.mean_image
    with torch.inference_mode():
        scores = trained.network(centered[:, 2:30, 2:30].permute(0, 3, 1, 2))
    return scores, read[0].reshape(len(images), -1)


def test_features_of_a_split_are_the_networks_activations(run: RunFolder, data: PreparedData, tmp_path: Path) -> None:
    made = write_features(run.path, tmp_path / "out", layers=["relu4", "fc5", "conv1"], batch_size=4, **HERE)
    split = data.splits["val"]
    scores, hidden = own_activations(run, np.array(split.images[:]))
    np.testing.assert_allclose(made.activations["fc5"], scores, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(made.activations["relu4"].reshape(len(split), -1), hidden, rtol=1e-5, atol=1e-5)
    assert made.activations["conv1"].shape == (15, 8, 28, 28)
    assert made.paths == tuple(split.keys) and made.labels is not None
    np.testing.assert_array_equal(made.labels, split.labels)
    assert made.classes == tuple(one.id for one in data.classes)
    with (tmp_path / "out" / "images.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == [data.classes[label].id for label in split.labels]
    assert not staging_folder(tmp_path / "out").exists()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "conv1.npy", "fc5.npy", "features.json", "images.csv", "labels.npy", "refused.jsonl", "relu4.npy",
    ]  # fmt: skip


def test_photographs_and_arrays_give_the_same(run: RunFolder, data: PreparedData, tmp_path: Path) -> None:
    images = np.array(data.splits["val"].images[:6])
    (tmp_path / "photographs").mkdir()
    for number, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / "photographs" / f"{number}.png")
    made = write_features(run.path, tmp_path / "out", photographs=[tmp_path / "photographs"], **HERE)
    assert list(made.activations) == ["relu4"] and made.labels is None
    assert made.paths == tuple(str(tmp_path / "photographs" / f"{number}.png") for number in range(6))
    in_memory = alexnet.features(run.path, images, **HERE)["relu4"]
    np.testing.assert_allclose(made.activations["relu4"], in_memory, rtol=1e-5, atol=1e-5)
    by_path = features(run.path, list(made.paths), batch_size=4, **HERE)["relu4"]
    np.testing.assert_allclose(by_path, in_memory, rtol=1e-5, atol=1e-5)
    with pytest.raises(RequestError, match=r"images\[0\]: the float32 array .* if they are 0 to 255"):
        features(run.path, images.astype(np.float32), **HERE)
    # One photograph, one layer, a folder, an array that runs backwards, one mapped read-only.
    one = features(run.path, made.paths[2], "relu4", **HERE)["relu4"]
    np.testing.assert_allclose(one, in_memory[2:3], rtol=1e-5, atol=1e-5)
    folder = features(run.path, tmp_path / "photographs", **HERE)["relu4"]
    np.testing.assert_allclose(folder, in_memory, rtol=1e-5, atol=1e-5)
    backwards = np.ascontiguousarray(images[..., ::-1])[..., ::-1]
    np.testing.assert_array_equal(features(run.path, backwards, **HERE)["relu4"], in_memory)
    np.testing.assert_array_equal(features(run.path, data.splits["val"].images[:6], **HERE)["relu4"], in_memory)


def test_images_of_all_types_give_the_same(run: RunFolder, data: PreparedData, tmp_path: Path) -> None:
    pixels = [
        np.random.default_rng(number).integers(0, 256, (40 + number, 70, 3), dtype=np.uint8) for number in range(5)
    ]
    (tmp_path / "folder").mkdir()
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / "folder" / f"{number}.png")
    expected = features(run.path, [tmp_path / "folder"], **HERE)["relu4"]
    mixed: list[Any] = [
        Image.fromarray(pixels[0]),
        tmp_path / "folder",  # five in the middle
        pixels[1],
        torch.from_numpy(pixels[2]).permute(2, 0, 1),
        pixels[3] / 255,
        str(tmp_path / "folder" / "4.png"),
    ]
    found = features(run.path, iter(mixed), batch_size=3, **HERE)["relu4"]
    order = [0, 0, 1, 2, 3, 4, 1, 2, 3, 4]
    np.testing.assert_allclose(found, expected[order], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(features(run.path, pixels[0], **HERE)["relu4"], expected[:1], rtol=1e-5, atol=1e-5)
    batch = torch.from_numpy(np.stack([image[:40] for image in pixels])).permute(0, 3, 1, 2)
    assert features(run.path, batch, **HERE)["relu4"].shape[0] == 5
    with pytest.raises(RequestError, match=r"No such file"):
        features(run.path, [pixels[0], tmp_path / "none.png"], **HERE)
    with pytest.raises(RequestError, match=r"images are of type int"):
        features(run.path, 7, **HERE)  # type: ignore[arg-type]


def test_a_loaded_network_gives_the_same_and_is_left_as_it_was(run: RunFolder, data: PreparedData) -> None:
    images = np.array(data.splits["val"].images[:5])
    layers = ["relu4", "dropout5"]
    expected = features(run.path, images, layers, **HERE)
    trained = alexnet.load(run.path)
    before = {name: tensor.clone() for name, tensor in trained.network.state_dict().items()}
    for is_training in (True, False):  # in which dropout would draw
        trained.network.train(is_training)
        found = features(trained, images, layers, **HERE)
        for name in layers:
            np.testing.assert_array_equal(found[name], expected[name])
        features(trained, images, device="cpu", precision="bfloat16")
        assert {module.training for module in trained.network.modules()} == {is_training}
        with pytest.raises(RequestError, match="is not a readable image"):
            features(trained, __file__, **HERE)
        assert trained.network.training == is_training
    for name, tensor in trained.network.state_dict().items():
        assert tensor.dtype == torch.float32 and torch.equal(tensor, before[name])
    with pytest.raises(RequestError, match=r"or pass alexnet.load\(run, untrained=True\)"):
        features(trained, images, untrained=True, **HERE)


@pytest.fixture
def everywhere(data: PreparedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the first five validation images: a pattern, a tar, a zip, and a URL."""
    content = []
    for image in data.splits["val"].images[:5]:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG")
        content.append(file.getvalue())
    monkeypatch.chdir(tmp_path)
    (tmp_path / "few").mkdir()
    for number in (0, 1):
        (tmp_path / "few" / f"{number}.png").write_bytes(content[number])
    with tarfile.open("a.tar", "w") as tar:
        link = tarfile.TarInfo("in/link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "2.png"
        tar.addfile(link)
        member = tarfile.TarInfo("in/2.png")
        member.size = len(content[2])
        tar.addfile(member, io.BytesIO(content[2]))
        tar.addfile(tarfile.TarInfo("notes.txt"))
    with zipfile.ZipFile("a.zip", "w") as archive:
        archive.writestr("3.png", content[3])

    real_get = Downloads.get

    def get(downloads: Downloads, url: str) -> bytes:
        if "@" in url:  # not asked for on the web
            return real_get(downloads, url)
        if url != "https://x.invalid/4.png":
            raise RequestError(f"cannot download {url}")
        return content[4]

    monkeypatch.setattr(Downloads, "get", get)
    return ["few/*.png", "a.tar", "a.zip", "https://x.invalid/4.png"]


def test_images_are_named_as_those_of_predict(
    run: RunFolder, data: PreparedData, everywhere: list[str], tmp_path: Path
) -> None:
    expected = features(run.path, np.array(data.splits["val"].images[:5]), **HERE)["relu4"]
    names = [*everywhere, "https://x.invalid/missing.png", "https://me:secret@x.invalid/5.png"]
    made = write_features(run.path, tmp_path / "out", photographs=names, batch_size=2, **HERE)
    assert made.paths == ("few/0.png", "few/1.png", "a.tar/in/2.png", "a.zip/3.png", "https://x.invalid/4.png")
    np.testing.assert_allclose(made.activations["relu4"], expected, rtol=1e-5, atol=1e-5)
    refused = [json.loads(line) for line in (tmp_path / "out" / "refused.jsonl").read_text().splitlines()]
    assert [(one["path"], one["reason"].partition(";")[0]) for one in refused] == [
        ("a.tar/in/link.png", "a.tar/in/link.png is no regular file"),
        ("https://x.invalid/missing.png", "cannot download https://x.invalid/missing.png"),
        (
            "https://***@x.invalid/5.png",
            "https://***@x.invalid/5.png has a user name or a password (not shown), which alexnet does not send",
        ),
    ]
    assert not any(b"secret" in path.read_bytes() for path in (tmp_path / "out").iterdir())
    in_memory = features(run.path, [everywhere[0], *everywhere[2:]], **HERE)["relu4"]
    np.testing.assert_allclose(in_memory, expected[[0, 1, 3, 4]], rtol=1e-5, atol=1e-5)
    with pytest.raises(RequestError, match=r"a\.tar/in/link\.png is no regular file"):
        features(run.path, everywhere[1], **HERE)
    assert main(["features", str(run.path), "--out", "by-command", *everywhere, "--precision", "float32"]) == 0
    assert open_features("by-command").paths == made.paths


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none/*.png", r"none/\*\.png matches no file"),
        ("cut.zip", r"cut\.zip"),
        ("empty", "the folder empty has no images"),
        ("few/none.png", "cannot read few/none.png: No such file"),
    ],
)
def test_what_cannot_be_listed_ends_the_work_before_it_begins(
    run: RunFolder, everywhere: list[str], name: str, message: str
) -> None:
    Path("empty").mkdir()
    Path("cut.zip").write_bytes(Path("a.zip").read_bytes()[:60])
    for names in ([name], [everywhere[0], name]):
        with pytest.raises(RequestError, match=message):
            write_features(run.path, "out", photographs=names, **HERE)
        with pytest.raises(RequestError, match=message):
            features(run.path, names, **HERE)
    assert not Path("out").exists() and not staging_folder(Path("out")).exists()


def test_another_archive_of_the_same_name_is_other_images(
    run: RunFolder, everywhere: list[str], tmp_path: Path
) -> None:
    def interrupt(done: int, total: int | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        write_features(run.path, "out", photographs=["a.zip"], progress=interrupt, **HERE)
    os.utime("a.zip", (1, 1))
    with pytest.raises(RequestError, match="photographs_sha256 was"):
        write_features(run.path, "out", photographs=["a.zip"], **HERE)


def test_unreadable_files_are_skipped_and_listed(
    run: RunFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "photographs"
    folder.mkdir()
    colors = {"a.png": 10, "c\r1.png": 20, 'd,"2".png': 30, "f.png": 40}
    for name, color in colors.items():
        Image.new("RGB", (40, 50), (color, 2 * color, 200)).save(folder / name)
    (folder / "b.jpg").write_text("no photograph")
    (folder / "notes.txt").write_text("no image, so passed over")
    (folder / "e.png").write_bytes((folder / "a.png").read_bytes()[:60])
    options: dict[str, Any] = {"batch_size": 2, **HERE}
    made = write_features(run.path, tmp_path / "out", photographs=[folder], **options)
    assert made.paths == tuple(str(folder / name) for name in colors)
    assert made.activations["relu4"].shape == (4, 64, 3, 3)
    alone = features(run.path, list(made.paths), **HERE)["relu4"]
    np.testing.assert_allclose(made.activations["relu4"], alone, rtol=1e-5, atol=1e-5)
    refused = [json.loads(line) for line in (tmp_path / "out" / "refused.jsonl").read_text().splitlines()]
    assert [Path(one["path"]).name for one in refused] == ["b.jpg", "e.png"]
    assert caplog.messages == [f"refused 2 of 6 files; see {tmp_path / 'out' / 'refused.jsonl'} for the reasons"]
    with pytest.raises(RequestError, match=r"b\.jpg is not a readable image"):
        features(run.path, folder, **HERE)
    with pytest.raises(WorkError, match="none of the 1 files can be read"):
        write_features(run.path, tmp_path / "none", photographs=[folder / "b.jpg"], **HERE)


def test_a_batch_that_is_refused_whole_leaves_the_checksums(run: RunFolder, tmp_path: Path) -> None:
    for number in range(7):
        path = tmp_path / "photographs" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        if number in (2, 3, 6):  # the second batch of two, and the last
            path.write_text("no photograph")
        else:
            Image.new("RGB", (40, 50), (number, 90, 200)).save(path)
    made = write_features(
        run.path,
        tmp_path / "out",
        photographs=[tmp_path / "photographs"],
        layers=["relu4", "fc5"],
        batch_size=2,
        **HERE,
    )
    assert list(made.description["crc32"]) == ["relu4", "fc5"] and len(made.paths) == 4
    rows = (tmp_path / "out" / "fc5.npy").read_bytes()[-made.activations["fc5"].nbytes :]
    assert made.description["crc32"]["fc5"] == zlib.crc32(rows)
    open_features(tmp_path / "out")


def test_half_precision_is_rounded_or_refused(data: PreparedData, tmp_path: Path) -> None:
    full = write_features(a_run(data, tmp_path / "run").path, tmp_path / "full", **HERE).activations["relu4"]
    half = write_features(tmp_path / "run", tmp_path / "half", dtype="float16", **HERE).activations["relu4"]
    assert half.dtype == np.float16
    np.testing.assert_array_equal(half, full.astype(np.float16))
    large = a_run(data, tmp_path / "large", factor=1e7)
    with pytest.raises(WorkError, match="which float16 cannot hold; use --dtype float32"):
        write_features(large.path, tmp_path / "refused", dtype="float16", **HERE)
    # Nothing was done, so the better command begins anew.
    assert write_features(large.path, tmp_path / "refused", **HERE).activations["relu4"].max() > 65_504
    lost = a_run(data, tmp_path / "lost", factor=float("inf"))
    with pytest.raises(WorkError, match="are not finite: the training has diverged"):
        write_features(lost.path, tmp_path / "refused2", **HERE)
    with pytest.raises(RequestError, match="--dtype is 'float64'; allowed is float32 or float16"):
        write_features(large.path, tmp_path / "refused3", dtype="float64", **HERE)  # type: ignore[arg-type]


def test_an_untrained_control_is_recorded_and_never_mixed(run: RunFolder, data: PreparedData, tmp_path: Path) -> None:
    images = np.array(data.splits["val"].images[:])
    control = alexnet.load(run.path, untrained=True)
    assert control.untrained_seed == run.recipe().training.seed == 0
    made = write_features(run.path, tmp_path / "control", untrained=True, **HERE)
    trained = write_features(run.path, tmp_path / "trained", **HERE)
    assert made.description["untrained"] is True and made.description["untrained_seed"] == 0
    assert not {"untrained", "untrained_seed"} & trained.description.keys()
    alexnet.save(control, tmp_path / "control.safetensors")
    by_file = features(tmp_path / "control.safetensors", images, **HERE)["relu4"]
    np.testing.assert_allclose(made.activations["relu4"], by_file, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(features(run.path, images, untrained=True, **HERE)["relu4"], by_file)
    assert np.abs(made.activations["relu4"] - trained.activations["relu4"]).max() > 0.1
    # A control that was saved is one still.
    again = write_features(tmp_path / "control.safetensors", tmp_path / "again", data_folder=data.folder, **HERE)
    assert again.description["untrained_seed"] == 0

    # Unfinished output of the trained network is not continued with the control's numbers.
    def interrupted(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        write_features(run.path, tmp_path / "mixed", batch_size=4, progress=interrupted, **HERE)
    with pytest.raises(RequestError, match=r"untrained"):
        write_features(run.path, tmp_path / "mixed", untrained=True, **HERE)
    write_features(run.path, tmp_path / "mixed", untrained=True, restart=True, **HERE)


@pytest.mark.parametrize("moment", [5, 6, 7, 8])
def test_interrupted_work_is_resumed_and_another_command_is_refused(
    run: RunFolder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    moment: int,
) -> None:
    """In the middle of a batch, too, of which some arrays have the rows and others have not."""
    import alexnet.explore.feature_writer as module

    wanted: dict[str, Any] = {"layers": ["relu4", "fc5", "pool1"], "batch_size": 4, **HERE}
    whole = write_features(run.path, tmp_path / "whole", **wanted)
    usual, calls = module._convert, 0

    def interrupted(*words: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == moment:
            raise KeyboardInterrupt
        return usual(*words)

    monkeypatch.setattr(module, "_convert", interrupted)
    with pytest.raises(Interrupted, match="rerun the same command to resume"):
        write_features(run.path, tmp_path / "out", **wanted)
    with pytest.raises(RequestError, match=r"layers was .*'relu4'.* and is \['fc5'\].*--restart"):
        write_features(run.path, tmp_path / "out", layers=["fc5"], **HERE)
    caplog.set_level(logging.INFO, logger="alexnet")
    made = write_features(run.path, tmp_path / "out", **wanted)
    assert caplog.messages == [f"resuming: {4 * ((moment - 1) // 3)} of 15 images are done"]
    for path in whole.folder.iterdir():
        assert (made.folder / path.name).read_bytes() == path.read_bytes(), path.name
    with pytest.raises(RequestError, match="exists already"):
        write_features(run.path, tmp_path / "out", **wanted)


@pytest.mark.parametrize("victim", ["cursor.unlink", "plan.unlink", "rename"])
def test_a_crash_while_publishing_is_survived(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, victim: str
) -> None:
    whole = write_features(run.path, tmp_path / "whole", **HERE)
    stage = staging_folder(tmp_path / "out")
    name = {"cursor.unlink": "done.json", "plan.unlink": "plan.json", "rename": stage.name}[victim]
    method = victim.rpartition(".")[2]
    usual = getattr(Path, method)

    def ending(self: Path, *words: Any, **options: Any) -> Any:
        if self.name == name and self.exists() and victim != "rename":
            usual(self, *words, **options)
            raise MemoryError
        if self.name == name and victim == "rename":
            raise MemoryError
        return usual(self, *words, **options)

    monkeypatch.setattr(Path, method, ending)
    with pytest.raises(MemoryError):
        write_features(run.path, tmp_path / "out", **HERE)
    monkeypatch.setattr(Path, method, usual)
    with pytest.raises(RequestError, match="was started by another command"):
        write_features(run.path, tmp_path / "out", layers=["fc5"], **HERE)
    monkeypatch.setattr("alexnet.explore.feature_writer.activation_batches", None)  # nothing is computed again
    made = write_features(run.path, tmp_path / "out", **HERE)
    for path in whole.folder.iterdir():
        assert (made.folder / path.name).read_bytes() == path.read_bytes(), path.name


def slowly(run: Path, destination: Path) -> None:
    """The victim: a batch of one at a time, each kept."""
    import alexnet.explore.feature_writer as module

    torch.set_num_threads(1)  # as here: other sums differ in their last bit
    module.CURSOR_EVERY_S = 0.0
    write_features(run, destination, batch_size=1, progress=lambda done, num: time.sleep(0.02), **HERE)


@pytest.mark.slow  # test_kills.py kills the command, too
def test_killed_work_is_resumed(run: RunFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = write_features(run.path, tmp_path / "whole", batch_size=1, **HERE)
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["alexnet.explore.features"])
    victim = processes.Process(target=slowly, args=(run.path, tmp_path / "out"))
    victim.start()
    cursor = staging_folder(tmp_path / "out") / "done.json"
    while victim.is_alive() and not (cursor.exists() and json.loads(cursor.read_text())["done"] >= 3):
        time.sleep(0.005)
    victim.kill()
    victim.join()
    assert not (tmp_path / "out").exists(), "it ended before it was killed"
    caplog.set_level(logging.INFO, logger="alexnet")
    made = write_features(run.path, tmp_path / "out", batch_size=1, **HERE)
    assert len(caplog.messages) == 1 and caplog.messages[0].startswith("resuming: ")
    assert (made.folder / "relu4.npy").read_bytes() == (whole.folder / "relu4.npy").read_bytes()


def limited(run: Path, destination: Path, queue: Any) -> None:
    """Where no file may grow beyond six images' activations and a bit: a full disk, as far as a write can tell."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (15_000, 15_000))
    try:
        write_features(run, destination, batch_size=2, **HERE)
    except WorkError as error:
        queue.put(str(error))


def test_a_full_disk_is_reported_and_work_is_resumed(run: RunFolder, tmp_path: Path) -> None:
    whole = write_features(run.path, tmp_path / "whole", batch_size=2, **HERE)
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["alexnet.explore.features"])
    queue = processes.Queue()
    victim = processes.Process(target=limited, args=(run.path, tmp_path / "out", queue))
    victim.start()
    assert "is full; finished work is kept in" in queue.get(timeout=500)
    victim.join()
    made = write_features(run.path, tmp_path / "out", batch_size=2, **HERE)
    assert (made.folder / "relu4.npy").read_bytes() == (whole.folder / "relu4.npy").read_bytes()


def test_other_classes_are_no_labels(run: RunFolder, make_tree: Any, tmp_path: Path) -> None:
    tree = make_tree("other", classes=2)
    for split in ("train", "val"):
        (tree / split / "color1").rename(tree / split / "unknown")
    prepare(tree, tmp_path / "other-data", side=32)
    made = write_features(run.path, tmp_path / "out", data_folder=tmp_path / "other-data", split="train", **HERE)
    assert made.labels is None and len(made.paths) == 16
    assert open_features(tmp_path / "out").labels is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": ["fc7"]}, "no layer 'fc7'"),
        ({"split": "test"}, "has no split 'test'"),
        ({"photographs": [Path("x.jpg")], "split": "val"}, "name one or the other"),
        ({"photographs": [Path("missing.jpg")]}, "cannot read missing.jpg: No such file"),
        ({"batch_size": 0}, "--batch-size is 0"),
    ],
)
def test_wrong_requests_are_refused(run: RunFolder, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        write_features(run.path, tmp_path / "out", **{**HERE, **options})
    assert not (tmp_path / "out").exists()
    stage = staging_folder(tmp_path / "out")
    assert not stage.exists() or not (stage / "done.json").exists()
    # A mistake does not lock the destination against the right command.
    assert len(write_features(run.path, tmp_path / "out", **HERE).paths) == 15


def test_data_of_another_side_is_refused(run: RunFolder, make_tree: Any, tmp_path: Path) -> None:
    prepare(make_tree("larger"), tmp_path / "larger-data", side=40)
    with pytest.raises(RequestError, match="prepare the data with --side 32"):
        write_features(run.path, tmp_path / "out", data_folder=tmp_path / "larger-data", **HERE)


def test_a_weights_file_names_no_data(run: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="a weights file, which names no data"):
        write_features(run.weights, tmp_path / "out", **HERE)


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="contains no features"):
        open_features(tmp_path)
    (tmp_path / "features.json").write_text('{"format_version": 99}')
    with pytest.raises(RequestError, match="features of format 99, this version reads 1 to 4"):
        open_features(tmp_path)


IMAGES = "number,path,class\n0,a.png,\n1,b.png,\n2,c.png\n"


@pytest.mark.parametrize(
    ("change", "labels", "images", "message"),
    [
        ({}, [-1, 0, 1], IMAGES, None),
        ({"shapes": {"relu4": [3]}}, None, IMAGES, r"shapes\.relu4: it is \[3\]"),
        ({"shapes": {"relu4": [3, 1, 2, 2, 1]}}, None, IMAGES, r"shapes\.relu4"),
        ({"shapes": {"relu4": [2, 4]}}, None, IMAGES, r"shapes\.relu4: it is \[2, 4\], of 3 images"),
        ({"shapes": {"relu4": [3, 1 << 49]}}, None, IMAGES, r"shapes\.relu4"),
        ({"projections": {"relu4": {"activation_shape": [3]}}}, None, IMAGES, r"projections\.relu4: it is of 3 values"),
        ({"projections": {"relu4": {"activation_shape": [2, 1 << 40]}}}, None, IMAGES, r"projections\.relu4"),
        (
            {"projections": {"relu4": {"activation_shape": [9]}}, "shapes": {"relu4": [3, 2, 2]}},
            None,
            IMAGES,
            r"projections\.relu4: it is of 9 values",
        ),
        (
            {"projections": {"fc5": {"activation_shape": [9]}}, "shapes": {"relu4": [3, 4], "fc5": [3, 4]}},
            None,
            IMAGES,
            r"projections\.fc5",
        ),
        ({}, [-2, 0, 1], IMAGES, "labels without a class"),
        ({}, [0, 1, 2], IMAGES, "labels without a class"),
        ({}, None, IMAGES.replace("2,c.png\n", ""), "it has 2 images, expected 3"),
        ({}, None, IMAGES.replace("2,c.png\n", "2\n"), "it has an image without a path"),
        ({}, None, IMAGES.replace("path", "file"), "path"),
    ],
)
def test_descriptions_that_contradict_the_files_are_damage(
    change: dict[str, Any], labels: list[int] | None, images: str, message: str | None, tmp_path: Path
) -> None:
    described = {
        "format_version": 3, "dtype": "float32", "images": 3, "shapes": {"relu4": [3, 4]}, "layers": ["relu4"],
        "classes": ["a", "b"],
    }  # fmt: skip
    (tmp_path / "features.json").write_text(json.dumps({**described, **change}))
    (tmp_path / "images.csv").write_text(images)
    np.save(tmp_path / "relu4.npy", np.arange(12, dtype=np.float32).reshape(3, 4))
    if labels is not None:
        np.save(tmp_path / "labels.npy", np.array(labels))
    if message is None:
        assert open_features(tmp_path).paths == ("a.png", "b.png", "c.png")
        return
    with pytest.raises(WorkError, match=f"is damaged .*{message}"):
        open_features(tmp_path)


def test_the_command(run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["features", str(run.path), "--list"]) == 0
    assert "norm1" in capsys.readouterr().out
    assert main(["features", str(run.path), "--list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert listed["shapes"]["fc5"] == [5]
    assert listed["receptive_fields"]["conv1"] == {"size_px": 5, "stride_px": 1, "first_px": -2}
    assert main(["features", str(run.path), "--list", "--layer", "relu4"]) == 2
    assert "--list only lists" in capsys.readouterr().err
    assert main(["features", str(run.path)]) == 2
    assert "pass --out FOLDER" in capsys.readouterr().err
    words = ["features", str(run.path), "--layer", "relu4", "--layer", "fc5", "--device", "cpu", "--json"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["shapes"] == {"relu4": [15, 64, 3, 3], "fc5": [15, 5]} and said["images"] == 15
    assert said["receptive_fields"] == {name: listed["receptive_fields"][name] for name in ("relu4", "fc5")}
    assert said["receptive_fields"] == open_features(tmp_path / "out").description["receptive_fields"]
    Image.new("RGB", (50, 40)).save(tmp_path / "one.png")
    assert main(["features", str(run.path), "--out", str(tmp_path / "one"), str(tmp_path / "one.png")]) == 0
    assert "1 x 64 x 3 x 3, float32" in " ".join(capsys.readouterr().out.split())
