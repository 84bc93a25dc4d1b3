"""From a network in another program's file to one of this package: variant, names, colors, scale, mean, classes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from alexnet.data.dataset import ClassInfo
from alexnet.errors import RequestError
from alexnet.evaluation.preprocessing import IMAGENET_MEAN_COLOR
from alexnet.exchange.class_lists import imagenet_classes, numbered_classes
from alexnet.exchange.foreign_network import (
    CAFFE_CONVENTION,
    CIFAR_MEAN_COLOR,
    TORCHVISION_CONVENTION,
    ForeignLayer,
    ForeignNetwork,
    InputConvention,
    is_of_cifar,
    own_scale,
)
from alexnet.exchange.import_choices import ImportChoices
from alexnet.model.layer_specs import (
    Convolution,
    Dense,
    Dropout,
    LocallyConnected,
    NetworkSpec,
    SizedLayer,
    WeightedSpec,
    scaled,
    sized_layers,
)
from alexnet.model.network import AlexNet
from alexnet.model.tensor_names import published_size, roundest_width
from alexnet.model.variants import VARIANTS, named_variant
from alexnet.model.weights import Trained, float32_parameters
from alexnet.runs.import_recipe import ImportedFile, ImportedInput, ImportedNetwork, ImportRecipe
from alexnet.runs.recipes import side_for_crop

_OWN_CONVENTIONS = {
    "torchvision": TORCHVISION_CONVENTION,
    "caffe": CAFFE_CONVENTION,
    "caffenet": CAFFE_CONVENTION,
}
"""How the published networks of a variant read pixels, where it is not RGB minus a mean, with the variant's scale."""
_ClassesFrom = Literal["file", "options", "imagenet", "numbers", "none"]
_ConventionFrom = Literal["file", "options", "variant"]
_INITIAL_SEED = 0
_KINDS = {2: Dense, 4: Convolution, 6: LocallyConnected}
"""Of a layer by the number of axes of its weights."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Conversion:
    """A network made of a file's."""

    trained: Trained
    foreign: ForeignNetwork
    """With the layers that were taken, and the convention that was."""
    original: ForeignNetwork
    """As the file has it."""
    recipe: ImportRecipe
    has_named_classes: bool
    """False where they are only numbered."""
    is_convention_known: bool
    """Whether the file or the user says how pixels are read; else it is what the variant usually reads."""
    notes: tuple[str, ...]
    """What a user should know, one sentence each."""


@dataclass(frozen=True)
class _Match:
    """Layers as those of a variant."""

    variant: str
    width: float
    num_classes: int
    missing: tuple[str, ...]


@dataclass(frozen=True)
class _Misfit:
    """Why layers are not those of a variant."""

    num_fitting: int
    """Layers before the first that does not fit."""
    problem: str


def convert(foreign: ForeignNetwork, file: ImportedFile, choices: ImportChoices) -> Conversion:
    """Make a network of this package of the weights in a file.

    Weights are copied bit for bit, but for the first layer's: its input channels become red, green, blue, and they are
    multiplied by what the file's network divides colors by, where the variant does not do that itself (in float64,
    rounded once).

    Raises:
        RequestError: the layers are not those of a variant, or of the chosen one, or the class list or the mean image
            has another size than the network.
    """
    original = foreign
    foreign, notes = _without_dropped(foreign, choices)
    match, also = _matching_variant(foreign, file, choices)
    if also:
        notes += (
            f"The layers also fit {_listed(also)}, which the file does not tell from {match.variant!r}; if the network "
            "is one of these, choose it with --variant.",
        )
    spec = VARIANTS[match.variant]
    if foreign.convention is None and any(isinstance(one, Dropout) and not one.inverted for one in spec.layers):
        notes += (
            f"Networks of variant {match.variant!r} multiply activations by 1 minus the dropout rate. The file does "
            "not say the rate, so the paper's 0.5 was taken; after another one, such as 0.1 of recipe `quick`, "
            "probabilities are more or less certain than those of the file's program.",
        )
    classes, classes_from, class_notes = _classes(match, foreign, file, choices)
    convention, convention_from, given = _convention(match.variant, foreign, choices)
    mean_image = _mean_image(spec, foreign, choices, convention, file)
    fit = choices.fit or foreign.fit or "crop"
    trained = Trained(
        network=_network(match, foreign, convention),
        classes=classes,
        mean_image=torch.from_numpy(mean_image),
        crop=spec.image_px,
        title=f"unknown data (imported from {file.name})",
        generated=False,
        mean_at=foreign.mean_at,
        fit=fit,
        untrained_layers=match.missing,
    )
    recipe = ImportRecipe(
        imported=file,
        network=ImportedNetwork(
            variant=match.variant,
            width=match.width,
            num_classes=match.num_classes,
            classes_from=classes_from,
            class_list=choices.class_list,
            features_only=choices.features_only,
            untrained_layers=match.missing,
        ),
        input=ImportedInput(
            color_order=convention.color_order,
            scale=convention.scale,
            scale_in_weights=not convention.is_scale_of(spec),
            mean=tuple(round(float(one), 4) for one in mean_image.mean((0, 1), dtype=np.float64)),
            has_mean_image=_given_mean_image(foreign, choices) is not None,
            mean_at=foreign.mean_at,
            convention_from=convention_from,
            given=given,
            side=len(mean_image),
            crop=spec.image_px,
            fit=fit,
        ),
    )
    return Conversion(
        trained=trained,
        foreign=replace(foreign, convention=convention),
        original=original,
        recipe=recipe,
        has_named_classes=classes != numbered_classes(match.num_classes),
        is_convention_known=convention_from != "variant",
        notes=(*foreign.notes, *notes, *class_notes),
    )


