"""The speed of reading hidden activations."""

import pytest

from alexnet.model.network import AlexNet
from benchmarks.features import main, measure_features, print_table


@pytest.mark.slow
def test_features_are_measured(capsys: pytest.CaptureFixture[str]) -> None:
    measured = measure_features(2, 1, 1, "cpu", "float32")
    methods = measured["methods"]
    assert methods["alexnet, pool1"]["images_per_second"] > methods["alexnet, relu7"]["images_per_second"]
    assert measured["speedups"]["alexnet, relu7"] == 1 and "alexnet, stored images to arrays, relu7" in methods
    first = AlexNet(1000).sized_layers[0].multiply_adds
    fraction = methods["alexnet, pool1"]["images_per_second"] * 2 * first / measured["ceilings"]["matmul_flops"]
    assert methods["alexnet, pool1"]["fraction_of_matmul"] == pytest.approx(fraction)
    print_table(measured)
    assert "stored images to arrays" in capsys.readouterr().out


def test_what_cannot_be_measured_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--batch-size", "0", "--allocator", "current"]) == 2
    assert "--batch-size is 0" in capsys.readouterr().err
    assert main(["--device", "tpu", "--allocator", "current"]) == 2
    assert "--device: invalid choice: 'tpu'" in capsys.readouterr().err
