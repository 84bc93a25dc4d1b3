"""What `alexnet bench` measured, as tables on a terminal."""

from collections.abc import Iterable, Mapping
from itertools import zip_longest
from typing import Any

from rich.console import Console

from alexnet.cli.tables import new_table


def print_prepare_bench(measured: Mapping[str, Any]) -> None:
    """Print what `bench_prepare` found."""
    console = Console()
    table = new_table("preparing", "way", "images/s ms/image")
    table.columns[-1].header = "CPU ms/image"
    for name, one in measured["ways"].items():
        table.add_row(name, f"{one['images_per_second']:,.0f}", f"{one['cpu_ms_per_image']:.2f}")
    console.print(table)
    alone, alone_cpu = measured["prepare_of_alone"], measured["prepare_of_alone_cpu"]
    console.print(f"prepare / alone: {alone:.2f} (CPU {alone_cpu:.2f})", highlight=False)
    console.print(f"prepare / pillow: {measured['prepare_of_pillow']:.2f}", highlight=False)
    console.print(
        f"{measured['files']:,} files ({measured['photographs']}, {measured['mean_file_bytes'] / 1000:.1f} kB), "
        f"{measured['workers']} threads, medians of {measured['rounds']} rounds",
        highlight=False,
        markup=False,
    )


def print_data_bench(measured: Mapping[str, Any]) -> None:
    """Print what `bench_data` found."""
    console = Console()
    table = new_table("loading batches of 128 crops of 224 pixels", "way", "images/s ms/image CPU memory")
    table.columns[2].header, table.columns[3].header = "CPU ms/image", "CPU share"
    table.columns[4].header = "adds memory"
    for name, one in (measured["ways"] | measured["limits"]).items():
        held = one["anonymous_bytes"]
        table.add_row(
            name,
            f"{one['images_per_second']:,.0f}",
            f"{one['cpu_ms_per_image']:.3f}",
            f"{100 * one['cpu_share']:.0f} %",
            "-" if held is None else f"{held / 1e6:,.0f} MB",
        )
    console.print(table)
    for store, parts in measured["parts_us"].items():
        times = ", ".join(f"{part} {us:,.1f}" for part, us in parts.items())
        console.print(
            f"{store} / usual: {measured[f'{store}_of_usual']:.1f}; {100 * measured['share_of_limit'][store]:.0f} % of "
            f"{measured['limit_of'][store]}; microseconds an image in one thread: {times}; "
            f"bottleneck: {measured['bottleneck'][store]}",
            highlight=False,
        )
    console.print(
        f"{measured['images_per_pass']:,} images a pass ({measured['photographs']}, "
        f"{measured['mean_file_bytes'] / 1000:.1f} kB), {measured['workers']} threads or processes, handed to "
        f"{measured['device']}, medians of {measured['rounds']} rounds",
        highlight=False,
        markup=False,
    )


def print_checkpoint_bench(measured: Mapping[str, Any]) -> None:
    """Print what `bench_checkpoint` found."""
    Console().print(
        f"{measured['variant']}, batches of {measured['batch_size']} on {measured['device']}: "
        f"{measured['step_s']:.3f} s a step\n"
        f"a checkpoint of {measured['checkpoint_bytes'] / 1e6:,.0f} MB: the training stands still for "
        f"{measured['pause_ms']:.1f} ms, the file is written after {measured['written_after_s']:.2f} s\n"
        f"the steps beside it take {measured['extra_s']:.2f} s longer in all: "
        f"{100 * measured['share_at_default']:.3f} % of a training with one every "
        f"{measured['checkpoint_every_s']:g} s; medians of {measured['rounds']} rounds",
        highlight=False,
        markup=False,
    )


