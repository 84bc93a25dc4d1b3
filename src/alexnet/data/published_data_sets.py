"""Data sets that `alexnet fetch` downloads: where they are, how they are recognized, and whose they are.

Each is one entry of `DATA_SETS`. Only the authors of CIFAR and Caltech-101 publish checksums. The others are those that
public programs pin, each found in at least two; comments name them, and where the sizes were found.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from alexnet.data.data_set_layouts import (
    CALTECH101,
    CIFAR10,
    CIFAR100,
    FLOWERS102,
    TINY_IMAGENET,
    DataSetLayout,
    class_folders,
)
from alexnet.data.sources.cifar_files import CIFAR_SIDE_PX

_FAST_AI = "https://s3.amazonaws.com/fast-ai-imageclas"
_FAST_AI_SIDES = (320, 160)
_TORONTO = "https://www.cs.toronto.edu/~kriz"
_OXFORD = "https://www.robots.ox.ac.uk/~vgg/data/flowers/102"
_IMAGENET_TERMS = "the photographs are ImageNet's, whose terms allow non-commercial research and education"
_KRIZHEVSKY = "A. Krizhevsky: Learning Multiple Layers of Features from Tiny Images. Technical report, 2009"
_DENG = "J. Deng et al.: ImageNet: A Large-Scale Hierarchical Image Database. CVPR 2009"


@dataclass(frozen=True, kw_only=True)
class PublishedFile:
    """A file that the authors of a data set publish."""

    url: str
    md5: str
    size_bytes: int

    @property
    def name(self) -> str:
        """The last part of the URL's path."""
        return self.url.partition("?")[0].rpartition("/")[2]


@dataclass(frozen=True, kw_only=True)
class PublishedDataSet:
    """A data set, as its authors publish it."""

    title: str
    subject: str
    """What the photographs show, in a few words."""
    homepage: str
    files: tuple[PublishedFile, ...]
    layout: DataSetLayout
    num_classes: int
    counts: Mapping[str, int]
    """Images by split, as `alexnet prepare` reads it."""
    license: str
    citation: tuple[str, ...]
    left_out: str = ""
    """What of the archive is no part of the fetched data set."""
    side: int | None = None
    """Of all its images, if it is the same."""
    shorter_side: int | None = None
    """Of its images, to which the authors resized them."""
    other_sizes: tuple[int, ...] = ()
    """Shorter sides in which the authors publish the same images too."""
    local_copy_variable: str = ""
    """The environment variable that names a local copy of this data set alone."""
    has_npm_package: bool = False
    """Whether `alexnet.data.npm_cifar10` gets the same images."""

    @property
    def download_bytes(self) -> int:
        """Of all files."""
        return sum(file.size_bytes for file in self.files)

    @property
    def num_images(self) -> int:
        """In all splits."""
        return sum(self.counts.values())


def _fast_ai(
    title: str, subject: str, archive: str, md5: str, size_bytes: int, counts: Mapping[str, int]
) -> PublishedDataSet:
    """One of fast.ai's subsets of ImageNet, in one of its sizes."""
    name = title.partition(",")[0]
    size = archive.partition("-")[2]
    shorter_side = int(size) if size else None
    return PublishedDataSet(
        title=title,
        subject=subject,
        homepage="https://github.com/fastai/imagenette",
        files=(PublishedFile(url=f"{_FAST_AI}/{archive}.tgz", md5=md5, size_bytes=size_bytes),),
        layout=class_folders(archive),
        num_classes=10,
        counts=counts,
        license=f"Apache 2.0 for the selection; {_IMAGENET_TERMS}",
        citation=(f"J. Howard: {name}. https://github.com/fastai/imagenette, 2019", _DENG),
        left_out="the list of wrong labels for experiments with noise",
        shorter_side=shorter_side,
        other_sizes=tuple(other for other in _FAST_AI_SIDES if other != shorter_side),
    )


_EASY, _DOGS = "ImageNet, easy", "ImageNet, dogs"
_NETTE = {"train": 9_469, "val": 3_925}
_WOOF = {"train": 9_025, "val": 3_929}

