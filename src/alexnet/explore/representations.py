"""Compare how layers and networks represent the same images: dissimilarities, alignment, linear probes."""

from alexnet.explore.activation_rows import require_same_images
from alexnet.explore.dissimilarity import Dissimilarities, compare_dissimilarities, dissimilarity
from alexnet.explore.kernel_alignment import cka
from alexnet.explore.linear_probe import LinearProbe, linear_probe

__all__ = [
    "Dissimilarities",
    "LinearProbe",
    "cka",
    "compare_dissimilarities",
    "dissimilarity",
    "linear_probe",
    "require_same_images",
]
