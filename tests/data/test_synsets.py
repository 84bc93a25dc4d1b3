"""The names of ILSVRC-2012's classes: all there, each its own."""

import re

import pytest

from alexnet.data.synsets import distinct_names, readable_name, synset_words


def test_all_thousand_classes_are_listed_in_order() -> None:
    class_ids = list(synset_words())
    assert len(class_ids) == 1000
    assert class_ids == sorted(set(class_ids))
    assert all(re.fullmatch(r"n\d{8}", class_id) for class_id in class_ids)
    assert all(words and words == words.strip() for words in synset_words().values())


# As the labels 0, 1, 281, 285, 340, 386, 388, 404, 510, 701, 817, 950 and 999 of Caffe's order are widely known.
@pytest.mark.parametrize(
    ("label", "class_id", "name"),
    [
        (0, "n01440764", "tench"),
        (1, "n01443537", "goldfish"),
        (217, "n02102040", "English springer"),
        (281, "n02123045", "tabby"),
        (285, "n02124075", "Egyptian cat"),
        (340, "n02391049", "zebra"),
        (386, "n02504458", "African elephant"),
        (388, "n02510455", "giant panda"),
        (404, "n02690373", "airliner"),
        (510, "n03095699", "container ship"),
        (701, "n03888257", "parachute"),
        (817, "n04285008", "sports car"),
        (950, "n07747607", "orange"),
        (999, "n15075141", "toilet tissue"),
    ],
)
def test_well_known_labels(label: int, class_id: str, name: str) -> None:
    assert list(synset_words())[label] == class_id
    assert readable_name(class_id) == name


def test_no_two_classes_share_a_name() -> None:
    names = {class_id: readable_name(class_id) for class_id in synset_words()}
    assert len(set(names.values())) == 1000
    assert {class_id: name for class_id, name in names.items() if "(" in name} == {
        "n02012849": "crane (n02012849)",
        "n03126707": "crane (n03126707)",
        "n03710637": "maillot (n03710637)",
        "n03710721": "maillot (tank suit)",
    }
    assert (names["n03773504"], names["n04008634"]) == ("missile", "projectile")


def test_unknown_ids_are_their_own_names() -> None:
    assert readable_name("my_class") == "my_class"


def test_names_stay_distinct_where_the_second_names_are_alike_too() -> None:
    words = {"n1": "bank, shore", "n2": "bank, shore", "n3": "bank", "n4": "tree", "n5": ""}
    assert distinct_names(words) == {"n1": "bank (n1)", "n2": "bank (n2)", "n3": "bank (n3)", "n4": "tree"}
