"""The templates of `launch/`: run with stand-ins for what starts processes, and read by the parsers of those who will.

Nothing here starts a process of a training; `tests/parallel/test_two_machines.py` does.
"""

import argparse
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from torch.distributed.run import get_args_parser

from alexnet.cli.common_options import layout_from
from alexnet.cli.main import command_parser

ROOT = Path(__file__).parents[1]
LAUNCH = ROOT / "launch"
SCRIPTS = ("one-machine.sh", "several-machines.sh", "slurm.sbatch")
PAGE = ROOT / "docs" / "launching.md"

# Long options of sbatch that its manual lists (Slurm 22.05), but for those that only print.
_OF_SBATCH = (
    "account acctg-freq array batch bb bbf begin chdir cluster-constraint clusters comment constraint container "
    "contiguous core-spec cores-per-socket cpu-freq cpus-per-gpu cpus-per-task deadline delay-boot dependency "
    "error exclude exclusive export export-file extra-node-info get-user-env gid gpu-bind gpu-freq gpus "
    "gpus-per-node gpus-per-socket gpus-per-task gres gres-flags hint hold ignore-pbs input job-name "
    "kill-on-invalid-dep licenses mail-type mail-user mcs-label mem mem-bind mem-per-cpu mem-per-gpu mincpus "
    "network nice no-kill no-requeue nodefile nodelist nodes ntasks ntasks-per-core ntasks-per-gpu "
    "ntasks-per-node ntasks-per-socket open-mode output overcommit oversubscribe partition power prefer priority "
    "profile propagate qos quiet reboot requeue reservation signal sockets-per-node spread-job switches "
    "thread-spec threads-per-core time time-min tmp uid use-min-nodes wait-all-nodes wckey"
)
SBATCH_OPTIONS = frozenset(_OF_SBATCH.split())

# Writes down how it was called, then does what `$DOES` says.
STAND_IN = """#!{python}
import json, os, signal, sys, time
with open(os.environ["CALLS"] + "-environment", "w") as environment:
    json.dump(dict(os.environ), environment)
with open(os.environ["CALLS"], "a") as calls:
    print(json.dumps([os.path.basename(sys.argv[0]), *sys.argv[1:]]), file=calls, flush=True)
    if os.environ.get("DOES") == "wait":
        def told(number, frame):
            print(json.dumps(["signal", signal.Signals(number).name]), file=calls, flush=True)
            time.sleep(0.5)  # a second signal would be seen
            sys.exit(1)
        signal.signal(signal.SIGTERM, told)
        print(json.dumps(["ready"]), file=calls, flush=True)
        time.sleep(60)
sys.exit(int(os.environ.get("CODE", "0")))
"""
SRUN = """#!/usr/bin/env bash
while [[ $1 == --* ]]; do shift; done
exec "$@"
"""
SCONTROL = """#!{python}
import json, os, sys
if sys.argv[1:3] == ["show", "hostnames"]:
    print("n1\\nn2")
else:
    print(json.dumps(["scontrol", *sys.argv[1:]]), file=open(os.environ["CALLS"], "a"))
"""


