"""Thousands of damaged files of every kind that the package writes, and what their readers do with them.

Allowed is: the file is refused with a message for the user; its reader says so and does without it (a cache is computed
again, a checkpoint before it is used, a line of a log is left out); or the change has no effect on what is read. Never
a traceback, never another number than was written. A file whose checksum was removed with the change, as by somebody
who edits it on purpose, may be read with the change, but must not end in a traceback either.

    python -m pytest tests/storage/test_file_mutations.py -m slow -s     prints the table of all kinds and outcomes
"""

import copy
import json
import logging
import os
import random
import re
import resource
import shutil
import tarfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.numpy import load_file

import alexnet
from alexnet.baselines.baseline_model import load_baseline, save_baseline
from alexnet.baselines.estimator_files import read_estimators, write_estimators
from alexnet.baselines.feature_cache import cached_features
from alexnet.data.dataset import PreparedData
from alexnet.data.preparation.prepare import prepare
from alexnet.data.shards import UnreadableSample
from alexnet.errors import AlexNetError, Interrupted
from alexnet.evaluation.predictions import load_predictions, save_predictions
from alexnet.explore.features import open_features, write_features
from alexnet.model.network import AlexNet
from alexnet.model.weights import load_trained, save_trained
from alexnet.report.inspection import summarize_data
from alexnet.report.page import write_run_page
from alexnet.runs.folder import PROOF_VERSION, RunFolder
from alexnet.runs.overview import list_runs
from alexnet.storage.lock import only_writer
from alexnet.storage.staging import open_staging
from alexnet.storage.typed_files import LINE_SEAL, SEAL, read_json_lines
from alexnet.training.checkpoint import FORMAT_VERSION, Snapshot, load_checkpoint, read_manifest, write_checkpoint
from alexnet.training.optimizer import VelocitySGD
from alexnet.training.state import TrainingState

SEED = 20_261_130
NUM_DEFAULT = 100
NUM_SLOW = 1_000 if os.environ.get("CI") else 10_000
MOST_S = 20.0
"""One file that takes longer hangs; a reader takes milliseconds."""
MOST_BYTES = 512 << 20
"""Memory that all readers together may take beyond what they take of sound files."""
FORMATS_PAGE = Path(__file__).resolve().parents[2] / "docs" / "formats.md"
GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "formats.tar.xz"
TESTS = Path(__file__).resolve().parents[1]
SOURCES = Path(alexnet.__file__).parent

pytest.importorskip("sklearn")


@dataclass(frozen=True)
class Kind:
    """A kind of file, and how it is read."""

    documented: str
    """Its row in the first table of docs/formats.md."""
    path: str
    """Of an example, in the folder that `sound` makes."""
    read: Callable[[Path], Any]
    """What the package reads from it, comparable; called with the folder."""
    has_checksum: bool = True
    """Whether a changed number is noticed."""
    falls_back: Callable[[Any, Any, bool], bool] | None = None
    """Whether what is read instead of the sound content, with or without a warning, is what is left of it."""


def listed(name: str) -> Callable[[Path], Any]:
    """A run as `alexnet runs` lists it and as the page shows it; the others must be listed too."""

    def read(folder: Path) -> Any:
        rows = {Path(row["run"]).name: row for row in list_runs(folder)}
        assert len(rows) == NUM_RUNS and sum("unreadable" in row for row in rows.values()) <= 1, rows
        write_run_page(folder / name, None)
        run = RunFolder.open(folder / name)
        if "unreadable" in rows[name]:
            raise AssertionError("it is listed as unreadable, and read")
        return rows[name], run.metadata(), run.any_recipe(), [str(one) for one in run.data_folders()]

    return read


def events(name: str) -> Callable[[Path], Any]:
    return lambda folder: RunFolder.open(folder / name).events()


def evaluations(name: str) -> Callable[[Path], Any]:
    def read(folder: Path) -> Any:
        write_run_page(folder / name, None)
        return RunFolder.open(folder / name).evaluations()

    return read


