"""Which folders of a tree are splits and which are classes, by their names and by what is in them.

Split folders are recognized by name (`train`, `Training`, `seg_train`, `dev`, ...), also below folders that hold
nothing else (`archive/seg_train/seg_train/CLASS`). A folder of such a name next to class folders is a class (`train`
next to `bus`). A tree that can be read in two ways is refused with what was seen in it.
"""

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path

from alexnet.data.dataset import UNLABELED
from alexnet.data.sources.split_names import split_in_name
from alexnet.errors import RequestError
from alexnet.system.visible_text import shell_words

EXPECTED = "expected is one folder per class, with or without train/ and val/ above them"
SAY_SPLITS = "name the split folders, as in --split train=FOLDER --split val=FOLDER"
SAY_CLASSES = "add --split none if they are classes"
NUM_NAMES = 4
"""Names of folders that a message lists."""
SPLITS = ("train", "val", "test", UNLABELED)


@dataclass(frozen=True, eq=False)
class Folder:
    """A folder of a tree, and what is below it."""

    path: str
    """From the top of the tree, such as `archive/train`; empty for the top itself."""
    children: dict[str, "Folder"] = field(default_factory=dict)
    has_images: bool = False
    """Whether there are images in the folder itself."""
    num_with_images: int = 0
    """Of it and the folders below, those that have images in themselves."""
    is_empty: bool = True
    """Whether it has no files at all, and neither have the folders below."""

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.path.rpartition("/")[2]

    @property
    def prefix(self) -> str:
        """What the paths below it begin with."""
        return f"{self.path}/" if self.path else ""

    @property
    def with_images(self) -> list["Folder"]:
        """The folders in it that have images in them or below, sorted by name."""
        return [one for _, one in sorted(self.children.items()) if one.num_with_images]


@dataclass(frozen=True)
class SplitLayout:
    """The splits of a tree."""

    base: str
    """Beginning of the paths of all its images, such as `archive/`, which their keys leave out; may be empty."""
    split_of: Mapping[str, str]
    """The split by the beginning of the paths of its images, such as `archive/train/`; the next part is the class.
    In `UNLABELED` there are no classes."""
    skips_others: bool = False
    """Whether images outside of the splits are skipped, as `--split` asks; otherwise they belong to `UNLABELED`."""
    warning: str = ""
    """What a user should check; may be empty."""

    def place(self, folder: str) -> tuple[str, str | None] | None:
        """Split and class of the images in a folder; the class is None in `UNLABELED`. None if they are skipped."""
        path = f"{folder}/" if folder else ""
        for prefix, split in self.split_of.items():
            if path.startswith(prefix):
                class_id = path.removeprefix(prefix).partition("/")[0]
                return (split, class_id) if class_id and split != UNLABELED else (UNLABELED, None)
        return None if self.skips_others else (UNLABELED, None)


def build_tree(folders: Iterable[str], with_files: Set[str], with_images: Set[str]) -> Folder:
    """The tree of all folders.

    Args:
        folders: paths from the top; folders above these need not be listed.
        with_files: those that have files of any kind in themselves.
        with_images: those that have images in themselves.
    """
    below: dict[str, list[str]] = {"": []}
    for path in {*folders, *with_files}:
        while path not in below:
            below[path] = []
            path = path.rpartition("/")[0]
    for path in below:
        if path:
            below[path.rpartition("/")[0]].append(path)
    built: dict[str, Folder] = {}
    for path in sorted(below, key=lambda one: -len(one)):  # a path is longer than that of the folder around it
        children = {child.rpartition("/")[2]: built[child] for child in below[path]}
        built[path] = Folder(
            path,
            children,
            path in with_images,
            (path in with_images) + sum(one.num_with_images for one in children.values()),
            path not in with_files and all(one.is_empty for one in children.values()),
        )
    return built[""]


