"""Codes in an index's folder: kept beside each other, of these vectors, intact, and as good as they say."""

import json
import logging
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tests.explore.indexed_run import IndexedRun, make_indexed_run, make_run

import alexnet
from alexnet.cli.main import main
from alexnet.errors import Interrupted, RequestError, WorkError
from alexnet.explore import code_files, encode_index
from alexnet.explore.binary_codes import BinaryCodes
from alexnet.explore.code_files import code_lengths, open_codes
from alexnet.explore.code_training import CodeTraining, TrainedEncoder, train_encoder
from alexnet.explore.encode_index import codes
from alexnet.explore.vector_index import build_index, has_index, open_index
from alexnet.storage.typed_files import DamagedFile


@pytest.fixture(autouse=True)
def _short_training(monkeypatch: pytest.MonkeyPatch) -> None:
    short = partial(CodeTraining, hidden_units=16, steps=20, batch_size=16)
    monkeypatch.setattr(encode_index, "CodeTraining", short)
    monkeypatch.setattr("alexnet.explore.code_measures.MIN_ROUNDS", 1)
    monkeypatch.setattr("alexnet.explore.code_measures.ENOUGH_S", 0.0)


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> IndexedRun:
    return make_indexed_run(tmp_path_factory.mktemp("indexed"))


@pytest.fixture
def run(indexed: IndexedRun, tmp_path: Path) -> Path:
    """The run, to be changed."""
    return Path(shutil.copytree(indexed.run.path, tmp_path / "run"))