DATA_SETS: dict[str, PublishedDataSet] = {
    # MD5: torchvision, Catalyst, Anomalib. Size: fastai, TensorFlow Datasets.
    "imagenette": _fast_ai(
        "Imagenette, full size", _EASY, "imagenette2", "fe2fc210e6bb7c5664d602c3cd71e612", 1_557_161_267, _NETTE
    ),
    "imagenette-320": _fast_ai(
        "Imagenette, 320 pixels", _EASY, "imagenette2-320", "3df6f0d01a2c9592104656642f5e78a3", 341_663_724, _NETTE
    ),
    "imagenette-160": _fast_ai(
        "Imagenette, 160 pixels", _EASY, "imagenette2-160", "e793b78cc4c9e9a4ccc0c1155377a412", 99_003_388, _NETTE
    ),
    # MD5: Catalyst and, for each, one or two programs of single authors. Size: fastai.
    "imagewoof": _fast_ai(
        "Imagewoof, full size", _DOGS, "imagewoof2", "9aafe18bcdb1632c4249a76c458465ba", 1_343_715_595, _WOOF
    ),
    "imagewoof-320": _fast_ai(
        "Imagewoof, 320 pixels", _DOGS, "imagewoof2-320", "0f46d997ec2264e97609196c95897a44", 328_387_740, _WOOF
    ),
    "imagewoof-160": _fast_ai(
        "Imagewoof, 160 pixels", _DOGS, "imagewoof2-160", "3d200a7be99704a0d7509be2a9fbfe15", 92_612_825, _WOOF
    ),
    # MD5: the authors' page. Size: TensorFlow Datasets.
    "cifar10": PublishedDataSet(
        title="CIFAR-10",
        subject="animals, vehicles",
        homepage=f"{_TORONTO}/cifar.html",
        files=(
            PublishedFile(
                url=f"{_TORONTO}/cifar-10-binary.tar.gz",
                md5="c32a1d4ab5d03f1284b67883e8d87530",
                size_bytes=170_052_171,
            ),
        ),
        layout=CIFAR10,
        num_classes=10,
        counts={"train": 50_000, "test": 10_000},
        license="none is stated by its authors",
        citation=(_KRIZHEVSKY,),
        side=CIFAR_SIDE_PX,
        local_copy_variable="ALEXNET_CIFAR10",
        has_npm_package=True,
    ),
    "cifar100": PublishedDataSet(
        title="CIFAR-100",
        subject="animals, things",
        homepage=f"{_TORONTO}/cifar.html",
        files=(
            PublishedFile(
                url=f"{_TORONTO}/cifar-100-binary.tar.gz",
                md5="03b5dce01913d631647c71ecec9e9cb8",
                size_bytes=168_513_733,
            ),
        ),
        layout=CIFAR100,
        num_classes=100,
        counts={"train": 50_000, "test": 10_000},
        license="none is stated by its authors",
        citation=(_KRIZHEVSKY,),
        side=CIFAR_SIDE_PX,
    ),
    # MD5: the authors' record at CaltechDATA; torchvision. Size: TensorFlow Datasets.
    "caltech101": PublishedDataSet(
        title="Caltech-101",
        subject="objects",
        homepage="https://doi.org/10.22002/D1.20086",
        files=(
            PublishedFile(
                url="https://data.caltech.edu/records/mzrjq-6wc02/files/caltech-101.zip?download=1",
                md5="3138e1922a9193bfa496528edbbc45d0",
                size_bytes=137_414_764,
            ),
        ),
        layout=CALTECH101,
        num_classes=101,
        counts={"train": 8_677},
        license="Creative Commons Attribution 4.0 (CC BY 4.0)",
        citation=(
            "F.-F. Li, M. Andreeto, M. Ranzato, P. Perona: Caltech 101 (1.0). CaltechDATA, 2022. "
            "https://doi.org/10.22002/D1.20086",
            "L. Fei-Fei, R. Fergus, P. Perona: Learning Generative Visual Models from Few Training Examples. "
            "CVPR Workshop on Generative-Model Based Vision, 2004",
        ),
        left_out="the pictures of the background (BACKGROUND_Google), which are no class of objects, and the outlines",
    ),
    # MD5: torchvision, PaddlePaddle. Size: TensorFlow Datasets.
    "flowers102": PublishedDataSet(
        title="Oxford 102 Flowers",
        subject="flowers",
        homepage=f"{_OXFORD}/",
        files=(
            PublishedFile(
                url=f"{_OXFORD}/102flowers.tgz", md5="52808999861908f626f3c1f4e79d11fa", size_bytes=344_862_509
            ),
            PublishedFile(url=f"{_OXFORD}/imagelabels.mat", md5="e0620be6f572b9609742df49c70aed4d", size_bytes=502),
            PublishedFile(url=f"{_OXFORD}/setid.mat", md5="a5357ecc9cb78c4bef273ce3793fc85c", size_bytes=14_989),
        ),
        layout=FLOWERS102,
        num_classes=102,
        counts={"train": 1_020, "val": 1_020, "test": 6_149},
        license="none is stated by its authors; the photographs are theirs and from the web",
        citation=(
            "M.-E. Nilsback, A. Zisserman: Automated Flower Classification over a Large Number of Classes. ICVGIP 2008",
        ),
    ),
    # MD5: Avalanche and many others. Size: several. The authors' server is that of the course for which it was made.
    "tiny-imagenet": PublishedDataSet(
        title="Tiny ImageNet",
        subject="ImageNet, 64 pixels",
        homepage="https://cs231n.stanford.edu",
        files=(
            PublishedFile(
                url="https://cs231n.stanford.edu/tiny-imagenet-200.zip",
                md5="90528d7ca1a48142e341f4ef8d21d0de",
                size_bytes=248_100_043,
            ),
        ),
        layout=TINY_IMAGENET,
        num_classes=200,
        counts={"train": 100_000, "val": 10_000},
        license=f"none is stated by its authors; {_IMAGENET_TERMS}",
        citation=("Y. Le, X. Yang: Tiny ImageNet Visual Recognition Challenge. Stanford CS231N, 2015", _DENG),
        left_out="10,000 test images, whose classes are not published, and the boxes around the objects",
        side=64,
    ),
}
"""By the names that `alexnet fetch` takes."""
