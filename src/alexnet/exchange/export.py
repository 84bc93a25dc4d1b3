"""Networks for other programs: `export` writes one of several forms, and says what is inside and how to load it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alexnet.data.concatenated import open_data
from alexnet.data.dataset import PreparedData
from alexnet.errors import RequestError
from alexnet.exchange.caffe_export import write_caffe
from alexnet.exchange.form_contents import contents_of
from alexnet.exchange.forms import ENDINGS, FORMS, Form
from alexnet.exchange.hub_export import write_hub
from alexnet.exchange.onnx_check import OnnxCheck
from alexnet.exchange.onnx_export import OnnxExport, write_onnx
from alexnet.exchange.onnx_quantization import Int8Check
from alexnet.exchange.program_export import write_program
from alexnet.exchange.torchvision_export import write_torchvision
from alexnet.figures.notebook_html import result_html, table_html
from alexnet.model.weights import (
    Trained,
    load_trained,
    name_of,
    require_describable,
    save_trained,
    weights_file,
)
from alexnet.report.formatting import count_noun, format_bytes
from alexnet.runs.folder import RunFolder
from alexnet.storage.atomic import created_folder, raise_if_full, unwritable
from alexnet.storage.checksums import file_digest
from alexnet.storage.paths import StrPath, StrPaths, as_path, as_paths
from alexnet.system.progress import ShowProgress

NUM_NAMES = 5
"""Classes that are named of an export."""


@dataclass(frozen=True, kw_only=True)
class WrittenFile:
    """A file of an export."""

    name: str
    """Of a folder's file: below the folder."""
    size_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True, repr=False)
class Export:
    """What `export` wrote. It can be used as a path."""

    path: Path
    form: Form
    files: tuple[WrittenFile, ...]
    """The file itself, or those of the folder, sorted by name."""
    input: str
    """What the network reads."""
    output: str
    """What it computes."""
    class_names: tuple[str, ...]
    """In the order of the outputs."""
    load: tuple[str, ...]
    """Lines of Python that load it."""
    notes: tuple[str, ...] = ()
    """What its user should know, a sentence each."""
    check: OnnxCheck | None = None
    """How ONNX Runtime and torch agree, if `verify` asked for it."""
    int8: Int8Check | None = None
    """What computing in 8 bits costs, if `int8` asked for it."""

    def __fspath__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        return f"Export({str(self.path)!r}: {self.form}, {format_bytes(self.size_bytes)})"

    def _repr_html_(self) -> str:
        rows = [
            ["path", f"{self.path}: {format_bytes(self.size_bytes)}"],
            *([f"SHA-256 of {file.name}", file.sha256] for file in self.files),
            ["input", self.input],
            ["output", self.output],
            ["classes", self.describe_classes()],
            *(["note", note] for note in self.notes),
            *([self.verified, check.describe()] for check in (self.check,) if check),
            *(["int8", check.describe()] for check in (self.int8,) if check),
            *(["load it" if number == 0 else "", line] for number, line in enumerate(self.load)),
        ]
        return result_html("exported network", table_html([], rows))

    @property
    def size_bytes(self) -> int:
        """Of all files."""
        return sum(file.size_bytes for file in self.files)

    @property
    def verified(self) -> str:
        """What `check` was made of: the file, or of int8 the network before it was quantized."""
        return "verified" if self.int8 is None else "verified in float32, before quantization"

    def describe_classes(self) -> str:
        """Their number, and the first few names."""
        names = ", ".join(self.class_names[:NUM_NAMES]) + (", ..." if len(self.class_names) > NUM_NAMES else "")
        return f"{count_noun(len(self.class_names), 'class')}, in the order of the outputs: {names}"

    def to_dict(self) -> dict[str, Any]:
        """A JSON object, as `alexnet export --json` prints it."""
        return {
            "path": str(self.path),
            "to": self.form,
            "bytes": self.size_bytes,
            "files": [{"name": one.name, "bytes": one.size_bytes, "sha256": one.sha256} for one in self.files],
            "input": self.input,
            "output": self.output,
            "class_names": list(self.class_names),
            "load": list(self.load),
            "notes": list(self.notes),
            "verify": None if self.check is None else self.check.to_dict(),
            "int8": None if self.int8 is None else self.int8.to_dict(),
        }


