"""Prepared data sets written, and changed, by hand from the format's description (docs/formats.md)."""

import contextlib
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alexnet.storage.typed_files import SEAL, sealed

SIDE = 4


def digest_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def write_prepared(
    folder: Path,
    splits: dict[str, int],
    version: int = 3,
    title: str = "tiny",
    classes: Sequence[tuple[str, str]] = (("a", "first"), ("b", "second")),
    seed: int = 0,
    side: int = SIDE,
) -> None:
    """A tiny data set of random images; classes follow each other."""
    folder.mkdir()
    described: dict[str, dict[str, object]] = {}
    for name, count in splits.items():
        images = np.random.default_rng([seed, count]).integers(0, 256, (count, side, side, 3), dtype=np.uint8)
        labels = np.arange(count, dtype=np.int64) % len(classes)
        digests = b"".join(hashlib.sha256(image.tobytes()).digest()[:16] for image in images)
        np.save(folder / f"{name}-images.npy", images)
        np.save(folder / f"{name}-labels.npy", labels)
        keys = [f"{name}/é/{i}".encode() for i in range(count)]
        np.save(folder / f"{name}-keys.npy", np.frombuffer(b"".join(keys), np.uint8))
        np.save(folder / f"{name}-key-ends.npy", np.cumsum([len(key) for key in keys]))
        np.save(folder / f"{name}-sizes.npy", np.full((count, 2), 9, np.int32))
        np.save(folder / f"{name}-digests.npy", np.frombuffer(digests, np.uint8).reshape(-1, 16))
        described[name] = {
            "count": count,
            "listed": count,
            "images_sha256": digest_of(digests),
            "labels_sha256": digest_of(labels.tobytes()),
        }
    np.savez(
        folder / "statistics.npz",
        mean_image=np.zeros((side, side, 3), np.float32),
        covariance=np.eye(3),
        eigenvalues=np.ones(3),
        eigenvectors=np.eye(3),
    )
    description = {
        "format_version": version,
        "title": title,
        "generated": True,
        "classes": [{"id": one, "name": name} for one, name in classes],
        "splits": described,
        "side": side,
        "store": "pixels",
        "num_refused": 0,
        "duplicates": {},
        "plan": {
            "source": "photographs",
            "kind": "folders",
            "source_sha256": "0" * 64,
            "side": side,
            "store": "pixels",
            "hold_out": 0.0,
            "seed": 0,
            "exif": "apply",
            "made_with": {},
        },
    }
    write_description(folder, description)


def write_description(folder: Path, description: dict[str, Any]) -> None:
    """Write dataset.json with checksums of what is in the folder; version 2 has only those of images and labels."""
    lines = [
        f"{name} {one['images_sha256']} {one['labels_sha256']}" for name, one in sorted(description["splits"].items())
    ]
    checksum = digest_of("\n".join([*lines, *(one["id"] for one in description["classes"])]).encode())
    whole = {**description, "checksum": checksum}
    if description["format_version"] == 3:
        whole["files"] = {
            path.name: {"bytes": path.stat().st_size, "sha256": digest_of(path.read_bytes())}
            for path in folder.glob("*.np*")
            if not path.name.endswith("-images.npy")
        }
        whole = sealed(whole)
    (folder / "dataset.json").write_text(json.dumps(whole))


def redescribe(folder: Path, **changes: Any) -> None:
    """Change keys of dataset.json, and write the checksums of what is in the folder now, whatever it is."""
    description = json.loads((folder / "dataset.json").read_text())
    for key in ("files", SEAL, "checksum"):
        description.pop(key, None)
    description |= changes
    for name, one in description["splits"].items():
        with contextlib.suppress(Exception):  # whatever NumPy raises for what is no array
            one["labels_sha256"] = digest_of(np.load(folder / f"{name}-labels.npy").tobytes())
    write_description(folder, description)