def _without_dropped(foreign: ForeignNetwork, choices: ImportChoices) -> tuple[ForeignNetwork, tuple[str, ...]]:
    """The network without the dense layers that `features_only` leaves out: all, if the file lacks none."""
    is_whole = any(isinstance(_match(one, foreign.layers), _Match) for one in _candidates(foreign, choices))
    if not choices.features_only or not is_whole:
        return foreign, ()
    dense = [layer.name for layer in foreign.layers if layer.weight.dim() == 2]
    kept = tuple(layer for layer in foreign.layers if layer.weight.dim() != 2)
    note = f"The dense layers of the file ({', '.join(dense)}) were left out, as --features-only asks."
    return replace(foreign, layers=kept), (note,)


def _candidates(foreign: ForeignNetwork, choices: ImportChoices) -> tuple[str, ...]:
    if choices.variant is not None:
        named_variant(choices.variant)
        return (choices.variant,)
    return foreign.variants or tuple(VARIANTS)


def _matching_variant(foreign: ForeignNetwork, file: ImportedFile, choices: ImportChoices) -> tuple[_Match, list[str]]:
    """The variant that the layers are of, and others that they would fit as well as far as the file says.

    Raises:
        RequestError: none fits; the message names the first layer that does not, and the variants that would.
    """

    def matched(variant: str, lacks_dense: bool) -> "_Match | _Misfit":
        num_classes = None if choices.classes is None else len(choices.classes)
        return _match(variant, foreign.layers, num_classes, lacks_dense=lacks_dense)

    tried = {one: matched(one, choices.features_only) for one in _candidates(foreign, choices)}
    if matches := [one for one in tried.values() if isinstance(one, _Match)]:
        if choices.variant is not None and foreign.variants and choices.variant not in foreign.variants:
            raise RequestError(
                f"{file.name} is {foreign.what} of variant {_listed(foreign.variants)}, and --variant "
                f"{choices.variant} would compute something else with its weights; omit --variant"
            )
        is_told = bool(foreign.variants) or choices.variant is not None
        return matches[0], [] if is_told else [one.variant for one in matches[1:]]
    misfits = {name: one for name, one in tried.items() if isinstance(one, _Misfit)}
    nearest = max(misfits, key=lambda name: misfits[name].num_fitting)
    problem = misfits[nearest].problem
    begin = f"{file.name} is {foreign.what}, and its layers are not those of variant {nearest!r}: {problem}"
    if not choices.features_only and any(isinstance(matched(one, True), _Match) for one in tried):
        raise RequestError(
            f"{begin}; --features-only imports what it has, as a network that has features and can be fine-tuned, but "
            "scores no classes"
        )
    others = [one for one in VARIANTS if isinstance(matched(one, choices.features_only), _Match)]
    if others:
        raise RequestError(f"{begin}; they fit {_listed(others)}, so choose with --variant")
    raise RequestError(f"{begin}; they fit no variant ({', '.join(VARIANTS)})")


