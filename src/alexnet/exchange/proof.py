"""Whether imported weights are what they claim to be: each layer's weights, and how the network reads pixels."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from alexnet.data.dataset import PreparedData
from alexnet.exchange.class_order import MovedClass
from alexnet.exchange.convention_proof import Combination, Measurement, choose_sample, measure
from alexnet.exchange.foreign_network import ForeignLayer, ForeignNetwork, InputConvention
from alexnet.exchange.layer_proof import LayerProof, equal_layers, prove_layer
from alexnet.exchange.reading_findings import AXES, Finding, Reasoned, Stance, reason
from alexnet.model.layer_specs import WeightedSpec
from alexnet.model.weights import Trained
from alexnet.runs.folder import PROOF_VERSION
from alexnet.system.progress import ProgressBar, ShowProgress, counted

NUM_IMAGES = 500
"""Images of DATA that are classified by default."""

Status = Literal["plausible", "contradicted", "undecided"]
_LAYER_TEXTS = {
    "random": "a random initialization ({}), with no more structure than shuffled copies",
    "shuffled": "shuffled: their values are {}, but they have no more structure than shuffled copies",
    "constant": "{}",
    "broken": "broken: {}",
    "undecided": "trained or random; they do not tell which ({})",
}
"""What a layer's weights are, by verdict, with their distribution in words."""
_LOOKS = {
    "random": "look like a random initialization ({}; no more structure than shuffled copies)",
    "shuffled": "look shuffled ({}; no more structure than shuffled copies)",
}
"""What they look like, where other layers or the images speak against it."""
_BRIEF = {"random": "random", "shuffled": "shuffled", "constant": "all equal", "broken": "broken"}
_NEEDED = {
    None: "",
    True: ", but the network errs more with them shuffled, so it was trained with them",
    False: "; with them shuffled the network does as well",
}
_MANY_SILENT = 0.25
"""Share of a layer's channels without any activation from which on a verdict mentions it, of so many images."""
_MIN_SILENT_IMAGES = 100
_MOST_AGAINST = 3
"""Findings that a verdict repeats."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Proof:
    """What an import found out about weights. Nothing in it claims more than was tested."""

    status: Status
    """`plausible`: nothing speaks against the claim, and all layers are trained or the errors on DATA show it.
    `contradicted`: something does. `undecided`: neither."""
    verdict: str
    """The result in one sentence."""
    findings: tuple[Finding, ...]
    layers: tuple[LayerProof, ...]
    measurement: Measurement | None
    """Without DATA None."""
    better: Combination | None = None
    """The reading that errs less than the claimed one, not by chance; None if there is none, or without DATA."""
    moved_classes: tuple[MovedClass, ...] = ()
    classes: tuple[tuple[str, str], ...] = ()
    """Id and name of the network's classes."""

    def to_dict(self) -> dict[str, Any]:
        """proof.json, see `StoredProof`."""
        measured = self.measurement
        return {
            "format_version": PROOF_VERSION,
            "status": self.status,
            "verdict": self.verdict,
            "findings": [{"kind": one.kind, "stance": one.stance, "text": one.text} for one in self.findings],
            "layers": [one.to_dict() for one in self.layers],
            "sample": None if measured is None else measured.to_dict(),
            "combinations": [] if measured is None else [one.to_dict() for one in measured.combinations],
            "moved_classes": [
                {
                    "id": self.classes[one.label][0],
                    "name": self.classes[one.label][1],
                    "read_as_id": self.classes[one.read_as][0],
                    "read_as_name": self.classes[one.read_as][1],
                    "num_images": one.num_images,
                    "num_read": one.num_read,
                }
                for one in self.moved_classes
            ],
        }


