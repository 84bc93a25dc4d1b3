"""The command as a person meets it: help, exit codes, one-line errors, and the whole way once."""

import csv
import errno
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from alexnet.cli.main import COMMANDS, GROUPS, command_parser, main
from alexnet.cli.predict_command import is_long
from alexnet.cli.recipe_options import given_settings
from alexnet.cli.train_command import base_recipe
from alexnet.data.dataset import ClassInfo
from alexnet.errors import RequestError
from alexnet.model.network import AlexNet
from alexnet.model.variants import variant_names
from alexnet.model.weights import Trained, save_trained
from alexnet.runs.recipe import Recipe, Stage
from alexnet.runs.recipe_file import change_settings
from alexnet.runs.recipes import PAPER, QUICK, RECIPES

SMALL = [
    "--recipe",
    "quick",
    "--network.width",
    "0.125",
    "--optimizer.batch_size",
    "10",
    "--optimizer.learning_rate",
    "0.02",
    "--schedule.epochs",
    "6",
]


def test_every_command_has_help_with_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    overview = capsys.readouterr().out
    assert all(title in overview for title in GROUPS.values())
    for name, command in COMMANDS.items():
        assert f"  {name} " in overview
        for words in ([name, "--help"], ["-h", name], [name, "words", "-h"]):
            shown = " ".join(help_of(capsys, *words).split())
            assert f"usage: alexnet {name}" in shown and f"example: {command.example}" in shown


def test_help_of_train_explains_each_setting(capsys: pytest.CaptureFixture[str]) -> None:
    shown = " ".join(help_of(capsys, "train", "--help-all").split())
    assert all(name in shown for name in variant_names())
    assert "--optimizer.momentum X fraction of the velocity kept at each step (default: 0.9)" in shown


@pytest.mark.parametrize("words", [["train"], ["resume"], ["finetune"], ["baseline", "sift-fisher"]])
def test_help_is_one_screen_and_help_all_has_every_setting(
    words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    shown = help_of(capsys, *words, "--help")
    assert len(shown.splitlines()) <= 45 and "--help-all lists every option" in shown
    assert len(help_of(capsys, *words, "--help-all")) > len(shown)


def test_help_shows_the_values_of_the_recipe_as_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["train", "--help", "--recipe", "quick"], ["train", "--recipe=quick", "--help"]):
        shown = help_of(capsys, *words)
        assert "(default: 0.05)" in shown and "(default: one-cycle)" in shown


