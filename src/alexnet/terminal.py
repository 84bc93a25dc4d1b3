"""Results and networks as tables on a terminal."""

from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table


def print_results(results: list[dict[str, Any]]) -> None:
    """Evaluations, a line each: errors in percent with their intervals."""
    table = _table("errors in percent, with 95 % intervals", "run split", "images views top-1 top-5")

    def percent(result: dict[str, Any], name: str) -> str:
        low, high = result[f"{name}_interval"]
        return f"{100 * result[f'{name}_error']:.2f} [{100 * low:.2f}, {100 * high:.2f}]"

    for result in results:
        table.add_row(
            escape(result["run"]),
            escape(result["split"]),
            f"{result['num_images']:,}",
            str(result["num_views"]),
            percent(result, "top1"),
            percent(result, "top5"),
        )
    Console().print(table)


def print_runs(runs: list[dict[str, Any]]) -> None:
    """Runs as `list_runs` describes them, a line each; then what their recipes changed."""
    table = _table(
        "runs; errors on the validation images, in percent", "run recipe state", "step of error lowest seconds"
    )

    def percent(error: float | None) -> str:
        return "-" if error is None else f"{100 * error:.2f}"

    for run in runs:
        if "unreadable" in run:
            table.add_row(escape(Path(run["run"]).name), "-", "unreadable", *"-----")
            continue
        table.add_row(
            escape(Path(run["run"]).name),
            escape(run["recipe"]),
            run["state"],
            f"{run['step']:,}",
            "-" if run["num_steps"] is None else f"{run['num_steps']:,}",
            percent(run["top1_error"]),
            percent(run["lowest_error"]),
            f"{run['seconds']:,.0f}",
        )
    console = Console()
    console.print(table)
    for run in runs:
        said = run.get("unreadable") or "; ".join(run["changes"])
        if said:
            console.print(f"{Path(run['run']).name}: {said}", highlight=False, markup=False, soft_wrap=True)


def print_network(described: dict[str, Any]) -> None:
    """A network as `table_as_json` describes it: a line each layer with weights, the sums, the schedule."""
    title = f"recipe {described['recipe']}, variant {described['variant']}, {described['num_classes']} classes"
    table = _table(title, "layer", "maps side parameters neurons multiply-adds rate biases decay")
    for layer in described["layers"]:
        table.add_row(
            layer["layer"],
            f"{layer['maps']:,}",
            str(layer["side"]),
            f"{layer['parameters']:,}",
            f"{layer['neurons']:,}",
            f"{layer['multiply_adds']:,}",
            *(f"{layer[name]:g}" for name in ("rate", "bias_rate", "decay")),
        )
    table.add_section()
    sums = (f"{described[name]:,}" for name in ("parameters", "neurons", "multiply_adds"))
    table.add_row("sum", "", "", *sums, "", "", "")
    console = Console()
    console.print(table)
    for line in described["schedule"]:
        console.print(f"  {line}", highlight=False, markup=False)


def _table(title: str, texts: str, numbers: str) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in texts.split():
        table.add_column(heading)
    for heading in numbers.split():
        table.add_column(heading, justify="right")
    return table