def prove(
    foreign: ForeignNetwork,
    trained: Trained,
    data: PreparedData | None,
    *,
    num_images: int = NUM_IMAGES,
    is_reading_chosen: bool = False,
    device: torch.device | None = None,
    progress: ShowProgress = False,
) -> Proof:
    """Test whether weights are what they claim to be.

    Args:
        foreign: the file's network. Its `convention` is the claimed one, with which `trained` was made of it; where the
            file says none, the caller's: `dataclasses.replace(foreign, convention=...)`.
        trained: the same weights as a network of this package. Layers that the file lacked are not tested.
        data: labeled images whose classes are those of the network, or some of them, by id; None tests the weights
            alone.
        num_images: of `data` at most, of its evaluation split, balanced over classes.
        is_reading_chosen: whether the convention is the one with the lowest error on the same images: then that error
            does not show that the network reads as claimed.
        device: where images are classified; None is the CPU.
        progress: see `ShowProgress`; a function is called with (layers done, layers in total), then of images.

    Raises:
        RequestError: data with classes that the network lacks, without labeled images, or of another side.
        UnreadableSample: an image cannot be read.
        ValueError: `data` without a convention, or a convention with which `trained` was not made.
    """
    all_names = [one.name for one in trained.network.sized_layers if isinstance(one.spec, WeightedSpec)]
    names = all_names[: len(foreign.layers)]
    layers = _prove_layers(foreign.layers, names, progress)
    reasoned: Reasoned | None = None
    untested = None
    if data is None:
        untested = "no images were given"
    elif any(one.verdict == "broken" for one in layers):
        untested = "a network with broken weights classifies nothing"
    elif lacking := all_names[len(names) :]:
        untested = f"the file lacks {', '.join(lacking)}"
    else:
        sample = choose_sample(trained, data, num_images)
        convention = _require_convention(foreign, trained, names[0])
        suspects = [one.name for one in layers if one.is_suspect]
        with counted("classifying images", shown=progress) as update:
            measurement = measure(foreign, trained, convention, sample, suspects, device or torch.device("cpu"), update)
        reasoned = reason(measurement, trained, is_last_trained=layers[-1].has_structure)
        needed, silent = reasoned.needed, measurement.silent_channels
        layers = [
            replace(
                one,
                is_needed=one.name in needed if one.is_suspect and needed is not None else None,
                silent_channels=silent.get(one.name),
            )
            for one in layers
        ]
    findings = [*_layer_findings(layers), *_unit_findings(layers)]
    findings += [Finding("units", "against", f"{text}.") for text in equal_layers(foreign.layers, names)]
    if reasoned is not None:
        findings += [*reasoned.findings, *_silent_findings(layers, len(reasoned.measurement.sample.indices))]
    if untested is not None:
        text = f"Color order, scale, mean and class order were not tested: {untested}."
        findings.append(Finding("not tested", "neither", text))
    num_tested = 0 if reasoned is None else len(reasoned.measurement.sample.indices)
    status = _status(layers, findings, is_reading_chosen=is_reading_chosen)
    return Proof(
        status=status,
        verdict=_verdict(
            status, layers, findings, _much_silent(layers, num_tested), is_reading_chosen=is_reading_chosen
        ),
        findings=tuple(findings),
        layers=tuple(layers),
        measurement=None if reasoned is None else reasoned.measurement,
        better=None if reasoned is None else reasoned.better,
        moved_classes=() if reasoned is None else reasoned.moved,
        classes=tuple((one.id, one.name) for one in trained.classes),
    )


def _prove_layers(layers: Sequence[ForeignLayer], names: Sequence[str], progress: ShowProgress) -> list[LayerProof]:
    """Each layer's proof; large layers take seconds."""
    found = []
    with ProgressBar("testing layers", 0, len(layers), shown=progress) as bar:
        for number, (layer, name) in enumerate(zip(layers, names, strict=True)):
            bar.update(number, len(layers), name)
            found.append(prove_layer(layer, name))
        bar.update(len(layers), len(layers), "")
    return found


