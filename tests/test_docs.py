"""The documentation is true: links lead somewhere, quoted code is there, commands and their options exist."""

import contextlib
import functools
import io
import pkgutil
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from alexnet.cli.main import main

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
CURRENT_PAGES = [page for page in PAGES if page.name not in ("log.md", "CHANGELOG.md")]  # those two speak of the past
LAUNCHERS = sorted((ROOT / "launch").iterdir())
LINK = re.compile(r"\[(`[^`]*`|[^\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)")
CODE = re.compile(r"```[^\n]*\n(.*?)```|^((?:    [^\n]*\n)+)|`([^`\n]+)`", re.DOTALL | re.MULTILINE)
OPTION = re.compile(r"(?<![\w-])--[a-z][\w.-]*")
COMMAND = re.compile(r"(?:^|[\s/(])alexnet((?: +[a-z][a-z-]*)+)(?![\w.\[=])([^\n|]*)")
# Options of torchrun, sbatch, docker and other programs, which pages name in code without their program beside them.
OTHER_PROGRAMS = {"--nnodes", "--rdzv-id", "--max-restarts", "--run-path", "--requeue", "--time", "--signal"}
OTHER_PROGRAMS |= {"--build-arg", "--cpus", "--cpuset-cpus", "--user", "--userns"}


def page_id(page: Path) -> str:
    return str(page.relative_to(ROOT))


def pieces_of_code(page: Path) -> Iterator[str]:
    """The code of a page: blocks, with continued lines joined and comments removed, and spans."""
    for fenced, indented, span in CODE.findall(page.read_text(encoding="utf-8")):
        block = (fenced or indented).replace("\\\n", " ")
        yield from (re.sub(r"\s# .*", "", line).strip() for line in block.splitlines())
        if span:
            yield span


@functools.cache
def help_text(*command: str) -> str:
    """What `alexnet COMMAND --help-all` prints, or `--help` of a command without the former; "" if there is none."""
    for option in ("--help-all", "--help"):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(io.StringIO()):
            try:
                code = main([*command, option])
            except SystemExit as exit_:
                code = exit_.code
        if code == 0 and printed.getvalue().startswith("usage:"):
            return printed.getvalue()
    return ""


@functools.cache
def options_of(*command: str) -> set[str]:
    return set(OPTION.findall(help_text(*command))) | {"--help", "--help-all"}


@functools.cache
def known_commands() -> tuple[str, ...]:
    return tuple(re.findall(r"^ +([a-z]+)  ", help_text(), re.MULTILINE))


def options_of_any_command() -> set[str]:
    leaves = [(name,) for name in known_commands()]
    leaves += [("baseline", "sift-fisher"), ("baseline", "sparse-coding")]
    leaves += [("bench", name) for name in re.findall(r"^    ([a-z]+)\b", help_text("bench"), re.MULTILINE)]
    return set().union(*(options_of(*leaf) for leaf in leaves))


