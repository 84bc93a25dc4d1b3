"""How alike do two networks see the same images? A linear probe, dissimilarity matrices and CKA of one layer.

    pip install 'alexnet[baselines]'
    python compare_representations.py runs/first runs/second relu7

Both runs must be trained on the same data; the images are its validation split. Activations are kept in the folder
`representations`.
"""

import sys
from pathlib import Path

import alexnet
from alexnet.explore.features import write_features_of_runs
from alexnet.explore.representations import cka, compare_dissimilarities, dissimilarity, linear_probe
from alexnet.figures.figure_style import figure_bytes


def main(first: str, second: str, layer: str) -> None:
    """Print what each network's layer tells about the classes, and how similar both are; draw the dissimilarities."""
    folder = Path("representations") / layer
    runs = write_features_of_runs([first, second], folder, layers=layer)
    names = [one.name for one in alexnet.load(first).classes]
    matrices = []
    for name, features in runs.items():
        activations, labels = features.activations[layer], features.labels
        print(f"{name}: {layer} {activations.shape}")
        if labels is not None:
            probe = linear_probe(activations, labels)
            low, high = (100 * end for end in probe.interval)
            print(f"  linear probe: {100 * probe.accuracy:.1f} % correct (95 % interval {low:.1f} to {high:.1f} %)")
            print(f"  always the most frequent class: {100 * probe.chance:.1f} %")
        matrix = dissimilarity(activations, "correlation")
        picture = matrix.figure(labels, names, f"{layer} of {name}")
        (folder / f"{name}.png").write_bytes(figure_bytes(picture, "png"))
        print(f"  dissimilarities: {folder / f'{name}.png'}")
        matrices.append(matrix)
    a, b = (features.activations[layer] for features in runs.values())
    print(f"rank correlation of the dissimilarities: {compare_dissimilarities(*matrices):.3f}")
    print(f"CKA: {cka(a, b):.3f}, debiased {cka(a, b, debiased=True):.3f}")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: python compare_representations.py RUN OTHER LAYER")
    try:
        main(*sys.argv[1:])
    except alexnet.RequestError as error:
        sys.exit(f"error: {error}")
