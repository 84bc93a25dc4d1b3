"""The network as an ONNX file, run by ONNX's own reference implementation in NumPy."""

import contextlib
import io
from pathlib import Path

import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from tests.model.varied_networks import normwise, varied_network
from torch import nn

from alexnet import AlexNet
from alexnet.model.variants import VARIANTS


def exported(network: AlexNet, images: torch.Tensor, path: Path) -> ReferenceEvaluator:
    sizes = {"images": {0: torch.export.Dim("batch")}}
    with contextlib.redirect_stdout(io.StringIO()):
        torch.onnx.export(network, (images,), path, dynamo=True, dynamic_shapes=sizes, verbose=False)
    model = onnx.load(path)
    onnx.checker.check_model(model)
    return ReferenceEvaluator(model)


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
def test_scores_of_the_exported_network(variant: str, tmp_path: Path) -> None:
    network, images, _ = varied_network(variant)
    if variant == "sigmoid":
        images /= 100  # NumPy warns of exponentials that overflow
    with torch.no_grad():
        run = exported(network, images, tmp_path / "network.onnx")
        for several in (images[:1], torch.cat([images, images.flip(3)])):
            (scores,) = run.run(None, {run.input_names[0]: several.numpy()})
            assert normwise(torch.from_numpy(scores), network(several)) < 1e-5


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
def test_modules_in_place_of_others_and_hooked_ones_are_exported(tmp_path: Path) -> None:
    network, images, _ = varied_network("cifar-80sec")
    network.relu1 = nn.LeakyReLU(0.3)
    network.pool2 = nn.MaxPool2d(3, 2, ceil_mode=True)
    network.pool3.register_forward_hook(lambda *_: None)
    with torch.no_grad():
        run = exported(network, images, tmp_path / "network.onnx")
        (scores,) = run.run(None, {run.input_names[0]: images.numpy()})
        assert normwise(torch.from_numpy(scores), network(images)) < 1e-5
