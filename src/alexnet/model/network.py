"""The network, written so that it can be compared with section 3 of the paper.

Axes: B images, C channels, H x W positions, D features, K classes. A variant (`alexnet.model.variants`) is a tuple of
layer specifications; `AlexNet` builds the module of each layer and runs them in order, some of them as one operation.
"""

import numbers
from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.fx
from torch import nn

from alexnet.errors import RequestError
from alexnet.model import kernels
from alexnet.model.convolution import FastConvolution, compute_dtype
from alexnet.model.fusion import ConvEpilogue, Fused, Op, fuse, fuse_epilogues
from alexnet.model.kernels.operators import norm_pool
from alexnet.model.kernels.operators import same_map_norm as fused_same_map_norm
from alexnet.model.layer_modules import (
    InputScale,
    build_modules,
    computes,
    is_hooked,
    is_observed,
    pad_name,
    pads,
)
from alexnet.model.layer_specs import (
    AveragePool,
    Convolution,
    LayerSpec,
    MaxPool,
    NamedLayer,
    SameMapNorm,
    SizedLayer,
    sized_layers,
)
from alexnet.model.layers import SeededDropout, average_pool
from alexnet.model.tensor_names import common_prefix, describe_tensors, rename_as, unwrapped_name
from alexnet.model.variants import named_variant


class MisfitError(RequestError, RuntimeError):
    """A state dict does not fit; a RuntimeError too, as torch raises it."""

    def __init__(self, misfit: str, advice: str) -> None:
        super().__init__(f"{misfit}; {advice}")
        self.misfit = misfit


