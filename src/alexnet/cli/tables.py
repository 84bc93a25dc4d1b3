"""Results, networks and data sets as tables on a terminal."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from alexnet.evaluation.metrics import METRICS, Metric
from alexnet.evaluation.predictions import describe_views
from alexnet.report.formatting import count_noun, range_text
from alexnet.system.terminal import TerminalConsole
from alexnet.system.visible_text import shell_words

if TYPE_CHECKING:
    from alexnet.data.published_data_sets import PublishedDataSet
    from alexnet.explore.binary_codes import BinaryCodes
    from alexnet.model.receptive_field import ReceptiveField

MOST_CLASSES = 20
"""Number of classes to list, an even number."""
MOST_REASONS = 10
MOST_DUPLICATES = 5
MOST_BARS = 12
IMPORTED = "imported networks"
BAR_COLUMNS = 30


def print_results(results: list[dict[str, Any]]) -> None:
    """Print evaluations, one per line: errors in percent with their intervals. A single run is not named."""
    runs = list(dict.fromkeys(result["run"] for result in results))
    names = [Path(run).name for run in runs]
    shown = dict(zip(runs, names if len(set(names)) == len(names) else runs, strict=True))
    has_runs = len(runs) > 1
    table = new_table("errors in percent, with 95 % intervals", "run split" if has_runs else "split", "images views")
    headline = {key: metric for key, metric in METRICS.items() if metric.is_headline}
    for metric in headline.values():
        table.add_column(metric.title, justify="right", no_wrap=True)
    for result in results:
        table.add_row(
            *([shown[result["run"]]] if has_runs else []),
            result["split"],
            f"{result['num_images']:,}",
            str(result["num_views"]),
            *(_metric_text(result, key, metric) for key, metric in headline.items()),
        )
    console = TerminalConsole()
    console.print_table(table)
    for metric in headline.values():
        if any(not metric.says_something(result["num_classes"]) for result in results):
            few = metric.least_classes - 1
            console.print_labeled(f"a dash for the {metric.title}: with {few} classes or fewer it is 0 by definition")


def _metric_text(result: dict[str, Any], key: str, metric: Metric) -> str:
    if key not in result or not metric.says_something(result["num_classes"]):  # or the file is older than the metric
        return "-"
    scale = 100 if metric.unit == "percent" else 1
    if metric.interval_key is None:
        return f"{scale * result[key]:.2f}"
    low, high = result[metric.interval_key]
    return f"{scale * result[key]:.2f} [{scale * low:.2f}, {scale * high:.2f}]"


def print_runs(runs: list[dict[str, Any]]) -> None:
    """Print runs as `list_runs` describes them: a table for each data set, then what else distinguishes the runs."""
    console = TerminalConsole()
    groups: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        checksum = run.get("data_checksum")
        title = f"runs on {run['data']} ({checksum[:12]})" if checksum else "runs on unknown data"
        if run.get("imported_from"):
            title = IMPORTED
        groups.setdefault("runs that cannot be read" if "unreadable" in run else title, []).append(run)
    for title, group in groups.items():
        if title == IMPORTED:
            _print_imported(console, group)
            continue
        splits = {run["split"] for run in group if run.get("split")}
        of_split = f" of split {', '.join(splits)}" if len(splits) == 1 else ""
        console.print_labeled(title if "unreadable" in group[0] else f"{title}; top-1 errors{of_split} in percent")
        table = new_table("", "run recipe state" + " split" * (len(splits) > 1), "step steps error lowest seconds")
        for run in group:
            cells = _progress_of_run(run)
            split = (run["split"] or "-",) if len(splits) > 1 else ()
            table.add_row(Path(run["run"]).name, *cells[:2], *split, *cells[2:])
        console.print_table(table)
    for run in runs:
        processes = run.get("processes", 1)
        shared = [f"{processes} processes"] if processes > 1 else []
        details = run.get("unreadable") or "; ".join([*shared, *run["changes"]])
        if details:
            console.print(f"{Path(run['run']).name}: {details}", highlight=False, soft_wrap=True)


def _print_imported(console: TerminalConsole, runs: Sequence[Mapping[str, Any]]) -> None:
    console.print_labeled(IMPORTED)
    table = new_table("", "run recipe state variant file", "")
    for run in runs:
        cells = (run[key] for key in ("recipe", "state", "variant", "imported_from"))
        table.add_row(Path(run["run"]).name, *cells)
    console.print_table(table)
    for run in runs:
        if run["state"] == "killed":
            command = shell_words("alexnet", "import", run["imported_from"], "--run", run["run"])
            text = f"{Path(run['run']).name}: not finished; rerun `{command}` with the options that it had"
            console.print(text, highlight=False, soft_wrap=True)


def _progress_of_run(run: Mapping[str, Any]) -> tuple[str, ...]:
    """The cells after a run's name: recipe, state, step, steps, last and lowest error, seconds."""
    if "unreadable" in run:
        return ("-", "unreadable", *"-----")
    errors = (run[key] for key in ("top1_error", "lowest_error"))
    return (
        run["recipe"],
        run["state"],
        f"{run['step']:,}",
        "-" if run["num_steps"] is None else f"{run['num_steps']:,}",
        *("-" if error is None else f"{100 * error:.2f}" for error in errors),
        f"{run['seconds']:,.0f}",
    )


