"""A network for inference, next to the network that it is made of, which stays as it is."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from alexnet.errors import RequestError
from alexnet.model.network import AlexNet
from alexnet.system.device import Precision


@contextmanager
def inference_network(network: nn.Module, device: torch.device, precision: Precision) -> Iterator[nn.Module]:
    """Within the block: the network in evaluation mode on `device`; call it in `arithmetic` of the same precision.

    For an AlexNet as it was built it is another one, which shares weights that need no change: the caller's may be
    trained or called by other threads meanwhile. In bfloat16 its weights are rounded. Without gradients autocast would
    round them in every forward pass: for AlexNet 366 MB of memory traffic, a fifth of a pass on CPUs with matrix units.
    Rounded once, they give the same scores.

    What cannot be taken apart (replaced or hooked layers, compiled, scripted and other networks) is used itself: its
    modes and its device are restored afterwards, and autocast rounds what it rounds.

    Raises:
        RequestError: its parameters have another dtype than float32, or no values.
    """
    for name, parameter in network.named_parameters():
        if parameter.is_meta:
            raise RequestError(
                f"{name} of the network has no values, because it is on the device `meta`; load its weights first, for "
                "example with `network.load_state_dict(state, assign=True)`"
            )
        if parameter.dtype != torch.float32:
            raise RequestError(
                f"{name} of the network is {str(parameter.dtype).removeprefix('torch.')}; allowed is float32: call "
                "`network.float()`, and choose the precision of the arithmetic with `precision=`"
            )
    if isinstance(network, AlexNet) and network.is_untouched():
        yield _copied(network, device, torch.bfloat16 if precision == "bfloat16" else torch.float32)
        return
    modes = [(module, module.training) for module in network.modules()]
    before = next((one.device for one in network.parameters()), device)
    network.eval().to(device)
    try:
        yield network
    finally:
        for module, mode in modes:
            module.training = mode
        network.to(before)


def _copied(network: AlexNet, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """The same network with other modules; its weights, float32, become weights of `dtype`."""
    copy = shallow_copy(network)
    for name, module in network.named_children():
        copy._modules[name] = child = shallow_copy(module)
        for key, parameter in module.named_parameters(recurse=False):
            child._parameters[key] = nn.Parameter(parameter.detach().to(device, dtype), requires_grad=False)
    return copy


def shallow_copy(module: nn.Module) -> nn.Module:
    """A module with the same attributes, in evaluation mode, and dictionaries of modules and parameters of its own."""
    # Not copy.copy, which asks the module for its state, as for a pickle.
    copy = object.__new__(type(module))
    copy.__dict__.update(module.__dict__)
    copy.__dict__.update(training=False, _modules=dict(module._modules), _parameters=dict(module._parameters))
    return copy
