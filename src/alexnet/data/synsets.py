"""Readable names of WordNet ids, facts of ImageNet (the first name its synset list gives)."""

SYNSET_NAMES = {
    "n01440764": "tench",
    "n02102040": "English springer",
    "n02979186": "cassette player",
    "n03000684": "chain saw",
    "n03028079": "church",
    "n03394916": "French horn",
    "n03417042": "garbage truck",
    "n03425413": "gas pump",
    "n03445777": "golf ball",
    "n03888257": "parachute",
}
"""Name by id, of the ten classes of imagenette."""


def readable_name(class_id: str) -> str:
    """The name people read: the synset's where it is known, else the id itself."""
    return SYNSET_NAMES.get(class_id, class_id)