class AlexNet(nn.Module):
    """The network of 2012, or one of its named variants.

    Input: float64, float32 or bfloat16 (B, 3, S, S) with S the variant's image side (224 for
    `paper`), RGB on the 0..255 scale minus the mean image. Output: class scores (B, K).

    Every layer is a child module, in the order in which they run: `conv1`, `relu1`, `norm1`, `pool1`, ..., `flatten`,
    `fc6`, `relu6`, `dropout6`, ... Hooks see what each computes, and a module that replaces one is used. Where nobody
    looks in between, several run as one faster operation that computes the same up to rounding.

    Args:
        num_classes: K, 2 or more.
        variant: a name in `alexnet.model.variants.VARIANTS`.
        width: factor on the channels and units of every layer but the last, rounded to even numbers.
        dropout: probability that dropout zeroes a unit.
        generator: source of the initial weights; None is torch's global generator.

    Raises:
        ValueError: a value out of range, an unknown variant, or an input of another shape or dtype.

    Paper: section 3.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        variant: str = "paper",
        width: float = 1.0,
        *,
        dropout: float = 0.5,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.spec = named_variant(variant)
        if not _is_instance(num_classes, numbers.Integral):
            raise RequestError(f"num_classes is {num_classes!r}; a network needs a whole number, 2 or more")
        num_classes = int(num_classes)  # of NumPy too
        if num_classes < 2:
            raise RequestError(f"num_classes is {num_classes}; a network needs 2 or more")
        if not _is_instance(width, numbers.Real) or not 0 < width <= 4:
            raise RequestError(f"width is {width!r}; allowed is a number above 0, up to 4")
        if not _is_instance(dropout, numbers.Real) or not 0 <= dropout < 1:
            raise RequestError(f"dropout is {dropout!r}; allowed is a number, 0 or more, below 1")
        if generator is not None and not _is_instance(generator, torch.Generator):
            raise RequestError(
                f"generator is of type {type(generator).__name__}; allowed is a torch.Generator, such as "
                "`torch.Generator().manual_seed(0)`"
            )
        self.variant, self.width, self.dropout = variant, width, dropout
        self.fused_ops = fuse(self.spec.named_layers)
        self.compiled_ops = fuse_epilogues(self.fused_ops)
        self._keeps_ties = any(isinstance(one, MaxPool) and one.ties == "every" for one in self.spec.layers)
        kernels.load()
        if self.spec.input_scale != 1:
            self.add_module("input_scale", InputScale(self.spec.input_scale))
        # torch's layers draw weights of their own when they are created, which are replaced: with a generator, also the
        # state of the global one is.
        devices = [generator.device] if generator is not None and generator.device.type == "cuda" else []
        with torch.random.fork_rng(devices, enabled=generator is not None):
            for layer in sized_layers(self.spec, num_classes, width):
                for name, module in build_modules(layer, dropout, generator):
                    self.add_module(name, module)

    @property
    def num_classes(self) -> int:
        """Classes that the last layer scores; another last layer, as for other classes, may score others.

        Raises:
            AttributeError: the last layer does not say how many, as `nn.Identity` does not.
        """
        try:
            return self.require_num_classes()
        except RequestError as error:
            raise AttributeError(str(error)) from error

    @num_classes.setter
    def num_classes(self, value: int) -> None:
        last = self.spec.named_layers[-1].name
        raise RequestError(
            f"num_classes cannot be set; replace the last layer, such as `network.{last} = nn.Linear(..., {value})`, "
            "and num_classes follows"
        )

    def require_num_classes(self) -> int:
        """`num_classes`.

        Raises:
            RequestError: the last layer does not say how many.
        """
        last = self.get_submodule(self.spec.named_layers[-1].name)
        if (found := _out_features(last)) is None:
            raise RequestError(
                f"the last layer is {type(last).__name__}, whose number of classes is unknown; give it `out_features`"
            )
        return found

    @property
    def sized_layers(self) -> tuple[SizedLayer, ...]:
        """The layers with the sizes of their inputs and outputs.

        Raises:
            AttributeError: as `num_classes`.
        """
        return tuple(sized_layers(self.spec, self.num_classes, self.width))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, S, S) -> (B, K)."""
        self.require_images(images)
        return self.run(self.compiled_ops, self.scale(images))

    def run(self, ops: Iterable[Op], x: torch.Tensor) -> torch.Tensor:
        """Run some of `fused_ops` or `compiled_ops` in order."""
        for op in ops:
            x = self.compute(op, x)
        return x

    def require_images(self, images: torch.Tensor) -> None:
        """Raise RequestError unless this is a batch of images that the network reads."""
        side = self.spec.image_px
        if isinstance(images, torch.fx.Proxy):  # a trace by torch.fx has no shapes
            return
        if images.dim() != 4 or tuple(images.shape[1:]) != (3, side, side) or not images.is_floating_point():
            raise RequestError(
                f"variant {self.variant!r} takes floating point (B, 3, {side}, {side}), 0..255 minus the mean; "
                f"got {images.dtype} of shape {tuple(images.shape)}"
            )

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As `torch.nn.Module.load_state_dict`, but if any tensor does not fit, nothing is loaded.

        State dicts of a network in DistributedDataParallel, DataParallel or `torch.compile` fit too: what the wrapper
        put into the names (`module.`, `_orig_mod.`) is ignored.

        A network with pre-hooks for loading, which may change what is loaded (those of lazy modules do), is loaded as
        torch does it.

        Raises:
            RequestError: this is not a dictionary; or a tensor is missing, does not belong to this network, has another
                shape, or is there twice. It is a RuntimeError too, as torch's, but for tensors that are there twice.
        """
        if not isinstance(state_dict, Mapping):
            raise MisfitError(
                f"load_state_dict takes a dictionary of tensors and got {type(state_dict).__name__}",
                "of a network pass `network.state_dict()`, of a file what `torch.load(..., weights_only=True)` returns",
            )
        own = self.state_dict()
        given = rename_as(own, state_dict)
        if any(module._load_state_dict_pre_hooks for module in self.modules()):
            return super().load_state_dict(given, strict, assign)
        missing = [name for name in own if name not in given] if strict else []
        unexpected = [name for name in given if name not in own] if strict else []
        shapes = [
            f"{name} is {_shape_text(given[name])} and must be {_shape_text(tensor)}"
            for name, tensor in own.items()
            if name in given and _shape_text(given[name]) != _shape_text(tensor)
        ]
        if missing or unexpected or shapes:
            problems = (
                [f"{name} is missing" for name in missing] + [f"{name} is unexpected" for name in unexpected] + shapes
            )
            raise MisfitError(
                f"these are not the weights of variant {self.variant!r} of width {self.width:g}: {problems[0]}"
                + (f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""),
                _advice_for(state_dict, own),
            )
        return super().load_state_dict(given, strict, assign)

    def compute(self, op: Op, x: torch.Tensor) -> torch.Tensor:
        """Run one of `fused_ops` or `compiled_ops`: as one operation if nobody can tell, else module by module."""
        if not is_observed(x):
            match op:
                case ConvEpilogue() if kernels.epilogue_adds_bias(x, compute_dtype(x)) and self._is_untouched(op):
                    conv = self.fast_convolution(op.convolution)
                    if (bias := conv.bias_for_epilogue()) is not None:
                        sums = conv.run(x, conv.conv.weight, None)
                        # The precision in which autocast would pass the bias to the convolution.
                        return norm_pool(sums, op.norm_pool, bias.to(sums.dtype))
                case Fused() if kernels.supports_fused(x) and self._is_untouched(op):
                    return norm_pool(x, op.norm_pool)
                case NamedLayer(spec=Convolution()) if self._is_untouched(op):
                    return self.fast_convolution(op)(x)
                case NamedLayer(spec=SameMapNorm() as spec) if kernels.supports_fused(x) and self._is_untouched(op):
                    return fused_same_map_norm(x, spec.size, spec.alpha, spec.beta)
        if isinstance(op, ConvEpilogue):
            return self.compute(op.epilogue, self.compute(op.convolution, x))
        for layer in op.layers:
            for name in _module_names(layer):
                x = self._call(name, layer.spec, x)
        return x

    def _call(self, name: str, spec: LayerSpec, x: torch.Tensor) -> torch.Tensor:
        """Run a module."""
        module = self.get_submodule(name)
        if isinstance(spec, AveragePool) and torch.onnx.is_in_onnx_export() and computes(module, spec):
            return average_pool(x, spec.size, spec.stride, spec.divisor)  # torch's exporter drops the divisor
        result: torch.Tensor = module(x)
        return result

    def fast_convolution(self, layer: NamedLayer) -> FastConvolution:
        """A convolution of this network and its padding as one operation."""
        conv = self.get_submodule(layer.name)
        assert isinstance(conv, nn.Conv2d) and isinstance(layer.spec, Convolution)
        return FastConvolution(conv, layer.spec.end_padding, self._keeps_ties)

    def _is_untouched(self, op: Op) -> bool:
        """Whether the modules of an operation are those that compute its layers, without hooks."""
        for layer in op.layers:
            module = self.get_submodule(layer.name)
            if is_hooked(module) or not computes(module, layer.spec):
                return False
            if isinstance(layer.spec, Convolution) and layer.spec.end_padding:
                pad = self.get_submodule(pad_name(layer.name))
                if is_hooked(pad) or not pads(pad, layer.spec):
                    return False
        return True

    def is_untouched(self) -> bool:
        """Whether the network and its layers are as they were built: none added, replaced, hooked or compiled."""
        layers = self.spec.named_layers
        own = {"input_scale", *(name for layer in layers for name in _module_names(layer))}
        if is_hooked(self) or any(one._compiled_call_impl is not None for one in self.modules()):
            return False
        if not own.issuperset(self._modules) or not all(map(self._is_untouched, layers)):
            return False
        scale = self._modules.get("input_scale")
        return scale is None or (type(scale) is InputScale and not is_hooked(scale))

    def scale(self, images: torch.Tensor) -> torch.Tensor:
        """The images (B, 3, H, W) multiplied by `input_scale`."""
        return images if self.spec.input_scale == 1 else self.get_submodule("input_scale")(images)

    def extra_repr(self) -> str:
        # Also with a last layer that scores no classes, such as `nn.Identity` for features.
        num_classes = _out_features(self.get_submodule(self.spec.named_layers[-1].name))
        return f"variant={self.variant}, num_classes={num_classes}, width={self.width:g}"

    def __prepare_scriptable__(self) -> None:
        """Called by `torch.jit.script`, which cannot compile the choice of the faster operations.

        Raises:
            RequestError: always.
        """
        raise RequestError(
            "torch.jit.script cannot compile this network; use torch.jit.trace, torch.export, torch.compile or ONNX"
        )

    def set_microbatch(self, rows: slice | None, num: int = 0) -> None:
        """Declare that the next images are these rows of a batch of `num`; None is a whole batch.

        Dropout then uses these rows of the whole batch's masks. The first rows of a batch must come first.
        """
        for module in self.modules():
            if isinstance(module, SeededDropout):
                module.expect(None if rows is None else (rows, num))

    def seed_dropout(self, generator: torch.Generator) -> None:
        """Draw all dropout masks from `generator` from now on; it must live on the network's device."""
        for module in self.modules():
            if isinstance(module, SeededDropout):
                module.generator = generator