class Stage:
    """A folder with stand-ins for torchrun, srun and scontrol, in front of everything else."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        programs = {"torchrun": STAND_IN, "srun": SRUN, "scontrol": SCONTROL}
        for name, text in programs.items():
            path = folder / "bin" / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text.replace("{python}", sys.executable))
            path.chmod(0o755)
        self.environment = {
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
            "CALLS": str(folder / "calls"),
            "SLURM_JOB_NODELIST": "n[1-2]",
            "SLURM_JOB_ID": "4711",
            "SLURM_JOB_NUM_NODES": "2",
            "SLURM_CPUS_PER_TASK": "16",
        }

    def start(self, program: list[str], **variables: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            program,
            env={**self.environment, **variables},
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def calls(self) -> list[list[str]]:
        path = self.folder / "calls"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def run(self, script: str, *words: str, **variables: str) -> tuple[int, str]:
        process = self.start(["bash", str(LAUNCH / script), *words], **variables)
        printed, _ = process.communicate(timeout=60)
        return process.returncode, printed

    def torchrun(self, script: str, *words: str, **variables: str) -> tuple[Any, argparse.Namespace]:
        """How the script calls torchrun, as torchrun and alexnet read it."""
        code, printed = self.run(script, *words, **variables)
        assert code == 0, printed
        self.require_variables()
        return understood(self.calls()[-1])

    def require_variables(self) -> None:
        """See that torchrun was given what it needs to wait, and to start again."""
        found = json.loads((self.folder / "calls-environment").read_text())
        assert int(found["OMP_NUM_THREADS"]) >= 1 and int(found["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"]) > 30


def understood(call: list[str]) -> tuple[Any, argparse.Namespace]:
    """What a call of torchrun asks, as its own parser and alexnet's read it; a word that neither knows ends this."""
    assert call[0] == "torchrun"
    asked = get_args_parser().parse_args(call[1:])
    assert asked.module and asked.training_script == "alexnet"
    command, *words = asked.training_script_args
    assert command == "train"
    return asked, command_parser("train").parse(words)


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_are_bash(script: str) -> None:
    subprocess.run(["bash", "-n", str(LAUNCH / script)], check=True, timeout=60)
    assert os.access(LAUNCH / script, os.X_OK) or script.endswith(".sbatch")


@pytest.mark.parametrize(
    "processes, words, columns",
    [("2", ("--columns", "2"), 2), ("2", (), 1), ("4", ("--columns", "2", "--column-layers", "dense"), 2)],
)
def test_one_machine(stage: Stage, processes: str, words: tuple[str, ...], columns: int) -> None:
    asked, train = stage.torchrun("one-machine.sh", "data", "--run", "runs/a", *words, PROCESSES=processes)
    assert asked.standalone and asked.nproc_per_node == processes and asked.max_restarts == 3
    assert train.run == Path("runs/a") and train.data == [Path("data")]
    assert layout_from(train).columns == columns
    assert layout_from(train).replicas_among(int(processes)) == int(processes) // columns


def test_torchrun_would_take_an_option_of_ours_for_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    # Why every template has `--` before alexnet.
    with pytest.raises(SystemExit):
        get_args_parser().parse_args(["-m", "alexnet", "train", "data", "--run", "runs/a"])
    assert "--run could match --run-path" in capsys.readouterr().err


def test_several_machines(stage: Stage) -> None:
    variables = {"HEAD": "node1:29400", "MACHINES": "3", "PROCESSES": "2"}
    words = ("data", "--run", "runs/a", "--columns", "2")
    asked, train = stage.torchrun("several-machines.sh", *words, **variables)
    assert (asked.nnodes, asked.nproc_per_node, asked.rdzv_backend) == ("3", "2", "c10d")
    assert asked.rdzv_endpoint == "node1:29400" and asked.rdzv_conf == "" and asked.local_addr is None
    assert layout_from(train).replicas_among(6) == 3
    for address, is_head in (("node1", "true"), ("node2", "false")):
        asked, _ = stage.torchrun("several-machines.sh", *words, **variables, ADDRESS=address)
        assert asked.local_addr == address and asked.rdzv_conf == f"is_host={is_head}"


def test_several_machines_says_what_is_missing(stage: Stage) -> None:
    code, printed = stage.run("several-machines.sh", "data", MACHINES="2")
    assert code != 0 and "HEAD=node1:29400" in printed and not stage.calls()


def test_slurm(stage: Stage) -> None:
    words = ("--recipe", "paper", "--columns", "2")
    asked, train = stage.torchrun("slurm.sbatch", *words, DATA="data", RUN="runs/a", PROCESSES="4")
    assert (asked.nnodes, asked.nproc_per_node, asked.rdzv_id) == ("2", "4", "4711")
    assert asked.rdzv_endpoint == "n1:24711"
    assert layout_from(train).replicas_among(8) == 4 and train.run == Path("runs/a")
    assert len(stage.calls()) == 1


