"""What gradients of class scores owe to trained weights: how they change if layers get random weights.

From the last layer down, layer by layer, trained weights are replaced by those that a training would start from (the
cascading randomization of Adebayo et al., Sanity checks for saliency maps, 2018). Printed is the correlation of each
image's gradient, and of its guided gradient, with that of the trained network, averaged over the images. A method that
explains the decision must lose it with the last layer.

example: python benchmarks/random_layers.py runs/mine photographs/*.jpg
"""

import argparse
import copy
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from alexnet.cli.command_parser import CommandParser
from alexnet.errors import RequestError
from alexnet.evaluation.preprocessing import preprocess
from alexnet.explore.attribution import guided_gradients, score_gradients, unguided_reason
from alexnet.model.weights import load_trained
from script import run_script

SEED = 9
METHODS = {"gradient": score_gradients, "guided gradient": guided_gradients}


def add_arguments(parser: CommandParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder or weights file")
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="image files, two or more")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    return measure_layers(options.run, options.images)


def measure_layers(run: Path, images: list[Path]) -> dict[str, Any]:
    """The correlations for each step of the cascade, for another class, and between images."""
    if len(images) < 2:
        raise RequestError("name two or more images: gradients of one are compared with those of others")
    trained = load_trained(run)
    if reason := unguided_reason(trained.network):
        raise RequestError(reason)
    batch = preprocess(images, trained)
    with torch.no_grad():
        scores = trained.network(batch)
    best, worst = scores.argmax(1), scores.argmin(1)
    wanted = {name: method(trained.network, batch, best) for name, method in METHODS.items()}

    def compare(network: nn.Module, classes: torch.Tensor) -> dict[str, float]:
        return {name: _correlation(wanted[name], method(network, batch, classes)) for name, method in METHODS.items()}

    rows = [{"change": "none, but the least probable class", **compare(trained.network, worst)}]
    for name, network in _cascade(trained.network, load_trained(run, untrained=True, seed=SEED).network):
        rows.append({"change": f"random weights from {name} on", **compare(network, best)})
    others = {name: _correlation(one, one.roll(1, 0)) for name, one in wanted.items()}
    rows.append({"change": "none, but another image", **others})
    return {"run": str(run), "images": len(images), "seed": SEED, "rows": rows}


def _cascade(network: nn.Module, random: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Copies of the network with more and more layers of the random one, the last layer first."""
    mixed = copy.deepcopy(network)
    names = [name for name, layer in network.named_children() if [*layer.parameters()]]
    for name in reversed(names):
        mixed.get_submodule(name).load_state_dict(random.get_submodule(name).state_dict())
        yield name, mixed


def _correlation(some: torch.Tensor, others: torch.Tensor) -> float:
    """Pearson's, of the values of each image, averaged over the images."""
    pairs = torch.stack([some.flatten(1), others.flatten(1)], 1).double()
    return float(torch.stack([torch.corrcoef(pair)[0, 1] for pair in pairs]).mean())


def print_table(result: Mapping[str, Any]) -> None:
    print(f"| {result['run']}, {result['images']} images | {' | '.join(METHODS)} |")
    print("| --- |" + " --- |" * len(METHODS))
    for row in result["rows"]:
        print(f"| {row['change']} | " + " | ".join(f"{row[name]:.2f}" for name in METHODS) + " |")


def main(words: list[str] | None = None) -> int:
    return run_script(__doc__, add_arguments, measure, print_table, words)


if __name__ == "__main__":
    sys.exit(main())