def _match(
    variant: str, layers: Sequence[ForeignLayer], num_classes: int | None = None, *, lacks_dense: bool = False
) -> _Match | _Misfit:
    """Compare layers with those of a variant, in their order.

    Args:
        num_classes: of a network whose last layer is missing; None is the variant's own.
        lacks_dense: whether dense layers may be missing.
    """
    spec = VARIANTS[variant]
    named = [one for one in spec.layers if isinstance(one, WeightedSpec)]
    missing = named[len(layers) :]
    if not layers:
        return _Misfit(0, "it has no layers with weights")
    if len(layers) > len(named):
        return _Misfit(
            len(named), f"{layers[len(named)].name} is layer {len(named) + 1} with weights; it has {len(named)}"
        )
    for number, (layer, one) in enumerate(zip(layers, named, strict=False)):
        if not isinstance(one, _KINDS.get(layer.weight.dim(), ())):
            return _Misfit(number, f"{layer.name} has weights {_shape(layer.weight)}, and {one.name} {_kind(one)}")
    if missing and not (lacks_dense and all(isinstance(one, Dense) for one in missing)):
        return _Misfit(len(layers), f"it lacks {', '.join(one.name for one in missing)}")
    published: list[tuple[int, int]] = []
    width = 1.0
    for number, (layer, one) in enumerate(zip(layers, named, strict=False)):
        if (size := published_size(one)) is None:
            num_classes = len(layer.bias)
            continue
        published.append((size, len(layer.bias)))
        if (found := roundest_width(published)) is None:
            wanted = scaled(size, width)
            return _Misfit(
                number,
                f"{layer.name} has {len(layer.bias):,} outputs, and {one.name} would have {wanted:,} at that width",
            )
        width = found
    num_classes = spec.num_classes if num_classes is None else num_classes
    if num_classes < 2:
        return _Misfit(len(layers) - 1, f"{layers[-1].name} has {num_classes} output; allowed are 2 classes or more")
    sized = [one for one in sized_layers(spec, num_classes, width) if one.weight_shape]
    for number, (layer, own) in enumerate(zip(layers, sized, strict=False)):
        if problem := _shape_problem(layer, own):
            return _Misfit(number, problem)
    return _Match(variant, width, num_classes, tuple(one.name for one in missing))


def _shape_problem(layer: ForeignLayer, own: SizedLayer) -> str | None:
    for kind, tensor, shape in (("weights", layer.weight, own.weight_shape), ("biases", layer.bias, own.bias_shape)):
        if tensor.shape != shape:
            return f"{layer.name} has {kind} {_shape(tensor)}, and {own.name} {tuple(shape)}"
    return None


def _shape(tensor: torch.Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)


def _kind(layer: WeightedSpec) -> str:
    match layer:
        case Convolution():
            return "is a convolution"
        case LocallyConnected():
            return "is locally connected"
        case Dense():
            return "is dense"


def _classes(
    match: _Match, foreign: ForeignNetwork, file: ImportedFile, choices: ImportChoices
) -> tuple[tuple[ClassInfo, ...], _ClassesFrom, tuple[str, ...]]:
    """The classes, who names them, and what is to be said of them.

    Raises:
        RequestError: a list of another length than the network's scores.
    """
    if choices.classes is not None:
        listed = f"the class list {choices.class_list}".rstrip()
        _require_length(choices.classes, listed, match, file)
        first = choices.classes[0]
        note = f"The first class of {listed} has the id {first.id!r} and the name {first.name!r}."
        return choices.classes, "options", (note,)
    if foreign.classes is not None:
        _require_length(foreign.classes, "the file", match, file)
        return foreign.classes, "file", ()
    if match.missing:
        return numbered_classes(match.num_classes), "none", ()
    if match.num_classes == len(imagenet := imagenet_classes()):
        note = (
            "The file names no classes. As there are 1,000, those of ILSVRC-2012 are assumed, sorted by id, as Caffe "
            "and torchvision have them; others are named with --classes."
        )
        return imagenet, "imagenet", (note,)
    note = (
        f"The file names no classes, so they are called class 0 to class {match.num_classes - 1}. Name them with "
        "--classes FILE, or --classes DATA for the classes of a prepared data set; without names that match those of "
        "a data set, the network cannot be evaluated on it."
    )
    return numbered_classes(match.num_classes), "numbers", (note,)


