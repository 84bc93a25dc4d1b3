"""A convolution layer of its own that computes as the network's do."""

from torch import Tensor, nn

from alexnet.model.convolution import FastConvolution


class Convolution2d(nn.Conv2d):
    """`FastConvolution` as a module."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
        end_padding: int = 0,
        keeps_ties: bool = False,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel, stride, padding, groups=groups)
        self.fast = FastConvolution(self, end_padding, keeps_ties)

    def forward(self, input: Tensor) -> Tensor:
        return self.fast(input)
