"""An auto-encoder to short binary codes, trained on activations.

Section 6.1 of the paper proposes it to make its image retrieval fast. As in A. Krizhevsky and G. E. Hinton, "Using very
deep autoencoders for content-based image retrieval" (ESANN 2011), the logistic units of the middle layer are rounded
to 0 or 1 in the forward pass, and the backward pass ignores the rounding. Different from theirs are the input
(activations instead of pixels), one hidden layer on each side instead of several, ReLU instead of logistic hidden
units, Adam instead of pre-training by restricted Boltzmann machines, and noise: bits of the code are flipped at random,
so that codes that differ in a few bits must decode to similar activations.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from alexnet.errors import RequestError, WorkError
from alexnet.explore.hamming import pack_bits
from alexnet.storage.tensors import require_array

MAX_TRAINING_VECTORS = 100_000
"""Of more vectors, as many are drawn at random."""
REPORT_EVERY_STEPS = 20
_BLOCK_BYTES = 1 << 26
_FIRST_DECAY, _SECOND_DECAY, _EPSILON = 0.9, 0.999, 1e-8
"""Of Adam, as its paper suggests."""


@dataclass(frozen=True)
class CodeTraining:
    """How an auto-encoder is trained. Each field is recorded with the codes."""

    bits: int
    seed: int = 0
    hidden_units: int = 512
    """Of the encoder and of the decoder."""
    steps: int = 1000
    batch_size: int = 256
    learning_rate: float = 0.002
    """Of Adam at the first step; it falls to 0 along half a cosine."""
    flipped: float = 0.05
    """Probability that the decoder sees a bit of the code flipped."""


@dataclass(frozen=True, eq=False)
class CodeEncoder:
    """The encoder of a trained auto-encoder: a bit is 1 if its unit's input is 0 or more. All arrays are float32."""

    center: NDArray[np.float32]
    """(D,): the mean of the training vectors."""
    scale: NDArray[np.float32]
    """(1,): the root mean square of the centered training vectors, over all values."""
    hidden_weight: NDArray[np.float32]
    """(hidden units, D)."""
    hidden_bias: NDArray[np.float32]
    """(hidden units,)."""
    code_weight: NDArray[np.float32]
    """(bits, hidden units)."""
    code_bias: NDArray[np.float32]
    """(bits,)."""

    @property
    def bits(self) -> int:
        """Bits of a code."""
        return len(self.code_bias)

    @property
    def dimensions(self) -> int:
        """Values of a vector."""
        return len(self.center)

    def encode(self, vectors: NDArray[Any]) -> NDArray[np.uint8]:
        """The codes of vectors (N, D), which may be memory-mapped: uint8 (N, bits / 8), as `pack_bits` returns them.

        Raises:
            RequestError: vectors of another length.
        """
        if vectors.ndim != 2 or vectors.shape[1] != self.dimensions:
            raise RequestError(f"vectors have shape {vectors.shape}; allowed is (N, {self.dimensions})")
        codes = np.empty((len(vectors), self.bits // 8), np.uint8)
        block_rows = max(1, _BLOCK_BYTES // (4 * self.dimensions))
        for first in range(0, len(vectors), block_rows):
            block = np.asarray(vectors[first : first + block_rows], np.float32)
            hidden = ((block - self.center) / self.scale) @ self.hidden_weight.T + self.hidden_bias
            np.maximum(hidden, 0, out=hidden)
            codes[first : first + len(block)] = pack_bits(hidden @ self.code_weight.T + self.code_bias >= 0)
        return codes

    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """The arrays by name, for a file."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: dict[str, Any]) -> "CodeEncoder":
        """The encoder whose `arrays` these are.

        Raises:
            ValueError: an array is missing, of another form, or has values that are not finite.
        """
        dims = {"hidden_weight": 2, "code_weight": 2}
        found = cls(
            **{
                field.name: require_array(arrays, field.name, np.float32, dims.get(field.name, 1))
                for field in fields(cls)
            }
        )
        hidden_units = len(found.hidden_bias)
        expected = {
            "scale": (1,),
            "hidden_weight": (hidden_units, found.dimensions),
            "code_weight": (found.bits, hidden_units),
        }
        for name, shape in expected.items():
            if getattr(found, name).shape != shape:
                raise ValueError(f"{name}: expected shape {shape}, got {getattr(found, name).shape}")
        for name, array in found.arrays().items():
            if not np.isfinite(array).all():
                raise ValueError(f"{name}: it has values that are not finite")
        return found


@dataclass(frozen=True, eq=False)
class TrainedEncoder:
    """An encoder, and how well its auto-encoder reconstructs vectors that it was not trained on."""

    encoder: CodeEncoder
    reconstructed: float
    """Share of the variance that decoding recovers: 1 is all of it, 0 no better than the mean."""


def train_encoder(
    vectors: NDArray[Any],
    held_out: NDArray[np.int64],
    settings: CodeTraining,
    *,
    device: torch.device,
    progress: Callable[[int, float], None] | None = None,
) -> TrainedEncoder:
    """Train an auto-encoder; the same vectors, settings, machine and number of threads give the same encoder.

    Args:
        vectors: (N, D), may be memory-mapped.
        held_out: indices of vectors that are not trained on, fewer than N.
        settings: what to train.
        device: where it is trained.
        progress: called with (steps done, share of the variance that is not reconstructed).

    Raises:
        WorkError: all vectors are equal, or the training diverges.
    """
    random = np.random.default_rng(settings.seed)
    trained_on = np.setdiff1d(np.arange(len(vectors)), held_out)
    if len(trained_on) > MAX_TRAINING_VECTORS:
        trained_on = np.sort(random.choice(trained_on, MAX_TRAINING_VECTORS, replace=False))
    # One large copy: rows of a memory-mapped array in random order would be read from the disk again and again.
    samples = np.asarray(vectors[trained_on], np.float32)
    center = samples.mean(axis=0, dtype=np.float64).astype(np.float32)
    samples -= center
    scale = math.sqrt(float(np.einsum("nd,nd->n", samples, samples, dtype=np.float64).mean()) / samples.shape[1])
    if not 0 < scale < math.inf:
        raise WorkError(
            "all images have the same activations, so codes cannot distinguish them"
            if scale == 0
            else "the vectors are too large for float32"
        )
    samples /= np.float32(scale)
    generator = torch.Generator().manual_seed(settings.seed)
    network = _AutoEncoder(vectors.shape[1], settings, generator).to(device)
    _fit(network, torch.from_numpy(samples).to(device), settings, generator, progress)
    encoder = CodeEncoder(
        center,
        np.array([scale], np.float32),
        *(value.detach().cpu().numpy().copy() for value in (*network.hidden.parameters(), *network.code.parameters())),
    )
    tests = torch.from_numpy((np.asarray(vectors[held_out], np.float32) - center) / np.float32(scale)).to(device)
    with torch.inference_mode():
        lost = float((network.decode(network.bits(tests)) - tests).square().mean() / tests.square().mean())
    if not math.isfinite(lost) or not all(np.isfinite(array).all() for array in encoder.arrays().values()):
        raise WorkError(
            f"the training of {settings.bits}-bit codes diverged; a few values of the vectors may be far larger than "
            "all others"
        )
    return TrainedEncoder(encoder, 1 - lost)


def _fit(
    network: "_AutoEncoder",
    samples: torch.Tensor,
    settings: CodeTraining,
    generator: torch.Generator,
    progress: Callable[[int, float], None] | None,
) -> None:
    optimizer = _Adam(list(network.parameters()))
    for step in range(settings.steps):
        # Random numbers of the CPU's generator: the same on all devices.
        chosen = torch.randint(len(samples), (settings.batch_size,), generator=generator)
        flips = torch.rand(settings.batch_size, settings.bits, generator=generator) < settings.flipped
        batch = samples[chosen.to(samples.device)]
        bits = network.bits(batch)
        seen = bits + flips.to(bits) * (1 - 2 * bits)
        loss = (network.decode(seen) - batch).square().mean()
        gradients = torch.autograd.grad(loss, optimizer.parameters)
        optimizer.step(gradients, settings.learning_rate * (1 + math.cos(math.pi * step / settings.steps)) / 2)
        if progress is not None and ((step + 1) % REPORT_EVERY_STEPS == 0 or step + 1 == settings.steps):
            progress(step + 1, loss.item())


class _Adam:
    """D. P. Kingma and J. L. Ba: Adam, ICLR 2015, algorithm 1.

    torch's own first loads torch's compiler, which takes more than a second.
    """

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self.parameters = parameters
        self._moments = [(torch.zeros_like(one), torch.zeros_like(one)) for one in parameters]
        self._num_steps = 0

    @torch.no_grad()
    def step(self, gradients: Sequence[torch.Tensor], learning_rate: float) -> None:
        """Update the parameters."""
        self._num_steps += 1
        first_share, second_share = (1 - decay**self._num_steps for decay in (_FIRST_DECAY, _SECOND_DECAY))
        for parameter, gradient, (first, second) in zip(self.parameters, gradients, self._moments, strict=True):
            first.lerp_(gradient, 1 - _FIRST_DECAY)
            second.mul_(_SECOND_DECAY).addcmul_(gradient, gradient, value=1 - _SECOND_DECAY)
            root = (second / second_share).sqrt_().add_(_EPSILON)
            parameter.addcdiv_(first, root, value=-learning_rate / first_share)


class _AutoEncoder(nn.Module):
    """Vector, hidden layer, code, hidden layer, vector."""

    def __init__(self, dimensions: int, settings: CodeTraining, generator: torch.Generator) -> None:
        super().__init__()
        self.hidden = _linear(dimensions, settings.hidden_units, generator)
        self.code = _linear(settings.hidden_units, settings.bits, generator)
        self.decoder_hidden = _linear(settings.bits, settings.hidden_units, generator)
        self.output = _linear(settings.hidden_units, dimensions, generator)

    def bits(self, vectors: torch.Tensor) -> torch.Tensor:
        """0 or 1, whose gradient is that of the logistic unit."""
        logits: torch.Tensor = self.code(torch.relu(self.hidden(vectors)))
        probabilities = torch.sigmoid(logits)
        return probabilities + ((logits >= 0).to(probabilities) - probabilities).detach()

    def decode(self, bits: torch.Tensor) -> torch.Tensor:
        """The vectors that codes stand for."""
        decoded: torch.Tensor = self.output(torch.relu(self.decoder_hidden(2 * bits - 1)))
        return decoded


def _linear(num_inputs: int, num_outputs: int, generator: torch.Generator) -> nn.Linear:
    """A layer with torch's usual first weights, but of the generator."""
    layer = nn.Linear(num_inputs, num_outputs, device="meta").to_empty(device="cpu")
    bound = 1 / math.sqrt(num_inputs)
    for value in layer.parameters():
        nn.init.uniform_(value, -bound, bound, generator=generator)
    return layer
