"""Approximate indexes: exact distances of nearly all neighbors, a measured recall, and no file of somebody else."""

import errno
import hashlib
import json
import shutil
import sys
from contextlib import nullcontext
from pathlib import Path

import faiss
import numpy as np
import pytest
from tests.explore.indexed_run import IndexedRun, make_indexed_run

from alexnet.cli.main import main
from alexnet.errors import RequestError, WorkError
from alexnet.explore.approximate_index import ApproximateIndex, build_approximate, open_approximate
from alexnet.explore.nearest import nearest
from alexnet.explore.neighbors import neighbors
from alexnet.explore.vector_index import build_index
from alexnet.storage.lock import only_writer
from alexnet.storage.typed_files import DamagedFile, write_sealed_json

KINDS = ("hnsw", "ivf-pq")
OWN = ("0" * 64, 5)
"""Of the weights and of the vectors."""


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    random = np.random.default_rng(3)
    centers = random.normal(size=(30, 24))
    return np.maximum(centers[random.integers(0, 30, 1500)] + 0.4 * random.normal(size=(1500, 24)), 0).astype(
        np.float32
    )


@pytest.fixture(scope="module")
def made(vectors: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("index")
    for kind in KINDS:
        build_approximate(folder, vectors, kind, *OWN)
    return folder


@pytest.fixture
def copied(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "index"))


@pytest.mark.parametrize("kind", KINDS)
def test_found_neighbors_are_exact_and_recall_is_measured(made: Path, vectors: np.ndarray, kind: str) -> None:
    opened = open_approximate(made, vectors, kind, *OWN)
    rows = np.random.default_rng(9).permutation(1500)[:200]
    exact, found = (one(rows) for one in (lambda at: nearest(vectors, vectors[at], 10, exclude=at),
                                          lambda at: opened.nearest(vectors[at], 10, at)))  # fmt: skip
    assert not (found.indices == rows[:, None]).any()
    differences = vectors[found.indices].astype(np.float64) - vectors[rows][:, None]
    np.testing.assert_allclose(found.distances, np.sqrt((differences**2).sum(2)), rtol=1.2e-7)
    hits = np.mean([len({*a} & {*b}) / 10 for a, b in zip(exact.indices, found.indices, strict=True)])
    # The recall in the file is of other queries.
    assert hits > 0.9 and abs(hits - opened.description["recall"]) < 0.05
    low, high = opened.description["recall_interval"]
    assert low <= opened.description["recall"] <= high and opened.description["recall_sample"] == 1000
    assert f"it finds {100 * opened.description['recall']:.2f} %" in opened.describe()
    assert (
        opened.description["microseconds"] > 0
        and opened.description["bytes"] == (made / f"{kind}.faiss").stat().st_size
    )
    assert not [path for path in made.iterdir() if path.name.startswith(".")]


