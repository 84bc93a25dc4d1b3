"""Tools that trace the network: torch.fx and what is built on it, torch.jit, torch.export, ONNX."""

import copy
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.model.varied_networks import VARIED, normwise, varied_network
from tests.tools.plain_network import DISTINCT, plain_network
from torch import nn

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-13}


@pytest.mark.parametrize(
    ("variant", "dtype"),
    [*((variant, torch.float32) for variant in DISTINCT), *((variant, torch.float64) for variant in VARIED)],
)
def test_a_symbolic_trace_computes_the_scores(variant: str, dtype: torch.dtype) -> None:
    network, images, direction = varied_network(variant, dtype)
    traced = torch.fx.symbolic_trace(network)
    assert normwise(traced(images), network(images)) < TOLERANCE[dtype]
    for several in (images[:1], torch.cat([images] * 5)):  # the trace is bound to no size of batch
        assert normwise(traced(several), network(several)) < TOLERANCE[dtype]
    assert [node.target for node in traced.graph.nodes if node.op == "call_module"] == [
        name for name, _ in network.named_children()
    ]
    again = pickle.loads(pickle.dumps(traced))
    assert torch.equal(again(images), traced(images))
    if dtype == torch.float64:  # in float32, rounding may decide which of two activations gets the gradient
        wanted, given = (
            torch.autograd.grad((model(images) * direction).sum(), [*model.parameters()]) for model in (network, traced)
        )
        for (name, _), want, got in zip(network.named_parameters(), wanted, given, strict=True):
            assert normwise(got, want) < 1e-13, name


@pytest.mark.parametrize("variant", DISTINCT)
def test_a_trace_in_training_draws_dropout_masks(variant: str) -> None:
    network, images, _ = varied_network(variant)
    network.train()
    traced = torch.fx.symbolic_trace(network)
    scores = []
    for model, seed in ((network, 3), (traced, 3), (traced, 4)):
        torch.manual_seed(seed)
        scores.append(model(images))
    assert normwise(scores[1], scores[0]) < 1e-5
    has_dropout = any("dropout" in name for name, _ in network.named_children())
    assert (normwise(scores[2], scores[0]) > 1e-3) == has_dropout
    assert normwise(traced.eval()(images), network.eval()(images)) < 1e-5


@pytest.mark.parametrize("variant", DISTINCT)
def test_a_feature_extractor_returns_every_layer(variant: str) -> None:
    """What torchvision's create_feature_extractor and timm's graph networks do: trace, then return inner nodes."""
    network, images, _ = varied_network(variant)
    extractor = torch.fx.symbolic_trace(network)
    (end,) = (node for node in extractor.graph.nodes if node.op == "output")
    end.args = ({node.target: node for node in extractor.graph.nodes if node.op == "call_module"},)
    extractor.recompile()
    found = extractor(images)
    x = images
    for name, layer in zip((name for name, _ in network.named_children()), plain_network(network), strict=True):
        x = layer(x)
        assert found[name].shape == x.shape and normwise(found[name], x) < 1e-5


def test_a_feature_extractor_without_the_head() -> None:
    """Of a graph that returns one inner node, everything after it is removed."""
    network, images, _ = varied_network("original")
    body = torch.fx.symbolic_trace(network)
    (end,) = (node for node in body.graph.nodes if node.op == "output")
    (end.args,) = ((node,) for node in body.graph.nodes if node.target == "pool5")
    body.graph.eliminate_dead_code()
    body.delete_all_unused_submodules()
    body.recompile()
    assert [name for name, _ in body.named_children()][-2:] == ["conv5", "pool5"]
    position = [name for name, _ in network.named_children()].index("pool5")
    assert normwise(body(images), plain_network(network)[: position + 1](images)) < 1e-5


@pytest.mark.parametrize("variant", ["original", "quick"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
def test_quantized_by_torch_fx(variant: str) -> None:
    from torch.ao.quantization import get_default_qconfig_mapping
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

    if "x86" not in torch.backends.quantized.supported_engines:
        pytest.skip("torch has no quantized operations for this processor")
    network, images, _ = varied_network(variant)
    layers = [name for name, child in network.named_children() if isinstance(child, nn.Conv2d | nn.Linear)]
    scores = network(images)
    prepared = prepare_fx(copy.deepcopy(network), get_default_qconfig_mapping("x86"), (images,))
    assert normwise(prepared(images), scores) < 1e-5
    quantized = convert_fx(prepared)
    packed = {name for name, child in quantized.named_modules() if "quantized" in type(child).__module__}
    assert packed.issuperset(layers)
    assert normwise(quantized(images), scores) < 0.1  # eight bits


@pytest.mark.parametrize("variant", VARIED)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_traced_by_torch_jit(variant: str, tmp_path: Path) -> None:
    network, images, _ = varied_network(variant)
    scores = network(images)
    traced = torch.jit.trace(network, (images,))
    assert normwise(traced(images), scores) < 1e-5
    traced.save(str(tmp_path / "traced.pt"))
    assert normwise(torch.jit.load(tmp_path / "traced.pt")(images), scores) < 1e-5


@pytest.mark.slow
def test_exported_files_are_read_where_only_the_package_was_imported(tmp_path: Path) -> None:
    for variant in VARIED:
        network, images, _ = varied_network(variant)
        with torch.no_grad():
            scores = network(images)
            torch.export.save(torch.export.export(network, (images,), strict=False), tmp_path / f"{variant}.pt2")
        torch.save((images, scores), tmp_path / f"{variant}.pt")
    program = f"""import alexnet, torch
for variant in {VARIED}:
    images, scores = torch.load(variant + ".pt")
    given = torch.export.load(variant + ".pt2").module()(images)
    assert (given - scores).norm() < 1e-5 * scores.norm()
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
