"""An import: the file is read, converted, proved, and written as a run folder that other commands work with."""

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from alexnet.data.concatenated import open_data
from alexnet.data.dataset import PreparedData
from alexnet.data.decode import Fit
from alexnet.errors import AlexNetError, RequestError
from alexnet.evaluation.run_evaluation import remap_classes
from alexnet.exchange.convention_proof import Combination
from alexnet.exchange.foreign_network import ColorOrder, InputScale
from alexnet.exchange.import_choices import GivenClasses, GivenMean, ImportChoices, checked_choices
from alexnet.exchange.proof import NUM_IMAGES, Proof, prove
from alexnet.exchange.readers import read_foreign
from alexnet.exchange.weights_import import Conversion, convert
from alexnet.model.weights import save_trained
from alexnet.runs.folder import RunFolder, utc_now
from alexnet.runs.import_recipe import SCALES, ImportedFile, ImportRecipe
from alexnet.runs.recipe_file import recipe_differences
from alexnet.storage.arguments import is_whole
from alexnet.storage.atomic import PARTIAL, raise_if_full
from alexnet.storage.checksums import file_digest
from alexnet.storage.paths import StrPath, StrPaths, as_path, as_paths, described
from alexnet.storage.read_errors import raise_unless_damage
from alexnet.system.machine import machine_summary, source_commit, versions
from alexnet.system.progress import ShowProgress, lines_shown
from alexnet.system.visible_text import shell_words

_logger = logging.getLogger(__name__)