def find_layout(top: Folder, origin: Path, named: Mapping[str, str] | None = None) -> SplitLayout:
    """Find the splits of a tree. `test` without `val` is `val`, unless `named` says otherwise.

    Args:
        top: its top folder.
        origin: the source, for messages.
        named: folder by split, as the user says it; empty if no folder is a split; None recognizes them.

    Raises:
        RequestError: there are no class folders, the tree can be read in more than one way, or `named` is wrong.
    """
    if named:
        return _named_layout(top, origin, named)
    base = _base(top, is_split_free=named is not None)
    folders = base.with_images
    if not folders:
        raise RequestError(f"{origin} has files but no class folder with images; {EXPECTED}")
    classes = _layout(top, origin, base, {base: "train"})
    if named is not None:
        return classes
    candidates = {one: split for one in folders if (split := split_in_name(one.name))}
    others = [one for one in folders if one not in candidates]
    class_names = {name for one, split in candidates.items() if split == "train" for name in _classes_in(one)}
    deep = {
        one: split for one, split in candidates.items() if _has_folders(one, class_names if split != "train" else ())
    }
    if not deep:
        _refuse_splits_inside(folders, origin)
        _refuse_equal_folders(others, origin)
        _refuse_copies(folders, origin)
        if others:
            return _with_warning(classes, candidates, others) if candidates else classes
        if len(candidates) > 1 and len(set(candidates.values())) == 1:  # the classes `bullet train` and `steam train`
            return classes
        raise RequestError(
            f"{_listed(folders)} of {origin} {_plural(folders, 'has', 'have')} images and no class folders; list the "
            "images with their classes in a CSV file of path,label,split, or " + SAY_CLASSES
        )
    if others:
        _require_splits(deep, others, origin)
    return _layout(top, origin, base, _require_one_each(deep, origin))


def _named_layout(top: Folder, origin: Path, named: Mapping[str, str]) -> SplitLayout:
    """The layout that `--split` asks for."""
    splits: dict[Folder, str] = {}
    if unknown := [split for split in named if split not in SPLITS]:
        raise RequestError(f"--split names {unknown[0]!r}; allowed are {', '.join(SPLITS)}")
    for split, path in named.items():
        folder = top
        for part in [part for part in path.split("/") if part not in ("", ".")]:
            if part not in folder.children:
                inside = _listed(folder.children.values(), by_name=True) if folder.children else "no folders"
                raise RequestError(
                    f"--split is {split}={path}, and {origin} has no such folder: {folder.path or 'it'} has {inside}"
                )
            folder = folder.children[part]
        if not folder.num_with_images:
            raise RequestError(f"--split is {split}={path}, and this folder of {origin} has no images")
        for other in splits:
            if folder is other or folder.prefix.startswith(other.prefix) or other.prefix.startswith(folder.prefix):
                raise RequestError(
                    f"--split names {path} for {split} and {other.path or '.'} for {splits[other]}, which is the same "
                    "folder or one inside the other; name separate folders"
                )
        splits[folder] = split
    if "train" not in named:
        raise RequestError(f"--split names {', '.join(named)} and no train; add --split train=FOLDER")
    return _layout(top, origin, _base(top, is_split_free=True), splits, skips_others=True)


def _layout(
    top: Folder, origin: Path, base: Folder, splits: Mapping[Folder, str], *, skips_others: bool = False
) -> SplitLayout:
    """The layout with these split folders; their classes may lie below further folders."""
    (train,) = [folder for folder, split in splits.items() if split == "train"]
    train_classes = train if train is base else _unwrapped(train)
    class_names = {one.name for one in train_classes.with_images}
    split_of = {train_classes.prefix: "train"}
    for folder, split in splits.items():
        if split == UNLABELED:
            split_of[folder.prefix] = split
        elif folder is not train:
            split_classes = _unwrapped(folder, class_names)
            _require_shared_classes(split_classes, train_classes, origin)
            split_of[split_classes.prefix] = split
    # Keys are short where they can be: not if there are images outside of the base.
    prefix = base.prefix if top.num_with_images == base.num_with_images or skips_others else ""
    return SplitLayout(prefix, split_of, skips_others)


def _base(top: Folder, *, is_split_free: bool) -> Folder:
    """The folder that has the split or class folders: `top`, or the only folder with images, or the only one in that.

    Args:
        is_split_free: whether names of splits mean nothing.
    """
    base = top
    while (only := _only_folder(base)) is not None and only.with_images:
        if not is_split_free and split_in_name(only.name) and len(_splits_in(only)) < 2:
            break
        base = only
    return base