@pytest.mark.slow
def test_a_poor_index_says_so(vectors: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of 38 lists is searched: the recall is that of the search, not of a hope."""
    monkeypatch.setattr("alexnet.explore.approximate_index._num_probed", lambda num_lists: 1)
    poor = build_approximate(tmp_path, vectors, "ivf-pq", *OWN)
    good = nearest(vectors, vectors, 10, exclude=np.arange(1500))
    found = poor.nearest(vectors, 10, np.arange(1500))
    hits = np.mean([len({*a} & {*b}) / 10 for a, b in zip(good.indices, found.indices, strict=True)])
    assert poor.description["recall"] < 0.95 and poor.description["recall"] == pytest.approx(hits, abs=0.03)


def test_of_two_the_graph_is_used(copied: Path, vectors: np.ndarray) -> None:
    assert open_approximate(copied, vectors, None, *OWN).kind == "hnsw"
    (copied / "hnsw.json").unlink()
    assert open_approximate(copied, vectors, None, *OWN).kind == "ivf-pq"
    with pytest.raises(
        RequestError, match=r"no approximate index of kind hnsw; rerun `alexnet index` with --approximate"
    ):
        open_approximate(copied, vectors, "hnsw", *OWN)
    with pytest.raises(RequestError, match=r"--approximate is 'lsh'; allowed is hnsw or ivf-pq"):
        open_approximate(copied, vectors, "lsh", *OWN)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("change", ["cut", "flip", "gone", "other", "renamed", "unsealed", "elsewhere"])
def test_faiss_reads_no_file_but_the_described_one(
    copied: Path, vectors: np.ndarray, kind: str, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It trusts what it reads: a file of somebody else could make it write anywhere in memory."""
    monkeypatch.setattr("faiss.read_index", lambda *words: pytest.fail("faiss read it"))
    path, description = copied / f"{kind}.faiss", copied / f"{kind}.json"
    content, text = bytearray(path.read_bytes()), description.read_text()
    if change == "cut":
        path.write_bytes(content[:-1])
    elif change == "flip":
        content[len(content) // 2] ^= 4
        path.write_bytes(content)
    elif change == "gone":
        path.unlink()
    elif change == "other":
        shutil.copy(copied / f"{({*KINDS} - {kind}).pop()}.faiss", path)
    elif change == "renamed":
        shutil.copy(copied / f"{({*KINDS} - {kind}).pop()}.json", description)
    elif change == "elsewhere":
        description.write_text(text.replace(f'"{kind}.faiss"', '"/tmp/evil.faiss"'))
    else:
        stored = json.loads(text)
        del stored["content_sha256"]
        description.write_text(json.dumps(stored))
    with pytest.raises(DamagedFile, match=f"delete .*{kind}.json, and rerun `alexnet index` with --approximate {kind}"):
        open_approximate(copied, vectors, kind, *OWN)


def test_an_index_of_other_vectors_is_refused(made: Path, vectors: np.ndarray) -> None:
    for other, own in ((vectors, ("1" * 64, 5)), (vectors, ("0" * 64, 6)), (vectors[:-1], OWN), (vectors[:, :-1], OWN)):
        with pytest.raises(RequestError, match=r"hnsw.json was built from other vectors than .* has now; delete"):
            open_approximate(made, other, "hnsw", *own)


def test_too_few_images_and_a_missing_library(
    vectors: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RequestError, match=r"ivf-pq needs 1,000 images or more, and .* has 999; omit it"):
        build_approximate(tmp_path, vectors[:999], "ivf-pq", *OWN)
    few = build_approximate(tmp_path, vectors[:2], "hnsw", *OWN)
    assert few.nearest(vectors[:1], 3, np.array([0])).indices.tolist() == [[1, -1, -1]]
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(
        RequestError, match=r"needs faiss, which is not installed; install it with `pip install 'alexnet\[in"
    ):
        build_approximate(tmp_path, vectors, "hnsw", *OWN)


def test_a_full_disk_leaves_nothing(vectors: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what a killed process left is removed."""

    def fail(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / ".hnsw.faiss.1.partial").write_bytes(b"some")
    with monkeypatch.context() as patched, pytest.raises(WorkError, match=r"disk of .*hnsw.faiss is full; free some"):
        patched.setattr("os.fsync", fail)
        build_approximate(tmp_path, vectors[:100], "hnsw", *OWN)
    assert not list(tmp_path.iterdir())
    with pytest.raises(RequestError, match=r"cannot write .*none/hnsw.faiss: No such file"):
        monkeypatch.setattr("alexnet.explore.approximate_index.only_writer", lambda *_: nullcontext())
        build_approximate(tmp_path / "none", vectors[:100], "hnsw", *OWN)


def test_one_process_at_a_time_makes_an_index(copied: Path, vectors: np.ndarray) -> None:
    with only_writer(copied / ".hnsw.lock", "x"), pytest.raises(RequestError, match=r"hnsw.faiss is being written by"):
        build_approximate(copied, vectors, "hnsw", *OWN)
    open_approximate(copied, vectors, "hnsw", *OWN)


def test_what_faiss_cannot_use_is_damage(
    copied: Path, vectors: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the description fits: of another class of faiss, or with lengths that exceed all memory."""
    description = json.loads((copied / "hnsw.json").read_text())
    del description["content_sha256"]
    flat = faiss.IndexFlatL2(24)
    flat.add(vectors)
    faiss.write_index(flat, str(copied / "hnsw.faiss"))
    content = (copied / "hnsw.faiss").read_bytes()
    description |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    write_sealed_json(copied / "hnsw.json", description)
    with pytest.raises(DamagedFile, match=r"it holds IndexFlatL2, expected IndexHNSWSQ\); delete"):
        open_approximate(copied, vectors, "hnsw", *OWN)

    def exceed(path: str) -> None:
        raise MemoryError

    monkeypatch.setattr("faiss.read_index", exceed)
    with pytest.raises(DamagedFile, match=r"faiss .* cannot read it\); delete"):
        open_approximate(copied, vectors, "hnsw", *OWN)


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    indexed: IndexedRun = make_indexed_run(tmp_path)
    monkeypatch.chdir(tmp_path)
    run, photograph = str(indexed.run.path), str(indexed.source / "train/color0/0.png")
    assert main(["index", run, "--approximate", "hnsw"]) == 0
    said = capsys.readouterr().out
    assert "hnsw.faiss: " in said and "approximate (hnsw): it finds 100.00 % [" in said and "µs, exact " in said
    before = (indexed.index.folder / "hnsw.faiss").stat().st_mtime_ns
    build_index(indexed.run, approximate="hnsw")
    assert (indexed.index.folder / "hnsw.faiss").stat().st_mtime_ns == before
    assert main(["neighbors", run, photograph, "--approximate", "--json", "--no-pixels", "--device", "cpu"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["approximate"]["kind"] == "hnsw" and found["approximate"]["recall_at"] == 10
    exact = neighbors(indexed.run, photograph, with_pixels=False, device="cpu")
    assert [one["row"] for one in found["queries"][0]["neighbors"]] == [one.row for one in exact[0].by_features]
    assert main(["neighbors", run, photograph, "--approximate", "--no-pixels", "--device", "cpu"]) == 0
    assert "approximate (hnsw): it finds" in capsys.readouterr().out
    assert isinstance(indexed.index.approximate(), ApproximateIndex)
    # Vectors are read for the candidates alone, not once more to compare them with their checksum.
    content = bytearray((indexed.index.folder / "relu4.npy").read_bytes())
    content[-2] ^= 1
    (indexed.index.folder / "relu4.npy").write_bytes(content)
    assert len(neighbors(indexed.run, photograph, approximate=True, with_pixels=False, device="cpu")) == 1
    with pytest.raises(DamagedFile, match=r"relu4.npy is damaged"):
        neighbors(indexed.run, photograph, with_pixels=False, device="cpu")