_FILES = ("weights.safetensors", "proof.json", "run.json", "recipe.yaml")
"""What an import writes, in the order in which it is removed: a run folder without recipe.yaml is damaged."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Request:
    """What an import is asked for."""

    path: Path
    run_path: Path
    choices: ImportChoices
    data: PreparedData | None
    data_folders: Sequence[Path]
    num_images: int
    words: Sequence[object]
    """The options as given, for a command."""

    def to_dict(self) -> dict[str, Any]:
        """Tells the same request from others, in run.json."""
        choices = self.choices
        return {
            "variant": choices.variant,
            "classes": None if choices.classes is None else _digest([[one.id, one.name] for one in choices.classes]),
            "color_order": choices.color_order,
            "input_scale": choices.input_scale,
            "mean": None if choices.mean_color is None else list(choices.mean_color),
            "mean_image": None if choices.mean_image is None else _digest(choices.mean_image.tolist()),
            "side": choices.side,
            "fit": choices.fit,
            "features_only": choices.features_only,
            "data": None if self.data is None else self.data.checksum,
            "images": None if self.data is None else self.num_images,
        }

    def command(self, *changes: object) -> str:
        """The command that imports the same file with other options, into another folder."""
        given = [*self.words]
        for option in changes[::2]:
            if option in given:
                del given[given.index(option) : given.index(option) + 2]
        run = self.run_path.with_name(f"{self.run_path.name}-2")
        data: list[object] = ["--data", *self.data_folders] if self.data_folders else []
        data += ["--images", self.num_images] if data and self.num_images != NUM_IMAGES else []
        return shell_words("alexnet", "import", self.path, "--run", run, *given, *changes, *data)


def import_weights(
    file: StrPath,
    run: StrPath,
    *,
    variant: str | None = None,
    classes: GivenClasses | None = None,
    color_order: ColorOrder | None = None,
    input_scale: InputScale | None = None,
    mean: GivenMean | None = None,
    side: int | None = None,
    fit: Fit | None = None,
    features_only: bool = False,
    data: StrPaths | None = None,
    images: int = NUM_IMAGES,
    progress: ShowProgress = None,
) -> RunFolder:
    """Make a run folder of weights that another program wrote, and prove that they are what they claim to be.

    `evaluate(run, data)`, `predict`, `features`, `load` and `alexnet finetune` take the run like others. The same call
    again finds it done; after an interruption it starts again.

    Args:
        file: torchvision's and other state dicts of PyTorch, also as safetensors, a Caffe model, a checkpoint of
            cuda-convnet, or a folder of these, of which the newest is taken. Nothing in it is executed.
        run: the run folder to create.
        variant: of the network; None is what the file's layers say.
        classes: names or `ClassInfo`, in the order of the scores; a file of them (lines, or JSON); a prepared data set;
            or `imagenet`. None is what the file says, ILSVRC-2012's for 1,000, otherwise numbers.
        color_order: of the pixels that the file's network reads: `rgb` or `bgr`.
        input_scale: of these pixels: `255` (0..255), `1` (0..1), `imagenet` (0..1 divided by ImageNet's standard
            deviations), or `variant` (what the variant makes of 0..255 itself).
        mean: that is subtracted: three numbers (red, green, blue, 0..255), or a file with a mean image: Caffe's
            .binaryproto, a NumPy array, (3, S, S) BGR as Caffe's or (S, S, 3) RGB, or the `batches.meta` of
            cuda-convnet's data.
        side: to which photographs are resized, pixels; None is the mean image's, or 256 for crops of 224 and 227.
        fit: how photographs become square: `crop`, `pad` or `squash`; None is what the file says, or `crop`.
        features_only: without the classifier: dense layers that the file lacks stay untrained, and of a file with all
            layers the dense ones are left out. Class scores are then refused.
        data: a prepared data set with the network's classes, or some of them, by which colors, scale and classes are
            tested. Where neither the file nor an option says how pixels are read, the reading with the lowest error is
            taken if it is significantly better than the variant's usual one.
        images: of `data` at most, balanced over classes.
        progress: see `ShowProgress`; a function is called with (layers done, layers in total), then of images.

    Returns:
        The run folder, with the verdict in `proof()` and what to know of the import in `metadata()["notes"]`.

    Raises:
        RequestError: the file is none of these, or of another network than the variant; options that do not fit it; a
            class of `data` that the network lacks; or the run folder holds something else.
        WorkError: the file is damaged, or the disk is full. No run folder is left behind.
    """
    words: list[object] = []
    given: dict[str, Any] = {
        "--variant": variant,
        "--classes": classes,
        "--color-order": color_order,
        "--input-scale": input_scale,
        "--mean": mean,
        "--side": side,
        "--fit": fit,
    }
    for option, value in given.items():
        if value is not None:
            is_list = isinstance(value, Sequence) and not isinstance(value, str)
            words += [option, ",".join(map(str, value)) if is_list else value]
    choices = checked_choices(
        variant=variant,
        classes=classes,
        color_order=color_order,
        input_scale=input_scale,
        mean=mean,
        side=side,
        fit=fit,
        features_only=features_only,
    )
    if not is_whole(images, 1):
        raise RequestError(f"--images is {described(images)}; allowed is 1 or more")
    folders = [] if data is None else as_paths(data, "the data set")
    request = _Request(
        path=as_path(file, "the file"),
        run_path=as_path(run, "the run folder"),
        choices=choices,
        data=open_data(folders) if folders else None,
        data_folders=folders,
        num_images=images,
        words=[*words, *(["--features-only"] if features_only else [])],
    )
    with lines_shown(progress):
        if (request.run_path / "run.json").is_file():
            _require_import(RunFolder.open(request.run_path))
        with RunFolder(request.run_path).locked():
            return _import(request, progress)


def _import(request: _Request, progress: ShowProgress) -> RunFolder:
    """Import; the run folder is locked."""
    path, run = request.run_path, RunFolder(request.run_path)
    earlier = _earlier_import(run)
    is_finished = earlier is not None and (path / "run.json").is_file() and run.state == "finished"
    if earlier is not None and not is_finished:
        _require_own_files(path)
    foreign = read_foreign(request.path)
    file = _imported_file(request.path, foreign.what)
    if earlier is not None and earlier.imported.sha256 != file.sha256:
        unfinished = "" if is_finished else f", which was not finished; {run.how_to_continue()}, or"
        raise RequestError(
            f"{path} is an import of another file ({earlier.imported.name}, sha256 {earlier.imported.sha256[:12]}, not "
            f"{file.sha256[:12]}){unfinished or ';'} name another folder with --run"
        )
    if is_finished and _is_done(run, request):
        return run
    converted = convert(foreign, file, request.choices)
    _logger.info(f"{file.name} is {foreign.what}; testing the weights of {len(converted.foreign.layers)} layers")
    conversion, proof, notes = _prove(request, converted, progress)
    if earlier is None or not is_finished:
        return _write(request, conversion, proof, notes, is_new=earlier is None)
    if changes := recipe_differences(earlier, conversion.recipe):
        raise RequestError(
            f"{path} was imported with other settings ({'; '.join(changes)}); name another folder with --run"
        )
    return _replace_proof(run, request, conversion, proof, notes)


def _earlier_import(run: RunFolder) -> ImportRecipe | None:
    """The import that the folder holds, finished or not; None if it holds nothing.

    Raises:
        RequestError: it holds something else.
    """
    if (run.path / "run.json").is_file():
        return _require_import(RunFolder.open(run.path))
    if not os.path.lexists(run.path / "recipe.yaml"):
        return None
    try:
        recipe = run.any_recipe()  # of a process that was killed before it wrote run.json
    except AlexNetError:
        recipe = None
    if not isinstance(recipe, ImportRecipe):
        raise RequestError(f"{run.path} holds a recipe.yaml that no import wrote; name a new folder with --run")
    return recipe


def _is_done(run: RunFolder, request: _Request) -> bool:
    """Whether a finished import is this one, with this proof or with one on images where none are given now."""
    metadata, wanted = run.metadata(), request.to_dict()
    stored = metadata.get("request") or {}
    name = request.path.name
    if stored == wanted:
        _logger.info(f"{run.path}: {name} is already imported; nothing was changed")
        return True
    proved_on = metadata.get("proved_on")
    if request.data is not None or proved_on is None or stored | {"data": None, "images": None} != wanted:
        return False
    _logger.info(f"{run.path}: {name} is already imported; its proof on {proved_on['title']} was kept")
    return True


def _imported_file(path: Path, what: str) -> ImportedFile:
    """The file, or the folder of checkpoints with all its files."""
    files = sorted(one for one in path.iterdir() if one.is_file()) if path.is_dir() else [path]
    digests = [file_digest(one) for one in files]
    return ImportedFile(
        name=Path(os.path.abspath(path)).name,
        sha256=_digest(digests) if path.is_dir() else digests[0],
        size_bytes=sum(one.stat().st_size for one in files),
        format=what,
    )


def _require_import(run: RunFolder) -> ImportRecipe:
    recipe = run.any_recipe()
    if not isinstance(recipe, ImportRecipe):
        raise RequestError(f"{run.path} holds another run ({recipe.name}); name a new folder with --run")
    return recipe


def _prove(
    request: _Request, conversion: Conversion, progress: ShowProgress
) -> tuple[Conversion, Proof, tuple[str, ...]]:
    """The conversion, its proof, and what to know of both; with another reading of pixels where the data show it."""
    choices, data = request.choices, request.data
    if data is not None and not conversion.trained.untrained_layers:
        _require_classes(conversion, data, request)
    proof = _proof(request, conversion, progress)
    better = _better_reading(proof)
    if better is None or data is None or proof.measurement is None:
        return conversion, proof, _assumption(conversion, proof)
    claimed = proof.measurement.combinations[0]
    errors = f"top-1 error {100 * better.top1_error:.1f} % instead of {100 * claimed.top1_error:.1f} %"
    changes = _changes(better, conversion, data)
    if conversion.is_convention_known or not _is_allowed(better, claimed, choices):
        note = (
            f"Another reading of pixels errs less on {data.title} than the one that was taken: {errors}. To import "
            f"with it: `{request.command(*changes)}`"
        )
        return conversion, proof, (note,)
    color = _mean_color(better, conversion, data)
    chosen = replace(choices, color_order=better.reading.color_order, input_scale=better.reading.scale)
    if color is not None:
        chosen = replace(chosen, mean_color=color, mean_image=None)
    again = convert(conversion.original, conversion.recipe.imported, chosen)
    read = replace(again.recipe.input, convention_from="images", given=conversion.recipe.input.given)
    again = replace(again, recipe=replace(again.recipe, input=read))
    note = (
        f"The file does not say how pixels are read; {' '.join(map(str, changes))} was chosen by the errors on "
        f"{data.title}: {errors}."
    )
    return again, _proof(request, again, progress, is_reading_chosen=True), (note,)


def _require_classes(conversion: Conversion, data: PreparedData, request: _Request) -> None:
    by_data = f"--classes {shell_words(request.data_folders[0])}"
    if not conversion.has_named_classes:
        raise RequestError(
            f"the {len(conversion.trained.classes):,} classes of {request.path.name} have no names, so those of "
            f"{data.folder} cannot be matched with them; if they are the same in the same order, add {by_data}, "
            "otherwise --classes FILE with their ids in the order of the scores"
        )
    try:
        remap_classes(conversion.trained.classes, data)
    except RequestError as error:
        raise RequestError(f"{error}; or, if only their names differ, add {by_data}") from error


def _proof(
    request: _Request, conversion: Conversion, progress: ShowProgress, *, is_reading_chosen: bool = False
) -> Proof:
    return prove(
        conversion.foreign,
        conversion.trained,
        request.data,
        num_images=request.num_images,
        is_reading_chosen=is_reading_chosen,
        progress=progress,
    )


def _better_reading(proof: Proof) -> Combination | None:
    """The way of reading pixels that errs least, if that is not the one taken and not by chance."""
    return proof.better if proof.better is not None and proof.better.reading.layout == "as given" else None


def _is_allowed(one: Combination, claimed: Combination, choices: ImportChoices) -> bool:
    """Whether a reading agrees with what options say."""
    has_mean = choices.mean_color is not None or choices.mean_image is not None
    return (
        (choices.color_order is None or one.reading.color_order == claimed.reading.color_order)
        and (choices.input_scale is None or one.reading.scale == claimed.reading.scale)
        and (not has_mean or one.reading.mean == claimed.reading.mean)
    )


def _changes(better: Combination, conversion: Conversion, data: PreparedData) -> list[object]:
    """The options that choose a reading, as words of a command."""
    reading, own = better.reading, conversion.recipe.input
    changes: list[object] = []
    changes += ["--color-order", reading.color_order] if reading.color_order != own.color_order else []
    changes += ["--input-scale", reading.scale] if reading.scale != own.scale else []
    color = _mean_color(better, conversion, data)
    return changes + ([] if color is None else ["--mean", ",".join(f"{one:.6g}" for one in color)])


def _mean_color(better: Combination, conversion: Conversion, data: PreparedData) -> tuple[float, float, float] | None:
    """The color that a reading subtracts; None is the mean that was taken."""
    match better.reading.mean:
        case "none":
            return (0.0, 0.0, 0.0) if conversion.trained.mean_image.any() else None
        case "data set":
            red, green, blue = data.statistics.mean_image.mean((0, 1)).tolist()
            return (red, green, blue)
        case _:
            return None


def _assumption(conversion: Conversion, proof: Proof) -> tuple[str, ...]:
    if conversion.is_convention_known:
        return ()
    own = conversion.recipe.input
    text = f"{own.color_order.upper()}, {SCALES[own.scale]}, minus {','.join(f'{one:.1f}' for one in own.mean)}"
    variant = conversion.recipe.network.variant
    begin = (
        f"The file does not say all of how pixels are read; assumed is what variant {variant!r} usually reads ({text})"
    )
    if proof.measurement is not None:
        return (f"{begin}; no other reading errs significantly less on the data.",)
    return (f"{begin}. Test it with --data DATA, or say it with --color-order, --input-scale and --mean.",)


def _write(
    request: _Request, conversion: Conversion, proof: Proof, notes: tuple[str, ...], *, is_new: bool
) -> RunFolder:
    """Write the run folder, the weights last; of a failure nothing is left of what an import writes."""
    path = request.run_path
    if is_new and (others := _others(path, ())):
        raise RequestError(
            f"{path} holds {others}, which was written there while the import was running; name a new folder with --run"
        )
    if not is_new:  # a process was killed while it wrote
        _require_own_files(path)
        _remove_files(path)
    network = conversion.trained.network
    metadata = {
        "commit": source_commit(),
        "machine": machine_summary(),
        "versions": versions(),
        "parameters": sum(one.numel() for one in network.parameters()),
        **_details(request, conversion, notes),
    }
    run = RunFolder.create(path, conversion.recipe, metadata)
    try:
        run.save_proof(proof.to_dict())
        save_trained(run.weights, conversion.trained)
        run.update_metadata(state="finished", finished=utc_now())
    except BaseException as error:
        _remove_files(path)
        if isinstance(error, OSError):
            raise_if_full(error, path)
            raise_unless_damage(error, path)
        raise
    return run


def _replace_proof(
    run: RunFolder, request: _Request, conversion: Conversion, proof: Proof, notes: tuple[str, ...]
) -> RunFolder:
    """Store another proof of a finished import; one on images is kept if there are none now."""
    before = run.metadata().get("proved_on")
    if before is not None and request.data is None:
        _logger.info(f"{run.path}: {request.path.name} is already imported; its proof on {before['title']} was kept")
        return run
    run.save_proof(proof.to_dict())
    run.update_metadata(**_details(request, conversion, notes))
    if request.data is not None:
        replaced = "" if before is None else f"; it replaces the one on {before['title']}"
        _logger.info(f"{run.path}: the proof is now on {request.data.title}{replaced}")
    return run


def _details(request: _Request, conversion: Conversion, notes: tuple[str, ...]) -> dict[str, Any]:
    """What run.json says of an import alone."""
    return {
        "request": request.to_dict(),
        "notes": [*conversion.notes, *notes],
        "proved_on": request.data.summary(request.data_folders) if request.data else None,
    }


def _require_own_files(path: Path) -> None:
    """Refuse an unfinished import with anything beside it, which would be in the way or be lost.

    Raises:
        RequestError: the folder holds something that an import does not write.
    """
    if others := _others(path, _FILES):
        raise RequestError(
            f"{path} is an import that was not finished, and also holds {others}; move that elsewhere, or name a new "
            "folder with --run"
        )


def _others(path: Path, own: Sequence[str]) -> str:
    """Some of what the folder holds beside its lock, unfinished files and those of these names; '' if nothing."""
    known = {*own, RunFolder(path).lock_path.name}
    return ", ".join([one.name for one in sorted(path.iterdir()) if one.name not in known and not _is_partial(one)][:3])


def _is_partial(path: Path) -> bool:
    """Whether it is a file of an import that was being written."""
    return path.name.endswith(PARTIAL) and any(path.name.startswith(f".{name}.") for name in _FILES)


def _remove_files(path: Path) -> None:
    """Remove what an import wrote, and nothing else."""
    for one in [*filter(_is_partial, path.iterdir()), *(path / name for name in _FILES)]:
        one.unlink(missing_ok=True)


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