def help_of(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 0
    return capsys.readouterr().out


def recipe_of(*words: str) -> Recipe:
    options = command_parser("train").parse(words)
    return change_settings(base_recipe(options), given_settings(options))


def test_options_are_read_over_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("optimizer: {rate: 0.5, decay: 0.1}\n")
    config = str(tmp_path / "c.yaml")
    optimizer = recipe_of("d", "--recipe", "quick", "--config", config, "--optimizer.learning_rate", "0.25").optimizer
    assert (optimizer.learning_rate, optimizer.weight_decay, optimizer.momentum) == (
        0.25,
        0.1,
        QUICK.optimizer.momentum,
    )
    assert recipe_of("d") == PAPER
    steps = recipe_of("d", "--schedule.kind", "steps", "--schedule.milestones", "[0.5, 0.6]").schedule
    assert (steps.kind, steps.milestones) == ("steps", (0.5, 0.6))
    with pytest.raises(
        RequestError, match=r"--schedule.milestones has no effect on a schedule of kind plateau, only on steps"
    ):
        recipe_of("d", "--schedule.milestones", "[0.5, 0.6]")


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_every_recipe_comes_through_the_options_unchanged(name: str) -> None:
    assert recipe_of("d", "--recipe", name) == RECIPES[name]


def test_nested_settings_are_options_too() -> None:
    recipe = recipe_of(
        "d", "--optimizer.layer_weight_decay", '{"fc8": 0.5}', "--schedule.kind", "stages",
        "--schedule.stages", '[{"epochs": 1.5, "learning_rate": 0.1, "layer_learning_rates": {"conv1": 0}}, {"epochs": 2, "learning_rate": 1e-3}]',  # noqa: E501
    )  # fmt: skip
    assert recipe.optimizer.layer_weight_decay == {"fc8": 0.5}
    assert recipe.schedule.stages == (
        Stage(epochs=1.5, learning_rate=0.1, layer_learning_rates={"conv1": 0.0}),
        Stage(epochs=2, learning_rate=1e-3),
    )


def test_show_prints_the_network_and_trains_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--show", "--json", "--recipe", "original"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["parameters"], shown["neurons"], shown["num_classes"]) == (60_965_224, 659_272, 1000)
    # Multiplications by hand: places x kernel x maps read x maps written.
    assert [layer["multiply_adds"] for layer in shown["layers"]] == [
        55 * 55 * 11 * 11 * 3 * 96, 27 * 27 * 5 * 5 * 48 * 256, 13 * 13 * 9 * 256 * 384, 13 * 13 * 9 * 192 * 384,
        13 * 13 * 9 * 192 * 256, 9216 * 4096, 4096 * 4096, 4096 * 1000,
    ]  # fmt: skip
    assert {
        (layer["learning_rate"], layer["bias_learning_rate"], layer["weight_decay"]) for layer in shown["layers"]
    } == {(0.01, 0.02, 0.0005)}
    assert len(shown["schedule"]) == 6 and "conv1 0" in shown["schedule"][-1]
    assert main(["train", "--show", "--recipe", "cifar-18pct"]) == 0
    text = capsys.readouterr().out
    assert "89,578" in text and "10 classes" in text and "epoch 130 to 140: weights 1e-05, biases 2e-05" in text
    assert main(["train"]) == 2
    assert "train needs a prepared data set" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian"], "unknown command 'trian'; did you mean train? known are fetch, prepare"),
        (["train", "d", "--recipe", "papers"], "unknown recipe 'papers'; did you mean paper? known are quick, paper"),
        (["train", "d", "--optimizer.rate", "1"], "--optimizer.rate is now --optimizer.learning_rate; see"),
        (["resume", "--schedule.drops=[0.5]"], "--schedule.drops is now --schedule.milestones"),
        (["prepare", "d", "e", "--kind", "zip"], "--kind is now --source-format"),
        (["train", "d", "--columns-in", "dense"], "--columns-in is now --column-layers"),
        (["train", "d", "--optimizer.learning-rat", "1"], "did you mean --optimizer.learning_rate?"),
        (["train", "d", "--optimizer.learning", "1"], "unknown option --optimizer.learning"),
        (["train", "d", "--epochs", "1"], "unknown option --epochs; did you mean --schedule.epochs?"),
        (["train", "d", "--schedule.epochs", "1.5"], "--schedule.epochs is 1.5; allowed is a whole number"),
        (["train", "d", "--schedule.milestones", "[0.5"], "--schedule.milestones is '[0.5', which is not YAML"),
        (["train", "d", "--data.mean", "centre"], "allowed is one of crop, center (centre is now center)"),
        (["train", "d", "--seeds", "two"], "--seeds: invalid int value: 'two'; see `alexnet train --help`"),
        (["prepare", "d"], "the following arguments are required: DEST"),
        (["bench"], "alexnet bench needs one of step, evaluate, "),
        (["baseline", "sift", "d"], "'sift' is not one of them"),
        (["train", "d", "--optimizer.learning_rate", "fast"], "optimizer.learning_rate"),
        (["train", "d", "--optimizer.learning_rate", "-1"], "--optimizer.learning_rate is -1.0; allowed is 0 or more"),
        (["train", "nowhere", "--run", "r"], "nowhere"),
        (["prepare", "nowhere", "somewhere"], "nowhere"),
        (["evaluate", "nowhere"], "nowhere is not a run folder"),
        (["report", "nowhere"], "nowhere is not a run folder"),
        (["resume", "nowhere"], "nowhere is not a run folder"),
        (["predict", "nowhere", "photo.jpg"], "nowhere does not exist; give a run folder"),
        (["predict", "r", "http://me:pw@x/p.jpg", "--split", "val"], "--split is val, and http://***@x/p.jpg is not a"),
        (["predict", "r", "p.jpg", "--csv", "--json"], "--csv and --json exclude each other; omit one"),
        (["predict", "r", "p.jpg", "--json", "--format", "ilsvrc"], "--json and --format ilsvrc exclude each other"),
        (["predict", "r", "p.jpg", "--label-order", "x"], "--label-order needs --format ilsvrc"),
        (["predict", "r", "p.jpg", "--top", "3", "--format", "ilsvrc"], "five labels per line; omit --top"),
        (
            ["predict", "r", "p.jpg", "--download-timeout", "0"],
            "--download-timeout is 0; allowed is more than 0, up to 86,400",
        ),
        (
            ["predict", "r", "p.jpg", "--max-download", "nan"],
            "--max-download is nan; allowed is more than 0, up to 2,048",
        ),
        (["predict", "r", "p.jpg", "--max-download", "inf"], "--max-download is inf"),
        (["predict", "r", "p.jpg", "--views", "5"], "--views: invalid choice: 5"),
        (["fetch", "shapes", "d", "--from", "x"], "--from does not apply to shapes"),
        (["fetch", "cifar", "d"], "unknown name 'cifar'; did you mean cifar10? known are imagenette, "),
        (["fetch", "zzz", "d"], "unknown name 'zzz'; known are imagenette, "),
        (["fetch", "imagenette-320", "d", "--size", "160"], "write `alexnet fetch imagenette --size 160`"),
        (["fetch", "cifar10", "d", "--size", "160"], "omit it for cifar10"),
        (["fetch", "shapes", ""], "the destination is ''; allowed is a path that is not empty"),
        (["fetch", "cifar10", ""], "the destination is ''; allowed is a path that is not empty"),
        (["fetch", "weights", "caffe", ""], "the destination is ''; allowed is a path that is not empty"),
        (["fetch"], "`alexnet fetch` needs a name, one of imagenette, "),
        (
            ["fetch", "flowers102"],
            "takes one destination, and got 0; for example `alexnet fetch flowers102 data/",
        ),
        (["fetch", "cifar10", "a", "b"], "takes one destination, and got 2: a b"),
        (["fetch", "cifar10", "d", "--size", "160"], "--size applies to imagenette and imagewoof; omit it for cifar10"),
        (["fetch", "--list", "cifar10"], "--list and --json take no name"),
        (["fetch", "cifar10", "d", "--json"], "--list and --json take no name"),
        (["fetch", "weights"], "takes one of torchvision, caffe, caffenet first; got ''"),
        ([], ""),
    ],
)
def test_wrong_requests_exit_with_2_and_one_line(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        code = main(words)
    except SystemExit as stop:  # the parser's own refusals
        code = stop.code  # type: ignore[assignment]
    captured = capsys.readouterr()
    assert code == 2
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert list(tmp_path.iterdir()) == []  # nothing half-made


def test_the_whole_way(
    make_tree: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    tree = make_tree("photographs")
    assert main(["prepare", str(tree), "data", "--side", "32"]) == 0
    assert main(["prepare", str(tree), "data", "--side", "32"]) == 2  # not written over
    assert main(["train", "data", "--run", "run", *SMALL]) == 0
    assert main(["train", "data", "--run", "run", *SMALL]) == 2
    capsys.readouterr()
    assert main(["evaluate", "run", "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)
    assert [one["num_views"] for one in measured["evaluations"]] == [1, 10]
    assert measured["top1_error"] == 0.0 and measured["top1_interval"][0] == 0.0 and measured["num_images"] == 12
    assert main(["evaluate", "run"]) == 0
    assert "0.00" in capsys.readouterr().out
    assert main(["report", "run"]) == 0
    shown = capsys.readouterr().out
    assert "run/report.html" in shown and "alexnet predict run photo.jpg" in shown
    photograph = np.zeros((50, 70, 3), np.uint8)
    photograph[..., 1] = 200
    Image.fromarray(photograph).save("green.jpg")
    assert main(["predict", "run", "green.jpg", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["image"] == "green.jpg" and answer["top"][0]["id"] == "color1"
    assert main(["predict", "run", "green.jpg"]) == 0
    assert "color1" in capsys.readouterr().out
    # The stored size exactly, and no JPEG: the decoder's own memory, which torch may not write to.
    Image.fromarray(photograph[:32, :32]).save("small.png")
    assert main(["predict", "run", "small.png", "--views", "1"]) == 0
    Path("broken.jpg").write_bytes(Path("green.jpg").read_bytes()[:300])
    assert main(["predict", "run", "broken.jpg"]) == 2
    assert "broken.jpg is not a readable image" in capsys.readouterr().err
    # Beside others it is named, and they are answered; what is no image in a folder is passed over.
    Path("photos").mkdir()
    for name in ("broken.jpg", "green.jpg"):
        Path(name).rename(Path("photos") / name)
    Path("photos/Thumbs.db").write_bytes(b"abcd")
    assert main(["predict", "run", "photos", "--views", "1", "--json"]) == 0
    out, err = capsys.readouterr()
    bad, good = map(json.loads, out.splitlines())
    assert (bad["image"], good["image"]) == ("photos/broken.jpg", "photos/green.jpg") and "top" not in bad
    assert "photos/broken.jpg is not a readable image" in bad["reason"]
    assert "skipped 1 of 3 files in photos that are not images\n1 of 2 images cannot be read\n" in err
    assert main(["predict", "run", "photos", "--views", "1", "--csv", "--top", "2"]) == 0
    bad, good = csv.DictReader(capsys.readouterr().out.splitlines())
    assert good["image"] == "photos/green.jpg" and good["top1_id"] == "color1" and good["reason"] == ""
    assert list(good) == [
        "image",
        *(f"top{rank}_{one}" for rank in (1, 2) for one in ("id", "name", "probability")),
        "reason",
    ]
    assert bad["image"] == "photos/broken.jpg" and bad["top1_id"] == "" and "is not a readable image" in bad["reason"]
    assert main(["predict", "run", "photos", "--views", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("photos/broken.jpg is not a readable image: ") and lines[1] == "photos/green.jpg"
    assert main(["predict", "run", "photos/broken.jpg", "no.jpg", "--json"]) == 2
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 2 and "error: none of the 2 images can be read: photos/broken.jpg is not" in err
    assert main(["predict", "run", "photos", "--views", "1", "--format", "ilsvrc"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and "1 of 2 cannot be read" in err


def test_an_interrupt_exits_with_3_and_the_same_command_resumes(make_tree: Any, tmp_path: Path) -> None:
    tree = make_tree("photographs")
    assert main(["prepare", str(tree), str(tmp_path / "data"), "--side", "32"]) == 0
    command = [sys.executable, "-m", "alexnet", "train", "data", "--run", "run", *SMALL, "--schedule.epochs", "150"]
    # One thread: two of them wait for each other at every layer where the machine gives each only now and then.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:  # the first line of progress: it is training
        if "images/s" in line:
            break
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=400)
    assert process.returncode == 3
    *_, last = rest.splitlines()
    assert re.fullmatch(r"alexnet: interrupted after step \d+ of 450; resume with `alexnet resume run`", last)
    assert main(["evaluate", str(tmp_path / "run"), "--views", "1"]) == 0  # usable as it stands
    run = tmp_path / "run" / "run.json"
    assert json.loads(run.read_text())["state"] == "interrupted"
    assert main(["train", str(tmp_path / "data"), "--run", str(run.parent), *SMALL, "--schedule.epochs", "150"]) == 0
    assert json.loads(run.read_text())["state"] == "finished"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_at_once_with_3_and_one_line(number: signal.Signals, tmp_path: Path) -> None:
    """Also within an `exec`, after which Python itself ends by the signal, and with a thread that it would wait for."""
    program = (
        "import os, sys, threading, time; from alexnet.cli.main import main; import alexnet.data.shapes as shapes; "
        "threading.Thread(target=time.sleep, args=(60,)).start(); "
        f"shapes.fetch_shapes = lambda folder: exec('os.kill(os.getpid(), {int(number)}); time.sleep(60)'); "
        "sys.argv = ['alexnet', 'fetch', 'shapes', 'x']; sys.exit(main())"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == "alexnet: interrupted; rerun the same command\n"


def test_other_data_do_not_take_the_place_of_the_runs_own(
    make_tree: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, count in (("own", 4), ("other", 6)):
        assert main(["prepare", str(make_tree(name + "-tree", val=count)), name, "--side", "32"]) == 0
    assert main(["train", "own", "--run", "run", *SMALL, "--schedule.epochs", "1"]) == 0
    assert main(["evaluate", "run", "--views", "1"]) == 0
    assert main(["evaluate", "run", "--views", "1", "--data", "other"]) == 0
    stored = {path.name: json.loads(path.read_text())["num_images"] for path in Path("run/evaluations").iterdir()}
    assert len(stored) == 2 and stored["val-1views.json"] == 12 and sorted(stored.values()) == [12, 18]
    assert main(["report", "run"]) == 0
    assert ">18<" not in Path("run/report.html").read_text()


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}
    assert {"Python", "torch", "processor", "bfloat16", "memory", "disk", "GPU", "Triton", "allocator"} <= set(checks)
    assert all(check["advice"] for check in checks.values() if check["status"] == "broken")
    assert main(["doctor"]) == 0
    assert "Python" in capsys.readouterr().out


def test_a_photograph_is_answered_without_loading_the_fast_passes(make_tree: Any, tmp_path: Path) -> None:
    """Few are answered sooner by torch's own operations than Numba is loaded; later the fast passes serve again."""
    prepared, run = str(tmp_path / "data"), str(tmp_path / "run")
    assert main(["prepare", str(make_tree("photographs")), prepared, "--side", "32"]) == 0
    assert main(["train", prepared, *SMALL, "--schedule.epochs", "1", "--run", run]) == 0
    photograph = str(next((tmp_path / "photographs").rglob("*.png")))
    program = (
        "import sys; from alexnet.cli.main import main; "
        f"code = main(['predict', {run!r}, {photograph!r}]); "
        "assert code == 0 and 'numba' not in sys.modules; "
        "import torch; from alexnet.model import kernels; "
        "x = torch.ones(1, 3, 4, 4); assert kernels.supports_fused(x) == (kernels.fallback_reason('cpu') is None)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


@pytest.fixture
def tiny_weights(tmp_path: Path) -> Path:
    classes = tuple(ClassInfo(f"n{number}", f"kind {number}") for number in range(5))
    network = AlexNet(5, "quick", 0.125).eval()
    mean_image = torch.full((32, 32, 3), 120.0)
    trained = Trained(network=network, classes=classes, mean_image=mean_image, crop=28, title="", generated=False)
    save_trained(tmp_path / "tiny.safetensors", trained)
    return tmp_path / "tiny.safetensors"


def test_an_interrupted_prediction_has_written_whole_rows(tiny_weights: Path, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((300, 300, 3), np.uint8)).save(tmp_path / "photo.png")
    command = [sys.executable, "-m", "alexnet", "predict", str(tiny_weights), "-", "--json", "--views", "1"]
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(command, cwd=tmp_path, **pipes, text=True) as process:
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        process.stdin.write("photo.png\n" * 100_000)
        process.stdin.close()
        first = [process.stdout.readline() for _ in range(3)]  # while almost all images are to come
        process.send_signal(signal.SIGINT)
        rows = "".join(first) + process.stdout.read()
        *_, last = process.stderr.read().splitlines()
        assert (process.wait(60), last) == (
            3,
            "alexnet: interrupted; rows up to here are complete, the other images were not predicted",
        )
    assert rows.endswith("\n") and rows.count("\n") < 100_000
    assert all(json.loads(row)["image"] == "photo.png" for row in rows.splitlines())


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("is_list", [False, True])
def test_a_prediction_that_waits_for_a_pipe_can_be_interrupted(
    stop: signal.Signals, is_list: bool, tiny_weights: Path, tmp_path: Path
) -> None:
    Image.fromarray(np.zeros((300, 300, 3), np.uint8)).save(tmp_path / "photo.png")
    os.mkfifo(tmp_path / "pipe")
    command = [
        sys.executable,
        "-m",
        "alexnet",
        "predict",
        str(tiny_weights),
        "--csv",
        "--views",
        "1",
        "--batch-size",
        "1",
    ]
    names = ["photo.png"] * 3 + ["pipe"]
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen([*command, *(["-"] if is_list else names)], cwd=tmp_path, **pipes, text=True) as process:
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        process.stdin.write("\n".join(names) if is_list else "")
        process.stdin.close()
        assert [process.stdout.readline().split(",")[0] for _ in range(4)] == ["image", *names[:3]]
        process.send_signal(stop)
        assert process.wait(60) == 3
        assert "rows up to here are complete" in process.stderr.read()


@pytest.mark.parametrize(("closing", "message"), [("<&-", "standard input is closed"), (">&-", "standard output is")])
def test_a_closed_stream_is_said(closing: str, message: str, tiny_weights: Path) -> None:
    command = f"exec {sys.executable} -m alexnet predict {tiny_weights} - {closing}"
    done = subprocess.run(["sh", "-c", command], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert (
        done.returncode == 2 and done.stderr.startswith(f"alexnet: error: {message}") and done.stderr.count("\n") == 1
    )


def test_a_full_disk_is_said_of_the_output() -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "alexnet", "--version"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    message = "alexnet: error: cannot write to standard output: No space left on device\n"
    assert (done.returncode, done.stderr) == (1, message)


def test_names_that_cannot_be_looked_at_are_rows(
    tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.zeros((30, 30, 3), np.uint8)).save("photo.png")
    status = os.stat

    def guarded(path: Any, *args: Any, **options: Any) -> os.stat_result:
        if str(path).startswith("closed/"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return status(path, *args, **options)

    monkeypatch.setattr(os, "stat", guarded)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket")
        images = ["closed/x.jpg", "x" * 300, "d/" * 2500, f"http://127.0.0.1:9/{'x' * 5000}", "socket", "/dev/zero"]
        assert main(["predict", str(tiny_weights), "photo.png", *images, "--json", "--views", "1"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["image"] for row in rows] == ["photo.png", *images]
    reasons = [
        "Permission denied",
        "name too long",
        "name too long",
        "Connection refused",
        "it is a socket",
        "a device",
    ]
    for row, reason in zip(rows[1:], reasons, strict=True):
        assert reason in row["reason"]


def test_a_list_or_an_image_comes_from_standard_input(
    tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.zeros((30, 30, 3), np.uint8)).save("photo.png")

    def images(content: bytes) -> list[str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        assert main(["predict", str(tiny_weights), "-", "--json", "--views", "1"]) == 0
        return [json.loads(line)["image"] for line in capsys.readouterr().out.splitlines()]

    assert images(b"photo.png\nnone.png\n") == ["photo.png", "none.png"]
    assert images(Path("photo.png").read_bytes()) == ["-"]


def test_the_allocator_is_tuned_for_many_photographs_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.jpg", "b.tar", "folder/c.jpg"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).touch()
    for images, expected in (
        (["a.jpg"], False),
        (["a.jpg"] * 69, False),
        (["a.jpg", "https://x/y.jpg"], False),
        (["a.jpg"] * 70, True),
        (["a.jpg"] * 70 + ["--views", "1"], False),
        (["a.jpg", "b.tar"], True),
        (["folder"], True),
        (["*.jpg"], True),
        (["-"], True),
    ):
        assert is_long(command_parser("predict").parse(["run", *images])) == expected
