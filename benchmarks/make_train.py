"""`make train` stage by stage: seconds, processor seconds and memory of every `alexnet` command that it runs.

    git clone . /tmp/fresh && cd /tmp/fresh && python3 benchmarks/make_train.py [VARIABLE=VALUE ...] [--json]

Run it in a fresh clone: what is there already is skipped, as by make, and code that Numba has compiled stays compiled.
It needs nothing that is installed; `make` installs first, which is not counted. Variables are make's, such as
`TORCH_INDEX=URL` or `TRAIN_OPTIONS="--training.precision float32"`. matplotlib's list of fonts is built anew.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PREFIX_OPTION = "--run-stage"
COMMAND = Path(".venv/bin/alexnet")


def main(words: Sequence[str]) -> int:
    """Run `make train` with this script in front of every command, then print the table."""
    if words[:1] == [PREFIX_OPTION]:
        return run_stage(Path(words[1]), words[2:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variables", nargs="*", metavar="VARIABLE=VALUE", help="given to make")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    options = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "stages.jsonl"
        timed = f"{sys.executable} {Path(__file__).resolve()} {PREFIX_OPTION} {log} {COMMAND}"
        environment = {**os.environ, "MPLCONFIGDIR": folder}
        printed = sys.stderr if options.json else None
        made = subprocess.run(
            ["make", "train", *options.variables, f"ALEXNET={timed}"], env=environment, stdout=printed
        )
        stages = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    total = {"stage": "all", **{key: round(sum(one[key] for one in stages), 2) for key in ("wall_s", "core_s")}}
    total["peak_bytes"] = max((one["peak_bytes"] for one in stages), default=0)
    if options.json:
        print(json.dumps({"stages": stages, "total": total}))
    else:
        print_table([*stages, total])
    return made.returncode


def run_stage(log: Path, command: Sequence[str]) -> int:
    """Run a command and append what it took, its child processes included, to `log`."""
    start_s = time.monotonic()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    stage = {
        "stage": " ".join(command[1:3] if command[1] == "fetch" else command[1:2]),
        "wall_s": round(time.monotonic() - start_s, 2),
        "core_s": round(usage.ru_utime + usage.ru_stime, 2),
        "peak_bytes": usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
    }
    with log.open("a") as file:
        file.write(json.dumps(stage) + "\n")
    return os.waitstatus_to_exitcode(status)


def print_table(rows: Sequence[dict[str, Any]]) -> None:
    """Print a row per stage."""
    print(f"\n{'stage':16} {'seconds':>9} {'core seconds':>13} {'memory':>9}")
    for row in rows:
        memory = f"{row['peak_bytes'] / 1e6:,.0f} MB"
        print(f"{row['stage']:16} {row['wall_s']:9.1f} {row['core_s']:13.1f} {memory:>9}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
