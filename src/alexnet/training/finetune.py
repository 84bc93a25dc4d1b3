"""The recipe with which a trained network goes on to another data set. Paper: section 6; the source's 146-2012-2011.

The network's own recipe says what it reads; what is learned anew, how fast and for how long follows from how much there
is to learn from.
"""

from dataclasses import replace
from statistics import median

import numpy as np

from alexnet.data.dataset import PreparedData
from alexnet.errors import RequestError
from alexnet.model.layer_specs import Convolution, sized_layers
from alexnet.model.variants import named_variant
from alexnet.runs.recipe import OptimizerSettings, Recipe, ScheduleSettings, TrainingSettings

FEW_IMAGES = 100
"""Images a class below which the convolutions stay as they were learned."""
HEAD_FACTOR = 10.0
"""Rate of the new last layer over that of the copied ones, as the source has it (0.01 beside 0.001)."""
MOST_EPOCHS = 60
NEVER = "none"


def finetune_recipe(trained: Recipe, data: PreparedData, freeze_until: str | None = None) -> Recipe:
    """A recipe for going on with a network on other images.

    The copied layers learn at 0.001, the weights of the new last one at ten times that, in batches of up to 128. With
    a validation split the rate drops when its error has not improved for three epochs, twice, and the third such stall
    ends the training; without one the rate drops after half of 30 epochs and after three quarters.

    Args:
        trained: the recipe of the network to go on with: its variant, width, dropout and the data path are kept.
        data: what is to be learned.
        freeze_until: the last layer that stays as it is, with all before it; `none` freezes none; None freezes the
            convolutions where a class has fewer than 100 images (the median of the classes).

    Raises:
        RequestError: no such layer, or it is the last one, which has to learn the classes.
    """
    placed = [one for one in sized_layers(named_variant(trained.network.variant), data.num_classes) if one.weight_shape]
    names = [one.name for one in placed]
    counts = np.bincount(data.splits["train"].labels, minlength=data.num_classes)
    if freeze_until is None:
        convolutions = [one.name for one in placed if isinstance(one.spec, Convolution)]
        freeze_until = convolutions[-1] if convolutions and median(counts.tolist()) < FEW_IMAGES else NEVER
    if freeze_until != NEVER and freeze_until not in names[:-1]:
        raise RequestError(
            f"--freeze-until is {freeze_until}; variant {trained.network.variant!r} can be frozen up to "
            f"{', '.join(names[:-1])}, or {NEVER}"
        )
    frozen = names[: names.index(freeze_until) + 1] if freeze_until != NEVER else []
    num_images = len(data.splits["train"])
    batch_size = max(8, min(128, num_images // 20))
    schedule = ScheduleSettings(kind="steps", epochs=30, milestones=(0.5, 0.75))
    if data.evaluation_split == "val":
        schedule = ScheduleSettings(kind="plateau", epochs=MOST_EPOCHS, patience=3, plateau_drops=2)
    factors = {**dict.fromkeys(frozen, 0.0), names[-1]: HEAD_FACTOR}
    return replace(
        trained,
        name="finetune",
        claim="",
        data=replace(trained.data, subset=0, sampling="each-once", class_weights={}, order="each-epoch", file_images=0),
        optimizer=OptimizerSettings(batch_size=batch_size, learning_rate=0.001, layer_lr_factors=factors),
        schedule=schedule,
        training=TrainingSettings(seed=trained.training.seed),
        network=replace(trained.network, start_layers="all"),
    )
