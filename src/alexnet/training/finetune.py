"""The recipe that finetunes a trained network on another data set. Paper: section 6; the source's 146-2012-2011.

The trained network's recipe determines its input; which layers learn, how fast and for how long follows from the size
of the new data set.
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
"""With fewer images per class, the convolutions are frozen."""
HEAD_FACTOR = 10.0
"""Learning rate of the new last layer relative to that of the copied ones, as in the source (0.01 and 0.001)."""
MOST_EPOCHS = 60
NEVER = "none"


def finetune_recipe(trained: Recipe, data: PreparedData, freeze_until: str | None = None) -> Recipe:
    """A recipe to finetune a network on other images.

    The copied layers learn at 0.001, the weights of the new last one at ten times that, in batches of up to 128. With
    a validation split the learning rate drops when the validation error has not improved for three epochs, twice, and
    the third such stall ends the training; without one it drops after half of 30 epochs and after three quarters.

    Args:
        trained: the recipe of the trained network: its variant, width, dropout and data settings are kept.
        data: the new data set.
        freeze_until: the last layer to freeze, with all before it; `none` freezes none; None freezes the convolutions
            if classes have fewer than 100 images (the median over the classes).

    Raises:
        RequestError: no such layer, or the last one, which has to learn the classes.
    """
    placed = [one for one in sized_layers(named_variant(trained.network.variant), data.num_classes) if one.weight_shape]
    names = [one.name for one in placed]
    counts = np.bincount(data.require_labels("train").labels, minlength=data.num_classes)
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
    if "val" in data.splits:
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
