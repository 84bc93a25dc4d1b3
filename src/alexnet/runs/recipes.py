"""The named recipes: each a whole way of training and the claim it makes.

A recipe is data. `alexnet train DATA --recipe NAME` starts from it and dotted options change it.
"""

from alexnet.errors import RequestError
from alexnet.runs.recipe import (
    DataSettings,
    NetworkSettings,
    OptimizerSettings,
    Recipe,
    ScheduleSettings,
)

PAPER = Recipe(
    name="paper",
    claim=(
        "The 2012 network as the paper's text describes it. On ILSVRC-2012: 40.7 % top-1 and 18.2 % top-5 error on the "
        "validation images with ten views (paper, table 2), 90 passes."
    ),
)

QUICK = Recipe(
    name="quick",
    claim=(
        "A four-layer network in the paper's style on CIFAR-10. Aim, not yet shown: at most 20 % test error with one "
        "view, after at most 150 s of training on two undisturbed cores that multiply bfloat16."
    ),
    network=NetworkSettings(variant="quick", dropout=0.2),
    data=DataSettings(crop=28, corners="original", colour_noise=0.0),
    optimizer=OptimizerSettings(batch_size=128, rate=0.05, decay=0.0005),
    schedule=ScheduleSettings(kind="one-cycle", epochs=6, warm_up=0.2),
)

RECIPES = {recipe.name: recipe for recipe in (QUICK, PAPER)}
"""All recipes by name."""


def named_recipe(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        RequestError: there is none; the known ones are named.
    """
    if name not in RECIPES:
        raise RequestError(f"unknown recipe {name!r}; known are {', '.join(RECIPES)}")
    return RECIPES[name]
