"""The last step of a preparation: index, statistics and description complete the chunks to a data set.

It may be interrupted and repeated: everything it writes follows from the committed chunks.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet.data.dataset import DUPLICATES_FILE, REFUSED_FILE, SKIPPED_FILE, UNLABELED, Statistics
from alexnet.data.dataset_files import FORMAT_VERSION, NO_LABEL, STATISTICS_FILE, data_checksum, split_file
from alexnet.data.packed import PackedStrings
from alexnet.data.preparation.commits import Commits
from alexnet.data.preparation.duplicates import class_id_of, describe_duplicates, duplicate_counts, find_duplicates
from alexnet.data.preparation.workers import Chunk
from alexnet.data.preparation.writers import images_header
from alexnet.data.shards import shard_name
from alexnet.data.sources.listing import Source
from alexnet.errors import WorkError
from alexnet.storage.atomic import write_json_lines
from alexnet.storage.checksums import file_digest
from alexnet.storage.staging import Staging
from alexnet.storage.typed_files import write_sealed_json

NUM_EXAMPLES = 3
"""Reasons of refused files that an error message quotes."""

_ARRAYS = ("labels", "keys", "key-ends", "digests", "sizes", "index")
"""Files of a split besides its images; `index` of shards only."""
Record = Mapping[str, NDArray[Any]]
"""Of a chunk, see `ChunkWriter.record`."""


@dataclass(frozen=True, eq=False)
class _StoredSplit:
    """The images of a split that were stored, (N,), in the order of the listing."""

    num_listed: int
    records: Sequence[Record]
    """Of its chunks."""
    labels: NDArray[np.int64]
    keys: PackedStrings
    digests: NDArray[np.uint8]
    """(N, 16)."""


def finalize(
    staging: Staging,
    source: Source,
    chunks: Sequence[Chunk],
    commits: Commits,
    plan: Mapping[str, Any],
    max_refused: float,
) -> None:
    """Write everything except the images, which are written already; the description comes last.

    Raises:
        WorkError: too many files were refused, or all of a split or of a training class; the work is kept.
    """
    folder = staging.folder
    records = [commits.record(index) for index in range(len(chunks))]
    refused = list(_refused_files(source, chunks, records))
    write_json_lines(folder / REFUSED_FILE, refused)
    with (folder / SKIPPED_FILE).open("w", encoding="ascii") as lines:  # there may be as many as images
        for name, reason in source.skipped:
            lines.write(json.dumps({"path": name, "reason": reason}) + "\n")
    _require_few_refused(folder, refused, sum(map(len, chunks)), max_refused)

    splits = _stored_splits(folder, source, chunks, records)
    described = {name: _write_split(folder, name, split, plan) for name, split in splits.items()}
    _write_statistics(folder / STATISTICS_FILE, commits.color_sums.statistics())
    labels = {name: split.labels for name, split in splits.items()}
    keys = {name: split.keys for name, split in splits.items()}
    duplicates = list(find_duplicates({name: split.digests for name, split in splits.items()}, labels))
    write_json_lines(folder / DUPLICATES_FILE, describe_duplicates(duplicates, keys, source.class_ids, labels))
    # Chunks of older versions have no record of it.
    deep = np.concatenate([record.get("deep", np.zeros(0, np.bool_)) for record in records])
    checksums = {name: (split["images_sha256"], split["labels_sha256"]) for name, split in described.items()}
    write_sealed_json(
        staging.description_path,
        {
            "format_version": FORMAT_VERSION,
            "title": source.title,
            "generated": source.generated,
            "classes": [_described_class(source, class_id) for class_id in source.class_ids],
            "splits": described,
            "side": plan["side"],
            "store": plan["store"],
            "num_refused": len(refused),
            "num_skipped": len(source.skipped),
            "num_16_bit": len(deep),
            "num_12_in_16_bit": int(deep.sum()),
            "duplicates": duplicate_counts(duplicates),
            "checksum": data_checksum(checksums, source.class_ids),
            "plan": dict(plan),
            "files": _described_files(folder, splits),
        },
    )


def _stored_splits(
    folder: Path, source: Source, chunks: Sequence[Chunk], records: Sequence[Record]
) -> dict[str, _StoredSplit]:
    """The splits that have images; files of the split `UNLABELED` are removed if all its images were refused."""
    splits: dict[str, _StoredSplit] = {}
    for name, listing in source.splits.items():
        own = [record for chunk, record in zip(chunks, records, strict=True) if chunk.split == name]
        numbers = np.concatenate([record["numbers"] for record in own])
        labels = listing.labels[numbers].astype(np.int64)
        if name == UNLABELED and not len(labels):  # nobody depends on these images
            for path in folder.glob(f"{UNLABELED}-*"):
                path.unlink()
            continue
        _require_images(name, labels, source)
        digests = np.concatenate([record["digests"] for record in own])
        splits[name] = _StoredSplit(len(listing), own, labels, listing.keys.select(numbers), digests)
    return splits


def _write_statistics(path: Path, statistics: Statistics) -> None:
    with path.open("wb") as file:
        np.savez(
            file,
            mean_image=statistics.mean_image,
            covariance=statistics.covariance,
            eigenvalues=statistics.eigenvalues,
            eigenvectors=statistics.eigenvectors,
        )


def _described_files(folder: Path, splits: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Size and checksum of each file but the images, which have their own, and the description."""
    arrays = [split_file(split, content) for split in splits for content in _ARRAYS]
    names = [name for name in arrays if (folder / name).exists()]
    return {
        name: {"bytes": (folder / name).stat().st_size, "sha256": file_digest(folder / name)}
        for name in (*names, STATISTICS_FILE, REFUSED_FILE, SKIPPED_FILE, DUPLICATES_FILE)
    }


