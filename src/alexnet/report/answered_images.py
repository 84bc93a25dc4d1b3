"""Images of an evaluation with a network's answers: right ones, wrong ones, and the most confused pairs of classes."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from alexnet.data.dataset import PreparedData
from alexnet.data.sampler import evenly_spaced
from alexnet.data.shards import UnreadableSample
from alexnet.errors import AlexNetError
from alexnet.evaluation.predictions import load_predictions, predictions_folder, training_checksum
from alexnet.figures.contact_sheet import shrink, thumbnail_html
from alexnet.figures.panel import PanelImage, panel_html
from alexnet.report.contents import Section, images_not_found
from alexnet.report.formatting import count_noun
from alexnet.runs.folder import RunFolder
from alexnet.storage.read_errors import raise_unless_damage
from alexnet.storage.typed_files import DamagedFile

_logger = logging.getLogger(__name__)

NUM_PANEL_IMAGES = 6
NUM_MISTAKES_OF_PAIR = 5
NUM_RIGHT_OF_PAIR = 3
_MOST_PAIRS = 5
_PAIR_PX = 128


@dataclass(frozen=True, eq=False)
class AnsweredImages:
    """The images of a split, with a network's probabilities."""

    data: PreparedData
    split: str
    class_ids: tuple[str, ...]
    """The network's classes."""
    names: tuple[str, ...]
    labels: npt.NDArray[np.int64]
    """(N,), 0 .. K-1."""
    probabilities: npt.NDArray[np.float32] = field(repr=False)
    """(N, K)."""

    @property
    def predicted(self) -> npt.NDArray[np.int64]:
        """(N,), the most probable class; of tied classes the one with the lower index."""
        predicted: npt.NDArray[np.int64] = self.probabilities.argmax(axis=1)
        return predicted

    def key(self, sample: int) -> str:
        """The image's name in its data set."""
        return self.data.splits[self.split].keys[sample]

    def image(self, sample: int) -> npt.NDArray[np.uint8] | None:
        """The stored image, uint8 (S, S, 3), or None if the data set has lost it since."""
        try:
            return np.asarray(self.data.splits[self.split].images[sample])
        except UnreadableSample:
            return None
        except OSError as error:
            raise_unless_damage(error, self.data.folder)
            raise


@dataclass(frozen=True)
class PairThumbnail:
    """An image, small."""

    picture: Markup
    probability: float
    """Of the predicted class."""


@dataclass(frozen=True)
class PairPictures:
    """Images of one class that were taken for another."""

    true: str
    predicted: str
    num_images: int
    fraction: float
    """Of the images of the true class."""
    mistakes: Sequence[PairThumbnail]
    right: Sequence[PairThumbnail]
    """Images of the other class that were recognized; none if there are none."""


def answered_images(
    run: RunFolder, data: PreparedData | None, evaluation: Mapping[str, Any] | None
) -> AnsweredImages | Section:
    """The images of an evaluation and the saved probabilities, or a section that says why they cannot be shown."""
    if evaluation is None:
        says_how = Markup('Images appear here once the run has been evaluated: <a href="#result">Result</a> says how.')
        return Section(missing=says_how)
    if data is None:
        return images_not_found(run)
    try:
        folder = predictions_folder(run.path, training_checksum(run), data.checksum)
        predictions = load_predictions(folder, evaluation["split"], evaluation["num_views"], data)
    except AlexNetError as error:
        if isinstance(error, DamagedFile):
            _logger.warning(f"the report shows no images: {error}")
        return Section(missing=f"There are no images to show: {error}.")
    names = {one["id"]: one["name"] for one in evaluation["per_class"]}
    return AnsweredImages(
        data=data,
        split=evaluation["split"],
        class_ids=predictions.class_ids,
        names=tuple(names[one] for one in predictions.class_ids),
        labels=predictions.labels(data),
        probabilities=predictions.probabilities,
    )


def image_panels(answers: AnsweredImages) -> tuple[Section, Section]:
    """Images classified correctly, and incorrectly, with their five most probable classes. Paper: figure 4."""
    right = answers.predicted == answers.labels
    sections = []
    for ids, how in ((np.flatnonzero(right), "correctly"), (np.flatnonzero(~right), "incorrectly")):
        if len(ids) == 0:
            sections.append(Section(missing=f"No image was classified {how}."))
            continue
        chosen = evenly_spaced(ids, NUM_PANEL_IMAGES)
        sections.append(_panel(answers, chosen, f"{len(chosen)} of {len(ids):,} images classified {how}."))
    return sections[0], sections[1]


def certain_mistakes(answers: AnsweredImages) -> Section:
    """The images with the highest probability of a wrong class, in the form of the paper's figure 4."""
    wrong = np.flatnonzero(answers.predicted != answers.labels)
    if len(wrong) == 0:
        return Section(missing="No image was classified incorrectly.")
    confidence = answers.probabilities[wrong].max(axis=1)
    chosen = wrong[np.argsort(-confidence, kind="stable")[:NUM_PANEL_IMAGES]]
    above = int((confidence > 0.9).sum())
    note = f"The {len(chosen)} most certain of {count_noun(len(wrong), 'wrong answer')}"
    return _panel(answers, chosen, f"{note}; {above:,} of them have a probability above 90 %.")


def pair_pictures(answers: AnsweredImages, pairs: Sequence[Mapping[str, Any]]) -> list[PairPictures]:
    """Pictures of the first five pairs that `confused_rows` returns, at equal distances in the data set."""
    column = {one: number for number, one in enumerate(answers.class_ids)}
    predicted = answers.predicted
    shown = []
    for pair in pairs[:_MOST_PAIRS]:
        true, other = column[pair["true_id"]], column[pair["predicted_id"]]
        mistakes = np.flatnonzero((answers.labels == true) & (predicted == other))
        right = np.flatnonzero((answers.labels == other) & (predicted == other))
        shown.append(
            PairPictures(
                true=pair["true"],
                predicted=pair["predicted"],
                num_images=pair["num_images"],
                fraction=pair["fraction"],
                mistakes=_thumbnails(answers, evenly_spaced(mistakes, NUM_MISTAKES_OF_PAIR), other),
                right=_thumbnails(answers, evenly_spaced(right, NUM_RIGHT_OF_PAIR), other),
            )
        )
    return shown


def _thumbnails(answers: AnsweredImages, ids: npt.NDArray[np.int64], predicted: int) -> list[PairThumbnail]:
    thumbnails = []
    for sample in ids.tolist():
        if (image := answers.image(sample)) is None:
            continue
        label, key = answers.names[int(answers.labels[sample])], answers.key(sample)
        picture = thumbnail_html(shrink(image, _PAIR_PX), f"Image {key}, true label {label}", key)
        thumbnails.append(PairThumbnail(Markup(picture), float(answers.probabilities[sample, predicted])))
    return thumbnails


def _panel(answers: AnsweredImages, ids: npt.NDArray[np.int64], note: str) -> Section:
    """The panel of a few images."""
    images = []
    for sample in ids.tolist():
        if (image := answers.image(sample)) is None:
            note += f" {answers.key(sample)} can no longer be read."
            continue
        row, label = answers.probabilities[sample], int(answers.labels[sample])
        top = np.argsort(-row, kind="stable")[:5].tolist()
        images.append(
            PanelImage(
                image=image,
                label=answers.names[label],
                label_probability=float(row[label]),
                predictions=[(answers.names[one], float(row[one]), one == label) for one in top],
                key=answers.key(sample),
            )
        )
    return Section(Markup(panel_html(images)), note=note)