def print_step_bench(measured: Mapping[str, Any]) -> None:
    """Print what `bench_step` found, with one memory allocator or with several (`by_allocator`)."""
    console = Console()
    for allocator, one in _allocators(measured):
        table = new_table(
            f"{one['device']}, batches of {one['batch_size']}, {one['precision']}, kernels {one['kernels']}"
            + (f", {allocator} allocator" if allocator else ""),
            "way",
            "images/s best alexnet_is product floor adds_MB",
        )
        for name, way in one["ways"].items():
            table.add_row(
                *_rates(name, way, one["ratios"]),
                f"{100 * way['share_of_floor']:.0f} %",
                "" if way["peak_bytes"] is None else f"{way['peak_bytes'] / 1e6:,.0f}",
            )
        console.print(table)
        layers = new_table("layers alone, milliseconds", "layer", "forward backward")
        for layer in one["layers"]:
            layers.add_row(layer["layer"], f"{layer['forward_ms']:.2f}", f"{layer['backward_ms']:.2f}")
        console.print(layers)
        ceilings = one["ceilings"]
        fewer = one["device"] == "cpu" and one["precision"] == "float32"
        console.print(
            f"this machine: {ceilings['matmul_flops'] / 1e12:.2f} TFLOP/s in a large product, "
            f"{ceilings['copy_bytes'] / 1e9:.1f} GB/s in a large copy, by which products and bytes of an image's step "
            f"take {1e6 * one['floor_s_per_image']:,.1f} microseconds, the floor; above are shares of these, "
            f"medians of {one['rounds']} rounds"
            # docs/decisions/021
            + ("; products are counted as plain convolutions have them, and alexnet takes fewer" if fewer else ""),
            highlight=False,
        )
    _print_shell_ratios(console, measured)


def print_evaluate_bench(measured: Mapping[str, Any]) -> None:
    """Print what `bench_evaluate` found."""
    _print_forward_bench(measured, "alexnet_is")


def print_features_bench(measured: Mapping[str, Any]) -> None:
    """Print what `bench_features` found."""
    _print_forward_bench(measured, "alexnet's_fc7_is")


def print_precision_bench(measured: Mapping[str, Any]) -> None:
    """Print what `bench_precision` found."""
    console = Console()
    table = new_table(
        f"mean loss of every ten steps, {measured['recipe']}", "step", " ".join(["loss"] * len(measured["losses"]))
    )
    for column, name in zip(table.columns[1:], measured["losses"], strict=True):
        column.header = name
    for window, losses in enumerate(zip_longest(*measured["mean_losses"].values()), 1):
        table.add_row(f"{10 * window}", *("diverged" if loss is None else f"{loss:.3f}" for loss in losses))
    console.print(table)
    apart = ", ".join(f"{seeds}: {distance:.4f}" for seeds, distance in measured["seed_distances"].items())
    verdict = "no further apart than seeds are" if measured["tracks"] else "further apart than seeds are"
    distance = "any distance" if measured["distance"] is None else f"{measured['distance']:.4f}"
    console.print(
        f"bfloat16 and float32, seed 0: {distance} apart; seeds in float32: {apart} (root mean square "
        f"of the rows' differences); {verdict}",
        highlight=False,
    )
    console.print(
        f"batches of {measured['batch_size']}, learning rate {measured['learning_rate']:g}, {measured['device']}; "
        "sums of products in "
        f"bfloat16: {measured['products']}",
        highlight=False,
    )


def _print_forward_bench(measured: Mapping[str, Any], ratio_heading: str) -> None:
    """A table of images a second for each memory allocator, a way each, and a line."""
    console = Console()
    for allocator, one in _allocators(measured):
        table = new_table(
            f"{one['device']}, batches of {one['batch_size']}, {one['precision']}, kernels {one['kernels']}"
            + (f", {allocator} allocator" if allocator else ""),
            "way",
            f"images/s best {ratio_heading} product",
        )
        for name, way in one["ways"].items():
            table.add_row(*_rates(name, way, one["ratios"]))
        console.print(table)
        views = one.get("ten_views_of_ten_passes")
        console.print(
            ("" if views is None else f"ten views take {views:.3f} of the time of ten evaluations of one view; ")
            + f"this machine: {one['ceilings']['matmul_flops'] / 1e12:.2f} TFLOP/s in a large product, of which above "
            f"are shares; medians of {one['rounds']} rounds",
            highlight=False,
        )
    _print_shell_ratios(console, measured)


def _rates(name: str, way: Mapping[str, float], ratios: Mapping[str, float]) -> tuple[str, ...]:
    """A way's name, its images a second, median and best, what the product is of it, and its share of a product."""
    ratio = ratios.get(name)
    return (
        name,
        f"{way['images_per_second']:,.1f}",
        f"{way['best_images_per_second']:,.1f}",
        "" if ratio is None else f"{ratio:.2f} x",
        f"{100 * way['share_of_matmul']:.0f} %",
    )


