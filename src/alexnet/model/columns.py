"""One column of a network per process: what it computes, and where the two exchange activations.

Paper: section 3.5 and figure 2: "the GPUs communicate only in certain layers". Parameters have the names they have in
the network of one process; each process holds its column's half of them.

Axes: B images, C channels, H x W positions, D features or units, K classes; c is the column, 0 or 1.
"""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import nn

from alexnet.data.sampler import rank_slice
from alexnet.errors import RequestError
from alexnet.model.fusion import Fused
from alexnet.model.layer_modules import ResponseNorm2d
from alexnet.model.layer_specs import Convolution, Dense, LocallyConnected, NamedLayer, ResponseNorm
from alexnet.model.layers import ColumnLinear, SeededDropout
from alexnet.model.network import AlexNet
from alexnet.parallel.layout import ColumnLayers
from alexnet.parallel.pair import ColumnPair, gather_columns

NUM_COLUMNS = 2


@dataclass(frozen=True)
class SplitRows:
    """Keep this process's half of the images."""


@dataclass(frozen=True)
class GatherRows:
    """The first dense layer in columns, over images of which each process has half.

    Each process computes its half of the units for all images.
    """

    layer: NamedLayer


@dataclass(frozen=True)
class GatherColumns:
    """A layer of which each process computes its half of the output from both halves of the input."""

    layer: NamedLayer


ColumnStep = NamedLayer | Fused | SplitRows | GatherRows | GatherColumns


def column_steps(
    fused_ops: Iterable[NamedLayer | Fused], column_layers: ColumnLayers, variant: str
) -> tuple[ColumnStep, ...]:
    """A network's operations as one column computes them, with its reads of the other column.

    Args:
        fused_ops: of the network of one process.
        column_layers: which layers are in columns.
        variant: name, for messages.

    Raises:
        RequestError: the variant has layers that two processes cannot share.
    """
    steps: list[ColumnStep] = [SplitRows()] if column_layers == "dense" else []
    halved = False  # whether a process holds half of the channels or units
    for op in fused_ops:
        match op:
            case NamedLayer(spec=Convolution(columns=1)) if column_layers == "every-layer" and halved:
                steps.append(GatherColumns(op))
            case NamedLayer(spec=Convolution()) if column_layers == "every-layer":
                steps.append(op)
                halved = True
            case NamedLayer(spec=LocallyConnected()) if column_layers == "every-layer":
                raise RequestError(
                    f"variant {variant!r} has locally connected layers, which cannot be split into columns; use "
                    "--column-layers dense or --columns 1"
                )
            case Fused(norm_pool=norm_pool) if halved and norm_pool.normalizes:
                if norm_pool.columns != NUM_COLUMNS:
                    raise RequestError(
                        f"variant {variant!r} normalizes across all its channels, so it has no two columns; use a "
                        "variant in columns (paper, original, ...), --column-layers dense, or --columns 1"
                    )
                layers = tuple(_of_one_column(layer) for layer in op.layers)
                steps.append(Fused(layers, norm_pool.in_columns(1)))
            case NamedLayer(spec=Dense()) if not halved:
                steps.append(GatherRows(op))
                halved = True
            case NamedLayer(spec=Dense(columns=1)):
                steps.append(GatherColumns(op))
            case _:
                steps.append(op)
    return tuple(steps)


def _of_one_column(layer: NamedLayer) -> NamedLayer:
    """The layer as a process runs it that has the channels of one column."""
    return replace(layer, spec=replace(layer.spec, columns=1)) if isinstance(layer.spec, ResponseNorm) else layer


