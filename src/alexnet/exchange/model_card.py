"""The model card of an exported network: Markdown with front matter, as Hugging Face's hub shows it.

It says what the run folder records, and nothing else. Text of users, such as class names, is escaped, so that it is
shown as it is.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

import alexnet
from alexnet.data.decode import describe_fit
from alexnet.evaluation.predictions import describe_views, views_sort_key
from alexnet.model.weights import Trained
from alexnet.report.formatting import count_noun, format_percent
from alexnet.runs.folder import RunFolder
from alexnet.runs.import_recipe import SCALES, ImportRecipe
from alexnet.runs.overview import changes_of
from alexnet.runs.recipe import Recipe
from alexnet.runs.run_files import RunMetadata, StoredEvaluation, StoredProof
from alexnet.system.visible_text import visible

NUM_NAMES = 100
"""Classes that the card names; config.json has all."""
_MARKUP = re.compile(r"[#$&*<>@\[\\\]_`|~]|:(?=\S)|^[-+]|(?<=\d)[.)](?=\s|$)|(?<=www)\.", re.IGNORECASE)
_CITATION = """\
```bibtex
@inproceedings{krizhevsky2012imagenet,
  title     = {ImageNet Classification with Deep Convolutional Neural Networks},
  author    = {Krizhevsky, Alex and Sutskever, Ilya and Hinton, Geoffrey E.},
  booktitle = {Advances in Neural Information Processing Systems 25},
  year      = {2012}
}
```"""


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What a run folder records of a network."""

    metadata: RunMetadata
    evaluations: Mapping[str, StoredEvaluation]
    origin: Sequence[str]
    """Of the training, or of the import: a sentence each."""
    proof: StoredProof | None
    """Of an import."""

    def data_title(self, checksum: str) -> str | None:
        """The title of the data set with this checksum, if the run names it."""
        known = (self.metadata.get("data"), self.metadata.get("proved_on"))
        return next((data.get("title") for data in known if data and data["checksum"] == checksum), None)

    def sorted_evaluations(self) -> list[StoredEvaluation]:
        """By split and number of views."""
        return sorted(self.evaluations.values(), key=lambda one: (one["split"], views_sort_key(one["num_views"])))


def read_record(run: RunFolder) -> RunRecord:
    """What the card needs of a run folder.

    Raises:
        DamagedFile: a file of the run is damaged.
    """
    metadata, recipe = run.metadata(), run.any_recipe()
    origin = _import_origin(recipe) if isinstance(recipe, ImportRecipe) else _training_origin(run.recipe(), metadata)
    return RunRecord(metadata=metadata, evaluations=run.evaluations(), origin=origin, proof=run.proof())


def _training_origin(recipe: Recipe, metadata: RunMetadata) -> list[str]:
    schedule, optimizer = recipe.schedule, recipe.optimizer
    epochs = "" if schedule.kind == "stages" else f"{count_noun(schedule.epochs, 'epoch')}, "
    lines = [
        f"Recipe {escaped(recipe.name)}: {epochs}batches of {optimizer.batch_size}, "
        f"optimizer {optimizer.kind}, learning rate {optimizer.learning_rate:g} ({schedule.kind}), "
        f"momentum {optimizer.momentum:g}, weight decay {optimizer.weight_decay:g}, seed {recipe.training.seed}."
    ]
    if changes := [one for one in changes_of(recipe) if not one.startswith("network.")]:
        lines.append(f"Settings that differ from the recipe of that name: {escaped(', '.join(changes))}.")
    if data := metadata.get("data"):
        splits = ", ".join(f"{escaped(name)} {count:,}" for name, count in data.get("splits", {}).items())
        title = escaped(data["title"]) if "title" in data else "a data set without a title"
        images = f" (images: {splits})" if splits else ""
        lines.insert(0, f"Data: {title}{images}, checksum {escaped(data['checksum'][:12])}.")
    if metadata.get("copied_layers"):
        lines.append(f"It began with layers of another run: {escaped(', '.join(metadata['copied_layers']))}.")
    duration, machine = metadata.get("duration_s"), metadata.get("machine") or {}
    if duration is not None:
        where = (
            f" on {machine['cores']} cores of {escaped(str(machine.get('processor')))}" if "cores" in machine else ""
        )
        lines.append(f"Training took {duration:,.0f} s{where}.")
    return [*lines, *_version_lines(metadata)]


def _import_origin(recipe: ImportRecipe) -> list[str]:
    file, read = recipe.imported, recipe.input
    mean = "a mean image" if read.has_mean_image else f"the color ({', '.join(f'{one:g}' for one in read.mean)})"
    return [
        f"Imported from the file {escaped(file.name)}, {escaped(file.format)}: {file.size_bytes:,} bytes, "
        f"SHA-256 {escaped(file.sha256)}. How it was trained is not recorded.",
        _CLASSES_FROM[recipe.network.classes_from],
        f"The file's network reads {read.color_order.upper()}, {SCALES[read.scale]}, minus {mean}; this one reads RGB. "
        f"{_convention_origin(recipe)}",
    ]


