"""What the machine lacks for a moment is never called damage, and never loses what was done."""

import errno
import os
import resource
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.training.small_trainings import assert_same_weights, small_recipe, train_interrupted

from alexnet.baselines.estimator_files import read_estimators
from alexnet.baselines.feature_cache import cached_features
from alexnet.cli.main import main
from alexnet.data.dataset import PreparedData
from alexnet.data.preparation.prepare import prepare
from alexnet.data.sources.formats import open_source
from alexnet.data.sources.listing import SkippedFiles
from alexnet.data.sources.zip_archive import zip_members
from alexnet.errors import AlexNetError, RequestError, TemporaryError
from alexnet.evaluation.classify import read_label_order
from alexnet.evaluation.predictions import load_predictions
from alexnet.evaluation.run_evaluation import evaluate
from alexnet.explore.features import open_features, write_features
from alexnet.model.weights import load_trained
from alexnet.runs.recipe_file import read_config
from alexnet.runs.recipes import QUICK
from alexnet.storage import read_errors
from alexnet.storage.read_errors import is_passing, raise_unless_damage
from alexnet.training.checkpoint import checkpoint_folder
from alexnet.training.loop import train


@contextmanager
def few_handles(num: int) -> Iterator[None]:
    """This process may open only `num` more files while the context is open."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + num + 1, limits[1]))
    held = []
    with suppress(OSError):
        while True:
            held.append(os.open(os.devnull, os.O_RDONLY))
    for _ in range(num):
        os.close(held.pop())
    try:
        yield
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def require_passing(call: Callable[[], Any], handles: range) -> None:
    """With fewer handles than it needs, a call names the lack of handles; with enough it succeeds."""
    call()  # what is loaded on first use is loaded now
    reasons = []
    for num in handles:
        with few_handles(num):
            try:
                call()
            except (OSError, AlexNetError) as error:
                reasons.append(error)
            else:
                break
    else:
        raise AssertionError(f"never succeeds with {handles} handles: {reasons[-1]}")
    assert reasons, "nothing was opened"
    for error in reasons:
        assert is_passing(error) if isinstance(error, OSError) else isinstance(error, TemporaryError), repr(error)
        assert "Too many open files" in str(error)
        assert "damaged" not in str(error) and "again:" not in str(error) and "not a " not in str(error)


@pytest.fixture
def photographs(make_tree: Any) -> Path:
    return Path(make_tree("photographs"))


def source_of(kind: str, photographs: Path) -> Path:
    """The photographs as a source of another kind."""
    files = sorted(path for path in photographs.rglob("*") if path.is_file())
    path = photographs.with_name(f"photographs.{kind}")
    if kind == "tar":
        with tarfile.open(path, "w") as archive:
            archive.add(photographs, ".")
    elif kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for file in files:
                archive.write(file, file.relative_to(photographs))
    elif kind == "csv":
        rows = [f"{file.relative_to(photographs)},{file.parent.name},{file.parts[-3]}\n" for file in files]
        path = photographs / "list.csv"
        path.write_text("path,label,split\n" + "".join(rows))
    elif kind == "parquet":
        arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        path.mkdir()
        for split in ("train", "val"):
            some = [file for file in files if file.parts[-3] == split]
            columns = {"image": [file.read_bytes() for file in some], "label": [file.parent.name for file in some]}
            parquet.write_table(arrow.table(columns), path / f"{split}.parquet")
    else:
        return photographs
    return path


@pytest.mark.parametrize("kind", ["folder", "tar", "zip", "csv", "parquet"])
def test_listing_and_reading_a_source_without_handles(kind: str, photographs: Path) -> None:
    path = source_of(kind, photographs)
    require_passing(lambda: open_source(path), range(8))
    listing = open_source(path).splits["train"]
    require_passing(lambda: open_source(path).splits["train"].read(0), range(8))
    with few_handles(0), pytest.raises(OSError, match="Too many open files"):
        listing.read(1)


@pytest.mark.parametrize("store", ["pixels", "jpeg"])
@pytest.mark.parametrize("kind", ["folder", "tar", "zip", "csv", "parquet"])
def test_preparing_without_handles_refuses_no_photograph_and_resumes(
    kind: str, store: str, photographs: Path, tmp_path: Path
) -> None:
    path, settings = source_of(kind, photographs), {"side": 16, "store": store, "workers": 1, "shard_images": 5}
    whole = prepare(path, tmp_path / "whole", **settings)
    messages = []
    for num in range(40):
        try:
            with few_handles(num):
                prepare(path, tmp_path / "data", **settings)
            break
        except (OSError, TemporaryError) as error:
            messages.append(str(error))
    assert messages and all("Too many open files" in one and "damaged" not in one for one in messages)
    data = PreparedData.open(tmp_path / "data")
    assert data.description["num_refused"] == 0 and data.checksum == whole.checksum


@pytest.mark.parametrize("store", ["pixels", "jpeg"])
def test_a_prepared_set_without_handles_is_not_damaged(store: str, photographs: Path, tmp_path: Path) -> None:
    prepare(photographs, tmp_path / "data", side=16, store=store)
    require_passing(lambda: PreparedData.open(tmp_path / "data"), range(40))
    data = PreparedData.open(tmp_path / "data")
    require_passing(lambda: data.digests("train"), range(4))
    if store == "jpeg":
        require_passing(lambda: data.splits["train"].images[0], range(3))


def test_files_of_a_run_without_handles_are_not_damaged(photographs: Path, tmp_path: Path) -> None:
    prepare(photographs, tmp_path / "data", side=32)
    data, run = PreparedData.open(tmp_path / "data"), tmp_path / "run"
    train(tmp_path / "data", run, small_recipe(1))
    evaluate(run, views=1)
    write_features(run, tmp_path / "features")
    (tmp_path / "order.txt").write_text("color0\ncolor1\ncolor2\n")
    (tmp_path / "config.yaml").write_text("schedule:\n  epochs: 3\n")
    for call, num in (
        (lambda: load_trained(run), 4),
        (lambda: load_predictions(run / "predictions", "val", 1, data), 4),
        (lambda: open_features(tmp_path / "features"), 40),
        (lambda: read_label_order(tmp_path / "order.txt"), 3),
        (lambda: read_config(tmp_path / "config.yaml", QUICK), 3),
    ):
        require_passing(call, range(num))
    with few_handles(0), pytest.raises(TemporaryError, match="Too many open files"):
        read_estimators(run / "weights.safetensors")


def test_a_good_checkpoint_is_not_set_aside_for_want_of_handles(photographs: Path, tmp_path: Path) -> None:
    prepare(photographs, tmp_path / "data", side=32)
    recipe, run = small_recipe(2), tmp_path / "run"
    whole = train(tmp_path / "data", tmp_path / "whole", recipe)
    train_interrupted(tmp_path / "data", recipe, run, 4)
    before = sorted(checkpoint_folder(run).iterdir())
    for num in range(60):
        try:
            with few_handles(num):
                train(tmp_path / "data", run, recipe)
            break
        except (OSError, TemporaryError) as error:
            assert "Too many open files" in str(error)
            assert not list(checkpoint_folder(run).glob("broken-*"))
            assert num > 20 or sorted(checkpoint_folder(run).iterdir()) == before
    assert num > 1
    assert_same_weights(run, whole.path)


def test_a_training_stopped_for_want_of_handles_says_how_it_resumes(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(photographs, tmp_path / "data", side=32)

    def fails(*_: Any) -> Any:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), "shard")

    with monkeypatch.context() as patched:
        patched.setattr("alexnet.training.loop.load_device_cache", fails)
        expected = (
            r"^cannot access shard: Too many open files; raise the limit .*, then resume with `alexnet resume .*run`\n"
            r"In Python: alexnet\.resume\('.*run'\)$"
        )
        with pytest.raises(TemporaryError, match=expected):
            train(tmp_path / "data", tmp_path / "run", small_recipe(1))
    assert train(tmp_path / "data", tmp_path / "run", small_recipe(1)).state == "finished"


def test_cached_features_are_not_computed_again_for_want_of_handles(tmp_path: Path) -> None:
    computed = []

    def encode(first: int, last: int) -> Any:
        computed.append(first)
        return np.ones((last - first, 3), np.float32)

    def compute() -> Any:
        return cached_features(tmp_path, "train", (5, 3), encode, 1)

    compute()
    require_passing(compute, range(4))
    assert computed == [0, 4]


@pytest.mark.parametrize("number", [errno.ENFILE, errno.ENOMEM, errno.EIO, errno.ESTALE, errno.ETIMEDOUT])
def test_other_passing_errors(
    number: int, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(photographs, tmp_path / "data", side=16)

    def fails(*_: Any, **__: Any) -> Any:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr("alexnet.data.dataset_files.read_npy", fails)
        with pytest.raises(
            TemporaryError,
            match=rf"^cannot read .*data/train-digests.npy: {os.strerror(number)}; .*, then rerun the same comm",
        ):
            PreparedData.open(tmp_path / "data")
    with monkeypatch.context() as patched:
        patched.setattr("alexnet.data.sources.class_folders.read_regular_file", fails)
        with pytest.raises(
            TemporaryError, match=rf"^cannot read .*color0/0.png: {os.strerror(number)}; .* to continue$"
        ):
            prepare(photographs, tmp_path / "other", side=16, workers=1)
    with monkeypatch.context() as patched:
        patched.setattr("alexnet.cli.inspect_command.run", fails)
        assert main(["inspect", str(tmp_path / "data")]) == 1
        assert "the work stopped: " + os.strerror(number) in capsys.readouterr().err


def test_permissions_are_named_and_damage_stays_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    denied = PermissionError(errno.EACCES, "Permission denied", "labels.npy")
    with pytest.raises(RequestError, match=r"^cannot read labels.npy: Permission denied; change its permissions"):
        raise_unless_damage(denied, tmp_path)
    for damage in (FileNotFoundError(errno.ENOENT, "No such file"), OSError("shorter"), ValueError("no number")):
        raise_unless_damage(damage, tmp_path)
    (tmp_path / "file").touch()
    # A library that hides why it could not open the file.
    monkeypatch.setattr(read_errors, "_error_of_opening", lambda path: OSError(errno.ESTALE, "Stale file handle"))
    with pytest.raises(TemporaryError, match="Stale file handle; check the drive"):
        raise_unless_damage(FileNotFoundError("No such file or directory: file"), tmp_path / "file")


def test_members_of_a_zip_are_listed_once_there_are_handles(photographs: Path) -> None:
    path = source_of("zip", photographs)
    require_passing(lambda: list(zip_members(path, SkippedFiles())), range(3))
