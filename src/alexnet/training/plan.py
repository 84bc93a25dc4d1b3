"""Which step stands where: epochs, stages and the images they use, as arithmetic on the step number."""

import math
from dataclasses import dataclass

from alexnet.data.sampler import Batching
from alexnet.errors import RequestError
from alexnet.runs.recipe import ScheduleSettings, Stage


@dataclass(frozen=True, kw_only=True)
class Phase:
    """Steps during which the rates' stage, the images and the color noise stay what they are."""

    stage: int
    first_step: int
    last_step: int
    """The step after the phase."""
    cut: Batching
    """The batches of an epoch, over the first so many images."""
    color_noise: bool
    first_epoch: int
    """Number of the epoch, 0 or more, that began at `epoch_step`."""
    epoch_step: int
    """The step, at or before `first_step`, at which epochs began to have this length."""

    @property
    def num_images(self) -> int:
        """Images of an epoch: the first so many."""
        return self.cut.num_images

    @property
    def steps_per_epoch(self) -> int:
        """Batches of an epoch."""
        return self.cut.num_batches

    def batch_length(self, step: int) -> int:
        """Images of the batch of step `step`, one of this phase."""
        return len(self.cut.batch((step - self.epoch_step) % self.steps_per_epoch))

    def epochs_at(self, step: int) -> float:
        """Epochs done after `step` steps, for a step of this phase or the one after it."""
        return self.first_epoch + (step - self.epoch_step) / self.steps_per_epoch


class Plan:
    """All steps of a training.

    Args:
        schedule: its epochs, or its stages.
        num_images: training images there are, 1 or more.
        batch_size: the last batch of an epoch holds what is left.
        file_images: so does the last one of each so many images; 0 is none.

    Raises:
        RequestError: a stage wants more images than there are, or all stages together are no step.
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
            cut = Batching(num_images=images, batch_size=batch_size, file_images=file_images)
            if phases and images != phases[-1].num_images:
                # The settings see to it that this happens at the end of an epoch.
                first_epoch, epoch_step = round(reached), step
            reached += stage.epochs
            # From the epochs in all, not stage by stage: roundings must not add up. A stage of less than half a step
            # may have none.
            last_step = max(step, epoch_step + round((reached - first_epoch) * cut.num_batches))
            phases.append(
                Phase(
                    stage=number,
                    first_step=step,
                    last_step=last_step,
                    cut=cut,
                    color_noise=stage.color_noise,
                    first_epoch=first_epoch,
                    epoch_step=epoch_step,
                )
            )
            step = last_step
        if step == 0:
            raise RequestError(
                f"--schedule.stages: {reached:g} epochs of {phases[-1].steps_per_epoch} steps are not one step; "
                "allowed is half a step or more"
            )
        self.phases = tuple(phases)

    @property
    def num_steps(self) -> int:
        """Steps in all."""
        return self.phases[-1].last_step

    @property
    def num_epochs(self) -> float:
        """Epochs in all, each of its own length."""
        return self.epochs_at(self.num_steps)

    def phase(self, step: int) -> Phase:
        """The phase in which step `step` (0 is the first) stands; the last one for the step after it."""
        return next((one for one in self.phases if step < one.last_step), self.phases[-1])

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
