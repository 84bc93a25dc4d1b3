"""What the proof of imported weights catches.

Takes trained runs as files of another program would hold them (torchvision: RGB, 0..1 divided by ImageNet's standard
deviations; Caffe: BGR, 0..255; others RGB, 0..255), damages each in the ways that weights are wrong in practice, and
proves them with images of the evaluation split and without. Prints a Markdown table.

example: python benchmarks/weight_proof.py DATA runs/torchvision runs/caffe
"""

import argparse
import copy
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from alexnet.cli.command_parser import CommandParser
from alexnet.data.concatenated import open_data
from alexnet.data.dataset import PreparedData
from alexnet.exchange.foreign_network import ForeignLayer, ForeignNetwork, InputConvention
from alexnet.exchange.proof import NUM_IMAGES, Proof, prove
from alexnet.model.network import AlexNet
from alexnet.model.weights import Trained, load_trained
from alexnet.system.machine import machine_summary, source_commit
from script import logger, run_script


@dataclass(frozen=True, eq=False)
class Claim:
    """The content of a file, and what is claimed of it."""

    trained: Trained
    """The run that it was made of: its classes, sizes and mean image are claimed."""
    foreign: ForeignNetwork
    """With the claimed convention."""

    @property
    def convention(self) -> InputConvention:
        assert self.foreign.convention is not None
        return self.foreign.convention

    def with_layers(self, change: Callable[[int, ForeignLayer], ForeignLayer]) -> "Claim":
        layers = tuple(change(number, layer) for number, layer in enumerate(self.foreign.layers))
        return replace(self, foreign=replace(self.foreign, layers=layers))

    def claiming(self, convention: InputConvention) -> "Claim":
        return replace(self, foreign=replace(self.foreign, convention=convention))

    def imported(self) -> Trained:
        """The network as the claims make it of the file."""
        network = copy.deepcopy(self.trained.network)
        layers = [one for one in network.sized_layers if one.weight_shape]
        for number, (layer, own) in enumerate(zip(layers, self.foreign.layers, strict=True)):
            weight = self.convention.first_weights(own.weight, network.spec) if number == 0 else own.weight
            network.get_parameter(f"{layer.name}.weight").data = weight.clone()
            network.get_parameter(f"{layer.name}.bias").data = own.bias.clone()
        return replace(self.trained, network=network)


def claim_of(trained: Trained) -> Claim:
    """What a run claims as a file of the program that its variant is named after."""
    scale: Any = "imagenet" if trained.network.variant == "torchvision" else "255"
    order: Any = "bgr" if trained.network.variant.startswith("caffe") else "rgb"
    convention = InputConvention(color_order=order, scale=scale)
    factor = 1 / torch.tensor(convention.factor_beyond(trained.network.spec))
    layers = []
    for number, layer in enumerate(one for one in trained.network.sized_layers if one.weight_shape):
        weight = trained.network.get_parameter(f"{layer.name}.weight").detach().clone()
        if number == 0:
            weight = weight * factor[:, None, None]
            weight = weight.flip(1) if order == "bgr" else weight
        bias = trained.network.get_parameter(f"{layer.name}.bias").detach().clone()
        layers.append(ForeignLayer(name=f"{layer.name}.weight", weight=weight, bias=bias))
    network = ForeignNetwork(
        what="a run", layers=tuple(layers), variants=(trained.network.variant,), convention=convention
    )
    return Claim(trained, network)


def _drawn(claim: Claim) -> Claim:
    """Weights and biases as the variant's training begins with."""
    own = claim.trained.network
    network = AlexNet(own.num_classes, own.variant, own.width, generator=torch.Generator().manual_seed(1))
    return claim_of(replace(claim.trained, network=network))


def _shuffle(tensor: torch.Tensor) -> torch.Tensor:
    order = torch.randperm(tensor.numel(), generator=torch.Generator().manual_seed(1))
    return tensor.flatten()[order].reshape(tensor.shape)


def _shuffled_weights(claim: Claim) -> Claim:
    return claim.with_layers(lambda _, one: replace(one, weight=_shuffle(one.weight)))


def _zeroed(layer: ForeignLayer) -> ForeignLayer:
    return replace(layer, weight=torch.zeros_like(layer.weight))


def _deadened(layer: ForeignLayer) -> ForeignLayer:
    return replace(layer, bias=layer.bias - 1e3)


def _middle(claim: Claim) -> int:
    """A convolution in the middle of the network."""
    return [number for number, one in enumerate(claim.foreign.layers) if one.weight.dim() == 4][-1] - 1


def _change_one(claim: Claim, which: int, change: Callable[[ForeignLayer], ForeignLayer]) -> Claim:
    return claim.with_layers(lambda number, layer: change(layer) if number == which else layer)


def _redrawn(layer: ForeignLayer) -> ForeignLayer:
    drawn = torch.empty(layer.weight.shape)
    torch.nn.init.kaiming_normal_(drawn, nonlinearity="relu", generator=torch.Generator().manual_seed(1))
    return replace(layer, weight=drawn)


def _other_scale(claim: Claim) -> Claim:
    wrong: Any = "1" if claim.convention.scale == "255" else "255"
    return claim.claiming(replace(claim.convention, scale=wrong))


def _other_order(claim: Claim) -> Claim:
    wrong: Any = "rgb" if claim.convention.color_order == "bgr" else "bgr"
    return claim.claiming(replace(claim.convention, color_order=wrong))


def _other_classes(claim: Claim, order: Sequence[int]) -> Claim:
    """The last layer's units in another order."""
    last = len(claim.foreign.layers) - 1
    rows = torch.tensor(order)
    return _change_one(claim, last, lambda one: replace(one, weight=one.weight[rows], bias=one.bias[rows]))