class ColumnNetwork(AlexNet):
    """A network of which each process of a pair holds one column.

    Input and output are those of the whole network, in both processes: all images of the pair, all scores.

    Args:
        network: the whole network; this process's half of its weights is copied.
        pair: the other process.
        column_layers: which layers are in columns.

    Raises:
        RequestError: the network has layers that two processes cannot share.
    """

    def __init__(self, network: AlexNet, pair: ColumnPair, column_layers: ColumnLayers = "every-layer") -> None:
        nn.Module.__init__(self)  # not AlexNet's: the modules are halves of those of the whole network
        self._num_classes, self._keeps_ties = network.num_classes, network._keeps_ties
        self.variant, self.width, self.dropout, self.spec = (
            network.variant,
            network.width,
            network.dropout,
            network.spec,
        )
        self.fused_ops = network.fused_ops
        self.steps = column_steps(network.fused_ops, column_layers, network.variant)
        self.pair = pair
        sized = {layer.name: layer for layer in network.sized_layers}
        self.split_layers = frozenset(
            name
            for name, layer in sized.items()
            if layer.weight_shape and (column_layers == "every-layer" or isinstance(layer.spec, Dense))
        )
        """Names of the layers of which this process has half."""
        self._row_dropouts: list[SeededDropout] = []  # those that see this process's half of the images
        self._rows: slice | None = None
        self._num, self._num_rows = 0, 0
        own_specs = {one.name: one.spec for step in self.steps if isinstance(step, Fused) for one in step.layers}
        halved = column_layers == "every-layer"
        for name, module in network.named_children():
            halved = halved or name in self.split_layers
            if isinstance(module, SeededDropout):
                dropout = SeededDropout(self.dropout, module.inverted)
                if halved:
                    units = sized[name].in_channels
                    dropout.units = (self._half(units), units)
                else:
                    self._row_dropouts.append(dropout)
                self.add_module(name, dropout)
            elif isinstance(module, ResponseNorm2d):
                spec = own_specs[name]
                assert isinstance(spec, ResponseNorm)
                self.add_module(name, ResponseNorm2d(spec))
            else:
                own = copy.deepcopy(module)
                self.add_module(name, self._halved(own) if name in self.split_layers else own)
        self.train(network.training)

    def require_num_classes(self) -> int:
        """Classes of the whole network."""
        return self._num_classes

    def split(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """This column's part of tensors of the whole network, keyed by parameter name."""
        return {
            name: tensor[self._half(len(tensor))] if name.rpartition(".")[0] in self.split_layers else tensor
            for name, tensor in tensors.items()
        }

    def gather(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The inverse of `split`; both processes of the pair must call it."""
        joined = dict(tensors)
        lengths = {layer.name: layer.out_channels for layer in self.sized_layers}
        for name, tensor in tensors.items():
            layer = name.rpartition(".")[0]
            if layer in self.split_layers:
                num = lengths[layer] - len(tensor)
                other, works = self.pair.swap(tensor, (num, *tensor.shape[1:]), (layer, "state"))
                self.pair.wait(works)
                joined[name] = torch.cat(
                    [tensor.detach(), other] if self.pair.column == 0 else [other, tensor.detach()]
                )
        return joined

    def _half(self, num: int) -> slice:
        """This column's part of `num` channels, units or rows."""
        return rank_slice(num, self.pair.column, NUM_COLUMNS)

    def _halved(self, module: nn.Module) -> nn.Module:
        for name, parameter in module.named_parameters():
            own = parameter.detach()[self._half(len(parameter))].clone()
            setattr(module, name, nn.Parameter(own))
        if isinstance(module, nn.Conv2d):
            module.groups, module.in_channels, module.out_channels = 1, module.weight.shape[1], len(module.weight)
        elif isinstance(module, ColumnLinear):
            module.columns = 1
        elif isinstance(module, nn.Linear):
            module.out_features = len(module.weight)
        return module

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, S, S) -> (B, K), the same B images in both processes."""
        self.require_images(images)
        return self.gather_scores(self.run_steps(self.steps, self.scale(images)))

    def run_steps(self, steps: Iterable[ColumnStep], x: torch.Tensor) -> torch.Tensor:
        """Run some of `steps` in order."""
        for step in steps:
            x = self._run_step(step, x)
        return x

    def gather_scores(self, scores: torch.Tensor) -> torch.Tensor:
        """Join the halves of the last layer for one softmax over all classes. (B, K / 2) -> (B, K)."""
        return gather_columns(scores, self.pair, (len(scores), self.num_classes - scores.shape[1]), "scores")

    def _run_step(self, step: ColumnStep, x: torch.Tensor) -> torch.Tensor:
        match step:
            case SplitRows():
                return self._split_rows(x)
            case GatherRows(layer=layer):
                return self._gather_rows(layer, x)
            case GatherColumns(layer=layer):
                return self._gather_columns(layer, x)
            case _:
                return self.compute(step, x)

    def _split_rows(self, x: torch.Tensor) -> torch.Tensor:
        self._num_rows = len(x)
        own = self._half(len(x))
        first, num = (0, len(x)) if self._rows is None else (self._rows.start, self._num)
        for dropout in self._row_dropouts:
            if self._rows is None:
                dropout.expect(None)
            dropout.expect((slice(first + own.start, first + own.stop), num))
        return x[own]

    def _gather_rows(self, layer: NamedLayer, x: torch.Tensor) -> torch.Tensor:
        # x: (b, D) with b of the B images -> (B, units / 2). Own rows are computed during the transfer.
        module = self.get_submodule(layer.name)
        assert isinstance(module, nn.Linear | ColumnLinear) and isinstance(layer.spec, Dense)
        own_column = self._half(x.shape[1]) if layer.spec.columns > 1 else slice(None)
        exchange = self.pair.begin(x, (self._num_rows - len(x), x.shape[1]), layer.name)
        own = F.linear(x[:, own_column], module.weight, module.bias)
        others = F.linear(exchange.end()[:, own_column], module.weight, module.bias)
        return torch.cat([own, others] if self.pair.column == 0 else [others, own])

    def _gather_columns(self, layer: NamedLayer, x: torch.Tensor) -> torch.Tensor:
        # x: (B, C / 2, H, W) or (B, D / 2) -> half of the layer's channels or units. The product with the
        # own half is computed while the other half is transferred.
        module = self.get_submodule(layer.name)
        assert isinstance(module, nn.Conv2d | nn.Linear)
        exchange = self.pair.begin(x, x.shape, layer.name)
        halves = module.weight.chunk(NUM_COLUMNS, dim=1)
        place = self.pair.column
        product = F.linear if isinstance(module, nn.Linear) else self.fast_convolution(layer).run
        own = product(x, halves[place], module.bias)
        return own + product(exchange.end(), halves[1 - place], None)

    def set_microbatch(self, rows: slice | None, num: int = 0) -> None:
        """As `AlexNet.set_microbatch`, of the images of the pair."""
        self._rows, self._num = rows, num
        super().set_microbatch(rows, num)
