"""The words behind `alexnet baseline`: which system, a recipe, and every one of its settings as a dotted option."""

import argparse
import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import jsonargparse

from alexnet.errors import RequestError
from alexnet.runs.baseline_recipe import BASELINES, GROUPS, BaselineRecipe, Kind, named_baseline


def baseline(words: Sequence[str], summary: str, example: str, say: Callable[[str], None]) -> None:
    """Read the words, learn and measure; a wrong word ends the process with a message and code 2.

    Raises:
        RequestError: an unknown system or recipe, a value that a setting does not allow, or no scikit-learn.
    """
    parser = argparse.ArgumentParser(
        prog="alexnet baseline", description=summary, epilog=f"example: {example}", allow_abbrev=False
    )
    kinds: tuple[Kind, ...] = get_args(Kind)
    parser.add_argument(
        "kind", choices=kinds, help=f"which system; `alexnet baseline {kinds[0]} --help` names its settings"
    )
    kind = parser.parse_args(list(words[:1])).kind
    options, recipe = _options(kind, words[1:], summary, example)
    require_libraries()
    from alexnet.baselines.baseline_run import run_baseline
    from alexnet.system.progress import counted

    run = run_baseline(
        options.data_set,
        recipe,
        options.run,
        cache=options.cache,
        workers=options.workers,
        counting=counted,
        say=say,
    )
    facts = run.facts()
    say(f"features lie in {facts['features']}; another run with the same settings finds them, and they may be removed")
    print(
        f"{run.path}: {facts['duration_s']:.0f} s, {facts['cpu_s']:.0f} s of processor time; "
        f"next: alexnet report {run.path}"
    )


def _options(kind: Kind, words: Sequence[str], summary: str, example: str) -> tuple[Any, BaselineRecipe]:
    # The recipe is read first: it gives every other option its default.
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--recipe")
    known, _ = first.parse_known_args(words)
    base = named_baseline(kind, known.recipe)
    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = jsonargparse.ArgumentParser(
        prog=f"alexnet baseline {kind}",
        description=f"{summary} Every setting of the recipe is a dotted option; --per-class and --seed are short for "
        "--protocol.per_class and --protocol.seed.",
        epilog=f"example: {example}",
        allow_abbrev=False,
    )
    parser.add_argument(
        "data_set", type=Path, nargs="+", metavar="DATA", help="a prepared data set, or several to be joined"
    )
    names = ", ".join(name for name, one in BASELINES.items() if one.kind == kind)
    parser.add_argument("--recipe", default=base.name, help=f"settings to start from: {names}")
    parser.add_argument("--run", type=Path, required=True, help="run folder to make, or to go on with")
    parser.add_argument("--cache", type=Path, help="folder of features (default: baseline-features beside RUN)")
    parser.add_argument("--workers", type=int, help="threads (default: one per core)")
    for group, settings in GROUPS[kind].items():
        parser.add_argument(f"--{group}", type=settings, default=getattr(base, group))
    options = parser.instantiate(parser.parse_args([_SHORT.get(word, word) for word in _apart(words)]))
    if options.workers is not None and options.workers < 1:
        raise RequestError(f"--workers is {options.workers}; allowed is 1 or more")
    groups = {group: getattr(options, group) for group in GROUPS[kind]}
    return options, BaselineRecipe(name=base.name, claim=base.claim, **groups)


_SHORT = {"--per-class": "--protocol.per_class", "--seed": "--protocol.seed"}


def _apart(words: Sequence[str]) -> list[str]:
    """`--seed=1` as two words."""
    return [part for word in words for part in (word.split("=", 1) if word.split("=")[0] in _SHORT else [word])]


def require_libraries() -> None:
    """Refuse to begin without what the baselines stand on.

    Raises:
        RequestError: scikit-learn is not installed, or Numba cannot be imported; what brings it is named.
    """
    from alexnet.system import numba_jit  # loads Numba, which help and refused words need not wait for

    if numba_jit.why_not:
        raise RequestError(
            f"the baselines are compiled by Numba, which cannot be imported ({numba_jit.why_not}); "
            "`pip install --force-reinstall numba` usually helps"
        )
    if importlib.util.find_spec("sklearn") is None:
        raise RequestError(
            "the baselines need scikit-learn, which is not installed; pip install 'alexnet[baselines]' brings it"
        )
