"""One column of a network on a process of its own: what it computes, and where it reads the other column.

Paper: section 3.5 and figure 2: "the GPUs communicate only in certain layers". It owns no parameters of its own: they
are those of the network of one process, under the same names, each cut to this column's half.

Axes: B images, C maps, H W places, D features or units, K classes; c is the column, 0 or 1.
"""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import nn

from alexnet.data.sampler import share_of_rank
from alexnet.errors import RequestError
from alexnet.model.convolution import Convolution2d
from alexnet.model.fusion import Fused
from alexnet.model.layer_specs import Convolution, Dense, Drop, Layer, LocallyConnected
from alexnet.model.layers import ColumnLinear, Dropout
from alexnet.model.network import AlexNet
from alexnet.parallel.layout import ColumnLayers
from alexnet.parallel.pair import ColumnPair, gathered

NUM_COLUMNS = 2


@dataclass(frozen=True)
class OwnRows:
    """This process's half of the images."""


@dataclass(frozen=True)
class AllRows:
    """A dense layer, the first of several in columns, over images of which each process has half.

    Each computes its half of the units for all images.
    """

    layer: Dense


@dataclass(frozen=True)
class BothColumns:
    """A layer of which each process computes its half from both halves of what the layer before it wrote."""

    layer: Convolution | Dense


ColumnStep = Layer | Fused | OwnRows | AllRows | BothColumns


def column_steps(stages: Iterable[Layer | Fused], column_layers: ColumnLayers, variant: str) -> tuple[ColumnStep, ...]:
    """A network's stages as one column computes them, with what it reads of the other one.

    Args:
        stages: of the network of one process.
        column_layers: which layers are in columns.
        variant: name, for messages.

    Raises:
        RequestError: the variant has layers that two processes cannot share.
    """
    steps: list[ColumnStep] = [OwnRows()] if column_layers == "dense" else []
    halved = False  # whether a process holds half of the maps or units, not all of them
    for stage in stages:
        match stage:
            case Convolution(columns=1) if column_layers == "every-layer" and halved:
                steps.append(BothColumns(stage))
            case Convolution() if column_layers == "every-layer":
                steps.append(stage)
                halved = True
            case LocallyConnected() if column_layers == "every-layer":
                raise RequestError(
                    f"variant {variant!r} has locally connected layers, which are not cut into columns; allowed is "
                    "--column-layers dense, or --columns 1"
                )
            case Fused(form=form) if halved and form.normalizes:
                if form.columns != NUM_COLUMNS:
                    raise RequestError(
                        f"variant {variant!r} normalizes across all its maps, so it has no two columns; allowed is "
                        "a variant in columns (paper, original, ...), --column-layers dense, or --columns 1"
                    )
                steps.append(replace(stage, form=replace(form, columns=1)))
            case Dense() if not halved:
                steps.append(AllRows(stage))
                halved = True
            case Dense(columns=1):
                steps.append(BothColumns(stage))
            case _:
                steps.append(stage)
    return tuple(steps)


