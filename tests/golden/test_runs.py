"""Run folders of earlier formats: they are listed and read, and an interrupted one is resumed."""

from pathlib import Path

import torch
from safetensors.torch import load_file

from alexnet.cli.main import main
from alexnet.evaluation.run_evaluation import evaluate
from alexnet.model.weights import load_trained
from alexnet.runs.folder import RunFolder
from alexnet.runs.overview import list_runs
from alexnet.training.loop import resume


def assert_close_weights(found: Path, expected: Path) -> None:
    weights, wanted = (load_file(run / "weights.safetensors") for run in (found, expected))
    assert weights.keys() == wanted.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(weights[name], tensor, rtol=0, atol=1e-6)


def test_an_interrupted_run_of_the_first_formats_is_resumed(golden: Path) -> None:
    run = RunFolder.open(golden / "interrupted")
    assert run.state == "interrupted"
    resumed = resume(run.path)
    assert resumed.state == "finished"
    assert_close_weights(run.path, golden / "uninterrupted")
    starts = [event["step"] for event in run.events() if event["event"] == "start"]
    assert starts == [0, 7]


def test_the_command_resumes_it_too(golden: Path) -> None:
    assert main(["resume", str(golden / "interrupted")]) == 0
    assert_close_weights(golden / "interrupted", golden / "uninterrupted")


def test_a_finished_run_of_the_first_formats_is_read(golden: Path) -> None:
    listed = {Path(one["run"]).name: one for one in list_runs(golden)}
    assert {name: one["state"] for name, one in listed.items()} == {
        "baseline": "finished",
        "baseline-sparse": "finished",
        "finished": "finished",
        "interrupted": "interrupted",
    }
    finished = listed["finished"]
    assert (finished["step"], finished["num_steps"], finished["recipe"]) == (9, 9, "quick")
    run = RunFolder.open(golden / "finished")
    recipe = run.recipe()
    assert (recipe.optimizer.learning_rate, recipe.schedule.warmup, recipe.training.ema_decay) == (0.02, 0.2, 0.9)
    assert "% on val" in repr(run) and "None" not in repr(run)
    (step,) = [event for event in run.events() if event["event"] == "step"]
    assert step["learning_rate"] == step["bias_learning_rate"] == 0.0013888888888888896
    assert step["layer_learning_rates"] == {} and "rate" not in step
    assert load_trained(run.path).network.num_classes == 3
    assert evaluate(run.path).top1_error == run.evaluations()["val-1views"]["top1_error"]