def export(
    run: Trained | StrPath,
    path: StrPath,
    *,
    to: Form,
    verify: StrPaths | None = None,
    int8: StrPaths | None = None,
    progress: ShowProgress = None,
) -> Export:
    """Write a trained network in a form that other programs load.

    Args:
        run: a run folder, a weights file, or what `alexnet.load` returned.
        path: the file to write; of forms `caffe` and `hub` a folder.
        to: `onnx`: from uint8 photographs of any size to probabilities and class names; `torch-export`: the same as a
            program that torch runs without alexnet; `safetensors`: all tensors under the names of `AlexNet`, and the
            mean image; `torchvision`: a state dict for `torchvision.models.alexnet` (only of variant `torchvision`);
            `caffe`: a folder for Caffe (only of variants `caffe` and `caffenet`); `hub`: a folder for Hugging Face's
            hub with a model card, which says what the run folder records.
        verify: of form `onnx`: run the file by ONNX Runtime beside torch on images of this prepared data set, and write
            nothing if a probability differs by more than 0.0001. With `int8`: the network in float32 that is quantized.
        int8: of form `onnx`: compute in 8 bits, calibrated on this prepared data set, on which the errors of the
            written file are measured.
        progress: of `verify` and `int8`: True shows it, False does not, None shows it on a terminal or in a notebook;
            or a function of done and total images.

    Returns:
        what was written: files with checksums, input, output, class names, and how to load it.

    Raises:
        RequestError: `path` exists, there is no trained network, the form cannot hold this one, or it does not take an
            option.
        WorkError: the disk is full, a file of the run is damaged, or ONNX Runtime computes something else than torch.
    """
    if to not in FORMS:
        raise RequestError(f"cannot export to {to!r}; allowed are {', '.join(FORMS)}")
    for option, data in (("--verify", verify), ("--int8", int8)):
        if data is not None and to != "onnx":
            raise RequestError(f"{option} applies to onnx only; omit it, or export to onnx instead of {to}")
    path = as_path(path, "the exported file")
    trained = run if isinstance(run, Trained) else load_trained(as_path(run, "the run"))
    require_describable(trained)
    if to != "safetensors":  # which says of its layers that they are untrained
        trained.require_trained(run="RUN" if isinstance(run, Trained) else run)
    folder = None if isinstance(run, Trained) else _run_folder(as_path(run, "the run"))
    _require_free(path)
    measured = OnnxExport(check=None, int8=None)
    try:
        with created_folder(path.parent):
            match to:
                case "onnx":
                    measured = write_onnx(trained, path, verify=_opened(verify), int8=_opened(int8), progress=progress)
                case "torch-export":
                    write_program(trained, path)
                case "safetensors":
                    save_trained(path, trained)
                case "torchvision":
                    write_torchvision(trained, path)
                case "caffe":
                    write_caffe(trained, path)
                case "hub":
                    write_hub(trained, path, folder)
    except OSError as error:
        raise_if_full(error, path)
        raise unwritable(path, error) from error
    contents = contents_of(to, trained, path)
    return Export(
        path=path,
        form=to,
        files=_written_files(path),
        input=contents.input,
        output=contents.output,
        class_names=tuple(one.name for one in trained.classes),
        load=tuple(contents.load),
        notes=(*_state_notes(trained, folder), *contents.notes),
        check=measured.check,
        int8=measured.int8,
    )


def _require_free(path: Path) -> None:
    """RequestError unless something new can be written to `path`."""
    if path.is_dir():
        raise RequestError(f"{path} is a folder that exists already; name another path")
    if path.exists() or path.is_symlink():
        raise RequestError(f"{path} exists already; remove it or name another path")
    if file := next((one for one in path.parents if one.exists() and not one.is_dir()), None):
        raise RequestError(f"cannot write {path}: {file} is a file, not a folder; name another path")


def _opened(data: StrPaths | None) -> PreparedData | None:
    return None if data is None else open_data(as_paths(data, "the data set"))


def default_path(run: Path, to: Form, *, int8: bool = False) -> Path:
    """Where `alexnet export` writes without `--out`: in the working directory, under the name of the run."""
    return Path(f"{name_of(run)}{'-int8' if int8 else ''}{ENDINGS[to]}")


def _run_folder(run: Path) -> RunFolder | None:
    """The run folder whose weights `load_trained` reads; None of another weights file."""
    file = weights_file(run)
    in_run = file.name == "weights.safetensors" and (file.parent / "run.json").is_file()
    return RunFolder.open(file.parent) if in_run else None


def _state_notes(trained: Trained, run: RunFolder | None) -> list[str]:
    """What is to be known of the network, whatever the form."""
    if trained.untrained_seed is not None:
        return [f"The network is untrained: its weights are random, of seed {trained.untrained_seed}."]
    if trained.untrained_layers:
        layers = ", ".join(trained.untrained_layers)
        return [f"The layers {layers} are not trained: they were not imported, and their weights are random."]
    if run is not None and run.state != "finished":
        return [f"The training has not finished; the run is {run.state}."]
    proof = None if run is None else run.proof()
    if proof is not None and proof["status"] == "contradicted":
        return [f"When the weights were imported, they were found not to be what they claim to be. {proof['verdict']}"]
    return []


def _written_files(path: Path) -> tuple[WrittenFile, ...]:
    found = sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]
    return tuple(
        WrittenFile(
            name=one.name if one == path else one.relative_to(path).as_posix(),
            size_bytes=one.stat().st_size,
            sha256=file_digest(one),
        )
        for one in found
    )