def _require_length(classes: Sequence[ClassInfo], source: str, match: _Match, file: ImportedFile) -> None:
    if len(classes) != match.num_classes:
        raise RequestError(
            f"{source} names {len(classes):,} classes, and the network in {file.name} scores {match.num_classes:,}; "
            "give a list with a name for each score, in their order, with --classes"
        )


def _convention(
    variant: str, foreign: ForeignNetwork, choices: ImportChoices
) -> tuple[InputConvention, _ConventionFrom, tuple[str, ...]]:
    """How pixels are read, who says so, and the options that say a part of it."""
    base = foreign.convention or _usual_convention(variant)
    mean = choices.mean_color
    if choices.mean_image is not None:
        red, green, blue = choices.mean_image.mean((0, 1), dtype=np.float64).tolist()
        mean = (red, green, blue)
    scale = choices.input_scale or base.scale
    chosen = InputConvention(
        color_order=choices.color_order or base.color_order,
        scale=own_scale(VARIANTS[variant]) if scale == "variant" else scale,
        mean=base.mean if mean is None else mean,
    )
    options = {"--color-order": choices.color_order, "--input-scale": choices.input_scale, "--mean": mean}
    given = tuple(name for name, value in options.items() if value is not None)
    if len(given) == len(options):
        return chosen, "options", ()
    return chosen, "variant" if foreign.convention is None else "file", given


def _usual_convention(variant: str) -> InputConvention:
    """How pixels are read where the file does not say it."""
    spec = VARIANTS[variant]
    mean = CIFAR_MEAN_COLOR if is_of_cifar(spec) else IMAGENET_MEAN_COLOR
    return _OWN_CONVENTIONS.get(variant, InputConvention(scale=own_scale(spec), mean=mean))


def _given_mean_image(foreign: ForeignNetwork, choices: ImportChoices) -> NDArray[np.float32] | None:
    if choices.mean_image is not None:
        return choices.mean_image
    return foreign.mean_image if choices.mean_color is None else None


def _mean_image(
    spec: NetworkSpec,
    foreign: ForeignNetwork,
    choices: ImportChoices,
    convention: InputConvention,
    file: ImportedFile,
) -> NDArray[np.float32]:
    """The mean image, (side, side, 3) RGB.

    Raises:
        RequestError: its side is smaller than the network's crop, or not the chosen one.
    """
    crop = spec.image_px
    given = _given_mean_image(foreign, choices)
    side = choices.side or (side_for_crop(crop) if given is None else len(given))
    if side < crop:
        raise RequestError(f"--side is {side}, and the network reads crops of {crop} pixels; allowed is {crop} or more")
    if given is None:
        return np.broadcast_to(np.array(convention.mean, np.float32), (side, side, 3)).copy()
    if given.shape != (side, side, 3):
        raise RequestError(
            f"the mean image is {' x '.join(map(str, given.shape))}, and --side is {side}; omit --side, or give a mean "
            "color with --mean R,G,B"
        )
    return np.ascontiguousarray(given, np.float32)


def _network(match: _Match, foreign: ForeignNetwork, convention: InputConvention) -> AlexNet:
    spec = VARIANTS[match.variant]
    with torch.device("cpu" if match.missing else "meta"), float32_parameters():
        generator = torch.Generator().manual_seed(_INITIAL_SEED) if match.missing else None
        network = AlexNet(match.num_classes, match.variant, match.width, generator=generator)
    names = [layer.name for layer in network.sized_layers if layer.weight_shape]
    state = {name: tensor.detach() for name, tensor in network.state_dict().items()}
    for number, (name, layer) in enumerate(zip(names, foreign.layers, strict=False)):
        weight = layer.weight.detach().to("cpu", torch.float32)
        if number == 0:
            weight = convention.first_weights(weight, spec)
        state[f"{name}.weight"] = weight.contiguous().clone()
        state[f"{name}.bias"] = layer.bias.detach().to("cpu", torch.float32).contiguous().clone()
    network.load_state_dict(state, assign=True)
    return network.eval()


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names))
