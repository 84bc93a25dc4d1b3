"""The benchmark of checkpoints writes them and measures their cost."""

from pathlib import Path

import pytest

from alexnet.errors import RequestError
from alexnet.model.network import AlexNet
from benchmarks.checkpoint import main, measure_checkpoint, print_table


@pytest.mark.slow
def test_a_checkpoint_holds_weights_and_velocities_and_its_cost_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = measure_checkpoint("cifar-80sec", 2, 2, 2, tmp_path)
    parameters = sum(one.numel() for one in AlexNet(1000, "cifar-80sec").parameters())
    # Two float32 numbers per parameter, and the names.
    assert 8 * parameters < measured["checkpoint_bytes"] < 8 * parameters + 20_000
    assert 0 < measured["pause_ms"] < 1e3 * measured["written_after_s"]
    assert measured["fraction_at_default"] == pytest.approx(measured["extra_s"] / 300)
    assert [len(wall_s) for wall_s in measured["wall_s"].values()] == [2, 2]
    assert not list(tmp_path.iterdir())  # nothing is left behind
    print_table(measured)
    assert "the training pauses for" in capsys.readouterr().out


def test_nothing_to_measure_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RequestError, match="--steps 0"):
        measure_checkpoint("cifar-80sec", 2, 0, 1, tmp_path)
    with pytest.raises(RequestError, match="unknown variant 'alex'"):
        measure_checkpoint("alex", 2, 1, 1, tmp_path)
    assert main(["--batch-size", "0"]) == 2
    assert "error: --batch-size is 0" in capsys.readouterr().err