def print_network(described: dict[str, Any]) -> None:
    """Print a network as `table_as_json` describes it: one line per layer with weights, the sums, the schedule."""
    named = f"recipe {described['recipe']}, variant {described['variant']}, {described['num_classes']} classes"
    title = f"{named}; lr of weights and biases"
    table = new_table(title, "layer", "channels side parameters neurons MACs lr bias decay")
    for layer in described["layers"]:
        table.add_row(
            layer["layer"],
            f"{layer['channels']:,}",
            str(layer["side"]),
            f"{layer['parameters']:,}",
            f"{layer['neurons']:,}",
            f"{layer['multiply_adds']:,}",
            *(f"{layer[name]:g}" for name in ("learning_rate", "bias_learning_rate", "weight_decay")),
        )
    table.add_section()
    sums = (f"{described[name]:,}" for name in ("parameters", "neurons", "multiply_adds"))
    table.add_row("sum", "", "", *sums, "", "", "")
    console = TerminalConsole()
    console.print_table(table)
    for line in described["schedule"]:
        console.print(f"  {line}", highlight=False)


def print_inspection(summary: Mapping[str, Any]) -> None:
    """Print a prepared data set as `summarize_data` describes it: warnings first, then tables of up to 80 columns."""
    console = TerminalConsole()
    plan = summary["preparation"]
    console.print_labeled(
        f"{summary['title']}: {summary['num_classes']:,} classes, {summary['side']} x {summary['side']} pixels"
    )
    console.print_labeled(
        f"{summary['folder']}: stored as {summary['store']}, {summary['bytes'] / 1e6:,.1f} MB, checksum "
        f"{summary['checksum'][:12]}; prepared from {plan['source']} (format {plan['kind']}), EXIF orientation "
        f"{'applied' if plan['exif'] == 'apply' else 'ignored'}, fit {summary['fit']}",
    )
    if summary["generated"]:
        console.print_labeled("these are not photographs", "generated", "yellow")
    for one in summary["warnings"]:
        is_leak = one["topic"] == "leak"
        console.print_labeled(one["text"], "LEAK" if is_leak else "warning", "bold red" if is_leak else "yellow")
    _print_counts(console, summary)
    _print_troubles(console, summary)
    _print_sizes(console, summary)
    _print_color(console, summary["color"])


def _print_counts(console: TerminalConsole, summary: Mapping[str, Any]) -> None:
    table = new_table("splits", "split", "images listed refused largest smallest ratio")
    for name, split in summary["splits"].items():
        numbers = (split["images"], split["listed"], split["refused"])
        extremes = (split[which]["images"] if split[which] else None for which in ("largest", "smallest"))
        ratio = "-" if split["imbalance"] is None else f"{split['imbalance']:,.1f}"
        cells = ("-" if number is None else f"{number:,}" for number in (*numbers, *extremes))
        table.add_row(name, *cells, ratio)
    console.print_table(table)
    classes = sorted(summary["classes"], key=lambda one: -int(one["images"]["train"]))
    num_more = max(0, len(classes) - MOST_CLASSES)
    title = f"the {MOST_CLASSES // 2} largest and the {MOST_CLASSES // 2} smallest classes" if num_more else "classes"
    table = new_table(
        title, "class id", " ".join(name for name, split in summary["splits"].items() if split["largest"])
    )
    for column, width in zip(table.columns[:2], (40, 16), strict=True):
        column.max_width = width
    half = MOST_CLASSES // 2 if num_more else len(classes)
    for group in (classes[:half], classes[half:][-half:]):
        for one in group:
            images = (f"{number:,}" for number in one["images"].values())
            table.add_row(one["name"], one["id"], *images)
        table.add_section()
    console.print_table(table)
    if num_more:
        console.print_labeled(f"... and {num_more:,} more; --json lists all")