def _require_convention(foreign: ForeignNetwork, trained: Trained, first: str) -> InputConvention:
    if foreign.convention is None:
        raise ValueError("the network's convention is None; give the one with which `trained` was made")
    own = trained.network.get_parameter(f"{first}.weight").detach().cpu()
    weight = foreign.layers[0].weight.detach().cpu().float()
    expected = foreign.convention.first_weights(weight, trained.network.spec)
    if not torch.allclose(own, expected, rtol=1e-4, atol=1e-6 * float(expected.abs().max())):
        raise ValueError(f"`trained` was not made with {foreign.convention}")
    return foreign.convention


def _layer_findings(layers: Sequence[LayerProof]) -> list[Finding]:
    """One sentence for all trained layers, and one for each other."""
    findings = []
    if trained := [one for one in layers if one.verdict == "trained"]:
        names = _names([one.name for one in trained], [one.name for one in layers])
        tops = _range([one.top_singular_value for one in trained])
        spreads = _range([one.input_spread for one in trained])
        findings.append(
            Finding(
                "layers",
                "for",
                f"{names} {'is' if len(trained) == 1 else 'are'} trained: shuffled copies have less structure (largest "
                f"singular value {tops} times theirs, spread of the inputs {spreads} times). Of layers whose weights "
                "were drawn independently, each unit's from one distribution, at most 1 in 1,000 is called trained.",
            )
        )
    all_names = [one.name for one in layers]
    for verdict, text in _LAYER_TEXTS.items():
        kinds = dict.fromkeys((one.distribution, one.is_needed) for one in layers if one.verdict == verdict)
        for kind in kinds:
            alike = [one.name for one in layers if (one.verdict, one.distribution, one.is_needed) == (verdict, *kind)]
            distribution, is_needed = kind
            stance = _layer_stance(verdict, is_needed, any_trained=bool(trained))
            said = _LOOKS[verdict] if stance == "neither" and verdict in _LOOKS else f"are {text}"
            sentence = f"The weights of {_names(alike, all_names)} {said.format(distribution)}"
            findings.append(Finding("layer", stance, f"{sentence}{_NEEDED[is_needed]}."))
    return findings


def _layer_stance(verdict: str, is_needed: bool | None, *, any_trained: bool) -> Stance:
    """What a layer that is not trained says of the claim."""
    may_hardly_have_changed = is_needed is None and verdict in _LOOKS and any_trained
    return "neither" if is_needed or verdict == "undecided" or may_hardly_have_changed else "against"


def _layer_reasons(layers: Sequence[LayerProof], findings: Sequence[Finding]) -> list[str]:
    """The findings about layers that contradict the claim; one short sentence for several of the same verdict."""
    texts = [one.text for one in findings if one.kind == "layer" and one.stance == "against"]
    if len(texts) < 2:
        return texts
    any_trained = any(one.has_structure for one in layers)
    reasons = []
    for verdict, brief in _BRIEF.items():
        alike = [one for one in layers if one.verdict == verdict]
        bad = [one.name for one in alike if _layer_stance(verdict, one.is_needed, any_trained=any_trained) == "against"]
        if bad:
            reasons.append(f"The weights of {_names(bad, [one.name for one in layers])} are {brief}.")
    return reasons


def _names(some: Sequence[str], all_names: Sequence[str]) -> str:
    """`conv1 to fc8` for neighbors, else a list."""
    first = all_names.index(some[0])
    if len(some) > 2 and list(some) == list(all_names[first : first + len(some)]):
        return f"{some[0]} to {some[-1]}"
    return _listed(some)


