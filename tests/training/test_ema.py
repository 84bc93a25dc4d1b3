"""The exponential moving average of the weights against the recursion written out."""

import numpy as np
import torch
from torch import nn

from alexnet.training.ema import WeightEMA


def test_the_average_follows_the_recursion_and_changes_places() -> None:
    layer = nn.Linear(2, 1, bias=False, dtype=torch.float64)
    average = WeightEMA(layer, 0.6)
    want = layer.weight.detach().numpy().copy()
    for step in range(12):
        with torch.no_grad():
            layer.weight.add_(step + 1.0)
        average.update(step)
        decay = min(0.6, (1 + step) / (10 + step))
        want = decay * want + (1 - decay) * layer.weight.detach().numpy()
    np.testing.assert_allclose(average.tensors["weight"].numpy(), want, rtol=1e-12)
    own = layer.weight.detach().clone()
    with average.in_place():
        np.testing.assert_allclose(layer.weight.detach().numpy(), want, rtol=1e-12)
    assert torch.equal(layer.weight, own)
    np.testing.assert_allclose(average.tensors["weight"].numpy(), want, rtol=1e-12)
    other = WeightEMA(layer, 0.6)
    other.restore(average.tensors)
    assert torch.equal(other.tensors["weight"], average.tensors["weight"])
