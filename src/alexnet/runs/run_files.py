"""What run.json, events.jsonl and the files of evaluations hold, as their readers check it.

Keys that are not listed are allowed: versions differ in what they record.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NotRequired, TypedDict

from msgspec import Meta

from alexnet.storage.typed_files import Count, FileName, Finite, Fraction, Size

State = Literal["running", "interrupted", "failed", "finished"]
Seconds = Annotated[float, Meta(ge=0, le=1e12)]
Loss = float | str | None
"""A diverged training's may be infinite or NaN: a number of JSON as Python writes it, or text."""
Interval = Annotated[list[Fraction], Meta(min_length=2, max_length=2)]


class RunData(TypedDict):
    """The data that a run was trained on."""

    checksum: str
    folders: NotRequired[Annotated[list[FileName], Meta(min_length=1)]]
    folder: NotRequired[FileName]
    """In runs of earlier versions, instead of `folders`."""
    title: NotRequired[str]
    generated: NotRequired[bool]
    side: NotRequired[Size]
    fit: NotRequired[Literal["crop", "pad", "squash"]]
    """In runs on data sets that were not cropped."""
    num_classes: NotRequired[Size]
    splits: NotRequired[dict[str, Count]]
    leaks: NotRequired[Count | None]


class RunMetadata(TypedDict):
    """run.json."""

    format_version: int
    name: str
    state: State
    started: str
    finished: str | None
    data: NotRequired[RunData]
    commit: NotRequired[str | None]
    machine: NotRequired[dict[str, Any]]
    versions: NotRequired[dict[str, str]]
    seed: NotRequired[int]
    start_from: NotRequired[FileName | None]
    copied_layers: NotRequired[list[str]]
    parameters: NotRequired[Count]
    num_steps: NotRequired[Size]
    processes: NotRequired[Size]
    columns: NotRequired[Size]
    replicas: NotRequired[Size]
    duration_s: NotRequired[Seconds | None]
    cpu_s: NotRequired[Seconds | None]
    peak_anonymous_bytes: NotRequired[Count | None]
    unreadable_images: NotRequired[Count]
    features: NotRequired[FileName]
    baseline: NotRequired[str]
    classifier_c: NotRequired[Annotated[float, Meta(gt=0)]]
    """Of a baseline with support vector machines: C, as given or chosen."""
    proved_on: NotRequired[RunData | None]
    """Of an imported network: the data set on which the import measured it."""
    request: NotRequired[dict[str, Any]]
    """Of an imported network: what the import was asked for."""
    notes: NotRequired[list[str]]
    """Of an imported network: what its user should know, one sentence each."""


class AnyEvent(TypedDict):
    """A line of events.jsonl; `EVENTS` has what kinds of events must hold besides."""

    event: str
    time: NotRequired[str]
    step: NotRequired[Count]
    epoch: NotRequired[Seconds]
    elapsed_s: NotRequired[Seconds]
    loss: NotRequired[Loss]
    top1_error: NotRequired[Fraction]
    device: NotRequired[str]


class _StepEvent(TypedDict):
    step: Count
    epoch: Seconds
    loss: float
    elapsed_s: Seconds


class _EpochEvent(TypedDict):
    epoch: Seconds
    train_loss: float
    train_top1_error: Fraction


class _ValidationEvent(TypedDict):
    epoch: Seconds
    split: str
    loss: float
    top1_error: Fraction
    top5_error: Fraction
    num_images: NotRequired[Size]


class _UnreadableEvent(TypedDict):
    sample: Count


EVENTS: Mapping[str, type] = {
    "step": _StepEvent,
    "epoch": _EpochEvent,
    "validation": _ValidationEvent,
    "unreadable": _UnreadableEvent,
}


class _Bin(TypedDict):
    low: Fraction
    high: Fraction
    num_images: Size
    confidence: Finite
    accuracy: Fraction


class _Calibration(TypedDict):
    expected_error: Fraction
    bins: list[_Bin]


class ClassErrors(TypedDict):
    """The errors of one class."""

    id: str
    name: str
    num_images: Count
    top1_error: Fraction | None


