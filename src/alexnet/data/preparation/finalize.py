"""The last step of a preparation: the pieces become one data set with its index, statistics and description.

It may be broken off and done again: everything it writes follows from the pieces.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet.data.dataset import (
    DESCRIPTION_FILE,
    DUPLICATES_FILE,
    FORMAT_VERSION,
    REFUSED_FILE,
    STATISTICS_FILE,
    data_checksum,
    split_file,
)
from alexnet.data.packed import PackedStrings
from alexnet.data.preparation.duplicates import duplicate_counts, duplicates_text, find_duplicates
from alexnet.data.preparation.staging import Stage
from alexnet.data.preparation.workers import Piece
from alexnet.data.preparation.writers import images_header
from alexnet.data.shards import shard_name
from alexnet.data.sources.listing import Listing, Source
from alexnet.errors import WorkError
from alexnet.storage.atomic import write_json, write_text

NUM_REASONS_TOLD = 3


def finish(stage: Stage, source: Source, pieces: Sequence[Piece], plan: Mapping[str, Any], max_refused: float) -> None:
    """Write everything but the images, which are there; the description comes last.

    Raises:
        WorkError: too many files were refused, or all of a split or of a training class; the stage is kept.
    """
    parts = [stage.part(number) for number in range(len(pieces))]
    refused_text = "".join(_refused_lines(source, pieces, parts))
    write_text(stage.folder / REFUSED_FILE, refused_text)
    num_refused = sum(len(part["refused"]) for part in parts)
    _require_few_refused(stage, num_refused, sum(map(len, pieces)), refused_text, max_refused)

    splits: dict[str, dict[str, Any]] = {}
    labels: dict[str, NDArray[np.int64]] = {}
    keys: dict[str, PackedStrings] = {}
    digests: dict[str, NDArray[np.uint8]] = {}
    for split, listing in source.splits.items():
        of_split = [part for piece, part in zip(pieces, parts, strict=True) if piece.split == split]
        numbers = np.concatenate([part["numbers"] for part in of_split])
        labels[split] = listing.labels[numbers].astype(np.int64)
        keys[split] = listing.keys.select(numbers)
        digests[split] = np.concatenate([part["digests"] for part in of_split])
        _require_images(split, labels[split], source)
        splits[split] = _write_split(stage, split, listing, of_split, labels[split], keys[split], digests[split], plan)
    side = int(plan["side"])
    statistics = stage.cursor(side).sums.statistics()
    with (stage.folder / STATISTICS_FILE).open("wb") as file:
        np.savez(
            file,
            mean_image=statistics.mean_image,
            covariance=statistics.covariance,
            eigenvalues=statistics.eigenvalues,
            eigenvectors=statistics.eigenvectors,
        )
    duplicates = list(find_duplicates(digests, labels))
    text = duplicates_text(duplicates, keys, source.class_ids, labels)
    write_text(stage.folder / DUPLICATES_FILE, text)
    checksums = {name: (facts["images_sha256"], facts["labels_sha256"]) for name, facts in splits.items()}
    write_json(
        stage.folder / DESCRIPTION_FILE,
        {
            "format_version": FORMAT_VERSION,
            "title": source.title,
            "generated": source.generated,
            "classes": [_class_facts(source, class_id) for class_id in source.class_ids],
            "splits": splits,
            "side": side,
            "store": plan["store"],
            "num_refused": num_refused,
            "duplicates": duplicate_counts(duplicates),
            "checksum": data_checksum(checksums, source.class_ids),
            "plan": dict(plan),
        },
    )


def _class_facts(source: Source, class_id: str) -> dict[str, Any]:
    """What dataset.json says of a class."""
    facts: dict[str, Any] = {"id": class_id, "name": source.class_names[class_id]}
    if class_id in source.class_numbers:
        facts["number"] = source.class_numbers[class_id]
    return facts


def _write_split(
    stage: Stage,
    split: str,
    listing: Listing,
    parts: Sequence[Mapping[str, NDArray[Any]]],
    labels: NDArray[np.int64],
    keys: PackedStrings,
    digests: NDArray[np.uint8],
    plan: Mapping[str, Any],
) -> dict[str, Any]:
    """Write one split's arrays; returns what dataset.json says of it."""
    arrays: dict[str, NDArray[Any]] = {
        "labels": labels,
        "keys": keys.content,
        "key-ends": keys.ends,
        "digests": digests,
        "sizes": np.concatenate([part["sizes"] for part in parts]),
    }
    facts: dict[str, Any] = {
        "count": len(labels),
        "listed": len(listing),
        "images_sha256": hashlib.sha256(digests.tobytes()).hexdigest(),
        "labels_sha256": hashlib.sha256(labels.astype("<i8").tobytes()).hexdigest(),
    }
    if plan["store"] == "jpeg":
        arrays["index"] = np.concatenate([part["index"] for part in parts])
        facts["shards"] = [
            {
                "file": shard_name(split, number),
                "count": len(part["numbers"]),
                "bytes": int(part["shard_bytes"]),
                "sha256": str(part["shard_sha256"]),
            }
            for number, part in enumerate(parts)
        ]
    else:
        with (stage.folder / split_file(split, "images")).open("r+b") as file:
            file.write(images_header(len(labels), int(plan["side"])))
    for content, array in arrays.items():
        with (stage.folder / split_file(split, content)).open("wb") as file:
            np.save(file, array)
    return facts


def _refused_lines(source: Source, pieces: Sequence[Piece], parts: Sequence[Mapping[str, NDArray[Any]]]) -> list[str]:
    """`refused.jsonl`: a JSON object a line."""
    lines = []
    for piece, part in zip(pieces, parts, strict=True):
        listing = source.splits[piece.split]
        reasons = json.loads(part["reasons"].tobytes())
        for number, reason in zip(part["refused"].tolist(), reasons, strict=True):
            facts = {
                "path": listing.keys[number],
                "split": piece.split,
                "class": source.class_ids[int(listing.labels[number])],
                "reason": reason,
            }
            lines.append(json.dumps(facts) + "\n")
    return lines


def _require_few_refused(stage: Stage, num_refused: int, num_files: int, refused_text: str, max_refused: float) -> None:
    """Refuse to make a data set of a pile that is mostly broken."""
    if num_refused <= max_refused * num_files:
        return
    first = [json.loads(line) for line in refused_text.splitlines()[:NUM_REASONS_TOLD]]
    examples = "; ".join(f"{one['path']}: {one['reason']}" for one in first)
    raise WorkError(
        f"{num_refused:,} of {num_files:,} files were refused ({num_refused / num_files:.1%}), more than "
        f"--max-refused {max_refused:g} allows; the first: {examples}. All are named in {stage.folder / REFUSED_FILE}. "
        "Mend or remove them and add --restart, or run the same command with a higher --max-refused"
    )


def _require_images(split: str, labels: NDArray[np.int64], source: Source) -> None:
    """Refuse a training class, or a whole split, of which nothing was readable."""
    if len(labels) == 0:
        raise WorkError(f"no image of the {split} split of {source.title} can be read; is it made of photographs?")
    counts = np.bincount(labels, minlength=len(source.class_ids))
    if split == "train" and not counts.all():
        raise WorkError(
            f"no training image of the class {source.class_ids[int(counts.argmin())]} of {source.title} can be read; "
            "replace its files or remove its folder, and add --restart"
        )
