"""The bench of checkpoints writes them and says what they cost."""

from pathlib import Path

import pytest

from alexnet.bench.checkpointing import bench_checkpoint
from alexnet.errors import RequestError
from alexnet.model.network import AlexNet


@pytest.mark.slow
def test_a_checkpoint_holds_weights_and_velocities_and_its_cost_is_told(tmp_path: Path) -> None:
    lines: list[str] = []
    measured = bench_checkpoint("cifar-80sec", 2, 2, 2, tmp_path, lines.append)
    parameters = sum(one.numel() for one in AlexNet(1000, "cifar-80sec").parameters())
    # Two float32 numbers a parameter, and the names.
    assert 8 * parameters < measured["checkpoint_bytes"] < 8 * parameters + 20_000
    assert 0 < measured["pause_ms"] < 1e3 * measured["written_after_s"]
    assert measured["share_at_default"] == pytest.approx(measured["extra_s"] / 300)
    assert len(measured["wall_s"]["plain"]) == len(measured["wall_s"]["checkpoint"]) == 2
    assert not list(tmp_path.iterdir())  # nothing is left behind


def test_nothing_to_measure_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="--steps 0"):
        bench_checkpoint("cifar-80sec", 2, 0, 1, tmp_path, print)
    with pytest.raises(RequestError, match="unknown variant 'alex'"):
        bench_checkpoint("alex", 2, 1, 1, tmp_path, print)