def test_several_lengths_are_kept_beside_each_other(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    seen: list[tuple[int, int]] = []
    first, second = alexnet.codes(run, [64, 32], progress=lambda done, total: seen.append((done, total)))
    assert seen == [(20, 40), (40, 40)] and (first.bits, second.bits) == (64, 32)
    assert code_lengths(run / "index") == [32, 64] and first.file == run / "index" / "codes-64.safetensors"
    index = open_index(run)
    for one in (first, second):
        opened = open_codes(index, one.bits)
        np.testing.assert_array_equal(opened.codes, one.codes)
        np.testing.assert_array_equal(opened.encoder.encode(index.vectors), one.codes)
        assert opened.to_dict() == {**one.to_dict(), "file": str(opened.file)} and opened.training == one.training
        assert one.codes.shape == (24, one.bits // 8)
    assert (
        repr(first).startswith(f"BinaryCodes('{first.file}': 24 images, 64 bits, ") and "exact" in first._repr_html_()
    )
    before = first.file.read_bytes()
    caplog.set_level(logging.INFO, logger="alexnet")
    caplog.clear()
    codes(run, [64, 96])
    assert caplog.messages[0] == f"{first.file} is complete" and first.file.read_bytes() == before
    assert code_lengths(run / "index") == [32, 64, 96]
    caplog.clear()
    codes(run, 64, seed=1)
    assert caplog.messages[0] == f"{first.file} is replaced: it was trained with other settings"
    assert first.file.read_bytes() != before
    codes(run, 64)
    measured = ("encoding_us", "search_us", "exact_us", "rerank")
    again = {**open_codes(index, 64).to_dict(), **{name: first.to_dict()[name] for name in measured}}
    assert again == first.to_dict() and np.array_equal(open_codes(index, 64).codes, first.codes)


def test_codes_find_the_nearest(indexed: IndexedRun, run: Path) -> None:
    (made,) = codes(run, 64)
    index = made.index
    queries = np.asarray(index.vectors[:5], np.float32)
    bits = np.unpackbits(made.codes, axis=1).astype(int)
    found = made.nearest(queries, 3, exclude=np.arange(5))
    for row in range(5):
        different = np.abs(bits - bits[row]).sum(1)
        order = sorted((one for one in range(24) if one != row), key=lambda one: (different[one], one))[:3]
        assert found.indices[row].tolist() == order
    # With all as candidates, the order is exact.
    exact = np.argsort(np.linalg.norm(np.asarray(index.vectors, np.float64) - queries[2], axis=1), kind="stable")
    assert made.nearest(queries, 4, rerank=24).indices[2].tolist() == exact[:4].tolist()
    with pytest.raises(RequestError, match=r"--rerank is 2; allowed is a whole number, 3 \(--num\) or more"):
        made.nearest(queries, 3, rerank=2)
    # A photograph that is in the index has the code that is there.
    photograph = indexed.source / "train/color0/0.png"
    vector = alexnet.features(run, photograph, device="cpu", precision="float32")["relu4"].reshape(1, -1)
    assert made.nearest(vector, 1).distances[0, 0] <= 1


def test_an_index_is_made_where_there_is_none(indexed: IndexedRun, tmp_path: Path) -> None:
    run = make_run(indexed.data, tmp_path / "run")
    (made,) = codes(run, 32, device="cpu")
    assert has_index(run) and made.index.split == "train" and made.index.layer == "relu4"
    # A folder that is named holds an index: one that is mistyped is not filled with a new one.
    elsewhere = tmp_path / "else where"
    with pytest.raises(RequestError, match=r"else where contains no index; make one with `alexnet index .*--out '"):
        codes(run, 32, index=elsewhere)
    with pytest.raises(RequestError, match="is a weights file, which has no folder for an index"):
        codes(run.weights, 32, indexed.data)
    assert not elsewhere.exists()
    build_index(run.weights, indexed.data, folder=elsewhere, device="cpu")
    (other,) = codes(run.weights, 32, index=elsewhere)
    assert other.file == elsewhere / "codes-32.safetensors"
    with pytest.raises(RequestError) as caught:
        open_codes(other.index, 64)
    command = f"`alexnet codes {run.weights} --index '{elsewhere}' --bits 64`"
    assert str(caught.value).endswith(f"has no codes of 64 bits; it has codes of 32 bits; make them with {command}")


@pytest.mark.parametrize("bits", [0, 16, 48, 1056, -32, 33, True, "64", [], [64, 65], 64.0, None])
def test_other_lengths_are_refused(run: Path, bits: Any) -> None:
    with pytest.raises(RequestError, match=r"--bits is .*; allowed are multiples of 32 up to 1,024|bits is empty"):
        codes(run, bits)


def test_bad_requests_say_what_to_do(run: Path, indexed: IndexedRun, tmp_path: Path) -> None:
    codes(run, [32, 64])
    index = open_index(run)
    with pytest.raises(
        RequestError,
        match=r"index has no codes of 96 bits; it has codes of 32, 64 bits; make them with `alexnet codes \S*/run "
        r"--bits 96`$",
    ):
        open_codes(index, 96)
    with pytest.raises(RequestError, match="the seed is -1"):
        codes(run, 32, seed=-1)
    # Codes of other vectors are refused, and made again on request.
    other = make_run(indexed.data, tmp_path / "other", seed=7)
    alexnet.index(other, device="cpu")
    shutil.copy(index.folder / "codes-32.safetensors", other.path / "index")
    with pytest.raises(
        RequestError, match=r"codes-32.safetensors has codes of different vectors than those of the index"
    ):
        open_codes(open_index(other), 32)
    (made,) = codes(other, 32)
    np.testing.assert_array_equal(open_codes(open_index(other), 32).codes, made.codes)
    with pytest.raises(RequestError, match="has one image; codes need an index of two or more"):
        only = replace(index, vectors=index.vectors[:1])
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(encode_index, "open_index", lambda *_, **__: only)
            codes(run, 32)


@pytest.mark.parametrize("change", ["cut", "flip", "empty", "resealed", "version", "form"])
def test_damage_is_reported_and_made_again(run: Path, change: str, caplog: pytest.LogCaptureFixture) -> None:
    (made,) = codes(run, 32)
    path, content = made.file, bytearray(made.file.read_bytes())
    arrays = load_file(path)
    description = {
        "format_version": 1,
        "vectors": code_files._identity(made.index),
        "training": {**made.to_dict()["training"]},
        "measures": made.measures,
    }
    if change == "cut":
        path.write_bytes(content[:-9])
    elif change == "flip":
        content[-9] ^= 4
        path.write_bytes(content)
    elif change == "empty":
        path.write_bytes(b"")
    elif change == "resealed":  # by another program, without the description
        save_file(arrays, path)
    elif change == "version":
        save_file(arrays, path, {"description": json.dumps({**description, "format_version": 2})})
    else:
        save_file({**arrays, "codes": arrays["codes"][:-1]}, path, {"description": json.dumps(description)})
    expected = RequestError if change == "version" else DamagedFile
    with pytest.raises(expected, match=r"codes-32.safetensors (is damaged|has codes of format 2).*make it again with"):
        open_codes(open_index(run), 32)
    caplog.set_level(logging.WARNING, logger="alexnet")
    caplog.clear()
    codes(run, 32)
    assert caplog.messages[0].startswith(f"{path} ") and caplog.messages[0].endswith("; rebuilding it")
    np.testing.assert_array_equal(open_codes(open_index(run), 32).codes, made.codes)


def test_finished_lengths_survive_an_interrupt(run: Path) -> None:
    def interrupted(done: int, total: int) -> None:
        if done > 20:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="interrupted; finished lengths are kept; rerun the same command to continue"):
        codes(run, [32, 64], progress=interrupted)
    assert code_lengths(run / "index") == [32]
    assert [path.name for path in (run / "index").iterdir() if path.name.startswith(".")] == []
    assert len(codes(run, [32, 64])) == 2


def test_codes_that_collapse_are_noticed(
    run: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    constant: list[int] = []

    def collapsed(*words: Any, **options: Any) -> TrainedEncoder:
        trained = train_encoder(*words, **options)
        trained.encoder.code_bias[: constant[0]] = -1e9
        return trained

    monkeypatch.setattr(encode_index, "train_encoder", collapsed)
    constant[:] = [32]
    with pytest.raises(WorkError, match="the auto-encoder has collapsed: all 24 images have the same 32-bit code"):
        codes(run, 32)
    assert code_lengths(run / "index") == []
    constant[:] = [20]
    caplog.set_level(logging.WARNING, logger="alexnet")
    (made,) = codes(run, 32)
    assert made.measures["constant_bits"] >= 20
    assert f"{made.measures['constant_bits']} of 32 bits are the same for more than 99.9 % of the images" in caplog.text


def test_the_command_prints_a_table_or_json(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["codes", str(run), "--bits", "32", "64", "--device", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2:] == [f"codes of {bits} bits: {run / f'index/codes-{bits}.safetensors'}" for bits in (32, 64)]
    rows = [line.split() for line in lines]
    assert ["measured", "32", "bits", "64", "bits"] in rows and ["bytes", "a", "code", "4", "8"] in rows
    # Each length has the exact search that was timed beside it, whenever that was.
    exact = [f"{one.measures['exact_us']:,.0f}" for one in codes(run, [32, 64])]
    assert ["µs,", "exact", *exact] in rows
    assert main(["codes", str(run), "--bits", "64", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    (one,) = printed["codes"]
    assert printed["duration_s"] > 0
    assert one["bits"] == 64 and one == json.loads(json.dumps(open_codes(open_index(run), 64).to_dict()))
    assert main(["codes", str(run), "--bits", "7"]) == 2
    assert "--bits is 7; allowed are multiples of 32 up to 1,024, e.g. 64" in capsys.readouterr().err


def test_a_full_disk_leaves_nothing(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(code_files, "write_sealed_tensors", full)
    with pytest.raises(WorkError, match=r"the disk of .*codes-32.safetensors is full"):
        codes(run, 32)
    assert code_lengths(run / "index") == []


def test_codes_are_opened_whatever_the_measures(run: Path) -> None:
    """What a reader believes of a file is checked: numbers in range, shares between 0 and 1."""
    (made,) = codes(run, 32)
    assert isinstance(made, BinaryCodes)
    arrays = load_file(made.file)
    description = {
        "format_version": 1,
        "vectors": code_files._identity(made.index),
        "training": made.to_dict()["training"],
    }
    measures = {**made.measures, "recall": [{"among": 10, "recall": 1.5, "interval": [0, 1]}]}
    save_file(arrays, made.file, {"description": json.dumps({**description, "measures": measures})})
    with pytest.raises(DamagedFile, match=r"measures.recall\[0\].recall"):
        open_codes(made.index, 32)


def test_neighbors_are_found_by_codes(
    indexed: IndexedRun, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (made,) = codes(run, 64)
    photograph = indexed.source / "train/color2/3.png"
    options: dict[str, Any] = {"num": 5, "with_pixels": False, "device": "cpu"}
    exact = alexnet.neighbors(run, photograph, **options)
    row = made.index.keys.index("train/color2/3.png")
    bits = np.unpackbits(made.codes, axis=1).astype(int)
    different = np.abs(bits - bits[row]).sum(1)
    by_bits = alexnet.neighbors(run, photograph, codes=64, **options)
    others = [one.row for one in by_bits[0].by_features]
    # The photograph's own code may differ in a bit from that in the index, computed in another batch.
    assert row not in others and len(others) == 5
    assert [one.distance for one in by_bits[0].by_features] == pytest.approx(sorted(different[others]), abs=1)
    reranked = alexnet.neighbors(run, photograph, codes=64, rerank=24, **options)
    assert [one.row for one in reranked[0].by_features] == [one.row for one in exact[0].by_features]
    assert reranked[0].by_features[0].distance == exact[0].by_features[0].distance
    assert by_bits.searched_by is not None and reranked.searched_by is not None and exact.searched_by is None
    assert by_bits.searched_by.startswith("by codes of 64 bits: ")
    assert reranked.searched_by.startswith("by codes of 64 bits, the first 24 ordered by Euclidean distance: ")
    few = alexnet.neighbors(run, photograph, codes=64, rerank=5, **options)
    assert few.searched_by == (
        "by codes of 64 bits, the first 5 ordered by Euclidean distance: recall was not measured among fewer than the "
        "first 10"
    )
    assert by_bits.to_dict()["codes"]["rerank"] is None and exact.to_dict()["codes"] is None
    assert "bits differ" in by_bits._repr_html_() and "bits differ" not in reranked._repr_html_()
    assert by_bits.figure() is not None
    with pytest.raises(RequestError, match=r"--rerank is 4; allowed is a whole number, 5 \(--num\) or more"):
        alexnet.neighbors(run, photograph, codes=64, rerank=4, **options)
    monkeypatch.chdir(tmp_path)
    words = ["neighbors", str(run), str(photograph), "--codes", "64", "--no-pixels", "--device", "cpu"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert " bits " in said and "by codes of 64 bits: " in said and "run-neighbors.png: 1 query" in said
    assert main([*words, "--rerank", "20", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["codes"]["rerank"] == 20
    assert main(["neighbors", str(run), "--split", "val", "--codes", "64"]) == 2
    assert "--codes is for photographs" in capsys.readouterr().err
