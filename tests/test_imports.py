"""Rooms import one way only; names are unique; only the cli room prints; help loads neither torch nor NumPy."""

import ast
import pydoc
import subprocess
import sys
from pathlib import Path

import pytest

import alexnet

SOURCE = Path(alexnet.__file__).parent
RICH = {"system/terminal.py"}
ORDER = (
    "errors", "system", "storage", "figures", "runs", "parallel", "data", "model", "evaluation", "training",
    "baselines", "explore", "report", "exchange", "bench", "doctor", "cli", "__main__",
)  # fmt: skip
# storage and figures stand side by side: neither sees the other.
SIDE_BY_SIDE = {("figures", "storage"), ("figures", "errors")}


def imported_rooms(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            raise AssertionError(f"{path} uses a relative import")
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        rooms |= {name.split(".")[1] for name in names if name.startswith("alexnet.")}
    return rooms


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_rooms_import_one_way(path: Path) -> None:
    room = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    if room == "__init__":
        return
    for other in imported_rooms(path) - {room}:
        assert ORDER.index(other) < ORDER.index(room), f"{room} must not import {other}"
        assert (room, other) not in SIDE_BY_SIDE, f"{room} must not import {other}"


def test_the_test_sees_a_wrong_import(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.py"
    wrong.write_text("import alexnet.cli.main\nfrom alexnet.training.loop import train\n")
    assert imported_rooms(wrong) == {"cli", "training"}


def test_base_names_of_modules_and_names_of_public_classes_are_unique() -> None:
    modules: dict[str, list[Path]] = {}
    classes: dict[str, list[Path]] = {}
    for path in SOURCE.rglob("*.py"):
        if path.stem != "__init__":
            modules.setdefault(path.stem, []).append(path)
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                classes.setdefault(node.name, []).append(path)
    assert len(modules) > 100 and len(classes) > 50
    assert [name for name, paths in (modules | classes).items() if len(paths) > 1] == []


def test_only_the_cli_room_knows_arguments_and_one_module_each_prints_and_escapes() -> None:
    """`print` and rich's console act on a terminal with whatever a name holds: their wrappers escape it."""
    wrong = []
    for path in SOURCE.rglob("*.py"):
        name = str(path.relative_to(SOURCE))
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if (
                (called == "print" and name != "cli/output.py")
                or ({"argparse", "jsonargparse", "click"} & set(names) and not name.startswith("cli/"))
                or ({"rich", "rich.console", "rich.text", "rich.markup"} & set(names) and name not in RICH)
                or (called == "html.escape" and name != "system/visible_text.py")
                or ("shlex" in names and name != "system/visible_text.py")
                or called in ("sys.stdout.write", "sys.stderr.write")
            ):
                wrong.append(f"{name}:{node.lineno}")
    assert wrong == []


@pytest.mark.parametrize(
    "words", [["--help"], ["train", "--help"], ["evaluate", "--help"], ["export", "--help"], ["trian"]]
)
def test_help_and_refusals_load_neither_torch_nor_numpy(words: list[str]) -> None:
    program = (
        "import atexit, sys; from alexnet.cli.main import main; "
        "atexit.register(lambda: print(sorted({'torch', 'numpy', 'rich', 'numba', 'matplotlib'} & set(sys.modules)))); "
        f"main({words})"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=400)
    assert run.stdout.splitlines()[-1] == "[]"


FUNCTIONS = {
    "codes", "evaluate", "explain", "export", "features", "filters", "import_weights", "index", "load",
    "local_response_norm", "neighbors", "predict", "prepare", "preprocess", "resume", "save", "train", "write_report",
}  # fmt: skip
ERRORS = {"AlexNetError", "Interrupted", "RequestError", "TemporaryError", "WorkError"}
RESULTS = {
    "AlexNet", "BinaryCodes", "ClassInfo", "Evaluation", "Explanations", "Export", "Filters", "Neighbors",
    "Predictions", "PreparedData", "Recipe", "RunFolder", "Trained", "VectorIndex",
}  # fmt: skip


def test_public_names() -> None:
    assert alexnet.__all__ == sorted(FUNCTIONS | ERRORS | RESULTS) == list(alexnet._PUBLIC)
    assert set(dir(alexnet)) == {*alexnet.__all__, "__version__"}
    for name in alexnet.__all__:
        assert (getattr(alexnet, name).__doc__ or "").strip(), name
        assert callable(getattr(alexnet, name))
    shown = pydoc.plain(pydoc.render_doc(alexnet))
    assert "train(data_folder: " in shown and "class RequestError" in shown
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        alexnet.nothing  # noqa: B018


def test_types_of_public_names_are_those_of_the_table() -> None:
    """What a type checker imports is what the table loads."""
    blocks = [node for node in ast.parse(Path(alexnet.__file__).read_text()).body if isinstance(node, ast.If)]
    (typed,) = (node for node in blocks if ast.unparse(node.test) == "TYPE_CHECKING")
    imported = {
        alias.asname or alias.name: (node.module, alias.name)
        for node in typed.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert imported == alexnet._PUBLIC


def test_import_loads_neither_torch_nor_numpy() -> None:
    program = (
        "import sys, alexnet; dir(alexnet); alexnet.RequestError; print(sorted({'torch', 'numpy'} & {*sys.modules}))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"


def test_tables_of_runs_load_no_torch() -> None:
    """Listing runs reads a few small files; torch would take five times as long."""
    program = "import sys, alexnet.cli.tables, alexnet.runs.overview; print('torch' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "False\n"
    )


def test_a_network_answers_without_torchs_compiler() -> None:
    """Loading it takes two seconds, which every command would wait for."""
    program = (
        "import sys, torch; from alexnet.model.network import AlexNet; "
        "x = torch.randn(1, 3, 224, 224, requires_grad=True); AlexNet(5, width=0.05)(x).sum().backward(); "
        "print('torch._dynamo' in sys.modules, 'sympy' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=400)
    assert run.stdout.split() == ["False", "False"]


def test_rooms_are_entered_without_numba() -> None:
    """Whoever needs compiled passes, or blocks, loads it then: it is most of a second."""
    program = (
        "import sys, alexnet.training.loop, alexnet.evaluation.run_evaluation, alexnet.explore.features; "
        "print('numba' in sys.modules)"
    )
    asked = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert (asked.stdout, asked.stderr) == ("False\n", "")
