"""Which pixels of the image reach one position of a layer, computed from the network's layers."""

from dataclasses import dataclass

from alexnet.model.layer_specs import (
    AveragePool,
    Convolution,
    Flatten,
    LocallyConnected,
    MaxPool,
    NetworkSpec,
    SameMapNorm,
    sized_layers,
)


@dataclass(frozen=True)
class ReceptiveField:
    """The square window of pixels that a position sees; the same for all channels of a layer."""

    size_px: int
    """Side of the window."""
    stride_px: int
    """From one position's window to the next; of a dense layer, which has one position, the side of the image."""
    first_px: int
    """Row, and column, at which the window of position 0 begins; negative inside the padding."""

    def window(self, row: int, column: int) -> tuple[int, int, int, int]:
        """The pixels that position (row, column) sees: top, left, bottom, right, the last two exclusive.

        They may lie outside of the image, in the padding.
        """
        top, left = (self.first_px + one * self.stride_px for one in (row, column))
        return top, left, top + self.size_px, left + self.size_px

    def to_dict(self) -> dict[str, int]:
        """As `features.json` and `--json` have it."""
        return {"size_px": self.size_px, "stride_px": self.stride_px, "first_px": self.first_px}


def receptive_fields(network: NetworkSpec) -> dict[str, ReceptiveField]:
    """The receptive field of every layer by name, in the order in which they run.

    That of `conv1` in `paper` is 11 pixels with stride 4, that of `pool5` 195 with stride 32. Dense layers see what all
    positions before them see, without the padding; so do the units of `flatten` together. Response normalization across
    channels sees no other positions.
    """
    found: dict[str, ReceptiveField] = {}
    field = ReceptiveField(size_px=1, stride_px=1, first_px=0)
    for layer in sized_layers(network, network.num_classes):
        match layer.spec:
            case Convolution(kernel=kernel, stride=stride, padding=padding):
                field = _grown(field, kernel, stride, padding)
            case LocallyConnected(kernel=kernel, padding=padding):
                field = _grown(field, kernel, 1, padding)
            case MaxPool(size=size, stride=stride) | AveragePool(size=size, stride=stride):
                field = _grown(field, size, stride, 0)
            case SameMapNorm(size=size):
                field = _grown(field, size, 1, size // 2)
            case Flatten():
                end = field.first_px + (layer.in_side - 1) * field.stride_px + field.size_px
                first = max(field.first_px, 0)
                field = ReceptiveField(min(end, network.image_px) - first, network.image_px, first)
            case _:
                pass
        found[layer.name] = field
    return found


def _grown(field: ReceptiveField, size: int, stride: int, padding: int) -> ReceptiveField:
    """The field of a layer whose windows of `size` positions, `stride` apart, cover positions with this field."""
    return ReceptiveField(
        size_px=field.size_px + (size - 1) * field.stride_px,
        stride_px=field.stride_px * stride,
        first_px=field.first_px - padding * field.stride_px,
    )