_CLASSES_FROM = {
    "file": "The file names the classes.",
    "options": "The file's classes were named when it was imported.",
    "imagenet": "The file does not name its classes; as there are 1,000, those of ILSVRC-2012 were assumed.",
    "numbers": "The file does not name its classes, so they are numbered.",
    "none": "The network does not score classes.",
}


def _convention_origin(recipe: ImportRecipe) -> str:
    read = recipe.input
    origin = {
        "file": "The file says so.",
        "options": "This was said when it was imported.",
        "variant": f"The file does not say so: it is what networks of variant {recipe.network.variant!r} usually read.",
        "images": "The file does not say so: this has the lowest error on the images of the proof.",
    }[read.convention_from]
    return f"{', '.join(read.given)} was given when it was imported. Of the rest: {origin}" if read.given else origin


def _version_lines(metadata: RunMetadata) -> list[str]:
    lines = []
    if versions := metadata.get("versions"):
        lines.append(f"Versions: {', '.join(f'{escaped(name)} {escaped(text)}' for name, text in versions.items())}.")
    if commit := metadata.get("commit"):
        lines.append(f"Commit of alexnet: {escaped(commit)}.")
    return lines


def model_card(trained: Trained, name: str, record: RunRecord | None) -> str:
    """The card as Markdown.

    Args:
        name: of the model.
        record: None of a network that is not in a run folder.
    """
    parts = [
        f"---\n{yaml.safe_dump(_front_matter(trained, name, record), sort_keys=False, allow_unicode=True)}---",
        f"# {escaped(name)}",
        _summary(trained, record),
        "## Results",
        _results(record),
        "## How to use it",
        _usage(trained),
        "## Preprocessing",
        _preprocessing(trained),
        "## Origin of the weights",
        _origin(record),
        "## Limits",
        _limits(record),
        "## Classes",
        _class_names(trained),
        "## Citation",
        _CITATION,
    ]
    return "\n\n".join(parts) + "\n"


def escaped(text: str) -> str:
    """Text that Markdown shows as it is: one line, every sign that could mean something behind a backslash."""
    return _MARKUP.sub(r"\\\g<0>", visible(text))


def _front_matter(trained: Trained, name: str, record: RunRecord | None) -> dict[str, Any]:
    data = record.metadata.get("data", {}) if record else {"title": trained.title}
    identifier = _identifier(data.get("title", ""))
    results = [_model_index_entry(record, one) for one in record.sorted_evaluations()] if record else []
    return {
        "license": "unknown",  # a run does not record one
        "library_name": "alexnet",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "alexnet", f"alexnet-{trained.network.variant}"],
        **({"datasets": [identifier]} if identifier else {}),
        **({"metrics": ["accuracy"], "model-index": [{"name": visible(name), "results": results}]} if results else {}),
    }


def _model_index_entry(record: RunRecord, evaluation: StoredEvaluation) -> dict[str, Any]:
    name = _data_name(record, evaluation)
    return {
        "task": {"type": "image-classification", "name": "image classification"},
        "dataset": {"name": name, "type": _identifier(name) or "custom", "split": visible(evaluation["split"])},
        "metrics": [_accuracy(evaluation, "top1", "top-1"), _accuracy(evaluation, "top5", "top-5")],
    }


def _identifier(title: str) -> str | None:
    """The title, if it may be the identifier of a data set on the hub."""
    return title if re.fullmatch(r"[\w.-]{1,96}", title, re.ASCII) else None


def _accuracy(evaluation: StoredEvaluation, key: str, label: str) -> dict[str, Any]:
    error, (low, high) = evaluation[f"{key}_error"], evaluation[f"{key}_interval"]  # type: ignore[literal-required]
    views = describe_views(evaluation["num_views"])
    interval = f"{100 * (1 - high):.2f} to {100 * (1 - low):.2f}"
    return {
        "type": "accuracy",
        "value": round(100 * (1 - error), 2),
        "name": f"{label} accuracy, {views}, percent (95 % interval {interval})",
    }


def _data_name(record: RunRecord, evaluation: StoredEvaluation) -> str:
    title = record.data_title(evaluation["data_checksum"])
    return f"data set with checksum {evaluation['data_checksum'][:12]}" if title is None else visible(title)


def _summary(trained: Trained, record: RunRecord | None) -> str:
    network = trained.network
    parameters = sum(one.numel() for one in network.parameters())
    sentences = [
        f"AlexNet, variant `{network.variant}` ({network.spec.source}), width {network.width:g}: "
        f"{count_noun(parameters, 'parameter')}, {count_noun(len(trained.classes), 'class')}. "
        f"It was written by alexnet {alexnet.__version__}."
    ]
    if trained.untrained_seed is not None:
        sentences.append(f"**The network is untrained: its weights are random, of seed {trained.untrained_seed}.**")
    if trained.generated:
        sentences.append("Its training images were generated by a program; they are not photographs.")
    if record and record.metadata["state"] != "finished":
        sentences.append(f"**The training has not finished: the run is {record.metadata['state']}.**")
    return " ".join(sentences)