def predictions(name: str) -> Callable[[Path], Any]:
    def read(folder: Path) -> Any:
        data = PreparedData.open(folder / "pixels")
        found = load_predictions(folder / name / "predictions", "val", 1, data)
        return found.class_ids, found.probabilities.tobytes(), found.split, found.num_views

    return read


def weights(name: str) -> Callable[[Path], Any]:
    def read(folder: Path) -> Any:
        save_trained(folder / "again", load_trained(folder / name))
        return (folder / "again").read_bytes()

    return read


def baseline(name: str) -> Callable[[Path], Any]:
    def read(folder: Path) -> Any:
        save_baseline(folder / "again", load_baseline(folder / name), {})
        return (folder / "again").read_bytes()

    return read


def vocabulary(folder: Path) -> Any:
    estimators, metadata = read_estimators(folder / "vocabulary.safetensors")
    write_estimators(folder / "again", estimators, metadata)
    return (folder / "again").read_bytes()


def checkpoint(name: str) -> Callable[[Path], Any]:
    """Also the step of the checkpoint that was used: that before a damaged one, or none."""

    def read(folder: Path) -> Any:
        recipe = RunFolder.open(folder / name).recipe()
        network = AlexNet(3, recipe.network.variant, recipe.network.width)
        optimizer, state = VelocitySGD(network, 0.9, 0.0), TrainingState()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.zero_()
        loaded = load_checkpoint(folder / name, network, optimizer, state)
        if loaded.broken:
            logging.getLogger("alexnet.tests").warning(f"{loaded.broken} are damaged")  # as `restore` says it
        tensors = {**network.state_dict(), **{f"v.{name}": one for name, one in optimizer.state()[1].items()}}
        content = {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}
        return content, optimizer.state()[0], state.trained_s, state.validation_errors, loaded.step

    return read


def prepared(store: str) -> Callable[[Path], Any]:
    def read(folder: Path) -> Any:
        data = PreparedData.open(folder / store)
        statistics = [getattr(data.statistics, name).tobytes() for name in vars(data.statistics)]
        return [
            (data.title, data.generated, data.side, data.checksum, data.store, data.classes),
            statistics,
            [
                (
                    name,
                    split.labels.tobytes(),
                    list(split.keys),
                    np.asarray(split.images[np.arange(len(split))]).tobytes(),
                )
                for name, split in data.splits.items()
            ],
            [(data.original_sizes(name).tobytes(), data.digests(name).tobytes()) for name in data.splits],
        ]

    return read


def prepared_lists(folder: Path) -> Any:
    summary = summarize_data(PreparedData.open(folder / "set-pixels"))
    return summary["refused"], summary["skipped"], summary["duplicates"]


def features(name: str) -> Callable[[Path], Any]:
    def read(folder: Path) -> Any:
        found = open_features(folder / name)
        arrays = {name: array.tobytes() for name, array in found.activations.items()}
        refused = list(read_json_lines(folder / name / "refused.jsonl", dict[str, str], "write them again"))
        return arrays, found.paths, None if found.labels is None else found.labels.tolist(), found.classes, refused

    return read


def projection(folder: Path) -> Any:
    found = open_features(folder / "projected").projection("conv2")
    return found.digest(), found.total_variance, found.num_images


def unfinished_set(folder: Path) -> Any:
    """Resumes the preparation, which must end as one that nothing interrupted."""
    shutil.rmtree(folder / "resumed-set", ignore_errors=True)
    prepare(folder.with_name("photographs"), folder / "resumed-set", side=16, shard_images=2, max_refused=0.5)
    return prepared("resumed-set")(folder)[1:]


def unfinished_features(folder: Path) -> Any:
    """Resumes the work, which must end as whole work does."""
    shutil.rmtree(folder / "resumed", ignore_errors=True)
    write_features(folder / "finished", folder / "resumed", layers=["conv2"], split="val", device="cpu")
    found = open_features(folder / "resumed")
    return found.activations["conv2"].tobytes(), found.paths


CACHED = np.arange(60 * 7, dtype=np.float32).reshape(60, 7)


def feature_cache(folder: Path) -> Any:
    rows = cached_features(folder, "cached", CACHED.shape, lambda first, last: CACHED[first:last], 1)
    return rows[:].tobytes()