def _only_folder(folder: Folder) -> Folder | None:
    """The only folder with images in a folder; None if there is an empty one, which may be a class without images."""
    if len(folder.with_images) != 1 or any(one.is_empty for one in folder.children.values()):
        return None
    return folder.with_images[0]


def _splits_in(folder: Folder) -> set[str]:
    """The splits that the names of its folders mean."""
    return {split for one in folder.with_images if (split := split_in_name(one.name))}


def _unwrapped(folder: Folder, class_names: Iterable[str] = ()) -> Folder:
    """The folder in a split folder that has the class folders, as in `seg_train/seg_train/CLASS`.

    Args:
        class_names: of training; a folder of such a name is a class.
    """
    while not folder.has_images and (only := _only_folder(folder)) is not None:
        if only.name in class_names or not (only.with_images or only.name == folder.name):
            break
        folder = only
    return folder


def _has_folders(folder: Folder, class_names: Iterable[str] = ()) -> bool:
    """Whether a split folder has class folders; `class_names` as for `_unwrapped`."""
    return bool(_unwrapped(folder, class_names).with_images)


def _classes_in(folder: Folder) -> set[str]:
    return {one.name for one in _unwrapped(folder).with_images}


def _require_splits(deep: Mapping[Folder, str], others: Sequence[Folder], origin: Path) -> None:
    """Refuse folders next to split folders, unless it is certain that both are what they seem.

    It is certain where training and another split have the same classes, and the others have images and no folders.
    """
    train = next((one for one, split in deep.items() if split == "train"), None)
    classes = _classes_in(train) if train else set()
    if not any(_share_classes(classes, one, least=1) for one, split in deep.items() if split != "train"):
        what = _plural(deep, "has the name of a split and class folders", "have names of splits and class folders")
        raise RequestError(
            f"{_listed(deep)} of {origin} {what}, such as {_such_as(next(iter(deep)))}, but "
            f"{_plural(deep, 'is', 'are')} next to {_listed(others)}, which {_plural(others, 'has', 'have')} images "
            f"too; {SAY_SPLITS}, or add --split none if all of these are classes"
        )
    if nested := [one for one in others if _has_folders(one)]:
        raise RequestError(
            f"{_listed(nested)} of {origin} {_plural(nested, 'is', 'are')} next to the split folders {_listed(deep)} "
            f"and {_plural(nested, 'has', 'have')} folders, such as {_such_as(nested[0])}; {SAY_SPLITS}, and --split "
            f"{UNLABELED}=FOLDER for images without classes"
        )


def _require_one_each(folders: Mapping[Folder, str], origin: Path) -> dict[Folder, str]:
    """The split of each folder; refuses two for one split, and none for training. `test` without `val` is `val`."""
    chosen: dict[str, Folder] = {}
    for folder, split in folders.items():
        if split in chosen:
            raise RequestError(
                f"{origin} has both {chosen[split].path} and {folder.path} for its {split} split; keep one of them, or "
                f"{SAY_SPLITS}"
            )
        chosen[split] = folder
    if "train" not in chosen:
        raise RequestError(
            f"{origin} has {_listed(folders)} and no train; name a source that has both, or {SAY_SPLITS}, or "
            f"{SAY_CLASSES}"
        )
    if "test" in chosen and "val" not in chosen:
        chosen["val"] = chosen.pop("test")
    return {folder: split for split, folder in chosen.items()}


def _require_shared_classes(folder: Folder, train: Folder, origin: Path) -> None:
    """Refuse a split none of whose folders has the name of a class: `val/images/1.jpg` has no classes."""
    if folder.with_images and not {one.name for one in folder.with_images} & {one.name for one in train.with_images}:
        raise RequestError(
            f"{folder.path} of {origin} has {_listed(folder.with_images, by_name=True)} and no folder called like one "
            f"in {train.path or 'it'}, such as {_listed(train.with_images, by_name=True)}; name its folders like "
            f"these, or, if its images have no classes, add "
            + shell_words("--split", f"train={train.path or '.'}", "--split", f"{UNLABELED}={folder.path}")
        )