def _is_instance(value: object, kind: type) -> bool:
    """`isinstance`, of what type checkers take for granted and callers do not."""
    return isinstance(value, kind)


def _out_features(module: nn.Module) -> int | None:
    """Outputs of the last module inside that says how many it has; None if none does."""
    sizes = (getattr(one, "out_features", None) for one in reversed([*module.modules()]))
    return next((size for size in sizes if isinstance(size, int)), None)


def _shape_text(value: object) -> str:
    """The shape of a tensor, or what else a value is: quantized layers also have a state that is no tensor."""
    return str(tuple(value.shape)) if isinstance(value, torch.Tensor) else f"of type {type(value).__name__}"


def _module_names(layer: NamedLayer) -> tuple[str, ...]:
    """The modules of a layer, in the order in which they run."""
    is_padded = isinstance(layer.spec, Convolution) and layer.spec.end_padding
    return (pad_name(layer.name), layer.name) if is_padded else (layer.name,)


def _advice_for(state_dict: Mapping[str, Any], own: Mapping[str, torch.Tensor]) -> str:
    """What to do with a state dict that does not fit a network whose own is `own`."""
    nested = [name for name, value in state_dict.items() if isinstance(value, Mapping)]
    if nested:
        return f"they are a dictionary that holds {', '.join(nested)}; pass the one of these that has the weights"
    shapes = {name: tuple(value.shape) for name, value in state_dict.items() if isinstance(value, torch.Tensor)}
    prefix = common_prefix(shapes)
    found = {unwrapped_name(name.removeprefix(prefix)): shape for name, shape in shapes.items()}
    if found == {unwrapped_name(name): tuple(tensor.shape) for name, tensor in own.items()}:
        todo = f"remove the prefix, `{{name.removeprefix({prefix!r}): tensor for name, tensor in state_dict.items()}}`"
    else:
        todo = "create the network that they belong to, or use alexnet.load"
    return f"they {describe_tensors(shapes)}; {todo}"