@pytest.mark.parametrize(
    "code, state, before, again",
    [
        ("1", "interrupted", "0", True),
        ("1", "interrupted", "50", False),
        ("1", "failed", "0", False),
        ("0", "finished", "0", False),
        ("1", None, "0", False),
    ],
)
def test_slurm_queues_what_can_go_on_again(
    stage: Stage, code: str, state: str | None, before: str, again: bool
) -> None:
    if state:
        (stage.folder / "run").mkdir()
        (stage.folder / "run" / "run.json").write_text(json.dumps({"state": state}, indent=2))
    found, printed = stage.run("slurm.sbatch", DATA="data", RUN="run", CODE=code, SLURM_RESTART_COUNT=before)
    assert found == int(code), printed
    assert (["scontrol", "requeue", "4711"] in stage.calls()) == again


def test_slurms_warning_reaches_torchrun_once(stage: Stage) -> None:
    """Slurm signals every process of a step; here by signaling the group of all that the script started."""
    process = subprocess.Popen(
        ["bash", str(LAUNCH / "slurm.sbatch")],
        env={**stage.environment, "DATA": "data", "RUN": "run", "DOES": "wait"},
        cwd=stage.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 30
    while ["ready"] not in stage.calls() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.2)  # the shell around it sets its traps beside it
    # Not the batch script itself: without `B:` Slurm leaves that alone.
    for child in children_below(process.pid):
        os.kill(child, signal.SIGUSR1)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 1, printed
    assert stage.calls()[-1] == ["signal", "SIGTERM"]
    assert [call[0] for call in stage.calls()] == ["torchrun", "ready", "signal"]


def children_below(pid: int) -> list[int]:
    found: list[int] = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        found += [int(child), *children_below(int(child))]
    return found


def test_sbatch_reads_every_option() -> None:
    lines = (LAUNCH / "slurm.sbatch").read_text().splitlines()
    places = [place for place, line in enumerate(lines) if line.startswith("#SBATCH")]
    # sbatch stops at the first command.
    assert all(not line or line.startswith("#") for line in lines[: places[-1]])
    named = [re.fullmatch(r"#SBATCH --([a-z-]+)(=\S+)?", lines[place]) for place in places]
    assert all(named)
    options = {one[1]: (one[2] or "")[1:] for one in named if one}
    assert options.keys() <= SBATCH_OPTIONS
    assert "requeue" in options and options["ntasks-per-node"] == "1" and options["open-mode"] == "append"
    # What sbatch does not take: the test can fail.
    assert "requeues" not in SBATCH_OPTIONS
    # The time between the warning and the end is more than what torchrun waits for its processes.
    name, seconds = options["signal"].split("@")
    assert name == "USR1" and int(seconds) > default_of("slurm.sbatch", "TORCH_ELASTIC_SHUTDOWN_TIMEOUT")


def default_of(script: str, variable: str) -> int:
    found = re.search(rf"export {variable}=\$\{{{variable}:-(\d+)\}}", (LAUNCH / script).read_text())
    assert found, f"{script} does not set {variable}"
    return int(found[1])


@pytest.fixture(scope="module")
def cluster() -> dict[str, dict[str, Any]]:
    """The Kubernetes file's objects by kind."""
    return {one["kind"]: one for one in yaml.safe_load_all((LAUNCH / "kubernetes.yaml").read_text())}


