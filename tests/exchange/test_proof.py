"""Proofs of a small trained network: every way in which weights are wrong is found and named, right ones are not."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.exchange.small_networks import NUM_CLASSES, drawn_data, train_network

from alexnet.data.dataset import ClassInfo, PreparedData
from alexnet.errors import RequestError
from alexnet.evaluation.evaluate import predict_split
from alexnet.exchange.convention_proof import IMAGES_PER_CLASS, choose_sample
from alexnet.exchange.foreign_network import ForeignLayer, InputConvention
from alexnet.exchange.proof import Proof, _status, _verdict, prove
from alexnet.exchange.reading_findings import AXES
from alexnet.model.network import AlexNet
from alexnet.model.weights import Trained
from alexnet.runs.folder import RunFolder
from alexnet.runs.run_files import StoredProof
from alexnet.storage.typed_files import DamagedFile, require_schema
from benchmarks import weight_proof

NUM = 160


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    return drawn_data(tmp_path_factory.mktemp("drawn"))


@pytest.fixture(scope="module")
def claim(data: PreparedData) -> weight_proof.Claim:
    """A network that was trained for 40 steps: its first two layers hardly changed."""
    return weight_proof.claim_of(train_network(data, steps=40))


def _prove(claim: weight_proof.Claim, data: PreparedData | None, num_images: int = NUM) -> Proof:
    proof = prove(claim.foreign, claim.imported(), data, num_images=num_images)
    require_schema(json.loads(json.dumps(proof.to_dict())), StoredProof)
    return proof


def _against(proof: Proof) -> list[str]:
    return [one.kind for one in proof.findings if one.stance == "against"]


_QUICK = ("as it is", "random weights", "the other color order", "classes shuffled", "two classes exchanged")


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(one, id=one.name, marks=() if one.name in _QUICK else pytest.mark.slow)
        for one in weight_proof.CASES
    ],
)
def test_each_way_of_being_wrong_is_named(
    case: weight_proof.Case, claim: weight_proof.Claim, data: PreparedData
) -> None:
    proof = _prove(case.damage(claim), data)

    if case.kind is None:
        assert (proof.status, _against(proof)) == ("plausible", [])
    else:
        assert proof.status == "contradicted"
        assert case.kind in _against(proof), proof.verdict
        assert proof.verdict.startswith("The weights are not what they claim to be: the ")


def test_errors_are_those_of_an_evaluation(claim: weight_proof.Claim, data: PreparedData) -> None:
    proof = _prove(claim, data, num_images=NUM_CLASSES * 40)
    trained = claim.trained

    probabilities = predict_split(
        trained.network, data, "val", trained.crop, 1, mean_image=trained.mean_image, mean_at=trained.mean_at
    )

    measured = proof.measurement
    assert measured is not None
    first = measured.combinations[0]
    assert first.is_claimed and first.p_value is None
    labels = np.asarray(data.splits["val"].labels)
    assert first.top1_error == np.mean(probabilities.argmax(1) != labels)
    np.testing.assert_array_equal(first.answers, probabilities.argmax(1))
    # 2 color orders x 4 scales (one is the variant's own) x 2 means, and three other layouts
    assert len(measured.combinations) == 19
    # BGR of the images is what the network reads under the other color order
    images = torch.from_numpy(np.stack([data.splits["val"].images[one] for one in range(len(labels))]))
    window = slice(2, 30)
    batch = (images.float() - trained.mean_image)[:, window, window].permute(0, 3, 1, 2)
    with torch.inference_mode():
        other = trained.network(batch.flip(1).contiguous()).argmax(1).numpy()
    swapped = next(one for one in measured.combinations if one.reading == replace(first.reading, color_order="bgr"))
    assert np.mean(swapped.answers == other) > 0.99


def test_channels_that_are_never_above_zero_are_counted(claim: weight_proof.Claim, data: PreparedData) -> None:
    changed = claim.with_layers(
        lambda number, one: (
            replace(one, bias=one.bias - 1e3 * (torch.arange(len(one.bias)) < 5)) if number == 2 else one
        )
    )

    before, after = _prove(claim, data, 40), _prove(changed, data, 40)

    network, largest = claim.trained.network, []
    handle = network.relu3.register_forward_hook(lambda module, inputs, output: largest.append(output.amax((0, 2, 3))))
    sample = choose_sample(claim.trained, data, 40)
    images = torch.from_numpy(np.concatenate(list(sample.batches())))
    with torch.inference_mode():
        network((images.float() - claim.trained.mean_image)[:, 2:30, 2:30].permute(0, 3, 1, 2).contiguous())
    handle.remove()
    silent = largest[0] <= 0
    assert before.layers[2].silent_channels == int(silent.sum())
    assert after.layers[2].silent_channels == int((silent | (torch.arange(len(silent)) < 5)).sum())
    assert before.layers[-1].silent_channels is None  # no ReLU follows


def test_without_images_nothing_is_said_of_pixels(claim: weight_proof.Claim) -> None:
    proof = _prove(_structured(claim), None)

    assert proof.status == "plausible"
    assert proof.verdict == (
        "The weights are trained; color order, scale, mean and class order were not tested: no images were given."
    )
    assert {one.kind for one in proof.findings} == {"layers", "not tested"}
    assert proof.measurement is None


def test_weights_that_hardly_changed_are_in_doubt_until_images_show_that_the_network_needs_them(
    claim: weight_proof.Claim, data: PreparedData
) -> None:
    alone, shown = _prove(claim, None), _prove(claim, data)

    assert (alone.status, shown.status) == ("undecided", "plausible")
    assert [one.is_suspect for one in alone.layers] == [True, True, False, False, False]
    assert alone.layers[0].verdict == "random"
    assert [one.is_needed for one in alone.layers] == [None] * 5
    assert [one.is_needed for one in shown.layers] == [True, True, None, None, None]
    assert "The weights of conv1 look like a random initialization (normal, std " in alone.findings[1].text
    assert ", but the network errs more with them shuffled, so it was trained with them." in shown.findings[1].text


def test_random_networks_are_contradicted_by_the_weights_alone(claim: weight_proof.Claim) -> None:
    drawn = next(one for one in weight_proof.CASES if one.name == "random weights").damage(claim)

    proof = _prove(drawn, None)

    assert proof.status == "contradicted"
    assert proof.verdict == "The weights are not what they claim to be: the weights of conv1 to fc5 are random."
    text = "The weights of conv2 to conv4 are a random initialization (normal, std sqrt(2/fan-in)"
    assert any(one.text.startswith(text) for one in proof.findings)


@pytest.mark.slow
def test_a_claimed_mean_far_from_the_images_is_compared_with_theirs(
    claim: weight_proof.Claim, data: PreparedData
) -> None:
    """A mean for colors 0..1 where 0..255 is asked for is about none."""
    shift = torch.full_like(claim.trained.mean_image, 0.45)
    far = replace(claim, trained=replace(claim.trained, mean_image=shift))

    measured, own = _prove(far, data).measurement, _prove(claim, data).measurement

    assert measured is not None and own is not None
    assert {one.reading.mean for one in measured.combinations} == {"claimed", "none", "data set"}
    assert {one.reading.mean for one in own.combinations} == {"claimed", "none"}
    by_mean = {one.reading.mean: one for one in measured.combinations if one.reading.color_order == "rgb"}
    assert by_mean["data set"].reading.layout == "as given"


def test_a_reading_that_may_be_better_leaves_the_claim_undecided(claim: weight_proof.Claim, data: PreparedData) -> None:
    swapped = claim.claiming(replace(claim.convention, color_order="bgr"))

    proof = _prove(swapped, data, 10)  # all wrong as claimed, none as RGB: p is 2 ** -9 for one of 18 readings

    doubt = next(one for one in proof.findings if one.kind == "error" and one.text.startswith("The weights may read"))
    assert doubt.stance == "neither"
    assert doubt.text.startswith("The weights may read RGB instead of BGR: top-1 error 0.0 % (0.0 to ")
    assert "as claimed, p 0.002, which may still be chance for the best of 18 readings" in doubt.text
    right = _prove(claim, data)
    assert right.status == "plausible"
    assert _status(right.layers, [*right.findings, doubt]) == "undecided"
    assert "the weights may read RGB" in _verdict("undecided", right.layers, [*right.findings, doubt], "")


@pytest.mark.slow
def test_many_silent_channels_are_in_the_verdict(claim: weight_proof.Claim, data: PreparedData) -> None:
    changed = claim.with_layers(
        lambda number, one: (
            replace(one, bias=one.bias - 1e3 * (torch.arange(len(one.bias)) < len(one.bias) // 2))
            if number == 2
            else one
        )
    )

    few, many = _prove(changed, data, 40), _prove(changed, data)

    silent = f"channels of conv3 are 0 for all {NUM} images"
    assert silent in " ".join(one.text for one in many.findings)
    assert many.status == "plausible", many.verdict
    assert f"; but {many.layers[2].silent_channels} of {many.layers[2].num_channels} {silent}." in many.verdict
    assert "; but " not in few.verdict


def test_progress_counts_layers_and_then_images(claim: weight_proof.Claim, data: PreparedData) -> None:
    seen: list[tuple[int, int]] = []

    prove(claim.foreign, claim.imported(), data, num_images=100, progress=lambda *step: seen.append(step))

    assert seen == [*((done, 5) for done in range(1, 6)), (50, 96), (96, 96)]


def test_gray_images_do_not_tell_the_color_order(claim: weight_proof.Claim, data: PreparedData) -> None:
    split = data.splits["val"]
    gray = [np.repeat(split.images[one].mean(2, keepdims=True).astype(np.uint8), 3, 2) for one in range(len(split))]
    images = replace(data, splits={**data.splits, "val": replace(split, images=gray)})

    proof = _prove(_gray_reader(claim), images)

    assert proof.measurement is not None and proof.measurement.num_gray == NUM
    unclear = next(one for one in proof.findings if one.kind == "color order")
    assert unclear.stance == "neither"
    assert unclear.text.startswith("These images do not tell whether the weights read RGB or BGR: top-1 error ")
    assert unclear.text.endswith("; 160 of 160 images are gray.")


def test_a_network_for_other_classes_is_at_chance(claim: weight_proof.Claim, data: PreparedData) -> None:
    split = data.splits["val"]
    labels = np.random.default_rng(0).permutation(np.asarray(split.labels))

    proof = _prove(claim, replace(data, splits={**data.splits, "val": replace(split, labels=labels)}))

    assert proof.status == "contradicted"
    error = next(one for one in proof.findings if one.kind == "error")
    assert error.text.startswith(
        "The network is no better than chance at these classes under any reading: top-1 error "
    )
    assert error.text.endswith("; chance is 87.5 %.")
    assert not any(one.kind in AXES for one in proof.findings)


def test_classes_are_matched_by_id_and_others_refused(claim: weight_proof.Claim, data: PreparedData) -> None:
    order = [*range(1, NUM_CLASSES), 0]
    numbers = np.argsort(order)
    splits = {name: replace(one, labels=numbers[np.asarray(one.labels)]) for name, one in data.splits.items()}
    moved = replace(data, classes=tuple(data.classes[one] for one in order), splits=splits)

    assert _prove(claim, moved).status == "plausible"
    unknown = replace(data, classes=(ClassInfo("zebra", "zebra"), *data.classes[1:]))
    with pytest.raises(RequestError, match="the network lacks number 0 of these, 'zebra'"):
        _prove(claim, unknown)
    with pytest.raises(RequestError, match="prepare the data with --side 32"):
        _prove(claim, replace(data, side=64))


def test_samples_are_balanced_and_have_several_images_of_a_class(claim: weight_proof.Claim, data: PreparedData) -> None:
    for num, classes, each in ((160, 8, 20), (40, 8, 5), (20, 4, 5), (3, 1, 3), (10_000, 8, 40)):
        sample = choose_sample(claim.trained, data, num)
        found, counts = np.unique(sample.labels, return_counts=True)
        assert (len(found), set(counts)) == (classes, {each}), num
        np.testing.assert_array_equal(sample.labels, np.asarray(data.splits["val"].labels)[sample.indices])
        assert sample.num_classes == classes
    assert IMAGES_PER_CLASS == 5
    with pytest.raises(RequestError, match="allowed is 1 or more"):
        choose_sample(claim.trained, data, 0)


def test_a_file_without_dense_layers_is_proved_by_its_weights(claim: weight_proof.Claim, data: PreparedData) -> None:
    some = replace(claim.foreign, layers=claim.foreign.layers[:-1])

    proof = prove(some, claim.trained, data)

    assert len(proof.layers) == 4
    assert proof.findings[-1].text == ("Color order, scale, mean and class order were not tested: the file lacks fc5.")


def test_a_convention_with_which_the_network_was_not_made_is_an_error(
    claim: weight_proof.Claim, data: PreparedData
) -> None:
    for wrong in (None, InputConvention(color_order="bgr"), InputConvention(scale="1")):
        with pytest.raises(ValueError, match=r"convention|was not made with"):
            prove(replace(claim.foreign, convention=wrong), claim.trained, data)


@pytest.mark.slow
def test_no_variants_network_of_first_weights_is_plausible(data: PreparedData) -> None:
    mean = torch.from_numpy(np.asarray(data.statistics.mean_image).copy())
    for seed in range(2):
        network = AlexNet(NUM_CLASSES, "quick", 0.5, generator=torch.Generator().manual_seed(seed)).eval()
        trained = replace(_empty(data), network=network, mean_image=mean)
        proof = _prove(weight_proof.claim_of(trained), data)
        assert proof.status == "contradicted"
        assert not any(one.has_structure or one.is_needed for one in proof.layers)


def test_proofs_are_stored_in_run_folders(claim: weight_proof.Claim, tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert run.proof() is None
    content = _prove(_structured(claim), None).to_dict()

    run.save_proof(content)

    assert run.proof() == content
    (tmp_path / "proof.json").write_text((tmp_path / "proof.json").read_text().replace("plausible", "undecided"))
    with pytest.raises(DamagedFile, match="content_sha256 does not match"):
        run.proof()
    with pytest.raises(ValueError, match=r"layers\[0\]\.std"):
        run.save_proof({**content, "layers": [{**content["layers"][0], "std": math.nan}]})
    run.save_proof({**content, "format_version": 2})
    with pytest.raises(RequestError, match="has format 2, this version reads 1"):
        run.proof()


def _structured(claim: weight_proof.Claim) -> weight_proof.Claim:
    """The network with a direction that all units share, as after a longer training."""

    def change(_: int, one: ForeignLayer) -> ForeignLayer:
        units, inputs = one.weight[:, :1].sign(), one.weight[:1].sign()
        return replace(one, weight=one.weight + one.weight.std() * units * inputs)

    return claim.with_layers(change)


def _gray_reader(claim: weight_proof.Claim) -> weight_proof.Claim:
    """The network with the mean color's gray in place of its mean image: gray images stay gray."""
    mean = torch.full_like(claim.trained.mean_image, float(claim.trained.mean_image.mean()))
    return replace(claim, trained=replace(claim.trained, mean_image=mean))


def _empty(data: PreparedData) -> Trained:
    return train_network(data, steps=0)
