"""One training by several processes: each computes its columns and its images, and the sums are those of one process.

`parallel/process_mesh.py` says who they are. Replicas add up their gradients by torch's DistributedDataParallel while
the gradients of the layers before are still being derived.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from alexnet.model.columns import ColumnNetwork, ColumnStep, GatherRows
from alexnet.model.network import AlexNet
from alexnet.parallel.layout import GradDtype
from alexnet.parallel.process_mesh import ProcessMesh


def own_part(network: AlexNet, mesh: ProcessMesh) -> AlexNet:
    """What this process holds of a network: one column where there are two, else all of it.

    Raises:
        RequestError: the network has layers that two processes cannot share.
    """
    return network if mesh.pair is None else ColumnNetwork(network, mesh.pair, mesh.layout.column_layers)


def whole_network(network: AlexNet) -> AlexNet:
    """The whole of a network of which this process may hold one column; both processes of a pair call it at once."""
    if not isinstance(network, ColumnNetwork):
        return network
    whole = AlexNet(network.num_classes, network.variant, network.width, dropout=network.dropout)
    whole.load_state_dict(network.gather(network.state_dict()))
    return whole


def whole_tensors(network: AlexNet, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors that belong to parameters, by the parameter's name, for the whole network; called like that one."""
    return network.gather(tensors) if isinstance(network, ColumnNetwork) else dict(tensors)


def whole_shapes(network: AlexNet) -> dict[str, tuple[int, ...]]:
    """Shapes of the whole network's parameters, by name."""
    return {
        f"{place.name}.{kind}": shape
        for place in network.sized_layers
        if place.weight_shape
        for kind, shape in (("weight", place.weight_shape), ("bias", place.bias_shape))
    }


def own_tensors(network: AlexNet, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """This process's part of tensors that belong to the whole network's parameters, by the parameter's name."""
    return network.split(tensors) if isinstance(network, ColumnNetwork) else dict(tensors)


def spread(mesh: ProcessMesh, tensors: Mapping[str, torch.Tensor] | None) -> dict[str, torch.Tensor]:
    """The first process's tensors, in every process, which gives None."""
    if not mesh.is_distributed:
        return dict(tensors or {})
    outlines = mesh.broadcast({name: (tensor.shape, tensor.dtype) for name, tensor in (tensors or {}).items()})
    found = {}
    for name, (shape, dtype) in outlines.items():
        tensor = torch.empty(shape, dtype=dtype) if tensors is None else tensors[name].contiguous()
        dist.broadcast(tensor, src=0, group=mesh.all.group)
        found[name] = tensor
    return found


class Forward:
    """How the images of a step pass through the network: alone, or so that the gradients are with_epilogues over
    replicas.

    Args:
        network: what this process holds.
        mesh: the others.

    Attributes:
        with_epilogues: bytes of gradients that this process has given to be with_epilogues so far.
    """

    def __init__(self, network: AlexNet, mesh: ProcessMesh) -> None:
        self._sums: list[_Sums] = []
        self._replicated: list[DistributedDataParallel] = []
        self._parts: list[Callable[[torch.Tensor], torch.Tensor]]
        in_dense = isinstance(network, ColumnNetwork) and mesh.layout.column_layers == "dense"
        if in_dense:
            assert isinstance(network, ColumnNetwork)
            first = next(number for number, step in enumerate(network.steps) if isinstance(step, GatherRows))
            # Of the convolutions there is one in every process, of a column's units one in every replica.
            self._parts = [
                network.scale,
                self._over(_Part(network, network.steps[:first]), mesh.all.group, mesh.layout.grad_dtype),
                self._over_replicas(_Part(network, network.steps[first:]), mesh),
                network.gather_scores,
            ]
        else:
            self._parts = [self._over_replicas(network, mesh)]

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, S, S) -> (B, K): the images of this process's replica."""
        x = images
        for part in self._parts:
            x = part(x)
        return x

    @property
    def with_epilogues(self) -> int:
        return sum(one.num_bytes for one in self._sums)

    @contextmanager
    def without_sums(self) -> Iterator[None]:
        """Gradients are only added up in this process: those of a batch's parts but for the last."""
        with ExitStack() as stack:
            for one in self._replicated:
                stack.enter_context(one.no_sync())
            yield

    def _over_replicas(self, module: nn.Module, mesh: ProcessMesh) -> nn.Module:
        if mesh.replica.size == 1:
            return module
        return self._over(module, mesh.replica.group, mesh.layout.grad_dtype)

    def _over(self, module: nn.Module, group: dist.ProcessGroup | None, grad_dtype: GradDtype) -> nn.Module:
        replicated = DistributedDataParallel(module, process_group=group, gradient_as_bucket_view=True)
        sums = _Sums(group, torch.bfloat16 if grad_dtype == "bfloat16" else None)
        replicated.register_comm_hook(sums, _sum_bucket)
        self._sums.append(sums)
        self._replicated.append(replicated)
        return replicated


class _Part(nn.Module):
    """Some steps of a network as a module of its own, which holds the layers that they name."""

    def __init__(self, network: ColumnNetwork, steps: tuple[ColumnStep, ...]) -> None:
        super().__init__()
        names = [str(getattr(getattr(step, "layer", step), "name", "")) for step in steps]
        self.layers = nn.ModuleDict({name: network.get_submodule(name) for name in names if name})
        self._take: Callable[[torch.Tensor], torch.Tensor] = lambda x: network.run_steps(steps, x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._take(x)


@dataclass
class _Sums:
    group: dist.ProcessGroup | None
    dtype: torch.dtype | None
    """What the gradients are rounded to on their way; None sends them as they are."""
    num_bytes: int = 0


def _sum_bucket(sums: _Sums, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
    """The sum over the replicas, whose losses are shares of the batch's (torch's own hooks divide by their number).

    torch's hook for bfloat16 divides as well, and before that asks gloo for what it does not have.
    """
    buffer: torch.Tensor = bucket.buffer()
    sent = buffer if sums.dtype is None else buffer.to(sums.dtype)
    sums.num_bytes += sent.nbytes
    work = dist.all_reduce(sent, group=sums.group, async_op=True)
    assert work is not None

    def widened(done: "torch.futures.Future[list[torch.Tensor]]") -> torch.Tensor:
        total = done.value()[0]
        return total if sums.dtype is None else buffer.copy_(total)

    future: torch.futures.Future[torch.Tensor] = work.get_future().then(widened)
    return future