class OneColumn(AlexNet):
    """A network of which this process holds one column, and the other one of a pair the other.

    Input and output are those of the whole network, in both processes: all images of the pair, all scores.

    Args:
        network: the whole one; its weights are copied and cut.
        pair: the other process.
        column_layers: which layers are in columns.

    Raises:
        RequestError: the network has layers that two processes cannot share.
    """

    def __init__(self, network: AlexNet, pair: ColumnPair, column_layers: ColumnLayers = "every-layer") -> None:
        nn.Module.__init__(self)  # not AlexNet's: the modules are cut from those of the whole network
        self.num_classes, self.variant, self.width = network.num_classes, network.variant, network.width
        self.dropout, self.description, self.sized_layers = network.dropout, network.description, network.sized_layers
        self.stages = network.stages
        self.steps = column_steps(network.stages, column_layers, network.variant)
        self.pair = pair
        self.cut_layers = frozenset(
            place.name
            for place in self.sized_layers
            if column_layers == "every-layer" or isinstance(place.layer, Dense)
        )
        """Names of the layers of which this process has half."""
        self._of_own_rows: list[Dropout] = []
        self._rows: slice | None = None
        self._num, self._num_rows = 0, 0
        halved = column_layers == "every-layer"
        for place in self.sized_layers:
            halved = halved or isinstance(place.layer, Dense)
            if isinstance(place.layer, Drop):
                dropout = Dropout(self.dropout, place.layer.inverted)
                if halved:
                    dropout.units = (self._half(place.reads[0]), place.reads[0])
                else:
                    self._of_own_rows.append(dropout)
                self.add_module(place.name, dropout)
            elif place.name:
                module = copy.deepcopy(network.get_submodule(place.name))
                self.add_module(place.name, self._cut_module(module) if place.name in self.cut_layers else module)
        self.train(network.training)

    def cut(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """This column's part of tensors of the whole network, by name of the parameter they belong to."""
        return {
            name: tensor[self._half(len(tensor))] if name.rpartition(".")[0] in self.cut_layers else tensor
            for name, tensor in tensors.items()
        }

    def whole(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The inverse of `cut`, in both processes of the pair at once."""
        joined = dict(tensors)
        lengths = {place.name: place.writes[0] for place in self.sized_layers}
        for name, tensor in tensors.items():
            layer = name.rpartition(".")[0]
            if layer in self.cut_layers:
                num = lengths[layer] - len(tensor)
                other, works = self.pair.swap(tensor, (num, *tensor.shape[1:]), (layer, "state"))
                self.pair.wait(works)
                joined[name] = torch.cat([tensor.detach(), other] if self.pair.place == 0 else [other, tensor.detach()])
        return joined

    def _half(self, num: int) -> slice:
        """This column's part of `num` maps, units or rows."""
        return share_of_rank(num, self.pair.place, NUM_COLUMNS)

    def _cut_module(self, module: nn.Module) -> nn.Module:
        for name, parameter in module.named_parameters():
            own = parameter.detach()[self._half(len(parameter))].clone()
            setattr(module, name, nn.Parameter(own))
        if isinstance(module, Convolution2d):
            module.groups, module.in_channels, module.out_channels = 1, module.weight.shape[1], len(module.weight)
        elif isinstance(module, ColumnLinear):
            module.columns = 1
        elif isinstance(module, nn.Linear):
            module.out_features = len(module.weight)
        return module

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, S, S) -> (B, K), the same B images in both processes."""
        self.require_images(images)
        return self.both_scores(self.take(self.steps, self.scale(images)))

    def take(self, steps: Iterable[ColumnStep], x: torch.Tensor) -> torch.Tensor:
        """What some of `steps`, one after the other, make of x."""
        for step in steps:
            x = self.step(step, x)
        return x

    def both_scores(self, scores: torch.Tensor) -> torch.Tensor:
        """The halves of the last layer, side by side: one softmax over all classes. (B, K / 2) -> (B, K)."""
        return gathered(scores, self.pair, (len(scores), self.num_classes - scores.shape[1]), "scores")

    def step(self, step: ColumnStep, x: torch.Tensor) -> torch.Tensor:
        """What one of `steps` makes of what the one before it made."""
        match step:
            case OwnRows():
                return self._own_rows(x)
            case AllRows(layer=layer):
                return self._all_rows(layer, x)
            case BothColumns(layer=layer):
                return self._both_columns(layer, x)
            case _:
                return self.compute(step, x)

    def _own_rows(self, x: torch.Tensor) -> torch.Tensor:
        self._num_rows = len(x)
        own = self._half(len(x))
        first, num = (0, len(x)) if self._rows is None else (self._rows.start, self._num)
        for dropout in self._of_own_rows:
            if self._rows is None:
                dropout.expect(None)
            dropout.expect((slice(first + own.start, first + own.stop), num))
        return x[own]

    def _all_rows(self, layer: Dense, x: torch.Tensor) -> torch.Tensor:
        # x: (b, D) with b of the B images -> (B, units / 2). The own rows are computed while the others' come.
        module = self.get_submodule(layer.name)
        assert isinstance(module, nn.Linear | ColumnLinear)
        own_column = self._half(x.shape[1]) if layer.columns > 1 else slice(None)
        exchange = self.pair.begin(x, (self._num_rows - len(x), x.shape[1]), layer.name)
        own = F.linear(x[:, own_column], module.weight, module.bias)
        others = F.linear(exchange.end()[:, own_column], module.weight, module.bias)
        return torch.cat([own, others] if self.pair.place == 0 else [others, own])

    def _both_columns(self, layer: Convolution | Dense, x: torch.Tensor) -> torch.Tensor:
        # x: (B, C / 2, H, W) or (B, D / 2) -> half of the layer's maps or units. The product with the own half is
        # computed while the other half comes.
        module = self.get_submodule(layer.name)
        assert isinstance(module, nn.Conv2d | nn.Linear)
        exchange = self.pair.begin(x, x.shape, layer.name)
        halves = module.weight.chunk(NUM_COLUMNS, dim=1)
        place = self.pair.place
        own = _product(module, x, halves[place], module.bias)
        return own + _product(module, exchange.end(), halves[1 - place], None)

    def set_microbatch(self, rows: slice | None, num: int = 0) -> None:
        """As `AlexNet.set_microbatch`, of the images of the pair."""
        self._rows, self._num = rows, num
        super().set_microbatch(rows, num)


def _product(
    module: nn.Conv2d | nn.Linear, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """What the layer makes of x with some of its weights."""
    if isinstance(module, nn.Linear):
        return F.linear(x, weight, bias)
    maps: torch.Tensor = module._conv_forward(x, weight, bias)
    return maps
