"""What layouts are allowed, and how processes and images are dealt out to them."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet.cli.main import main
from alexnet.data.sampler import rank_slice
from alexnet.errors import RequestError
from alexnet.parallel.layout import Layout
from alexnet.parallel.process_group import init_process_group, world_size
from alexnet.parallel.process_mesh import ProcessMesh, mesh_of
from alexnet.runs.recipe import ScheduleSettings
from alexnet.training.plan import Phase, Plan


@pytest.mark.parametrize(
    "settings", [{"columns": 0}, {"columns": 3}, {"replicas": -1}, {"column_layers": "dense"}, {"stall_warning": 0.0}]
)
def test_what_no_layout_allows(settings: dict[str, object]) -> None:
    with pytest.raises(RequestError, match=r"--.* is .*"):
        Layout(**settings)  # type: ignore[arg-type]


@given(st.sampled_from([1, 2]), st.integers(1, 9))
def test_processes_are_columns_times_replicas(columns: int, replicas: int) -> None:
    num = columns * replicas
    assert Layout(columns=columns).replicas_among(num) == replicas
    assert Layout(columns=columns, replicas=replicas).replicas_among(num) == replicas
    assert Layout(columns=columns, replicas=replicas).num_processes == num
    with pytest.raises(RequestError, match=f"take {num} processes, and {num + 1} were started"):
        Layout(columns=columns, replicas=replicas).replicas_among(num + 1)


def test_two_columns_are_no_one_process() -> None:
    with pytest.raises(RequestError, match="take 2 processes, and 1 were started"):
        mesh_of(Layout(columns=2), *_alone())


def _alone() -> tuple[object, None]:
    with init_process_group() as (processes, monitor):
        assert monitor is None
        return processes, monitor


def test_a_batch_must_be_shared_equally() -> None:
    Layout(replicas=4).require_batch(128, 4)
    with pytest.raises(RequestError, match="30 and 4 processes"):
        Layout(replicas=4).require_batch(30, 4)
    # In dense columns the two of a pair share images too.
    Layout(columns=2).require_batch(2, 2)
    with pytest.raises(RequestError, match="2 and 4 processes"):
        Layout(columns=2, column_layers="dense").require_batch(2, 2)


@given(st.integers(1, 60), st.integers(1, 20), st.integers(1, 7), st.integers(1, 3))
def test_every_image_of_an_epoch_is_one_processs(images: int, batch_size: int, num: int, epochs: int) -> None:
    plan = Plan(ScheduleSettings(epochs=epochs, milestones=()), images, batch_size)
    phase: Phase = plan.phases[0]
    for epoch in range(epochs):
        seen = 0
        for step in range(epoch * phase.steps_per_epoch, (epoch + 1) * phase.steps_per_epoch):
            length = phase.batch_length(step)
            parts = [rank_slice(length, rank, num) for rank in range(num)]
            assert [row for part in parts for row in range(part.start, part.stop)] == list(range(length))
            seen += length
        assert seen == images


def test_one_process_agrees_with_itself() -> None:
    mesh = ProcessMesh()
    assert mesh.is_main and not mesh.is_distributed
    assert mesh.all_reduce_sum(1.5, 2) == [1.5, 2]
    assert mesh.any(True, False) == [True, False]
    assert mesh.broadcast("a") == "a" and mesh.all_gather_object(3) == [3]
    mesh.require_same({"data set": "x"})


class Others(ProcessMesh):
    """A mesh whose other process was started with other settings."""

    def all_gather_object(self, value):  # type: ignore[no-untyped-def]
        _, settings = value
        return [("rank 0", settings), ("rank 1", {**settings, "code": "b", "optimizer.learning_rate": "0.2"})]


def test_the_first_difference_is_named_and_the_others_counted() -> None:
    settings = {"recipe": "paper", "optimizer.learning_rate": 0.1, "code": "a"}
    with pytest.raises(RequestError) as caught:
        Others().require_same(settings)
    assert str(caught.value) == (
        "rank 1 has another optimizer.learning_rate than rank 0: 0.2 instead of 0.1 (and another code); "
        "allowed is the same data, code and settings for every process"
    )


def test_incomplete_variables_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    monkeypatch.delenv("MASTER_PORT", raising=False)
    assert world_size() == 2
    with pytest.raises(RequestError, match="MASTER_ADDR, MASTER_PORT is not set"), init_process_group():
        raise AssertionError("nothing is started")


@pytest.mark.parametrize(
    "words", [("--columns", "3"), ("--column-layers", "dense"), ("--replicas", "-1"), ("--timeout", "0")]
)
def test_wrong_layouts_exit_with_2(
    words: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "data", *words]) == 2
    assert words[0] in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_command_starts_the_processes_that_a_layout_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    monkeypatch.setattr("alexnet.parallel.launch.torchrun", lambda words: started.append(words))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert main(["train", "data", "--columns", "2", "--replicas", "3", "--run", "here"]) == 0
    words = ["alexnet", "train", "data", "--columns", "2", "--replicas", "3", "--run", "here"]
    assert started == [["--standalone", "--nproc-per-node", "6", "-m", "--", *words]]
