"""How the files of published data sets become folders that `alexnet prepare` reads: splits, and in them classes."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from alexnet.data.sources.cifar_files import (
    CIFAR_NAMES_FILE,
    CIFAR_RECORD_BYTES,
    CIFAR_TEST_FILE,
    CIFAR_TRAIN_FILES,
    PIXEL_BYTES,
    bytes_of_records,
)
from alexnet.data.sources.matlab import read_numbers
from alexnet.data.unpacking import Place
from alexnet.errors import WorkError
from alexnet.storage.atomic import write_text

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR10_FILES = (*CIFAR_TRAIN_FILES, CIFAR_TEST_FILE)
_CIFAR100_FILES = ("train.bin", "test.bin", "fine_label_names.txt", "coarse_label_names.txt")
_FLOWER_LABELS, _FLOWER_SPLITS = "imagelabels.mat", "setid.mat"
_FLOWER_SPLIT_OF = {"trnid": "train", "valid": "val", "tstid": "test"}
"""Split by the variable of setid.mat that has the numbers of its images."""
_FLOWER_NAMES = """
pink primrose, hard-leaved pocket orchid, canterbury bells, sweet pea, english marigold, tiger lily, moon orchid,
bird of paradise, monkshood, globe thistle, snapdragon, colt's foot, king protea, spear thistle, yellow iris,
globe-flower, purple coneflower, peruvian lily, balloon flower, giant white arum lily, fire lily, pincushion flower,
fritillary, red ginger, grape hyacinth, corn poppy, prince of wales feathers, stemless gentian, artichoke,
sweet william, carnation, garden phlox, love in the mist, mexican aster, alpine sea holly, ruby-lipped cattleya,
cape flower, great masterwort, siam tulip, lenten rose, barbeton daisy, daffodil, sword lily, poinsettia,
bolero deep blue, wallflower, marigold, buttercup, oxeye daisy, common dandelion, petunia, wild pansy, primula,
sunflower, pelargonium, bishop of llandaff, gaura, geranium, orange dahlia, pink-yellow dahlia?, cautleya spicata,
japanese anemone, black-eyed susan, silverbush, californian poppy, osteospermum, spring crocus, bearded iris,
windflower, tree poppy, gazania, azalea, water lily, rose, thorn apple, morning glory, passion flower, lotus,
toad lily, anthurium, frangipani, clematis, hibiscus, columbine, desert-rose, tree mallow, magnolia, cyclamen,
watercress, canna lily, hippeastrum, bee balm, ball moss, foxglove, bougainvillea, camellia, mallow,
mexican petunia, bromelia, blanket flower, trumpet creeper, blackberry lily
"""
FLOWERS = tuple(name.strip() for name in _FLOWER_NAMES.split(","))
"""Names of the 102 flowers, in the order of their numbers, from 1."""

ReadFile = Callable[[str], bytes]
"""From the name of a small file to its content."""


@dataclass(frozen=True)
class DataSetLayout:
    """How the files of a data set are called, and where each is put.

    Names are relative to the folder `top`, which an archive makes.
    """

    top: str
    """Empty if the archives make no common folder."""
    required: tuple[str, ...]
    """Files and folders without which a folder is not the unpacked data set."""
    places: Callable[[ReadFile], Place]
    """From a reader of lists in the data set to the place of each file. ValueError, LookupError: a list is damaged."""
    inner_tar: str = ""
    """The gzipped tar in the archive that has the images, if they are packed twice."""
    finish: Callable[[Path, Mapping[str, int], str], None] = field(default=lambda folder, counts, origin: None)
    """Checks and completes the folder, given the number of images by split, and what it comes from. WorkError: it is
    corrupt."""


def _class_folders(read: ReadFile) -> Place:
    """`train/CLASS/NAME.JPEG` and `val/CLASS/NAME.JPEG`."""
    return lambda name: name if re.fullmatch(r"(train|val)/n\d{8}/[^./][^/]*\.JPEG", name) else None


def class_folders(top: str) -> DataSetLayout:
    """The layout of folders of synsets in `train/` and `val/`."""
    return DataSetLayout(top, ("train", "val"), _class_folders)


def _caltech101(read: ReadFile) -> Place:
    """`CLASS/image_0001.jpg`, without the pictures of the background, which are no class of objects."""
    return lambda name: name if re.fullmatch(r"(?!BACKGROUND_Google/)\w+/image_\d{4}\.jpg", name) else None


def _flowers102(read: ReadFile) -> Place:
    """`jpg/image_00001.jpg`, with labels and splits in MATLAB files, to `train/pink primrose/image_00001.jpg`."""
    labels = [FLOWERS[_natural(label) - 1] for label in read_numbers(read(_FLOWER_LABELS), "labels")]
    splits = read(_FLOWER_SPLITS)
    place_of: dict[str, str] = {}
    for variable, split in _FLOWER_SPLIT_OF.items():
        for number in map(_natural, read_numbers(splits, variable)):
            name = f"image_{number:05d}.jpg"
            if f"jpg/{name}" in place_of:
                raise ValueError(f"image {number} is in two splits")
            place_of[f"jpg/{name}"] = f"{split}/{labels[number - 1]}/{name}"
    return place_of.get


def _natural(number: float) -> int:
    """A number from 1; ValueError if it is something else."""
    if not number >= 1 or number != int(number):
        raise ValueError(f"it has the number {number:g}; expected are 1, 2, 3 ...")
    return int(number)


def _tiny_imagenet(read: ReadFile) -> Place:
    """`train/CLASS/images/NAME`, and `val/images/NAME` with a list of classes."""
    class_of: dict[str, str] = {}
    for line in read("val/val_annotations.txt").decode().splitlines():
        name, class_id = line.split("\t")[:2]
        class_of[name] = class_id

    def place(name: str) -> str | None:
        if found := re.fullmatch(r"train/(n\d{8})/images/(\w+\.JPEG)", name):
            return f"train/{found[1]}/{found[2]}"
        if found := re.fullmatch(r"val/images/(\w+\.JPEG)", name):
            return f"val/{class_of[found[1]]}/{found[1]}"
        return None

    return place


def _finish_cifar10(folder: Path, counts: Mapping[str, int], origin: str) -> None:
    """Check the six files and add the names of the classes."""
    write_text(folder / CIFAR_NAMES_FILE, "\n".join(CIFAR10_CLASSES) + "\n")
    for name in CIFAR10_FILES:
        num = counts["test"] if name == CIFAR_TEST_FILE else counts["train"] // len(CIFAR_TRAIN_FILES)
        _check_records(folder / name, num, CIFAR_RECORD_BYTES, len(CIFAR10_CLASSES), origin)


def _finish_cifar100(folder: Path, counts: Mapping[str, int], origin: str) -> None:
    """Check the files of images."""
    for split, num in counts.items():
        _check_records(folder / f"{split}.bin", num, 2 + PIXEL_BYTES, 100, origin)


def _check_records(path: Path, num: int, record_bytes: int, num_classes: int, origin: str) -> None:
    """WorkError unless a file has a number of records, with labels of classes before the pixels."""
    if not path.is_file():
        raise WorkError(f"{origin} is corrupt or another version: it has no {path.name}")
    size_bytes = path.stat().st_size
    if size_bytes != num * record_bytes:
        raise WorkError(
            f"{path.name} from {origin} is corrupt: it has {size_bytes:,} bytes, expected {num * record_bytes:,}"
        )
    largest = bytes_of_records(path, record_bytes, record_bytes - PIXEL_BYTES - 1).max()
    if largest >= num_classes:
        raise WorkError(
            f"{path.name} from {origin} is corrupt: it has the label {largest}, expected 0 to {num_classes - 1}"
        )


def _named(*names: str) -> Callable[[ReadFile], Place]:
    """Files of these names, where they are."""
    return lambda read: {name: name for name in names}.get


CIFAR10 = DataSetLayout("cifar-10-batches-bin", CIFAR10_FILES, _named(*CIFAR10_FILES), finish=_finish_cifar10)
CIFAR100 = DataSetLayout("cifar-100-binary", _CIFAR100_FILES, _named(*_CIFAR100_FILES), finish=_finish_cifar100)
CALTECH101 = DataSetLayout(
    "101_ObjectCategories", ("airplanes",), _caltech101, "caltech-101/101_ObjectCategories.tar.gz"
)
FLOWERS102 = DataSetLayout("", ("jpg", _FLOWER_LABELS, _FLOWER_SPLITS), _flowers102)
TINY_IMAGENET = DataSetLayout("tiny-imagenet-200", ("train", "val/val_annotations.txt"), _tiny_imagenet)