def _described_class(source: Source, class_id: str) -> dict[str, Any]:
    """The entry of a class in dataset.json; only classes of a competition's kit have a number."""
    described: dict[str, Any] = {"id": class_id, "name": source.class_names[class_id]}
    if class_id in source.class_numbers:
        described["number"] = source.class_numbers[class_id]
    return described


def _write_split(folder: Path, name: str, split: _StoredSplit, plan: Mapping[str, Any]) -> dict[str, Any]:
    """Write the arrays of a split, and return its entry in dataset.json."""
    arrays: dict[str, NDArray[Any]] = {
        "labels": split.labels,
        "keys": split.keys.content,
        "key-ends": split.keys.ends,
        "digests": split.digests,
        "sizes": np.concatenate([record["sizes"] for record in split.records]),
    }
    described: dict[str, Any] = {
        "count": len(split.labels),
        "listed": split.num_listed,
        "images_sha256": hashlib.sha256(split.digests.tobytes()).hexdigest(),
        "labels_sha256": hashlib.sha256(split.labels.astype("<i8").tobytes()).hexdigest(),
    }
    if plan["store"] == "jpeg":
        arrays["index"] = np.concatenate([record["index"] for record in split.records])
        described["shards"] = [
            {
                "file": shard_name(name, number),
                "count": len(record["numbers"]),
                "bytes": int(record["shard_bytes"]),
                "sha256": str(record["shard_sha256"]),
            }
            for number, record in enumerate(split.records)
        ]
    else:
        with (folder / split_file(name, "images")).open("r+b") as file:
            file.write(images_header(len(split.labels), int(plan["side"])))
    for content, array in arrays.items():
        with (folder / split_file(name, content)).open("wb") as file:
            np.save(file, array)
    return described


def _refused_files(source: Source, chunks: Sequence[Chunk], records: Sequence[Record]) -> Iterator[dict[str, str]]:
    """The lines of `refused.jsonl`."""
    for chunk, record in zip(chunks, records, strict=True):
        listing = source.splits[chunk.split]
        reasons = json.loads(record["reasons"].tobytes())
        for number, reason in zip(record["refused"].tolist(), reasons, strict=True):
            yield {
                "path": listing.keys[number],
                "split": chunk.split,
                "class": class_id_of(source.class_ids, int(listing.labels[number])),
                "reason": reason,
            }


def _require_few_refused(
    folder: Path, refused: Sequence[Mapping[str, str]], num_files: int, max_refused: float
) -> None:
    """Refuse a source of which too many files are broken."""
    num_refused = len(refused)
    if num_refused <= max_refused * num_files:
        return
    examples = "; ".join(f"{one['path']}: {one['reason']}" for one in refused[:NUM_EXAMPLES])
    raise WorkError(
        f"{num_refused:,} of {num_files:,} files were refused ({num_refused / num_files:.1%}), more than "
        f"--max-refused {max_refused:g} allows; the first: {examples}. {folder / REFUSED_FILE} lists all. "
        "Fix or delete them and add --restart, or rerun the same command with a higher --max-refused"
    )


def _require_images(split: str, labels: NDArray[np.int64], source: Source) -> None:
    """Refuse a split, or a training class, without any readable image."""
    if len(labels) == 0:
        raise WorkError(f"no image of the {split} split of {source.title} can be read; are its files photographs?")
    counts = np.bincount(labels[labels != NO_LABEL], minlength=len(source.class_ids))
    if split == "train" and not counts.all():
        raise WorkError(
            f"no training image of the class {source.class_ids[int(counts.argmin())]} of {source.title} can be read; "
            "replace its files or remove its folder, and add --restart"
        )