class ConfusedPair(TypedDict):
    """Images of one class that were taken for another."""

    true: str
    predicted: str
    num_images: Size


class StoredEvaluation(TypedDict):
    """A file in `evaluations/`; metrics that a later version added may be missing."""

    split: str
    num_views: Size | Literal["dense"]
    num_images: Size
    num_classes: Size
    top1_error: Fraction
    top1_interval: Interval
    top5_error: Fraction
    top5_interval: Interval
    loss: Finite
    data_checksum: str
    per_class: list[ClassErrors]
    confused_pairs: list[ConfusedPair]
    run: NotRequired[str]
    classes_absent: NotRequired[Count]
    mean_class_accuracy: NotRequired[Fraction]
    calibration: NotRequired[_Calibration]
    images_per_second: NotRequired[Annotated[float, Meta(ge=0, le=1e12)] | None]


class StoredFinding(TypedDict):
    """A sentence of a proof, and whether it speaks for or against what the weights claim to be."""

    kind: str
    stance: Literal["for", "against", "neither"]
    text: str


class StoredLayerProof(TypedDict):
    """What a proof found of one layer. Figures are null where the weights are broken or all equal."""

    name: str
    file_name: str
    shape: list[Size]
    verdict: Literal["trained", "random", "shuffled", "constant", "broken", "undecided"]
    distribution: str
    std: Finite | None
    excess_kurtosis: Finite | None
    top_singular_value: Finite | None
    unit_spread: Finite | None
    input_spread: Finite | None
    smoothness: Finite | None
    kernel_sums: Finite | None
    biases: str
    dead_units: Count
    duplicate_units: Count
    dead_inputs: Count
    is_needed: bool | None
    silent_channels: Count | None


class StoredCombination(TypedDict):
    """Errors of the network where it reads pixels in one way; the p-value compares with the claimed way."""

    color_order: Literal["rgb", "bgr"]
    scale: Literal["255", "1", "imagenet", "variant"]
    mean: Literal["claimed", "none", "data set"]
    layout: str
    is_claimed: bool
    top1_error: Fraction
    top1_interval: Interval
    top5_error: Fraction
    top5_interval: Interval
    p_value: Fraction | None


class StoredSample(TypedDict):
    """The images that combinations were measured on."""

    data_checksum: str
    title: str
    split: str
    num_images: Size
    num_gray: Count
    num_classes: Size


class StoredMovedClass(TypedDict):
    """A class whose images the network takes for another one, as if that were its name."""

    id: str
    name: str
    read_as_id: str
    read_as_name: str
    num_images: Size
    num_read: Size


class StoredProof(TypedDict):
    """proof.json: whether imported weights are what they claim to be."""

    format_version: int
    status: Literal["plausible", "contradicted", "undecided"]
    verdict: str
    findings: list[StoredFinding]
    layers: Annotated[list[StoredLayerProof], Meta(min_length=1)]
    sample: StoredSample | None
    combinations: list[StoredCombination]
    moved_classes: list[StoredMovedClass]


def inconsistency(evaluation: StoredEvaluation) -> str | None:
    """What does not fit together in an evaluation; None if all does."""
    classes = {one["id"]: one["num_images"] for one in evaluation["per_class"]}
    if len(classes) != evaluation["num_classes"] or sum(classes.values()) != evaluation["num_images"]:
        return "per_class: it does not have the images and classes that num_images and num_classes count"
    for one in evaluation["per_class"]:
        if (one["top1_error"] is None) != (one["num_images"] == 0):
            return f"per_class: {one['id']} has {one['num_images']} images and top1_error {one['top1_error']}"
    wrong = sum((one["top1_error"] or 0.0) * one["num_images"] for one in evaluation["per_class"])
    if abs(wrong / evaluation["num_images"] - evaluation["top1_error"]) > 1e-6:
        return (
            f"top1_error: it is {evaluation['top1_error']}, and that of per_class is {wrong / evaluation['num_images']}"
        )
    for pair in evaluation["confused_pairs"]:
        if classes.get(pair["true"], 0) < pair["num_images"] or pair["predicted"] not in classes:
            return f"confused_pairs: {pair['true']} and {pair['predicted']} are not classes with so many images"
    return None