def _print_troubles(console: TerminalConsole, summary: Mapping[str, Any]) -> None:
    twice = summary["duplicates"]
    for outcome in ("refused", "skipped"):
        reasons = summary[outcome]["reasons"]
        if not reasons:
            continue
        table = new_table(f"{outcome} files", "files reason", "")
        for one in reasons[:MOST_REASONS]:
            such_as = "such as " if one["images"] > 1 else ""
            table.add_row(f"{one['images']:,}", f"{one['reason']}; {such_as}{one['examples'][0]}")
        table.columns[0].justify = "right"
        console.print_table(table)
        if num_more := max(0, len(reasons) - MOST_REASONS):
            console.print_labeled(f"... and {num_more:,} more reasons; {outcome}.jsonl lists every file")
    if twice["pictures"]:
        table = new_table(f"images stored more than once: {twice['pictures']:,}", "what where", "")
        for one in twice["groups"][:MOST_DUPLICATES]:
            what = [text for key, text in (("leak", "LEAK"), ("other_label", "two classes")) if one[key]]
            where = [image["path"] for image in one["images"][:2]]
            where += [f"and {one['copies'] - 2:,} more"] if one["copies"] > 2 else []
            table.add_row(", ".join(what) or "copy", ", ".join(where))
        console.print_table(table)
        if num_more := max(0, twice["pictures"] - MOST_DUPLICATES):
            console.print_labeled(f"... and {num_more:,} more; duplicates.jsonl lists all")


