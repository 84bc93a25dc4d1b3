"""`alexnet import`: make a run of weights that another program wrote."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alexnet.cli.command_parser import CommandParser
from alexnet.cli.common_options import add_json
from alexnet.cli.output import print_json, print_lines
from alexnet.system.visible_text import shell_words

if TYPE_CHECKING:
    from alexnet.runs.folder import RunFolder
    from alexnet.runs.import_recipe import ImportRecipe

NUM_IMAGES = 500
"""As in `alexnet.exchange.proof`, which loads torch."""


def add_arguments(parser: CommandParser) -> None:
    """Add the command's options."""
    parser.add_argument(
        "file",
        type=Path,
        metavar="FILE",
        help="weights: torchvision's or another state dict of PyTorch (.pth, .safetensors), a .caffemodel, or a "
        "cuda-convnet checkpoint",
    )
    parser.add_argument("--run", type=Path, required=True, metavar="RUN", help="run folder to create")
    network = parser.section("network")
    network.add_argument("--variant", metavar="NAME", help="network variant (default: what the file's layers say)")
    network.add_argument(
        "--classes",
        metavar="FILE",
        help="names of the classes, in order: lines of `id name`, JSON such as a config.json with id2label, a prepared "
        "data set, or imagenet (default: what the file says; for 1,000 classes imagenet)",
    )
    network.add_argument(
        "--features-only",
        action="store_true",
        help="no classifier: dense layers that the file lacks stay untrained (a file that has all: they are left out)",
    )
    reading = parser.section("pixels, where the file does not say how they are read")
    reading.add_argument("--color-order", choices=("rgb", "bgr"), metavar="NAME", help="order of colors: rgb or bgr")
    reading.add_argument(
        "--input-scale",
        choices=("255", "1", "imagenet", "variant"),
        metavar="NAME",
        help="scale of colors: 255 (0..255), 1 (0..1), imagenet (0..1 divided by ImageNet's standard deviations), or "
        "variant (the variant's own factor)",
    )
    reading.add_argument(
        "--mean",
        metavar="MEAN",
        help="mean that is subtracted: red,green,blue of 0..255 or a mean image (.binaryproto, .npy, or the "
        "batches.meta of cuda-convnet's data)",
    )
    reading.add_argument(
        "--side",
        type=int,
        metavar="N",
        help="side to which photographs are resized, pixels (default: that of the mean image, or 256 for crops of 224)",
    )
    reading.add_argument(
        "--fit",
        choices=("crop", "pad", "squash"),
        metavar="NAME",
        help="how a photograph becomes a square: crop, pad or squash (default: what the file says, or crop)",
    )
    proof = parser.section("proof")
    proof.add_argument(
        "--data",
        type=Path,
        nargs="+",
        help="prepared data set with the network's classes, or some of them, by whose errors colors, scale, mean and "
        "class order are tested; several are concatenated",
    )
    proof.add_argument(
        "--images", type=int, default=NUM_IMAGES, metavar="N", help="images of the data set to classify at most"
    )
    add_json(parser, "lines")


def run(options: argparse.Namespace) -> None:
    """Import the file."""
    from alexnet.exchange.imported_run import import_weights

    run = import_weights(
        options.file,
        options.run,
        variant=options.variant,
        classes=options.classes,
        color_order=options.color_order,
        input_scale=options.input_scale,
        mean=options.mean,
        side=options.side,
        fit=options.fit,
        features_only=options.features_only,
        data=options.data,
        images=options.images,
        progress=True,
    )
    described = _describe(run)
    if options.json:
        print_json(described)
    else:
        _print(run, described)


def _describe(run: "RunFolder") -> dict[str, Any]:
    """The import as one JSON object."""
    from alexnet.runs.import_recipe import import_to_dict

    metadata = run.metadata()
    return {
        "run": str(run.path),
        **import_to_dict(_recipe(run)),
        "parameters": metadata["parameters"],
        "notes": metadata["notes"],
        "proof": run.proof(),
    }


def _recipe(run: "RunFolder") -> "ImportRecipe":
    from alexnet.runs.import_recipe import ImportRecipe

    recipe = run.any_recipe()
    if not isinstance(recipe, ImportRecipe):
        raise TypeError(f"{run.path} is not an imported run")
    return recipe


def _print(run: "RunFolder", described: dict[str, Any]) -> None:
    from alexnet.cli.tables import print_imported_layers
    from alexnet.data.decode import describe_fit
    from alexnet.report.contents import next_commands

    recipe, proof = _recipe(run), run.proof()
    file, network, pixels = recipe.imported, recipe.network, recipe.input
    print_lines(
        f"{file.name}: {file.format}, {file.size_bytes:,} bytes, sha256 {file.sha256[:16]}",
        f"network: variant {network.variant}, width {network.width:g}, {described['parameters']:,} parameters",
        f"classes: {_CLASSES[network.classes_from].format(num=network.num_classes, of=_list_text(recipe))}",
        f"pixels: {pixels.color_order.upper()}, {_scale_text(recipe)}, minus {_mean_text(recipe)}; "
        f"{_convention_text(recipe)}",
        f"photographs: {describe_fit(pixels.fit, pixels.side)}; crops of {pixels.crop}",
    )
    if proof is not None:
        print_imported_layers(proof["layers"])
    if network.untrained_layers:
        print_lines(f"not trained, because they were not imported: {', '.join(network.untrained_layers)}")
    print_lines(*(f"note: {one}" for one in described["notes"]))
    if proof is not None:
        print_lines(*(f"- {one['text']}" for one in proof["findings"]), f"verdict: {proof['verdict']}")
    commands = next_commands(run)
    following = commands["evaluate"] or commands["predict"] or commands["features"]
    if proof is not None and proof["status"] == "contradicted":
        following = shell_words("alexnet", "report", run.path)
    print_lines(f"run: {run.path}", f"next: {following}")


_CLASSES = {
    "file": "{num:,}, as the file names them",
    "options": "{num:,}{of}",
    "imagenet": "{num:,}, assumed to be ILSVRC-2012's, because the file names none",
    "numbers": "{num:,}, numbered, because the file names none",
    "none": "not scored, because the last layers are not trained",
}
_CONVENTION = {
    "file": "as the file says",
    "options": "as given",
    "variant": "assumed, because the file does not say (variant {variant!r} usually reads this)",
    "images": "chosen by the errors on the images, because the file does not say",
}


def _list_text(recipe: "ImportRecipe") -> str:
    name = recipe.network.class_list
    return f", as listed in {name}" if name and name != "imagenet" else ", ILSVRC-2012's" if name else ", as listed"


def _convention_text(recipe: "ImportRecipe") -> str:
    text = _CONVENTION[recipe.input.convention_from].format(variant=recipe.network.variant)
    given = ", ".join(recipe.input.given)
    return f"{given} as given, the rest {text}" if given else text


def _scale_text(recipe: "ImportRecipe") -> str:
    from alexnet.runs.import_recipe import SCALES

    return SCALES[recipe.input.scale] + (
        " (multiplied into the first layer's weights)" if recipe.input.scale_in_weights else ""
    )


def _mean_text(recipe: "ImportRecipe") -> str:
    color = ", ".join(f"{one:.1f}" for one in recipe.input.mean)
    return f"a mean image (of mean color {color})" if recipe.input.has_mean_image else f"the color {color}"