def _shuffled_classes(claim: Claim) -> Claim:
    num = len(claim.trained.classes)
    return _other_classes(claim, torch.randperm(num, generator=torch.Generator().manual_seed(1)).tolist())


def _exchanged_classes(claim: Claim) -> Claim:
    """Two classes exchanged."""
    return _other_classes(claim, [1, 0, *range(2, len(claim.trained.classes))])


def _without_mean(claim: Claim) -> Claim:
    mean = torch.zeros_like(claim.trained.mean_image)
    return replace(claim, trained=replace(claim.trained, mean_image=mean))


def _rotated(number: int, layer: ForeignLayer) -> ForeignLayer:
    return replace(layer, weight=layer.weight.flip((-1, -2)).contiguous()) if layer.weight.dim() == 4 else layer


def _channels_last(claim: Claim) -> Claim:
    """The inputs of the first dense layer in the order height, width, channels."""
    dense = next(number for number, one in enumerate(claim.foreign.layers) if one.weight.dim() == 2)
    channels = claim.foreign.layers[dense - 1].weight.shape[0]

    def change(layer: ForeignLayer) -> ForeignLayer:
        units, features = layer.weight.shape
        side = round((features / channels) ** 0.5)
        images = layer.weight.reshape(units, channels, side, side)
        return replace(layer, weight=images.permute(0, 2, 3, 1).reshape(units, features).contiguous())

    return _change_one(claim, dense, change)


def _with_nan(layer: ForeignLayer) -> ForeignLayer:
    weight = layer.weight.clone()
    weight.view(-1)[5] = torch.nan
    return replace(layer, weight=weight)


@dataclass(frozen=True)
class Case:
    """A way of being wrong, and the kind of the finding that must say so; None for right weights."""

    name: str
    damage: Callable[[Claim], Claim]
    kind: str | None


CASES = (
    Case("as it is", lambda claim: claim, None),
    Case("random weights", _drawn, "layer"),
    Case("weights shuffled within each layer", _shuffled_weights, "layer"),
    Case(
        "last layer but one random", lambda claim: _change_one(claim, len(claim.foreign.layers) - 2, _redrawn), "layer"
    ),
    Case("a layer of zeros", lambda claim: _change_one(claim, _middle(claim), _zeroed), "layer"),
    Case("a layer dead by its biases", lambda claim: _change_one(claim, _middle(claim), _deadened), "units"),
    Case("one weight NaN", lambda claim: _change_one(claim, 1, _with_nan), "layer"),
    Case("the other color order", _other_order, "color order"),
    Case("another scale", _other_scale, "scale"),
    Case("no mean", _without_mean, "mean"),
    Case("classes shuffled", _shuffled_classes, "classes"),
    Case("two classes exchanged", _exchanged_classes, "classes"),
    Case("filters rotated by 180 degrees", lambda claim: claim.with_layers(_rotated), "layout"),
    Case("height, width, channels before the dense layers", _channels_last, "layout"),
)


def is_caught(proof: Proof, case: Case) -> bool:
    """Whether a proof says what is wrong; of right weights, that nothing is."""
    if case.kind is None:
        return proof.status == "plausible"
    against = [one.kind for one in proof.findings if one.stance == "against"]
    return proof.status == "contradicted" and case.kind in against


def measure_proofs(data: PreparedData, runs: Sequence[Path], num_images: int) -> dict[str, Any]:
    """Prove each run as it is and in each way of being wrong."""
    rows = []
    for run in runs:
        claim = claim_of(load_trained(run))
        for case in CASES:
            damaged = case.damage(claim)
            trained = damaged.imported()
            start_s = time.perf_counter()
            alone = prove(damaged.foreign, trained, None)
            alone_s = time.perf_counter() - start_s
            proof = prove(damaged.foreign, trained, data, num_images=num_images)
            errors = None if proof.measurement is None else proof.measurement.combinations[0].top1_error
            rows.append(
                {
                    "run": run.name,
                    "variant": trained.network.variant,
                    "case": case.name,
                    "top1_error": errors,
                    "status_without_data": alone.status,
                    "caught_without_data": is_caught(alone, case),
                    "status": proof.status,
                    "caught": is_caught(proof, case),
                    "verdict": proof.verdict,
                    "weights_s": alone_s,
                    "total_s": time.perf_counter() - start_s - alone_s,
                }
            )
            logger.info(f"{run.name}, {case.name}: {proof.status}: {proof.verdict}")
    return {"rows": rows, "images": num_images, "machine": machine_summary(), "commit": source_commit()}


def print_table(result: Mapping[str, Any]) -> None:
    print(f"At most {result['images']:,} images; commit {result['commit']}.\n")
    print("| variant | weights | top-1 error as claimed | from the weights alone | with images | caught |")
    print("| --- | --- | --- | --- | --- | --- |")
    for row in result["rows"]:
        error = "-" if row["top1_error"] is None else f"{100 * row['top1_error']:.1f} %"
        print(
            f"| {row['variant']} | {row['case']} | {error} | {row['status_without_data']} | {row['status']} | "
            f"{'yes' if row['caught'] else 'NO'} |"
        )


def add_arguments(parser: CommandParser) -> None:
    parser.add_argument("data", metavar="DATA", help="prepared data set")
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="runs that were trained on its classes")
    parser.add_argument("--images", metavar="N", type=int, default=NUM_IMAGES, help="images of the evaluation split")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    return measure_proofs(open_data(options.data), options.runs, options.images)


def main(words: Sequence[str] | None = None) -> int:
    return run_script(__doc__, add_arguments, measure, print_table, words)


if __name__ == "__main__":
    sys.exit(main())