def test_kubernetes_objects_fit_each_other(cluster: dict[str, dict[str, Any]]) -> None:
    assert cluster.keys() == {"Service", "PersistentVolumeClaim", "Job"}
    service, claim, job = (cluster[kind] for kind in ("Service", "PersistentVolumeClaim", "Job"))
    spec = job["spec"]
    pod = spec["template"]["spec"]
    assert service["spec"]["clusterIP"] == "None" and service["spec"]["publishNotReadyAddresses"] is True
    assert service["spec"]["selector"].items() <= spec["template"]["metadata"]["labels"].items()
    # Pods of an indexed job are called JOB-INDEX, and are found under the service that `subdomain` names.
    assert spec["completionMode"] == "Indexed" and spec["completions"] == spec["parallelism"] == 2
    assert pod["subdomain"] == service["metadata"]["name"]
    # `podFailurePolicy` goes with this one alone.
    assert pod["restartPolicy"] == "Never"
    (container,) = pod["containers"]
    volumes = {one["name"]: one for one in pod["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes.keys()
    assert volumes["volume"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    variables = {one["name"]: one.get("value") for one in container["env"]}
    assert pod["terminationGracePeriodSeconds"] > int(variables["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"])


@pytest.mark.parametrize("index", [0, 1])
def test_kubernetes_pods_start_torchrun(stage: Stage, cluster: dict[str, dict[str, Any]], index: int) -> None:
    job = cluster["Job"]
    (container,) = job["spec"]["template"]["spec"]["containers"]
    variables = {one["name"]: one["value"] for one in container["env"] if "value" in one}
    pod = {"JOB_COMPLETION_INDEX": str(index), "POD_IP": f"10.0.0.{index}"}
    process = stage.start([*container["command"], *container["args"]], **variables, **pod)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 0, printed
    stage.require_variables()
    asked, train = understood(stage.calls()[-1])
    assert int(asked.nnodes) == job["spec"]["completions"] and asked.local_addr == f"10.0.0.{index}"
    name, service = job["metadata"]["name"], cluster["Service"]["metadata"]["name"]
    assert asked.rdzv_endpoint == f"{name}-0.{service}:29400"
    assert asked.rdzv_conf.split(",")[0] == f"is_host={'true' if index == 0 else 'false'}"
    assert layout_from(train).replicas_among(int(asked.nnodes) * int(asked.nproc_per_node)) == 2
    cpus = int(container["resources"]["requests"]["cpu"])
    threads = next(int(one["value"]) for one in container["env"] if one["name"] == "OMP_NUM_THREADS")
    assert threads * int(asked.nproc_per_node) == cpus


def commands_in(text: str) -> list[list[str]]:
    """Indented command lines, or such in comments, with the lines that they go on in."""
    joined = re.sub(r"\\\n#?\s+", " ", text)
    lines = re.findall(r"^#?(?: {3,})((?:[A-Z_]+=\S+ )*(?:torchrun|alexnet|sbatch|launch/)\S* .*)$", joined, re.M)
    return [shlex.split(line, comments=True) for line in lines]


@pytest.mark.parametrize("path", [PAGE, *(LAUNCH / name for name in SCRIPTS)], ids=lambda path: path.name)
def test_commands_that_are_shown_are_understood(path: Path) -> None:
    commands = commands_in(path.read_text(encoding="utf-8"))
    assert commands
    for words in commands:
        while re.match("[A-Z_]+=", words[0]):
            words = words[1:]
        if words[0] == "torchrun":
            asked = get_args_parser().parse_args(words[1:])
            assert asked.training_script == "alexnet"
            words = ["alexnet", *asked.training_script_args]
        if words[0].startswith("launch/"):
            assert (ROOT / words[0]).exists()
            words = ["alexnet", "train", *words[1:]]
        if words[0] == "sbatch":
            script = next(word for word in words if word.startswith("launch/"))
            assert (ROOT / script).exists()
            words = ["alexnet", "train", "data", *words[words.index(script) + 1 :]]
        if words[:2] == ["alexnet", "train"]:
            command_parser("train").parse(words[2:])
        else:
            assert words[:2] in (["alexnet", "doctor"], ["alexnet", "bench"]), words


def test_the_page_names_every_template() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for path in LAUNCH.iterdir():
        assert f"(../launch/{path.name})" in text
