"""Which layers of a network run as one fused operation: ReLU, response normalization, pooling and ReLU in a row."""

from dataclasses import dataclass, replace

from alexnet.model.kernels.norm_pool import MAX_WINDOW_POSITIONS, NormPool, PoolNorm
from alexnet.model.layer_specs import Convolution, LayerSpec, MaxPool, NamedLayer, ReLU, ResponseNorm


@dataclass(frozen=True)
class Fused:
    """Consecutive layers without weights that run as one operation."""

    layers: tuple[NamedLayer, ...]
    norm_pool: NormPool | PoolNorm


@dataclass(frozen=True)
class ConvEpilogue:
    """A convolution and the operation that follows it, which can add the convolution's biases."""

    convolution: NamedLayer
    epilogue: NamedLayer | Fused

    @property
    def layers(self) -> tuple[NamedLayer, ...]:
        """The layers in order."""
        return (self.convolution, *self.epilogue.layers)

    @property
    def norm_pool(self) -> NormPool | PoolNorm:
        """The epilogue."""
        return self.epilogue.norm_pool if isinstance(self.epilogue, Fused) else NormPool(relu_before=True)


Op = NamedLayer | Fused | ConvEpilogue
"""One or several consecutive layers (`layers`) that run as one operation."""


def fuse_epilogues(ops: tuple[NamedLayer | Fused, ...]) -> tuple[Op, ...]:
    """The operations in order, every convolution joined with the operation after it if that can be its epilogue."""
    joined: list[Op] = []
    for op in ops:
        previous = joined[-1] if joined else None
        can_follow = isinstance(op, Fused) or isinstance(op.spec, ReLU)
        if can_follow and isinstance(previous, NamedLayer) and isinstance(previous.spec, Convolution):
            joined[-1] = ConvEpilogue(previous, op)
        else:
            joined.append(op)
    return tuple(joined)


def fuse(layers: tuple[NamedLayer, ...]) -> tuple[NamedLayer | Fused, ...]:
    """The layers in order, fused where that saves a pass over memory."""
    ops: list[NamedLayer | Fused] = []
    first = 0
    while first < len(layers):
        found = _fused_at_start(layers[first:])
        ops.append(found or layers[first])
        first += len(found.layers) if found else 1
    return tuple(ops)


def _fused_at_start(layers: tuple[NamedLayer, ...]) -> Fused | None:
    """The longest fusion at the start of `layers`: normalization, pooling, or both in any order, with ReLU around the
    pooling."""
    num_taken = 0

    def take(kind: type[LayerSpec]) -> LayerSpec | None:
        nonlocal num_taken
        spec = layers[num_taken].spec if num_taken < len(layers) else None
        if not isinstance(spec, kind) or (isinstance(spec, MaxPool) and not _can_fuse(spec)):
            return None
        num_taken += 1
        return spec

    before = take(ReLU)
    norm = take(ResponseNorm)
    pool = take(MaxPool)
    if norm is None and pool is None:
        return None
    after = take(ReLU)
    op = NormPool(relu_before=before is not None, relu_after=after is not None)
    if isinstance(norm, ResponseNorm):
        op = _with_norm(op, norm)
    if isinstance(pool, MaxPool):
        op = replace(op, pool=pool.size, stride=pool.stride, all_ties=pool.ties == "every")
    if norm is None and isinstance(later := take(ResponseNorm), ResponseNorm):
        return Fused(layers[:num_taken], PoolNorm(op, _with_norm(NormPool(), later)))
    return Fused(layers[:num_taken], op)


def _with_norm(op: NormPool, norm: ResponseNorm) -> NormPool:
    alpha = norm.alpha if norm.alpha_per_element else norm.alpha / norm.size
    return replace(op, size=norm.size, alpha=alpha, beta=norm.beta, k=norm.k, columns=norm.columns)


def _can_fuse(pool: MaxPool) -> bool:
    return pool.size > 1 and pool.size**2 <= MAX_WINDOW_POSITIONS
