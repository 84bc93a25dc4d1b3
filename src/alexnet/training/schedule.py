"""The learning rate as a pure function of the step. Paper: section 5."""

from alexnet.runs.recipe import ScheduleSettings


def rate_at(settings: ScheduleSettings, peak: float, step: int, num_steps: int) -> float:
    """The rate of step `step` (0 is the first) of `num_steps`.

    `steps`: `peak` times `factor` for each of `drops` that lies at or before step / num_steps.
    `one-cycle`: rises linearly to `peak` over the share `warm_up`, then falls linearly towards 0.
    """
    done = step / num_steps
    if settings.kind == "steps":
        return peak * settings.factor ** sum(done >= drop for drop in settings.drops)
    # The first step already moves: half a step into the ramp.
    middle = (step + 0.5) / num_steps
    if middle < settings.warm_up:
        return peak * middle / settings.warm_up
    return peak * (1 - middle) / (1 - settings.warm_up)
