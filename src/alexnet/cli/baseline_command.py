"""`alexnet baseline`: train and evaluate a system that the paper compares with."""

import argparse
import importlib.util
import logging
from dataclasses import replace
from functools import partial
from pathlib import Path

from alexnet.cli.command_parser import CommandParser
from alexnet.cli.common_options import add_json
from alexnet.cli.output import print_json, print_lines
from alexnet.cli.recipe_options import add_settings, given_settings
from alexnet.errors import RequestError
from alexnet.runs.baseline_recipe import BASELINES, GROUPS, BaselineRecipe, Kind, named_baseline
from alexnet.runs.recipe_file import changed_groups
from alexnet.system.visible_text import shell_words

_logger = logging.getLogger(__name__)


def add_arguments(parser: CommandParser) -> None:
    """Add the two systems, each with its own settings."""
    kinds = parser.add_subparsers(dest="kind", metavar="SYSTEM")
    for kind, groups in GROUPS.items():
        system: CommandParser = kinds.add_parser(
            kind,
            help=_SYSTEMS[kind],
            description=_SYSTEMS[kind],
            epilog=f"example: alexnet baseline {kind} data/prepared --run runs/{kind}",
        )
        system.add_argument(
            "data", type=Path, nargs="+", metavar="DATA", help="prepared data set; several are concatenated"
        )
        names = ", ".join(name for name, one in BASELINES.items() if one.kind == kind)
        system.add_argument("--recipe", default=kind, metavar="NAME", help=f"settings to start from: {names}")
        system.add_argument("--run", type=Path, required=True, help="run folder to create or resume")
        system.add_argument(
            "--cache", type=Path, metavar="FOLDER", help="folder for features (default: baseline-features next to RUN)"
        )
        system.add_argument("--workers", type=int, metavar="N", help="threads (default: one per core)")
        add_json(system, "a line")
        short = {"per_class": "training images of each class, 0 is all", "seed": "random seed"}
        for name, text in short.items():
            system.section("protocol").add_argument(
                f"--{name.replace('_', '-')}",
                dest=f"protocol.{name}",
                default=argparse.SUPPRESS,
                metavar="N",
                help=f"{text}; short for --protocol.{name}",
            )
        add_settings(system, groups, partial(_base, kind), common=_COMMON)


def run(options: argparse.Namespace) -> None:
    """Train and evaluate the system."""
    if options.workers is not None and options.workers < 1:
        raise RequestError(f"--workers is {options.workers}; allowed is 1 or more")
    base = named_baseline(options.kind, options.recipe)
    groups = GROUPS[options.kind]
    recipe = replace(base, **changed_groups(base, groups, given_settings(options, groups)))
    require_libraries()
    from alexnet.baselines.baseline_run import run_baseline
    from alexnet.system.progress import counted

    cache, workers = options.cache, options.workers
    run = run_baseline(options.data, recipe, options.run, cache=cache, workers=workers, progress_bar=counted)
    metadata = run.metadata()
    _logger.info(
        "features are in %s; runs with the same settings reuse them, and you may delete them", metadata["features"]
    )
    if options.json:
        evaluations = [{"run": str(run.path), **one} for one in run.evaluations().values()]
        effort = {key: metadata[key] for key in ("duration_s", "cpu_s", "peak_anonymous_bytes", "features")}
        effort["classifier_c"] = metadata.get("classifier_c")
        measured = evaluations[0] if evaluations else {"run": str(run.path)}
        print_json({**measured, "baseline": options.kind, **effort, "evaluations": evaluations})
        return
    print_lines(
        f"{run.path}: {metadata['duration_s']:.0f} s, {metadata['cpu_s']:.0f} s of processor time; "
        f"next: {shell_words('alexnet', 'report', run.path)}"
    )


def _base(kind: Kind, options: argparse.Namespace | None) -> BaselineRecipe:
    return named_baseline(kind, options.recipe if options else kind)


_COMMON = frozenset(
    {"classifier.kind", "classifier.c", "descriptors.kinds", "encoder.components", "encoder.codings", "encoder.atoms"}
)
_SYSTEMS = {
    "sift-fisher": "SIFT descriptors, Fisher vectors and linear classifiers.",
    "sparse-coding": "SIFT and binary patterns, sparse codes and linear classifiers.",
}


def require_libraries() -> None:
    """Check that the libraries of the baselines can be imported.

    Raises:
        RequestError: scikit-learn is not installed, or Numba cannot be imported; the message says how to install it.
    """
    from alexnet.system import numba_jit  # imports Numba, which takes most of a second

    if numba_jit.unavailable_reason:
        raise RequestError(
            f"the baselines are compiled by Numba, which cannot be imported ({numba_jit.unavailable_reason}); "
            "`pip install --force-reinstall numba` usually helps"
        )
    if importlib.util.find_spec("sklearn") is None:
        raise RequestError(
            "the baselines need scikit-learn, which is not installed; install it with pip install 'alexnet[baselines]'"
        )
