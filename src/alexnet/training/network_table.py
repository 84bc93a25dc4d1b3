"""A recipe's network as a table, before anything is trained: `alexnet train --show` prints it."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch

from alexnet.model.network import AlexNet
from alexnet.runs.recipe import Recipe
from alexnet.training.optimizer import make_optimizer
from alexnet.training.schedule import LearningRates, learning_rates_at
from alexnet.training.setup import require_fit


@dataclass(frozen=True, kw_only=True)
class Row:
    """One layer with weights: its size, and its first learning rates."""

    layer: str
    channels: int
    """Output channels, or units of a dense layer."""
    side: int
    """Output height and width; 1 for a dense layer."""
    weight_shape: tuple[int, ...]
    parameters: int
    neurons: int
    multiply_adds: int
    """For one image."""
    learning_rate: float
    """Of the weights, first of the schedule or, where it rises first, its peak."""
    bias_learning_rate: float
    weight_decay: float
    """Of the weights; biases have none."""


def network_table(recipe: Recipe, num_classes: int) -> list[Row]:
    """The layers with weights of a recipe's network.

    Raises:
        RequestError: the recipe names a variant or a layer that does not exist.
    """
    with torch.device("meta"):  # shapes only: no random numbers, no memory
        network = AlexNet(num_classes, recipe.network.variant, recipe.network.width, dropout=recipe.network.dropout)
        require_fit(recipe, network)
        optimizer = make_optimizer(recipe.optimizer, network)
    learning_rates = _first_learning_rates(recipe)
    return [
        Row(
            layer=layer.name,
            channels=layer.out_channels,
            side=layer.out_side,
            weight_shape=layer.weight_shape,
            parameters=math.prod(layer.weight_shape) + math.prod(layer.bias_shape),
            neurons=layer.neurons,
            multiply_adds=layer.multiply_adds,
            learning_rate=learning_rates.of(f"{layer.name}.weight"),
            bias_learning_rate=learning_rates.of(f"{layer.name}.bias"),
            weight_decay=optimizer.weight_decays[f"{layer.name}.weight"],
        )
        for layer in network.sized_layers
        if layer.weight_shape
    ]


def _first_learning_rates(recipe: Recipe) -> LearningRates:
    if recipe.schedule.kind in ("one-cycle", "cosine"):
        return LearningRates(
            weights=recipe.optimizer.learning_rate,
            biases=recipe.optimizer.learning_rate * recipe.optimizer.bias_lr_factor,
        )
    return learning_rates_at(recipe, 0, 1)


def schedule_lines(recipe: Recipe) -> list[str]:
    """The schedule of the learning rates after the first ones, as lines of text."""
    schedule = recipe.schedule
    match schedule.kind:
        case "stages":
            lines, begin = [], 0.0
            for stage in schedule.stages:
                biases = stage.learning_rate if stage.bias_learning_rate is None else stage.bias_learning_rate
                layers = ", ".join(
                    f"{name} {learning_rate:g}" for name, learning_rate in stage.layer_learning_rates.items()
                )
                lines.append(
                    f"epoch {begin:g} to {begin + stage.epochs:g}: weights {stage.learning_rate:g}"
                    + (f" ({layers})" if layers else "")
                    + f", biases {biases:g}"
                    + ("" if stage.color_noise or not recipe.data.color_noise else ", no color noise")
                    + (f", first {stage.images:,} images" if stage.images else "")
                )
                begin += stage.epochs
            return lines
        case "plateau":
            decrease = f" by {100 * schedule.improvement:g} points" if schedule.improvement else ""
            return [
                f"times {schedule.gamma:g} when the validation error has not fallen{decrease} "
                f"for {schedule.patience} epochs, {schedule.plateau_drops} times; then the end, or at epoch "
                f"{schedule.epochs}"
            ]
        case "steps":
            drops = ", ".join(f"{drop * schedule.epochs:g}" for drop in schedule.milestones)
            return [f"times {schedule.gamma:g} at epoch {drops or 'none'}; the end at {schedule.epochs}"]
        case "geometric":
            return [
                f"{schedule.num_plateaus} plateaus down to 1 / {schedule.lr_range:g} (biases "
                f"{schedule.num_bias_plateaus}, 1 / {schedule.bias_lr_range:g}); the end at epoch {schedule.epochs}"
            ]
        case _:
            return [
                f"{schedule.kind}: up to this until epoch {schedule.warmup * schedule.epochs:g}, then down to 0; "
                f"the end at {schedule.epochs}"
            ]


def table_as_json(recipe: Recipe, num_classes: int) -> dict[str, Any]:
    """The table as one JSON object: `layers`, one object each as `Row`, and the sums."""
    rows = network_table(recipe, num_classes)
    return {
        "recipe": recipe.name,
        "variant": recipe.network.variant,
        "num_classes": num_classes,
        "layers": [{**asdict(row), "weight_shape": list(row.weight_shape)} for row in rows],
        "parameters": sum(row.parameters for row in rows),
        "neurons": sum(row.neurons for row in rows),
        "multiply_adds": sum(row.multiply_adds for row in rows),
        "schedule": schedule_lines(recipe),
    }
