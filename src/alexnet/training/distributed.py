"""A training shared by several processes: each computes its columns and its images; sums are those of one process.

`parallel/process_mesh.py` lays them out. Replicas sum their gradients by torch's DistributedDataParallel while the
backward pass still computes those of earlier layers.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from alexnet.model.columns import ColumnNetwork, ColumnStep, GatherRows
from alexnet.model.layer_specs import NamedLayer
from alexnet.model.network import AlexNet
from alexnet.parallel.layout import GradDtype
from alexnet.parallel.process_mesh import ProcessMesh


def local_network(network: AlexNet, mesh: ProcessMesh) -> AlexNet:
    """What this process holds of a network: one of two columns, or all of it.

    Raises:
        RequestError: the network has layers that two processes cannot share.
    """
    return network if mesh.pair is None else ColumnNetwork(network, mesh.pair, mesh.layout.column_layers)


def full_network(network: AlexNet) -> AlexNet:
    """The full network, of which this process may hold only one column; both processes of a pair call it together."""
    if not isinstance(network, ColumnNetwork):
        return network
    full = AlexNet(network.num_classes, network.variant, network.width, dropout=network.dropout)
    full.load_state_dict(network.gather(network.state_dict()))
    return full


def gather_tensors(network: AlexNet, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The full network's tensors from this process's, by parameter name; both processes of a pair call it together."""
    return network.gather(tensors) if isinstance(network, ColumnNetwork) else dict(tensors)


def full_shapes(network: AlexNet) -> dict[str, tuple[int, ...]]:
    """Shapes of the full network's parameters, by name."""
    return {
        f"{layer.name}.{kind}": shape
        for layer in network.sized_layers
        if layer.weight_shape
        for kind, shape in (("weight", layer.weight_shape), ("bias", layer.bias_shape))
    }


def local_tensors(network: AlexNet, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """This process's part of the full network's tensors, by parameter name."""
    return network.split(tensors) if isinstance(network, ColumnNetwork) else dict(tensors)


def broadcast_tensors(mesh: ProcessMesh, tensors: Mapping[str, torch.Tensor] | None) -> dict[str, torch.Tensor]:
    """The main process's tensors, in every process; the others pass None."""
    if not mesh.is_distributed:
        return dict(tensors or {})
    shapes = mesh.broadcast({name: (tensor.shape, tensor.dtype) for name, tensor in (tensors or {}).items()})
    found = {}
    for name, (shape, dtype) in shapes.items():
        tensor = torch.empty(shape, dtype=dtype) if tensors is None else tensors[name].contiguous()
        dist.broadcast(tensor, src=0, group=mesh.all.group)
        found[name] = tensor
    return found


class DistributedForward:
    """The forward pass of a step; the backward pass sums the gradients over the replicas.

    Args:
        network: what this process holds.
        mesh: the other processes.
    """

    def __init__(self, network: AlexNet, mesh: ProcessMesh) -> None:
        self._reducers: list[_GradientReducer] = []
        self._replicated: list[DistributedDataParallel] = []
        self._parts: list[Callable[[torch.Tensor], torch.Tensor]]
        if isinstance(network, ColumnNetwork) and mesh.layout.column_layers == "dense":
            first = next(number for number, step in enumerate(network.steps) if isinstance(step, GatherRows))
            # Every process has all convolutions, every replica one copy of each column.
            self._parts = [
                network.scale,
                self._replicate(_Part(network, network.steps[:first]), mesh.all.group, mesh.layout.grad_dtype),
                self._replicate_over_data(_Part(network, network.steps[first:]), mesh),
                network.gather_scores,
            ]
        else:
            self._parts = [self._replicate_over_data(network, mesh)]

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, S, S) -> (B, K): the images of this process's replica."""
        x = images
        for part in self._parts:
            x = part(x)
        return x

    @property
    def reduced_bytes(self) -> int:
        """Bytes of gradients that this process has contributed to sums so far."""
        return sum(one.num_bytes for one in self._reducers)

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Accumulate gradients in this process only, while the context is open: all parts of a batch but the last."""
        with ExitStack() as stack:
            for one in self._replicated:
                stack.enter_context(one.no_sync())
            yield

    def _replicate_over_data(self, module: nn.Module, mesh: ProcessMesh) -> nn.Module:
        if mesh.replica.size == 1:
            return module
        return self._replicate(module, mesh.replica.group, mesh.layout.grad_dtype)

    def _replicate(self, module: nn.Module, group: dist.ProcessGroup | None, grad_dtype: GradDtype) -> nn.Module:
        replicated = DistributedDataParallel(module, process_group=group, gradient_as_bucket_view=True)
        reducer = _GradientReducer(group, torch.bfloat16 if grad_dtype == "bfloat16" else None)
        replicated.register_comm_hook(reducer, _sum_bucket)
        self._reducers.append(reducer)
        self._replicated.append(replicated)
        return replicated


class _Part(nn.Module):
    """Some consecutive steps of a network as a module with their layers."""

    def __init__(self, network: ColumnNetwork, steps: tuple[ColumnStep, ...]) -> None:
        super().__init__()
        layers = [getattr(step, "layer", step) for step in steps]
        names = [layer.name for layer in layers if isinstance(layer, NamedLayer)]
        self.layers = nn.ModuleDict({name: network.get_submodule(name) for name in names})
        self._take: Callable[[torch.Tensor], torch.Tensor] = lambda x: network.run_steps(steps, x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._take(x)


@dataclass
class _GradientReducer:
    group: dist.ProcessGroup | None
    dtype: torch.dtype | None
    """What gradients are rounded to before they are sent; None sends them unchanged."""
    num_bytes: int = 0


def _sum_bucket(reducer: _GradientReducer, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
    """The sum over the replicas, whose losses are parts of the batch's (torch's own hooks average instead).

    torch's hook for bfloat16 averages as well, with an operation that gloo does not have.
    """
    buffer: torch.Tensor = bucket.buffer()
    sent = buffer if reducer.dtype is None else buffer.to(reducer.dtype)
    reducer.num_bytes += sent.nbytes
    work = dist.all_reduce(sent, group=reducer.group, async_op=True)
    assert work is not None

    def widened(done: "torch.futures.Future[list[torch.Tensor]]") -> torch.Tensor:
        total = done.value()[0]
        return total if reducer.dtype is None else buffer.copy_(total)

    future: torch.futures.Future[torch.Tensor] = work.get_future().then(widened)
    return future
