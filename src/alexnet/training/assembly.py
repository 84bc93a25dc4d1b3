"""Everything one training needs, put together from a data set and a recipe before anything is written."""

from dataclasses import dataclass, field

import torch

from alexnet.data.loader import Loader, class_balanced_subset
from alexnet.data.prepared import PreparedData
from alexnet.errors import RequestError
from alexnet.model.device import Precision, choose_device, choose_precision
from alexnet.model.network import AlexNet
from alexnet.runs.folder import RunFolder
from alexnet.runs.recipe import Recipe
from alexnet.training.optimizer import VelocitySGD


@dataclass
class Tally:
    """Loss and errors on training batches since the last event."""

    since_s: float = 0.0
    loss: float = 0.0
    wrong: int = 0
    num: int = 0

    def add(self, loss: float, wrong: int, num: int) -> None:
        self.loss += loss * num
        self.wrong += wrong
        self.num += num

    def means(self) -> tuple[float, float]:
        return self.loss / self.num, self.wrong / self.num


@dataclass
class Training:
    """All that one training needs from step to step."""

    run: RunFolder
    data: PreparedData
    recipe: Recipe
    network: AlexNet
    optimizer: VelocitySGD
    loader: Loader
    device: torch.device
    precision: Precision
    dropout: torch.Generator
    step: int = 0
    trained_s: float = 0.0
    left_chance: bool = False
    window: Tally = field(default_factory=Tally)
    epoch: Tally = field(default_factory=Tally)

    @property
    def num_steps(self) -> int:
        return self.recipe.schedule.epochs * self.loader.steps_per_epoch


def assemble(run: RunFolder, data: PreparedData, recipe: Recipe) -> Training:
    """Build network, optimizer and loader; the run folder need not exist yet and is not touched.

    Raises:
        RequestError: the data set cannot serve the recipe (crop, subset), or the variant or the device is not there.
    """
    settings = recipe.training
    device = choose_device(settings.device)
    precision = choose_precision(settings.precision, device)
    split = data.splits["train"]
    subset = class_balanced_subset(split.labels, recipe.data.subset, settings.seed) if recipe.data.subset else None
    loader = Loader(split, data.statistics, recipe.data, recipe.optimizer.batch_size, settings.seed, sample_ids=subset)
    network = AlexNet(
        data.num_classes,
        recipe.network.variant,
        recipe.network.width,
        dropout=recipe.network.dropout,
        generator=torch.Generator().manual_seed(settings.seed),
    )
    if recipe.data.crop != network.description.image_px:
        raise RequestError(
            f"--data.crop is {recipe.data.crop}, and variant {recipe.network.variant!r} "
            f"reads {network.description.image_px}-pixel images"
        )
    network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    dropout = torch.Generator(device)
    network.seed_dropout(dropout)
    optimizer = VelocitySGD(network, recipe.optimizer.momentum, recipe.optimizer.decay)
    return Training(run, data, recipe, network, optimizer, loader, device, precision, dropout)