def quoted_commands(text: str) -> Iterator[tuple[tuple[str, ...], set[str]]]:
    """Each `alexnet COMMAND [SUBCOMMAND] ... --option` of a line: the words of the command, and its options."""
    for words, rest in COMMAND.findall(text):
        command = words.split()
        rest = re.split(r" && |; |`|, ", rest)[0]
        depth = 2 if command[0] in ("bench", "baseline") else 1
        yield tuple(command[:depth]), set(OPTION.findall(rest))


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_lead_somewhere_and_code_holds_what_they_quote(page: Path) -> None:
    for text, target, anchor in LINK.findall(page.read_text(encoding="utf-8")):
        if target.startswith("http"):
            continue
        file = page.parent / target
        assert file.exists(), f"{page.name} links to {target}, which does not exist"
        if file.suffix == ".py" and text.startswith("`"):
            quoted = text.strip("`")
            assert quoted in file.read_text(encoding="utf-8"), f"{page.name}: {target} does not hold `{quoted}`"
        if anchor:
            titles = re.findall(r"^#+ (.*)", file.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = ["#" + re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles]
            assert anchor in anchors, f"{page.name}: {target} has no section {anchor}"


@pytest.mark.parametrize("page", [*CURRENT_PAGES, *LAUNCHERS], ids=page_id)
def test_commands_and_their_options_exist(page: Path) -> None:
    lines = pieces_of_code(page) if page.suffix == ".md" else page.read_text(encoding="utf-8").splitlines()
    for line in lines:
        for command, options in quoted_commands(line):
            assert help_text(*command), f"{page.name}: there is no command `alexnet {' '.join(command)}` ({line})"
            unknown = options - options_of(*command)
            assert not unknown, f"{page.name}: `alexnet {' '.join(command)}` has no option {unknown} ({line})"


@pytest.mark.parametrize("page", CURRENT_PAGES, ids=page_id)
def test_options_named_alone_belong_to_some_command(page: Path) -> None:
    for span in pieces_of_code(page):
        if span.startswith("--"):
            unknown = set(OPTION.findall(span)) - options_of_any_command() - OTHER_PROGRAMS
            assert not unknown, f"{page.name}: no command has {unknown}"


@pytest.mark.parametrize("page", CURRENT_PAGES, ids=page_id)
def test_files_and_names_of_code_exist(page: Path) -> None:
    for span in pieces_of_code(page):
        for path in re.findall(r"(?<![\w/.-])(?:[\w-]+/)+[\w.-]+\.(?:py|sh|sbatch|yaml|toml|md)\b", span):
            places = [root / path for root in (ROOT, ROOT / "src" / "alexnet")]
            assert any(place.exists() for place in places), f"{page.name} names {path}, which does not exist"
        names = re.findall(r"(?<![\w./-])alexnet\.[a-z_]+[\w.]*", span)
        for module, imported in re.findall(r"from (alexnet[\w.]*) import ([\w, ]+)", span):
            names += [f"{module}.{name.strip()}" for name in imported.split(",")]
        for name in names:
            try:
                pkgutil.resolve_name(name)  # a module, or an attribute of one
            except (ImportError, AttributeError):
                pytest.fail(f"{page.name} names {name}, which does not exist")


def test_examples_of_commands_split_as_a_shell_splits_them() -> None:
    for page in CURRENT_PAGES:
        for line in pieces_of_code(page):
            if line.startswith("alexnet "):
                shlex.split(line)


def indented_blocks(text: str) -> str:
    """All indented code of a part of a page, as one program."""
    return "\n".join(line[4:] for line in re.sub(r"^[^ \n].*$", "", text, flags=re.MULTILINE).splitlines())


@pytest.mark.parametrize(("page", "end"), [("README.md", "## I want to ..."), ("docs/python.md", "## Images")])
def test_the_calls_from_python_run(page: str, end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    program = indented_blocks(text[text.index("# From Python") : text.index(end)])
    random = np.random.default_rng(1)
    for number in range(36):
        folder = tmp_path / "photos" / ("cat", "dog", "owl")[number % 3]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    Image.fromarray(random.integers(0, 256, (60, 40, 3), dtype=np.uint8)).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(program, page, "exec"), names)
    network = names["network"]
    assert isinstance(network, torch.nn.Module)
    if page == "docs/python.md":
        for call in ("prepare", "train", "resume", "evaluate", "predict", "features", "load", "preprocess", "save"):
            assert f"alexnet.{call}(" in program
        arrays: Any = names["activations"]
        assert {name: array.shape for name, array in arrays.items()} == {
            "conv1": (36, 24, 28, 28),
            "relu4": (36, 192, 3, 3),
        }
        batch: Any = names["batch"]
        assert batch.shape == (1, 3, 28, 28) and Path("mine.safetensors").is_file()


def test_the_readme_stays_short() -> None:
    words = (ROOT / "README.md").read_text(encoding="utf-8").split()
    assert len(words) < 900, f"README.md has {len(words)} words; move details to docs/"


def test_the_readme_names_every_command() -> None:
    named = {command[0] for span in pieces_of_code(ROOT / "README.md") for command, _ in quoted_commands(span)}
    assert set(known_commands()) <= named, f"README.md does not name {set(known_commands()) - named}"


def test_every_page_can_be_found_from_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert f"(docs/{page.name})" in readme, f"README.md does not link to docs/{page.name}"


def test_the_page_on_fidelity_names_every_variant_and_recipe() -> None:
    from alexnet.model.variants import VARIANTS
    from alexnet.runs.recipes import RECIPES

    text = (ROOT / "docs" / "fidelity.md").read_text(encoding="utf-8")
    own = {"quick", "modern", "cifar-four-layer", "cifar-four-layer-tanh"}  # this project's, or a study's
    middle = {name for name in VARIANTS if name.startswith("minus-")} - {"minus-conv2", "minus-fc7"}
    recipes = {"original-2010", "six-conv-pretrain", "six-conv-finetune"}  # other runs of networks that it names
    for name in (VARIANTS.keys() | RECIPES.keys()) - own - middle - recipes:
        assert f"`{name}`" in text, f"docs/fidelity.md does not name {name}"
