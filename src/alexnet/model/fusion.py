"""Which layers of a network are computed in one pass: rectifying, normalizing, pooling and rectifying in a row."""

from dataclasses import dataclass, replace

from alexnet.model.kernels.norm_pool import MOST_PLACES, NormPool
from alexnet.model.layer_specs import Convolution, Layer, Pool, ReLU, ResponseNorm


@dataclass(frozen=True)
class Fused:
    """Some layers without weights, one after the other, as one."""

    layers: tuple[Layer, ...]
    form: NormPool


@dataclass(frozen=True)
class ConvEpilogue:
    """A convolution and the pass behind it, which can add the convolution's biases."""

    convolution: Convolution
    behind: ReLU | Fused

    @property
    def form(self) -> NormPool:
        """Of the pass."""
        return self.behind.form if isinstance(self.behind, Fused) else NormPool(rectify_before=True)


def with_epilogues(stages: tuple[Layer | Fused, ...]) -> tuple[Layer | Fused | ConvEpilogue, ...]:
    """The stages in order, every convolution put together with the pass behind it where there is one."""
    together: list[Layer | Fused | ConvEpilogue] = []
    for stage in stages:
        before = together[-1] if together else None
        if isinstance(before, Convolution) and isinstance(stage, ReLU | Fused):
            together[-1] = ConvEpilogue(before, stage)
        else:
            together.append(stage)
    return tuple(together)


def fused(layers: tuple[Layer, ...]) -> tuple[Layer | Fused, ...]:
    """The layers in order, those that one pass computes put together where that saves a pass."""
    together: list[Layer | Fused] = []
    first = 0
    while first < len(layers):
        found = _longest(layers[first:])
        together.append(found or layers[first])
        first += len(found.layers) if found else 1
    return tuple(together)


def _longest(layers: tuple[Layer, ...]) -> Fused | None:
    """What can be fused at the start of `layers`: a normalization or a pooling, and what stands around them."""
    taken: list[Layer] = []

    def take(kind: type[Layer]) -> Layer | None:
        layer = layers[len(taken)] if len(taken) < len(layers) else None
        if not isinstance(layer, kind) or (isinstance(layer, Pool) and not _fusible(layer)):
            return None
        taken.append(layer)
        return layer

    before = take(ReLU)
    norm = take(ResponseNorm)
    pool = take(Pool)
    if norm is None and pool is None:
        return None
    after = take(ReLU)
    form = NormPool(rectify_before=before is not None, rectify_after=after is not None)
    if isinstance(norm, ResponseNorm):
        alpha = norm.alpha if norm.alpha_per_element else norm.alpha / norm.size
        form = replace(form, size=norm.size, alpha=alpha, beta=norm.beta, k=norm.k, columns=norm.columns)
    if isinstance(pool, Pool):
        form = replace(form, pool=pool.size, stride=pool.stride, ties=pool.ties)
    return Fused(tuple(taken), form)


def _fusible(pool: Pool) -> bool:
    return pool.kind == "max" and pool.size > 1 and pool.size**2 <= MOST_PLACES