def _print_sizes(console: TerminalConsole, summary: Mapping[str, Any]) -> None:
    sizes, side = summary["sizes"], summary["side"]
    table = new_table("sizes of the originals, pixels", "split measure", "smallest median largest enlarged")
    for name, split in sizes["splits"].items():
        for which in ("width", "height"):
            values = (f"{split[which][key]:,}" for key in ("min", "median", "max"))
            table.add_row(name, which, *values, f"{split['enlarged']:.1%}" if which == "width" else "")
    console.print_table(table)
    title = "shorter side" + ("" if summary["fit"] == "pad" else f"; images below {side} were enlarged")
    edges, counts = sizes["shorter_side"]["edges"], sizes["shorter_side"]["counts"]
    step = -(-len(counts) // MOST_BARS)
    starts = range(0, len(counts), step)
    bars = [sum(counts[start : start + step]) for start in starts]
    table = new_table(title, "pixels", "images")
    table.add_column("")
    for start, count in zip(starts, bars, strict=True):
        bar = "\N{FULL BLOCK}" if console.encoding.startswith("utf") else "#"
        pixels = range_text(edges[start], edges[min(start + step, len(counts))])
        table.add_row(pixels, f"{count:,}", bar * -(-BAR_COLUMNS * count // max(bars)))
    console.print_table(table)


def _print_color(console: TerminalConsole, color: Mapping[str, Any]) -> None:
    table = new_table("training pixels, 0-255", "channel", "mean std")
    channels = zip(("red", "green", "blue"), color["mean"], color["standard_deviation"], strict=True)
    for name, mean, deviation in channels:
        table.add_row(name, f"{mean:.1f}", f"{deviation:.1f}")
    console.print_table(table)
    table = new_table("color components", "from-to", "variance std red green blue")
    for one in color["components"]:
        vector = (f"{value:.2f}" for value in one["vector"])
        table.add_row(one["meaning"], f"{one['fraction']:.1%}", f"{one['standard_deviation']:.1f}", *vector)
    console.print_table(table)


def new_table(title: str, texts: str, numbers: str | Sequence[str]) -> Table:
    """An empty table; `texts` and `numbers` are the headings of its text and number columns, separated by spaces.

    A list of `numbers` may have headings that contain spaces.
    """
    table = Table(title=title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in texts.split():
        # Fold long paths rather than cutting numbers.
        table.add_column(heading, overflow="fold")
    for heading in numbers.split() if isinstance(numbers, str) else numbers:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def print_data_sets(data_sets: "Mapping[str, PublishedDataSet]") -> None:
    """Print the data sets that can be fetched, by name, one per line; then their licenses."""
    table = new_table("data sets", "name subject", "classes train val test MB")
    for name, one in data_sets.items():
        counts = (f"{one.counts[split]:,}" if split in one.counts else "-" for split in ("train", "val", "test"))
        table.add_row(name, one.subject, str(one.num_classes), *counts, f"{one.download_bytes / 1e6:,.0f}")
    console = TerminalConsole()
    console.print_table(table)
    names_of: dict[str, list[str]] = {}
    for name, one in data_sets.items():
        names_of.setdefault(one.license, []).append(name)
    for license_text, names in names_of.items():
        console.print_labeled(license_text, f"license of {', '.join(names)}")


def print_imported_layers(layers: Sequence[Mapping[str, Any]]) -> None:
    """Print the layers of an imported network as proof.json has them: names, shapes, and whether they are trained."""
    table = new_table("layers", "layer in-the-file weights verdict distribution", "")
    for one in layers:
        shape = " x ".join(map(str, one["shape"]))
        table.add_row(one["name"], one["file_name"], shape, one["verdict"], one["distribution"])
    TerminalConsole().print_table(table)


def print_codes(several: "Sequence[BinaryCodes]") -> None:
    """Print what was measured of binary codes of several lengths, a column for each, beside exact search."""
    from alexnet.explore.code_measures import describe_measures

    first, columns = several[0].measures, [describe_measures(one.measures) for one in several]
    title = (
        f"{first['queries']:,} queries, their {first['neighbors']} nearest by Euclidean distance; percent "
        "[95 % interval]"
    )
    table = new_table(title, "measured", [f"{one.bits} bits" for one in several])
    for name in columns[0]:
        table.add_row(name, *(column[name] for column in columns))
    TerminalConsole().print_table(table)


def print_activations(
    variant: str, shapes: Mapping[str, tuple[int, ...]], fields: Mapping[str, "ReceptiveField"]
) -> None:
    """Print a network's layers with the shapes of their activations for one image, and the pixels that they see."""
    table = new_table(f"activations of {variant}", "layer", ["shape", "numbers", "receptive field", "stride"])
    for name, shape in shapes.items():
        stride = f"{fields[name].stride_px} px" if len(shape) > 1 else ""
        table.add_row(name, " x ".join(map(str, shape)), f"{math.prod(shape):,}", f"{fields[name].size_px} px", stride)
    TerminalConsole().print_table(table)


def print_ensemble(result: Mapping[str, Any]) -> None:
    """Print an ensemble as `Ensemble.to_dict` describes it: the runs, their averages, and the gains."""
    names = ["top1", "top5"] if result["equal"]["top5_error"] is not None else ["top1"]
    headings = " ".join(name.replace("top", "top-") for name in names)
    table = new_table(_errors_title(result), "run", f"weight {headings}")
    averages = {"equal weights": result["equal"]}
    if result["greedy"] is not None:
        averages["greedy weights"] = result["greedy"]
    last = list(averages.values())[-1]
    for run, weight in zip(result["runs"], last["weights"], strict=True):
        table.add_row(run["run"], f"{weight:.3g}", *(_with_interval(run, f"{name}_") for name in names))
    table.add_section()
    table.add_row("mean of the runs", "", *(f"{100 * result['mean'][f'{name}_error']:.2f}" for name in names))
    for label, one in averages.items():
        table.add_row(f"average, {label}", "", *(_with_interval(one, f"{name}_") for name in names))
    console = TerminalConsole()
    console.print_table(table)
    for label, one in averages.items():
        for name in names:
            gain = one["gain"][name]
            console.print_labeled(
                f"{label} gain {_points(gain['over_mean'])} points of {name.replace('top', 'top-')} error over the "
                f"mean of the runs, {_points(gain['over_best'])} over the best one, {gain['best_run']} (McNemar's p "
                f"{gain['mcnemar']['p_value']:.3g})",
            )
    if (tuning := result["tuning"]) is not None:
        console.print_labeled(
            f"greedy weights were tuned for the {tuning['error'].replace('top', 'top-')} error on "
            f"{count_noun(tuning['num_images'], 'image')} drawn with seed {tuning['seed']} "
            f"({100 * tuning['error_before']:.2f} to {100 * tuning['error_after']:.2f} % there); all numbers "
            "above are for the other half",
        )


def print_comparison(result: Mapping[str, Any]) -> None:
    """Print a comparison as `Comparison.to_dict` describes it: errors, McNemar's test, most confident disagreements."""
    measures = {name.replace("top", "top-"): result[name] for name in ("top1", "top5") if result[name] is not None}
    console = TerminalConsole()
    console.print_labeled(result["first"], "first")
    console.print_labeled(result["second"], "second")
    table = new_table(_errors_title(result), "error", "first second difference")
    for name, one in measures.items():
        table.add_row(name, *(_with_interval(one[run]) for run in ("first", "second")), _points(one["difference"]))
    console.print_table(table)
    table = new_table(
        "number of images that both, one or neither run classifies correctly, and McNemar's test",
        "error",
        "both first second neither p-value",
    )
    for name, one in measures.items():
        counts = (f"{one[key]:,}" for key in ("both_right", "only_first", "only_second", "both_wrong"))
        table.add_row(name, *counts, f"{one['p_value']:.3g}")
    console.print_table(table)
    if result["images"]:
        # The page has the long list.
        title = "most confident disagreements; probabilities in percent"
        table = new_table(f"{result['num_differing']:,} answers differ; {title}", "image right first second", "")
        for one in result["images"][:10]:
            answers = (one["first"], one["second"])
            said = (f"{answer['name']} {100 * answer['probability']:.1f}" for answer in answers)
            table.add_row(one["key"], one["right"]["name"], *said)
        console.print_table(table)


def _errors_title(result: Mapping[str, Any]) -> str:
    views = describe_views(result["num_views"])
    images = f"{count_noun(result['num_images'], 'image')} of split {result['split']}"
    return f"errors in percent, with 95 % intervals; {images}, {views}"


def _with_interval(errors: Mapping[str, Any], prefix: str = "") -> str:
    """An error in percent with its interval; `prefix` is that of its keys, such as `top1_`."""
    low, high = errors[f"{prefix}interval"]
    return f"{100 * errors[f'{prefix}error']:.2f} [{100 * low:.2f}, {100 * high:.2f}]"


def _points(difference: Mapping[str, Any]) -> str:
    """A difference of two errors in points of percent with its interval."""
    low, high = difference["interval"]
    return f"{100 * difference['difference']:+.2f} [{100 * low:+.2f}, {100 * high:+.2f}]"


def print_neighbors(result: Mapping[str, Any]) -> None:
    """Print queries and their neighbors as `Neighbors.to_dict` describes them, a table for each."""
    console = TerminalConsole()
    counts_bits = result["codes"] is not None and result["codes"]["rerank"] is None
    for query in result["queries"]:
        name = query["image"] if query["name"] is None else f"{query['image']} ({query['name']})"
        title = f"{name}; itself left out: {query['left_out']}" if query["left_out"] else name
        by_features = "bits" if counts_bits else result["layer"]
        measures = {by_features: query["neighbors"], "pixels": query["pixel_neighbors"]}
        given = {name: found for name, found in measures.items() if found is not None}
        names = _distinct_names(one["key"] for found in given.values() for one in found)
        table = new_table(title, " ".join(f"{one} class image" for one in given), "")
        for rank in range(max(len(found) for found in given.values())):
            table.add_row(
                *(cell for name, found in given.items() for cell in _neighbor_cells(found, rank, names, name == "bits"))
            )
        console.print_table(table)


def _distinct_names(keys: Iterable[str]) -> dict[str, str]:
    """The names of files, each with as many of the folders above it as tell them apart."""
    parts = {key: key.split("/") for key in keys}
    depth = 1
    while len(names := {key: "/".join(one[-depth:]) for key, one in parts.items()}) > len(set(names.values())):
        depth += 1
    return names


def _neighbor_cells(
    found: Sequence[Mapping[str, Any]], rank: int, names: Mapping[str, str], in_bits: bool
) -> tuple[str, str, str]:
    """Distance, class and file of a neighbor."""
    if rank >= len(found):
        return "", "", ""
    one = found[rank]
    is_large = one["distance"] >= 1000
    distance = f"{one['distance']:,.0f}" if is_large or in_bits else f"{one['distance']:#.4g}"
    mark = " (copy)" if one["duplicate"] else ""
    return distance, one["name"] or "-", names[one["key"]] + mark


def print_retrieval(result: Mapping[str, Any]) -> None:
    """Print mean average precision by class as `Retrieval.to_dict` describes it, the best and the worst of many."""
    classes = sorted(
        (one for one in result["classes"] if one["mean_average_precision"] is not None),
        key=lambda one: -one["mean_average_precision"],
    )
    left_out = len(result["classes"]) - len(classes)
    title = "mean average precision by class" + (f", {left_out:,} classes without queries left out" if left_out else "")
    table = new_table(title, "class", "queries indexed precision")
    half = MOST_CLASSES // 2
    for number, one in enumerate(classes):
        if len(classes) > MOST_CLASSES and half <= number < len(classes) - half:
            if number == half:
                table.add_row(f"({len(classes) - MOST_CLASSES:,} more)", "", "", "")
            continue
        numbers = (f"{one['queries']:,}", f"{one['indexed_images']:,}", f"{one['mean_average_precision']:.3f}")
        table.add_row(one["name"], *numbers)
    TerminalConsole().print_table(table)