def _listed(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _range(values: Sequence[float | None]) -> str:
    known = [one for one in values if one is not None]
    low, high = f"{min(known):.2f}", f"{max(known):.2f}"
    return low if low == high else f"{low} to {high}"


def _unit_findings(layers: Sequence[LayerProof]) -> list[Finding]:
    """Dead and duplicate units, and dead inputs; half of a layer speaks against the weights."""
    findings = []
    for one in layers:
        if one.verdict in ("constant", "broken"):
            continue
        num_inputs = one.shape[1] if len(one.shape) < 6 else one.shape[3]
        num_units = one.num_units
        for what, num, total in (
            ("units whose weights are all equal or tiny", one.dead_units, num_units),
            ("units with exactly the weights of another", one.duplicate_units, num_units),
            ("inputs that it multiplies by 0", one.dead_inputs, num_inputs),
        ):
            if num:
                stance: Stance = "against" if 2 * num >= total else "neither"
                findings.append(Finding("units", stance, f"{one.name} has {num:,} of {total:,} {what}."))
    return findings


def _silent(layer: LayerProof, num_images: int) -> str:
    return (
        f"{layer.silent_channels:,} of {layer.num_channels:,} channels of {layer.name} are 0 for all "
        f"{num_images:,} images"
    )


def _silent_findings(layers: Sequence[LayerProof], num_images: int) -> list[Finding]:
    """Channels that are never above 0; all of a layer speak against the weights."""
    findings = []
    for one in layers:
        if one.silent_channels:
            total = one.num_channels
            stance: Stance = "against" if one.silent_channels == total else "neither"
            findings.append(Finding("units", stance, f"{_silent(one, num_images)}."))
    return findings


def _status(layers: Sequence[LayerProof], findings: Sequence[Finding], *, is_reading_chosen: bool = False) -> Status:
    if any(one.stance == "against" for one in findings):
        return "contradicted"
    errors = [one.stance for one in findings if one.kind == "error"]
    is_trained = all(one.verdict == "trained" or one.is_needed for one in layers)
    is_shown = is_trained if is_reading_chosen or not errors else "for" in errors
    return "plausible" if is_shown and "neither" not in errors else "undecided"


def _much_silent(layers: Sequence[LayerProof], num_images: int) -> str:
    """Layers of which many channels are never above 0, as the end of a verdict."""
    much = [one for one in layers if (one.silent_channels or 0) >= _MANY_SILENT * one.num_channels]
    return (
        f"; but {_listed([_silent(one, num_images) for one in much])}"
        if num_images >= _MIN_SILENT_IMAGES and much
        else ""
    )


def _verdict(
    status: Status,
    layers: Sequence[LayerProof],
    findings: Sequence[Finding],
    much_silent: str,
    *,
    is_reading_chosen: bool = False,
) -> str:
    """The status and its reasons in one sentence."""
    untested = next((one.text for one in findings if one.kind == "not tested"), None)
    unclear = [one.kind for one in findings if one.stance == "neither" and one.kind in AXES]
    error = next((one.text for one in findings if one.kind == "error"), "")
    if status == "contradicted":
        others = [one.text for one in findings if one.stance == "against" and one.kind != "layer"]
        texts = [*_layer_reasons(layers, findings), *others]
        more = f"; and {len(texts) - _MOST_AGAINST} more" if len(texts) > _MOST_AGAINST else ""
        reasons = "; ".join(_inside(one) for one in texts[:_MOST_AGAINST])
        return f"The weights are not what they claim to be: {reasons}{more}."
    trained = "The weights are trained"
    if status == "undecided":
        neither = [one for one in findings if one.stance == "neither"]
        doubts = [one.text for one in neither if one.kind == "error"] or [
            one.text for one in neither if one.kind == "layer"
        ]
        return f"Nothing contradicts the claim, but not all of it is shown: {'; '.join(map(_inside, doubts))}."
    if untested is not None:
        return f"{trained}; {_inside(untested)}."
    told = f"; {_listed(unclear)} cannot be told from these images" if unclear else ""
    claim = "; how they read pixels was not claimed, but chosen by these images" if is_reading_chosen else ""
    return f"{trained}{claim or ' and classify as claimed'}: {_inside(error)}{told}{much_silent}."


def _inside(sentence: str) -> str:
    """A sentence as a part of another."""
    return sentence[:1].lower() + sentence[1:].rstrip(".")
