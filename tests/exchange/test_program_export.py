"""Exported programs, beside the package and without it."""

import json
import operator
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from tests.exchange.trained_networks import (
    CLASS_NAMES,
    ELONGATION,
    FITS,
    REFUSED_SIZES,
    random_images,
    trained_network,
)

import alexnet
from alexnet import Trained
from alexnet.data.decode import Fit, make_square
from alexnet.exchange.exact_resizing import exact_crops
from alexnet.exchange.program_export import export_program, write_program
from alexnet.model.variants import VARIANTS

# With every kind of layer that becomes another operator.
FAST = {"no-communication", "cifar-18pct", "cifar-11pct"}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Trained]:
    """A file, and the network that was written, in the midst of its training."""
    trained = trained_network("quick", 33, "pad")
    trained.network.train()
    trained.network.seed_dropout(torch.Generator())
    path = tmp_path_factory.mktemp("program") / "network.pt2"
    write_program(trained, path)
    return path, trained


@pytest.mark.parametrize(
    "variant", [pytest.param(name, marks=[] if name in FAST else pytest.mark.slow) for name in VARIANTS]
)
def test_probabilities_of_every_variant(variant: str) -> None:
    trained = trained_network(variant)
    program = export_program(trained)
    called = [node.target for node in program.graph.nodes if node.op == "call_function"]
    assert called and all(str(one).startswith("aten.") or one is operator.getitem for one in called)
    run = program.module()
    for num, height, width in ((1, trained.side, trained.side), (3, 90, 77), (7, 1, 1), (1, 50, 400)):
        images = random_images(num, height, width)
        with torch.no_grad():
            wanted = trained.network(alexnet.preprocess(images, trained)).softmax(1)
        found = run(torch.from_numpy(images))
        assert (found - wanted).abs().max() < 1e-5 and not found.requires_grad
        assert wanted.max(1).values.min() > 1 / 7


@settings(deadline=None, max_examples=100)
@given(st.sampled_from(FITS), st.integers(1, 300), st.integers(1, 300), st.integers(0, 2**32 - 1))
@example("crop", 33, 34, 0)
@example("crop", 1, 100, 0)
@example("crop", 3000, 40, 0)
@example("pad", 2, 133, 0)
@example("pad", 66, 65, 0)
@example("pad", 100, 1, 0)
@example("squash", 700, 900, 0)
def test_pixels_of_any_size(fit: Fit, height: int, width: int, seed: int) -> None:
    assume(max(height, width) <= ELONGATION * min(height, width))
    images = random_images(2, height, width, seed)
    middle = slice(2, 30)
    squares = np.stack([make_square(image, 33, fit)[middle, middle] for image in images]).transpose(0, 3, 1, 2)
    difference = (exact_crops(torch.from_numpy(images), 33, 28, fit) - torch.from_numpy(squares).float()).abs()
    assert difference.max() < 1.001 and (difference > 0).float().mean() < 0.0005


@pytest.mark.slow
def test_where_alexnet_is_not_installed(written: tuple[Path, Trained], tmp_path: Path) -> None:
    path, _ = written
    trained, images = trained_network("quick", 33, "pad"), random_images(2, 300, 200)
    np.save(tmp_path / "images.npy", images)
    program = (
        "import sys, json; sys.modules['alexnet'] = None\n"
        "import numpy, torch\n"
        "extra = {'class_names.json': '', 'description.json': ''}\n"
        "network = torch.export.load(sys.argv[1], extra_files=extra).module()\n"
        "found = network(torch.from_numpy(numpy.load('images.npy'))).tolist()\n"
        "assert not any(name.startswith('alexnet.') for name in sys.modules)\n"
        "print(json.dumps([found, json.loads(extra['class_names.json']), json.loads(extra['description.json'])]))"
    )
    command = [sys.executable, "-I", "-c", program, str(path)]
    run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    found, names, description = json.loads(run.stdout)
    with torch.no_grad():
        wanted = trained.network(alexnet.preprocess(images, trained)).softmax(1).tolist()
    assert np.abs(np.subtract(found, wanted)).max() < 1e-5
    assert names == CLASS_NAMES and description["variant"] == "quick"


def test_sizes_that_are_refused(written: tuple[Path, Trained]) -> None:
    run = torch.export.load(written[0]).module()
    assert run(torch.zeros(1, 1, 100, 3, dtype=torch.uint8)).shape == (1, 7)
    for height, width in REFUSED_SIZES:
        with pytest.raises(AssertionError, match=r"images\.size\(\)\[\d\] <= 100 \* images\.size"):
            run(torch.zeros(1, height, width, 3, dtype=torch.uint8))


def test_no_path_of_this_machine_is_in_the_file(written: tuple[Path, Trained]) -> None:
    with zipfile.ZipFile(written[0]) as archive:
        members = [archive.read(name) for name in archive.namelist()]
    assert members and not any(str(Path(alexnet.__file__).parent).encode() in one for one in members)


def test_the_network_stays_as_it_is(written: tuple[Path, Trained]) -> None:
    _, trained = written
    assert all(module.training for module in trained.network.modules()) and trained.network.is_untouched()
    assert all(parameter.requires_grad for parameter in trained.network.parameters())
