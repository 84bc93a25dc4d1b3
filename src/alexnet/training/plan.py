"""The steps of a training: their epochs, stages, images and learning rates, as functions of the step number."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from alexnet.data.sampler import Batching
from alexnet.errors import RequestError
from alexnet.runs.recipe import Recipe, ScheduleSettings, Stage
from alexnet.training.schedule import LearningRates, learning_rates_at


@dataclass(frozen=True, kw_only=True)
class Phase:
    """Consecutive steps with the same stage, images and color noise."""

    stage: int
    first_step: int
    last_step: int
    """The step after the phase."""
    batching: Batching
    """The batches of an epoch, over the first `num_images` images."""
    color_noise: bool
    first_epoch: int
    """Number of the epoch, 0 or more, that began at `epoch_step`."""
    epoch_step: int
    """The step, at or before `first_step`, at which epochs began to have this length."""

    @property
    def num_images(self) -> int:
        """Number of images in an epoch: the first stored ones."""
        return self.batching.num_images

    @property
    def steps_per_epoch(self) -> int:
        """Batches of an epoch."""
        return self.batching.num_batches

    def batch_length(self, step: int) -> int:
        """Images of the batch of step `step`, which must be in this phase."""
        return len(self.batching.batch((step - self.epoch_step) % self.steps_per_epoch))

    def epochs_at(self, step: int) -> float:
        """Epochs done after `step` steps, for a step of this phase or the one after it."""
        return self.first_epoch + (step - self.epoch_step) / self.steps_per_epoch


class Plan:
    """All steps of a training.

    Args:
        schedule: its epochs, or its stages.
        num_images: number of training images, 1 or more.
        batch_size: images of a batch; the last batch of an epoch may be smaller.
        file_images: number of images after which a batch always ends, even if it is smaller; 0 is none.

    Raises:
        RequestError: a stage wants more images than there are, or all stages together are less than half a step.
    """

    def __init__(self, schedule: ScheduleSettings, num_images: int, batch_size: int, file_images: int = 0) -> None:
        stages = schedule.stages or (Stage(epochs=schedule.epochs, learning_rate=0.0),)
        phases: list[Phase] = []
        step, epoch_step, first_epoch, reached = 0, 0, 0, 0.0
        for number, stage in enumerate(stages):
            images = stage.images or num_images
            if images > num_images:
                raise RequestError(
                    f"--schedule.stages: stage {number + 1} trains on {images:,} images and there are {num_images:,}"
                )
            batching = Batching(num_images=images, batch_size=batch_size, file_images=file_images)
            if phases and images != phases[-1].num_images:
                # The settings guarantee that this happens at the end of an epoch.
                first_epoch, epoch_step = round(reached), step
            reached += stage.epochs
            # From the total of epochs, not stage by stage, so that roundings do not add up. A stage of less than half
            # a step may have no step.
            last_step = max(step, epoch_step + round((reached - first_epoch) * batching.num_batches))
            phases.append(
                Phase(
                    stage=number,
                    first_step=step,
                    last_step=last_step,
                    batching=batching,
                    color_noise=stage.color_noise,
                    first_epoch=first_epoch,
                    epoch_step=epoch_step,
                )
            )
            step = last_step
        if step == 0:
            raise RequestError(
                f"--schedule.stages: {reached:g} epochs of {phases[-1].steps_per_epoch} steps are less than one step; "
                "allowed is half a step or more"
            )
        self.phases = tuple(phases)

    @property
    def num_steps(self) -> int:
        """Number of steps."""
        return self.phases[-1].last_step

    @property
    def num_epochs(self) -> float:
        """Number of epochs, which may differ in length."""
        return self.epochs_at(self.num_steps)

    def phase(self, step: int) -> Phase:
        """The phase of step `step` (0 is the first); the last one for the step after it."""
        return next((one for one in self.phases if step < one.last_step), self.phases[-1])

    def learning_rates(self, recipe: Recipe, step: int, validation_errors: Sequence[float] = ()) -> LearningRates:
        """The learning rates of step `step`; see `learning_rates_at`."""
        return learning_rates_at(recipe, step, self.num_steps, self.phase(step).stage, validation_errors)

    def epochs_at(self, step: int) -> float:
        """Epochs done after `step` steps."""
        return self.phase(step - 1 if step else 0).epochs_at(step)

    def ends_epoch(self, step: int) -> bool:
        """Whether after `step` steps an epoch is over, or the training."""
        one = self.phase(step - 1)
        return step == self.num_steps or (step - one.epoch_step) % one.steps_per_epoch == 0

    def epoch_number(self, step: int) -> int:
        """Number of the epoch that ends after `step` steps, 1 or more; a last one cut short counts as one."""
        return math.ceil(self.epochs_at(step) - 1e-9)