def lock(folder: Path) -> Any:
    with only_writer(folder / ".lock", "it") as holder:
        assert holder is None or re.fullmatch(r"process -?\d+ on .*", holder, re.DOTALL)


def plan(folder: Path) -> Any:
    with open_staging(
        folder / "made", {"side": 16}, description_file="d.json", cursor_file="c.json", restart=False
    ) as staging:
        return staging.cursor_path.exists()


def fewer_events(found: Any, expected: Any, is_said: bool) -> bool:
    """Some events are left out, with a warning, or the end is missing as after a kill."""
    rest = iter(map(repr, expected))
    return all(one in rest for one in map(repr, found)) and (is_said or found == expected[: len(found)])


def earlier_checkpoint(found: Any, expected: Any, is_said: bool) -> bool:
    """The checkpoint before is used, or none."""
    return is_said and found[-1] in (3, None)


RUN, SET = "run", "prepared data set"


def of_run(name: str) -> dict[str, Kind]:
    """The files of a finished run, by their names in the table."""
    return {
        "run.json": Kind(RUN, f"{name}/run.json", listed(name)),
        "recipe.yaml of a network": Kind(RUN, f"{name}/recipe.yaml", listed(name)),
        "events.jsonl": Kind(RUN, f"{name}/events.jsonl", events(name), falls_back=fewer_events),
        "evaluation": Kind(RUN, f"{name}/evaluations/val-1views.json", evaluations(name)),
        "weights": Kind("weights", f"{name}/weights.safetensors", weights(name)),
        "predictions": Kind("saved probabilities", f"{name}/predictions/val-1views.safetensors", predictions(name)),
    }


def proof(name: str) -> Callable[[Path], Any]:
    return lambda folder: RunFolder.open(folder / name).proof()


PROOF: dict[str, Any] = {
    "format_version": PROOF_VERSION, "status": "plausible", "verdict": "The weights are trained.",
    "findings": [{"kind": "layers", "stance": "for", "text": "All layers are trained."}],
    "layers": [{
        "name": "conv1", "file_name": "features.0", "shape": [8, 3, 5, 5], "verdict": "trained",
        "distribution": "like normal", "std": 0.02, "excess_kurtosis": 0.5, "top_singular_value": 3.5,
        "unit_spread": 1.5, "input_spread": None, "smoothness": 0.25, "kernel_sums": 2.5, "biases": "0.5 std",
        "dead_units": 1, "duplicate_units": 2, "dead_inputs": 3, "is_needed": True, "silent_channels": 4,
    }],
    "sample": {"data_checksum": "5890b46e", "title": "colors", "split": "val", "num_images": 12, "num_gray": 1,
               "num_classes": 3},
    "combinations": [], "moved_classes": [],
}  # fmt: skip
"""As an import writes it."""


def of_baseline(name: str) -> dict[str, Kind]:
    return {
        "recipe.yaml of a baseline": Kind(RUN, f"{name}/recipe.yaml", listed(name)),
        "baseline": Kind("baseline", f"{name}/baseline.safetensors", baseline(name)),
    }


def of_checkpoint(name: str) -> dict[str, Kind]:
    path, read = f"{name}/checkpoints/step-00000007", checkpoint(name)
    return {
        "checkpoint manifest": Kind("checkpoint", f"{path}.json", read, falls_back=earlier_checkpoint),
        "checkpoint tensors": Kind("checkpoint", f"{path}.safetensors", read, falls_back=earlier_checkpoint),
    }


def of_features(name: str) -> dict[str, Kind]:
    files = ("features.json", "conv2.npy", "labels.npy", "images.csv", "refused.jsonl")
    return {f"features, {file}": Kind("features", f"{name}/{file}", features(name)) for file in files}


def of_version_0_1(kinds: dict[str, Kind]) -> dict[str, Kind]:
    return {f"{name}, of 0.1.0": replace(kind, has_checksum=False) for name, kind in kinds.items()}