def _results(record: RunRecord | None) -> str:
    if record is None:
        return "The network was exported without a run folder, so no evaluation is recorded."
    if not record.evaluations:
        return "The run has no stored evaluation."
    rows = [
        "| data | split | views | images | top-1 error | top-5 error |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for one in record.sorted_evaluations():
        cells = [
            escaped(_data_name(record, one)),
            escaped(one["split"]),
            str(one["num_views"]),
            f"{one['num_images']:,}",
            _error_text(one["top1_error"], one["top1_interval"]),
            _error_text(one["top5_error"], one["top5_interval"]),
        ]
        rows.append(f"| {' | '.join(cells)} |")
    rows += [
        "",
        "Ranges are 95 % Wilson intervals over the images. With several views, their probabilities are averaged.",
    ]
    return "\n".join(rows)


def _error_text(error: float, interval: Sequence[float]) -> str:
    low, high = interval
    return f"{format_percent(error)} ({100 * low:.2f} to {100 * high:.2f})"


def _usage(trained: Trained) -> str:
    return f"""\
`model.safetensors` is a weights file of the package alexnet, with class names, mean image and preprocessing inside:

```python
import alexnet

predictions = alexnet.predict("model.safetensors", "photo.jpg")
network = alexnet.load("model.safetensors").network  # (N, 3, {trained.crop}, {trained.crop}) -> scores
```

`safetensors.torch.load_file` reads its tensors, named after the layers. `config.json` has the keys of timm's
configurations and describes every layer, with the sizes of width 1; timm and transformers themselves have no such
network."""


def _preprocessing(trained: Trained) -> str:
    square = describe_fit(trained.fit, trained.side)
    steps = [
        f"{square[:1].upper()}{square[1:]}.",
        f"The central {trained.crop} x {trained.crop} pixels are taken.",
        "From it, the center of the mean image (`mean_image` in `model.safetensors`, 0..255) is subtracted.",
    ]
    if trained.network.spec.input_scale != 1:
        steps.append("The network itself multiplies the differences by a factor, `input_scale` in `config.json`.")
    steps.append("Colors are RGB. Resizing is bilinear with antialiasing.")
    return "\n".join(f"{number}. {step}" for number, step in enumerate(steps, 1))


def _origin(record: RunRecord | None) -> str:
    if record is None:
        return "The network was exported without a run folder, so its training is not recorded."
    lines = "\n".join(f"- {line}" for line in record.origin)
    if record.proof is None:
        return lines
    findings = "\n".join(f"- {escaped(one['text'])}" for one in record.proof["findings"])
    checked = "Whether the weights are what they claim to be was checked when they were imported: "
    verdict = f"{checked}**{record.proof['status']}**. {escaped(record.proof['verdict'])}"
    return f"{lines}\n\n{verdict}\n\n{findings}".rstrip()


def _limits(record: RunRecord | None) -> str:
    lines = [
        "The network names one of its classes for every image, even if it shows something else.",
        "The license is not recorded; set `license` in the front matter before publishing.",
    ]
    if record is None:
        return "\n".join(f"- {line}" for line in lines)
    if (data := record.metadata.get("data")) and (leaks := data.get("leaks")):
        lines.append(f"{count_noun(leaks, 'image')} of the evaluation splits are also among the training images.")
    if evaluations := record.sorted_evaluations():
        lines.append("The errors above are those on the images named there; on other images they may be higher.")
        lines += _class_limits(evaluations[0])
    return "\n".join(f"- {line}" for line in lines)


def _class_limits(evaluation: StoredEvaluation) -> list[str]:
    """How unlike the classes are, and how far probabilities can be trusted."""
    views = describe_views(evaluation["num_views"])
    measured = [(one["top1_error"], one["name"]) for one in evaluation["per_class"] if one["top1_error"] is not None]
    lines = []
    if len(measured) > 1:
        (best, best_name), (worst, worst_name) = min(measured), max(measured)
        lines.append(
            f"Classes differ: with {views}, the top-1 error is {format_percent(best, 1)} for {escaped(best_name)} and "
            f"{format_percent(worst, 1)} for {escaped(worst_name)}."
        )
    if calibration := evaluation.get("calibration"):
        lines.append(
            f"Probabilities are not frequencies: with {views}, the expected calibration error is "
            f"{format_percent(calibration['expected_error'], 1)}."
        )
    return lines


def _class_names(trained: Trained) -> str:
    names = ", ".join(escaped(one.name) for one in trained.classes[:NUM_NAMES])
    more = len(trained.classes) - NUM_NAMES
    return f"{names}, and {more:,} more in `config.json`." if more > 0 else f"{names}."