def _refuse_splits_inside(folders: Sequence[Folder], origin: Path) -> None:
    """Refuse folders that have split folders with classes in them: `fold1/train/CLASS`, or `data/train/CLASS` beside
    `test`."""
    for folder in folders:
        inside = {
            split: one
            for one in _unwrapped(folder).with_images
            if (split := split_in_name(one.name)) and _has_folders(one)
        }
        if "train" in inside and len(inside) > 1:
            if "val" not in inside:
                inside["val"] = inside.pop("test")
            options = shell_words(
                *(part for split, one in sorted(inside.items()) for part in ("--split", f"{split}={one.path}"))
            )
            raise RequestError(
                f"{folder.path} of {origin} has split folders in it and lies beside "
                f"{_listed(one for one in folders if one is not folder)}; to use them alone, add {options}, or "
                f"{SAY_CLASSES}"
            )


def _refuse_copies(folders: Sequence[Folder], origin: Path) -> None:
    """Refuse a folder that has folders of the same names as there are beside it, as a second copy of all has."""
    names = {one.name for one in folders}
    for folder in folders:
        if len(shared := _classes_in(folder) & (names - {folder.name})) > 1:
            raise RequestError(
                f"{folder.path} of {origin} has folders called {list_names(shared)}, as there are beside it: it looks "
                f"like a copy of them and not like a class; remove it, use it alone with "
                f"{shell_words('--split', f'train={folder.path}')}, or add --split none if it is a class"
            )


def _refuse_equal_folders(folders: Sequence[Folder], origin: Path) -> None:
    """Refuse folders with folders of the same names in them, which are splits, whatever they are called."""
    deep = [one for one in folders if _has_folders(one)]
    if len(deep) < 2:
        return
    largest = max(deep, key=lambda one: len(_classes_in(one)))
    classes = _classes_in(largest)
    if not all(one is largest or _share_classes(classes, one) for one in deep):
        return
    seen = f"{_listed(deep)} of {origin} each have folders called {_such_as(largest)}"
    if len(_splits_in(_unwrapped(largest))) == len(classes):
        raise RequestError(
            f"{seen}: splits inside classes; move them to train/CLASS and val/CLASS, list the images in a CSV file of "
            "path,label,split, or add --split none to train on all of them"
        )
    raise RequestError(f"{seen}: they look like splits and not like classes; {SAY_SPLITS}, or {SAY_CLASSES}")


def _share_classes(class_names: Set[str], folder: Folder, least: int = 2) -> bool:
    """Whether half of the class folders of a folder or more, and at least `least`, have these names."""
    own = _classes_in(folder)
    num_shared = len(own & class_names)
    return num_shared >= least and 2 * num_shared >= len(own)


def _with_warning(layout: SplitLayout, candidates: Iterable[Folder], others: Sequence[Folder]) -> SplitLayout:
    """The layout, with a warning about folders that are classes and have names of splits."""
    folders = list(candidates)
    is_next, is_split = _plural(folders, "it is", "they are"), _plural(folders, "it is a split", "they are splits")
    warning = (
        f"{_listed(folders)} {_plural(folders, 'is taken as a class', 'are taken as classes')}, since {is_next} next "
        f"to {_listed(others)}; if {is_split}, {SAY_SPLITS}"
    )
    return replace(layout, warning=warning)


def _such_as(folder: Folder) -> str:
    """The names of the class folders in a split folder."""
    return _listed(_unwrapped(folder).with_images, by_name=True)


def _listed(folders: Iterable[Folder], *, by_name: bool = False) -> str:
    """The paths or names of some folders, as text."""
    return list_names(one.name if by_name else one.path for one in folders)


def list_names(some: Iterable[str]) -> str:
    """The first of some names in sorted order, as text, and the number of the others."""
    names = sorted(some)
    more = len(names) - NUM_NAMES
    return ", ".join(names[:NUM_NAMES]) + (f" and {more:,} more" if more > 0 else "")


def _plural(folders: Iterable[Folder], one: str, more: str) -> str:
    return one if len(list(folders)) == 1 else more