KINDS: dict[str, Kind] = {
    **of_run("finished"),
    "proof.json": Kind("proof of imported weights", "finished/proof.json", proof("finished")),
    **of_baseline("baseline"),
    **of_checkpoint("interrupted"),
    "lock": Kind(RUN, ".lock", lock),
    "vocabulary": Kind("baseline", "vocabulary.safetensors", vocabulary),
    "feature cache, cursor": Kind("baseline", "cached.json", feature_cache),
    "feature cache, rows": Kind("baseline", "cached.f16", feature_cache),
    **of_features("features"),
    "features, principal components": Kind("features", "projected/conv2.pca.npz", projection),
    "unfinished features, cursor": Kind("features", ".resumed.preparing/done.json", unfinished_features),
    "unfinished features, array": Kind("features", ".resumed.preparing/conv2.npy", unfinished_features),
    "unfinished work, plan": Kind("features", ".made.preparing/plan.json", plan),
    **of_version_0_1(
        {
            **of_run("old-finished"),
            **of_baseline("old-baseline"),
            **of_checkpoint("old-interrupted"),
            **of_features("old-features"),
        }
    ),
    "unfinished data set, cursor": Kind(SET, ".resumed-set.preparing/cursor.npz", unfinished_set),
    "unfinished data set, record": Kind(SET, ".resumed-set.preparing/parts/00000000.npz", unfinished_set),
    "dataset.json": Kind(SET, "set-pixels/dataset.json", prepared("set-pixels")),
    "statistics.npz": Kind(SET, "set-pixels/statistics.npz", prepared("set-pixels")),
    "images": Kind(SET, "set-pixels/train-images.npy", prepared("set-pixels")),
    "labels": Kind(SET, "set-pixels/train-labels.npy", prepared("set-pixels")),
    "keys": Kind(SET, "set-pixels/train-keys.npy", prepared("set-pixels")),
    "ends of keys": Kind(SET, "set-pixels/train-key-ends.npy", prepared("set-pixels")),
    "digests": Kind(SET, "set-pixels/train-digests.npy", prepared("set-pixels")),
    "sizes": Kind(SET, "set-pixels/train-sizes.npy", prepared("set-pixels")),
    "shard": Kind(SET, "set-jpeg/train-000000.tar", prepared("set-jpeg")),
    "index of shards": Kind(SET, "set-jpeg/train-index.npy", prepared("set-jpeg")),
    "refused.jsonl": Kind(SET, "set-pixels/refused.jsonl", prepared_lists),
    "skipped.jsonl": Kind(SET, "set-pixels/skipped.jsonl", prepared_lists),
    "duplicates.jsonl": Kind(SET, "set-pixels/duplicates.jsonl", prepared_lists),
}
NUM_RUNS = 8