def _allocators(measured: Mapping[str, Any]) -> Iterable[tuple[str, Mapping[str, Any]]]:
    """What was measured by the name of the memory allocator; "" where there was only this process's."""
    return (("", measured),) if "ways" in measured else measured.items()


def _print_shell_ratios(console: Console, measured: Mapping[str, Any]) -> None:
    ratios = measured.get("tuned", {}).get("ratios_in_a_shell", {})
    if ratios:
        times = ", ".join(f"{ratio:.2f} times {name}" for name, ratio in ratios.items())
        console.print(
            f"as a user's shell starts them, alexnet (which takes the tuned allocator) is {times}", highlight=False
        )


def print_columns_bench(measured: Mapping[str, Any]) -> None:
    """Print what `bench_columns` found."""
    console = Console()
    layers, ways = measured["bytes"]["layers"], measured["bytes"]["ways"]
    print(
        f"{measured['variant']}, width {measured['width']:g}, batches of {measured['batch_size']}, "
        f"{measured['precision']}; bytes that each process sends (and receives)"
    )
    *in_columns, replicas, replicas_bfloat16 = ways
    for name in in_columns:
        title = f"{name}: bytes for an image, by layer; {replicas} beside them"
        table = new_table(title, "layer", "forward back gradients expected agrees replicas bfloat16")
        for layer in layers:
            sent = layer[name]
            figures = (sent["forward"], sent["backward"], sent["gradients"], sent["expected"])
            others = (layer[other]["gradients"] for other in (replicas, replicas_bfloat16))
            table.add_row(
                layer["layer"],
                *(f"{figure:,.0f}" for figure in figures),
                "yes" if sent["agrees"] else "NO",
                *(f"{figure:,.0f}" for figure in others),
            )
        console.print(table)
    table = new_table("in all", "way", "bytes/image MB/step of_replicas equal_at bfloat16_at")
    for name, way in ways.items():
        batches = (way.get(key) for key in ("equal_batch", "equal_batch_bfloat16"))
        table.add_row(
            name,
            f"{way['per_image']:,.0f}",
            f"{way['per_step'] / 1e6:,.2f}",
            f"{way['of_replicas']:.3f}",
            *("" if batch is None else f"{batch:,.0f}" for batch in batches),
        )
    console.print(table)
    console.print(
        "equal at: the size of batches at which replicas send as much; bfloat16 at: the same, with their sums in it",
        highlight=False,
    )
    if measured["speed"] is None:
        return
    headings = "processes threads images/s best of_one CPU waited"
    table = new_table("trained, medians of the slowest process", "way", headings)
    table.columns[-2].header = "CPU ms/image"
    for name, way in measured["speed"].items():
        waited = way["waited_share"]
        table.add_row(
            name,
            str(way["processes"]),
            str(way["threads"]),
            f"{way['images_per_second']:,.1f}",
            f"{way['best_images_per_second']:,.1f}",
            f"{way['of_one_process']:.2f}",
            f"{way['cpu_ms_per_image']:.1f}",
            "" if waited is None else f"{100 * waited:.0f} %",
        )
    console.print(table)
    console.print(
        f"{measured['machine']['cores']} cores of {measured['machine']['processor']}; of one: of the rate of one "
        f"process with all of them; waited: of a process's time, for the other column; {measured['rounds']} rounds of "
        f"{measured['steps']} steps",
        highlight=False,
        markup=False,
    )


def print_baselines_bench(measured: Mapping[str, Any]) -> None:
    """Print what `bench_baselines` found."""
    console = Console()
    table = new_table("stages of the baselines, one thread", "stage way unit", "a_second best ms ours_is_times")
    table.columns[5].header = "CPU ms"
    for stage, one in measured["stages"].items():
        for way, found in one["ways"].items():
            ratio = one["ours_is"].get(way)
            table.add_row(
                stage if way == "ours" else "",
                way,
                one["unit"],
                f"{found['per_second']:,.1f}",
                f"{found['best_per_second']:,.1f}",
                f"{found['cpu_ms_per_unit']:,.3f}",
                "" if ratio is None else f"{ratio:.1f}",
            )
    console.print(table)
    console.print(
        f"{measured['images']} images of 256 pixels ({measured['photographs']}), medians of {measured['rounds']} "
        "rounds; the last column compares processor time",
        highlight=False,
        markup=False,
    )