def make_sound(golden: Path, folder: Path) -> None:
    """Files of every kind as this version writes them."""
    shutil.copytree(golden, folder)
    for name in ("finished", "interrupted", "baseline", "baseline-sparse", "features"):
        shutil.copytree(golden / name, folder / f"old-{name}")
    data = PreparedData.open(folder / "pixels")
    for name in ("finished", "interrupted", "baseline", "baseline-sparse"):
        run = RunFolder.open(folder / name)
        run.update_metadata(data={**run.data(), "folders": [str(folder / "pixels")]})
        run.change_recipe(run.any_recipe())  # type: ignore[arg-type]
        run.drop_events_after(1 << 40)
        for evaluation, content in run.evaluations().items():
            run.save_evaluation(evaluation, content)
    finished = folder / "finished"
    RunFolder.open(finished).save_proof(PROOF)
    save_trained(finished / "weights.safetensors", load_trained(finished))
    for num_views in (1, 10):
        found = load_predictions(finished / "predictions", "val", num_views, data)
        save_predictions(finished / "predictions", "val", num_views, found.probabilities, data)
    save_baseline(folder / "baseline" / "baseline.safetensors", load_baseline(folder / "baseline"), {})
    estimators, _ = read_estimators(folder / "baseline" / "baseline.safetensors")
    steps = {name: one for name, one in estimators.items() if not name.endswith("classifier")}
    write_estimators(folder / "vocabulary.safetensors", steps, {})
    for step in (3, 7):
        path = folder / "interrupted" / "checkpoints" / f"step-{step:08}.json"
        manifest = read_manifest(path)
        arrays = load_file(path.with_suffix(".safetensors"))
        write_checkpoint(folder / "interrupted", Snapshot(arrays, {**manifest, "format_version": FORMAT_VERSION}))
    shutil.rmtree(folder / "features")
    write_features(finished, folder / "features", layers=["conv2"], split="val", device="cpu")
    write_features(finished, folder / "projected", layers=["conv2"], split="val", device="cpu", pca=2)

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    def interrupt_late(done: int, total: int) -> None:
        if done > 6:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        write_features(
            finished, folder / "resumed", layers=["conv2"], split="val", device="cpu", batch_size=2, progress=interrupt
        )
    with open_staging(
        folder / "made", {"side": 16}, description_file="d.json", cursor_file="c.json", restart=False
    ) as staging:
        staging.cursor_path.write_text("{}")
    feature_cache(folder)
    (folder / ".lock").write_text(json.dumps({"pid": 1, "host": "h"}))
    photographs = folder.with_name("photographs")
    random_pixels = np.random.default_rng(0)
    for split, num in (("train", 3), ("val", 2)):
        for class_id in ("circle", "square"):
            (photographs / split / class_id).mkdir(parents=True)
            for number in range(num):
                pixels = random_pixels.integers(0, 256, (20, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(photographs / split / class_id / f"{number}.png")
    shutil.copy(photographs / "train" / "circle" / "0.png", photographs / "val" / "square" / "copy.png")
    (photographs / "train" / "circle" / "notes.txt").write_text("no image")
    (photographs / "train" / "circle" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40))
    with pytest.raises(Interrupted):
        prepare(
            photographs,
            folder / "resumed-set",
            side=16,
            shard_images=2,
            max_refused=0.5,
            workers=1,
            progress=interrupt_late,
        )
    for store in ("pixels", "jpeg"):
        prepare(photographs, folder / f"set-{store}", side=16, store=store, max_refused=0.5)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mutations")
    with tarfile.open(GOLDEN) as archive:
        archive.extractall(folder / "golden", filter="data")
    for path in (folder / "golden").glob("*/run.json"):
        metadata = json.loads(path.read_text())
        metadata["data"]["folders"] = [str(folder / "golden" / "pixels")]
        path.write_text(json.dumps(metadata))
    make_sound(folder / "golden", folder / "sound")
    return folder / "sound"


def mutated_bytes(content: bytes, chance: random.Random) -> tuple[str, bytes]:
    """A changed copy, and the name of the change."""
    changed, at = bytearray(content), chance.randrange(max(1, len(content)))
    how = chance.choice(
        ("flip", "flip", "flip", "bytes", "digit", "cut", "insert", "delete", "copy", "zeros", "nested", "other")
    )
    if how == "flip" and content:
        changed[at] ^= 1 << chance.randrange(8)
    elif how == "bytes":
        changed[at : at + chance.randrange(1, 9)] = chance.randbytes(chance.randrange(9))
    elif how == "digit" and (digits := [place.start() for place in re.finditer(rb"[0-9]", content)]):
        at = chance.choice(digits)
        changed[at] = chance.choice(b"0123456789")
    elif how == "cut":
        del changed[at:]
    elif how == "insert":
        changed[at:at] = chance.choice((b"[", b'"', b"\n", b"\0", b"\xff", b"0", b"NaN", chance.randbytes(20)))
    elif how == "delete":
        del changed[at : at + chance.randrange(1, 40)]
    elif how == "copy":
        first = chance.randrange(max(1, len(content)))
        part = content[first : first + chance.randrange(1, 200)]
        changed[at : at + (len(part) if chance.random() < 0.5 else 0)] = part
    elif how == "zeros":
        changed[at : at + 512] = bytes(len(changed[at : at + 512]))
    elif how == "nested":
        changed[at:at] = b"[" * 200_000 if chance.random() < 0.5 else b'{"a":' * 100_000
    elif how == "other":
        changed = bytearray(
            chance.choice((b"", b"[]", b"null", b"{}", b"3", b"\xff\xfe", b"%PDF-1.4", b"\n\n", b"[[[]]]"))
        )
    return how, bytes(changed)


def changed_document(document: Any, chance: random.Random) -> Any:
    """A copy of a JSON document with one value changed."""
    document = copy.deepcopy(document)
    places: list[tuple[Any, Any]] = []

    def collect(value: Any) -> None:
        for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
            places.append((value, key))
            collect(value[key])

    collect(document)
    if not places:
        return [document]
    parent, key = chance.choice(places)
    value = parent[key]
    how = chance.randrange(9)
    if how == 0:
        del parent[key]
    elif how == 1:
        parent[key] = chance.choice(
            (None, True, 3, -1, 0, 2.5, "x", "\udcff", "a\0b", "../..", [], {}, [[1]], {"a": {}})
        )
    elif how == 2:
        parent[key] = chance.choice((10**400, -(10**18), 1 << 62, 1e308, float("nan"), float("inf"), -0.0, 1e-320))
    elif how == 3:
        parent[key] = json.loads("[" * 900 + "]" * 900) if chance.random() < 0.5 else [value]
    elif how == 4 and isinstance(value, list):
        parent[key] = value[:-1] if chance.random() < 0.5 else [*value, *value[:1], 7]
    elif how == 5 and isinstance(value, dict):
        parent[key] = {**value, "unknown": 1}
    elif how == 6:
        other, other_key = chance.choice(places)
        parent[key], other[other_key] = copy.deepcopy(other[other_key]), copy.deepcopy(value)
    elif isinstance(value, bool) or not isinstance(value, int | float):
        parent[key] = f"{value}1"
    else:
        parent[key] = value + 1 if isinstance(value, int) else value * 1.1
    return document


def without_seal(document: Any) -> Any:
    return (
        {key: value for key, value in document.items() if key not in (SEAL, LINE_SEAL)}
        if isinstance(document, dict)
        else document
    )


def mutated_document(path: Path, content: bytes, chance: random.Random) -> tuple[str, bytes] | None:
    """A copy with one value of its JSON or YAML changed, its checksum kept or (`edited`) removed; None without such."""
    edits = chance.random() < 0.4
    prepare_document = without_seal if edits else copy.deepcopy
    name = "edited" if edits else "value"
    try:
        if path.suffix in (".json", ".yaml") or path.name == ".lock":
            document = changed_document(prepare_document(yaml.safe_load(content)), chance)
            text = yaml.safe_dump(document) if path.suffix == ".yaml" else json.dumps(document)
            return name, text.encode("utf-8", "surrogatepass")
        if path.suffix == ".jsonl" and content:
            lines = content.decode().splitlines()
            at = chance.randrange(len(lines))
            lines[at] = json.dumps(changed_document(prepare_document(json.loads(lines[at])), chance))
            return name, ("\n".join(lines) + "\n").encode()
        if path.suffix == ".safetensors":
            size = int.from_bytes(content[:8], "little")
            header = json.loads(content[8 : 8 + size])
            metadata = header["__metadata__"] = prepare_document(header.get("__metadata__", {}))
            inner = [key for key in metadata if metadata[key][:1] in "[{"]
            if inner and chance.random() < 0.7:
                metadata[inner[0]] = json.dumps(changed_document(json.loads(metadata[inner[0]]), chance))
            else:
                header = changed_document(header, chance)
            text = json.dumps(header).encode("utf-8", "surrogatepass")
            return name, len(text).to_bytes(8, "little") + text + content[8 + size :]
    except (ValueError, yaml.YAMLError, RecursionError):
        pass
    return None


@dataclass
class Outcomes:
    """What became of the mutants."""

    sound: Path
    counts: Counter[tuple[str, str]]
    slowest_s: float = 0.0
    last_path: str = ".lock"

    def run(self, name: str, mutant: str, content: bytes, expected: Any) -> str | None:
        """Read one mutant; what is wrong with the outcome, or None."""
        kind = KINDS[name]
        folder = self.sound.with_name("work")
        restore(self.sound, folder, self.last_path, kind.path)
        self.last_path = kind.path
        (folder / kind.path).write_bytes(content)
        messages = Messages()
        logger = logging.getLogger("alexnet")
        logger.addHandler(messages)
        start_s = time.monotonic()
        try:
            found = kind.read(folder)
            problem = None
            if same(found, expected):
                outcome = "noticed, and done without" if messages.lines else "no effect"
            elif kind.falls_back is not None and kind.falls_back(found, expected, bool(messages.lines)):
                outcome = "noticed, and done without"
            elif mutant == "edited" or not kind.has_checksum:
                outcome = "read, without checksum"
            else:
                outcome, problem = "WRONG", "it is read, and something else than was written"
        except (AlexNetError, UnreadableSample) as error:
            outcome, problem = "refused", None if str(error) and "\n" not in str(error) else f"message {error!r}"
        except Exception:
            outcome, problem = "TRACEBACK", traceback.format_exc()
        finally:
            logger.removeHandler(messages)
        seconds = time.monotonic() - start_s
        self.slowest_s = max(self.slowest_s, seconds)
        if seconds > MOST_S:
            problem = f"it takes {seconds:.0f} s"
        self.counts[name, outcome] += 1
        return problem


class Messages(logging.Handler):
    """Keeps the warnings."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def same(found: Any, expected: Any) -> bool:
    """Equality, but for unknown keys, such as that of a checksum whose name was damaged."""
    return repr(known_part(found, expected)) == repr(expected)


def known_part(found: Any, expected: Any) -> Any:
    if isinstance(found, dict) and isinstance(expected, dict):
        return {key: known_part(found[key], value) for key, value in expected.items() if key in found}
    if isinstance(found, list | tuple) and type(found) is type(expected) and len(found) == len(expected):
        return type(found)(known_part(*pair) for pair in zip(found, expected, strict=True))
    return found


def restore(sound: Path, folder: Path, *paths: str) -> None:
    """Make the parts of the working folder that hold these files as they were."""
    for name in {Path(path).parts[0] for path in paths}:
        if (folder / name).is_dir():
            shutil.rmtree(folder / name)
        (folder / name).unlink(missing_ok=True)
        if (sound / name).is_dir():
            shutil.copytree(sound / name, folder / name)
        elif (sound / name).is_file():
            shutil.copy(sound / name, folder / name)


def run_mutants(sound: Path, num: int) -> Outcomes:
    """Read mutants of all kinds in turn."""
    work = sound.with_name("work")
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(sound, work)
    outcomes = Outcomes(sound, Counter())
    expected = {}
    for name, kind in KINDS.items():
        expected[name] = kind.read(work)
        restore(sound, work, kind.path)
    before_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    problems = []
    names = list(KINDS)
    for number in range(num):
        name = names[number % len(names)]
        chance = random.Random(SEED + number)
        path = Path(KINDS[name].path)
        content = (sound / path).read_bytes()
        mutant = mutated_document(path, content, chance) if chance.random() < 0.5 else None
        how, changed = mutant or mutated_bytes(content, chance)
        if changed == content:
            outcomes.counts[name, "no effect"] += 1
        elif problem := outcomes.run(name, how, changed, expected[name]):
            problems.append(f"mutant {number} of {name} ({how}): {problem}")
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10) - before_bytes
    print(table(outcomes))
    print(f"{num:,} mutants; slowest {outcomes.slowest_s:.2f} s; peak memory grew by {grown / 2**20:.0f} MiB")
    assert not problems, f"{len(problems)} of {num}:\n" + "\n".join(problems[:12])
    assert grown < MOST_BYTES
    return outcomes


def table(outcomes: Outcomes) -> str:
    """Kinds by outcomes, as text."""
    columns = ["refused", "noticed, and done without", "no effect", "read, without checksum", "WRONG", "TRACEBACK"]
    lines = [f"{'kind':30}" + "".join(f"{column:>28}" for column in columns)]
    for name in KINDS:
        lines.append(f"{name:30}" + "".join(f"{outcomes.counts[name, column]:28,}" for column in columns))
    totals = [sum(num for (_, outcome), num in outcomes.counts.items() if outcome == column) for column in columns]
    return "\n".join([*lines, f"{'all':30}" + "".join(f"{num:28,}" for num in totals)])


def test_damaged_files_are_refused_or_without_effect(sound: Path) -> None:
    run_mutants(sound, NUM_DEFAULT)


@pytest.mark.slow
def test_thousands_of_damaged_files_are_refused_or_without_effect(sound: Path) -> None:
    run_mutants(sound, NUM_SLOW)


WRITERS = {
    "explore/activation_pca.py": ["features, principal components"],
    "data/preparation/commits.py": ["unfinished data set, cursor", "unfinished data set, record"],
    "data/preparation/finalize.py": ["dataset.json", "statistics.npz", "labels", "refused.jsonl", "skipped.jsonl"],
    "data/preparation/writers.py": ["images", "shard"],
    "evaluation/predictions.py": ["predictions"],
    "explore/feature_writer.py": ["features, features.json", "features, labels.npy", "unfinished features, cursor"],
    "model/weights.py": ["weights"],
    "baselines/estimator_files.py": ["baseline", "vocabulary"],
    "baselines/feature_cache.py": ["feature cache, cursor", "feature cache, rows"],
    "runs/folder.py": ["run.json", "recipe.yaml of a network", "events.jsonl", "evaluation", "proof.json"],
    "storage/staging.py": ["unfinished work, plan"],
    "training/checkpoint.py": ["checkpoint manifest", "checkpoint tensors"],
}
"""Kinds of the files that a module writes."""
NOT_READ = {
    "bench/loading_page.py": "a page",
    "bench/sample_photos.py": "photographs, which are a source",
    "data/data_set_layouts.py": "a source",
    "data/fetch.py": "a source",
    "data/file_download.py": "a note on a partial download, damaged in tests/data/test_file_download.py",
    "data/npm_cifar10.py": "a source",
    "data/shapes.py": "a source",
    "exchange/caffe_export.py": "an export, damaged in tests/exchange/test_caffe_model.py",
    "exchange/hub_export.py": "an export",
    "exchange/onnx_export.py": "an export",
    "exchange/program_export.py": "an export",
    "exchange/published_weights.py": "a description for people",
    "exchange/torchvision_export.py": "an export, damaged in tests/exchange/test_hostile_weights.py",
    "explore/picture_file.py": "a picture",
    "report/formatting.py": "a page",
}
"""Modules that write only what no reader of this package's own formats reads."""
DAMAGED_ELSEWHERE = {
    "baselines/gram_matrix.py": ("classifiers of an unfinished baseline", "baselines/test_linear_svm.py"),
    "baselines/svm_training.py": ("classifiers of an unfinished baseline", "baselines/test_linear_svm.py"),
    "explore/approximate_index.py": ("approximate index", "explore/test_approximate_index.py"),
    "explore/code_files.py": ("binary codes", "explore/test_binary_codes.py"),
}
"""Modules whose files are damaged in tests of their own: the name in docs/formats.md, and the tests."""
WRITE = re.compile(
    r"(?<!def )\b(write_(?:json|json_lines|sealed_json|text|bytes|chunks|tensors|sealed_tensors)|np\.savez?|tofile)\("
)


def test_every_kind_of_file_is_damaged_here() -> None:
    """A module that begins to write files belongs into one of the three lists, and its files into `KINDS`."""
    writing = {
        path.relative_to(SOURCES).as_posix()
        for path in SOURCES.rglob("*.py")
        if WRITE.search(path.read_text()) and path.parent.name != "storage"
    }
    assert writing - {"storage/staging.py"} <= WRITERS.keys() | NOT_READ.keys() | DAMAGED_ELSEWHERE.keys()
    assert {kind for kinds in WRITERS.values() for kind in kinds} <= KINDS.keys()
    table_of_formats = FORMATS_PAGE.read_text().partition("| what | file | version |")[2].partition("\n\n")[0]
    documented = {row.split("|")[1].strip() for row in table_of_formats.splitlines()[2:]}
    assert len(documented) >= 7
    assert documented == {kind.documented for kind in KINDS.values()} | {name for name, _ in DAMAGED_ELSEWHERE.values()}
    assert all("is damaged" in (TESTS / tests).read_text() for _, tests in DAMAGED_ELSEWHERE.values())
