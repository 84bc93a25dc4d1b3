"""Recipes as plain dictionaries and as YAML, changed settings, and the differences of two recipes."""

import difflib
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, fields, is_dataclass, replace
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from alexnet.errors import RequestError
from alexnet.runs.recipe import GROUPS, Recipe, Stage, refuse_unread_changes
from alexnet.storage.paths import described
from alexnet.storage.read_errors import raise_unless_damage
from alexnet.storage.typed_files import MAX_YAML_BYTES, SEAL, load_yaml, read_bounded

OLD_KEYS: Mapping[str, str] = {
    "data.colour_noise": "color_noise",
    "data.colour_scale": "color_scale",
    "data.colour_shrink": "color_shrink",
    "optimizer.rate": "learning_rate",
    "optimizer.decay": "weight_decay",
    "optimizer.bias_factor": "bias_lr_factor",
    "optimizer.layer_factors": "layer_lr_factors",
    "optimizer.layer_decay": "layer_weight_decay",
    "schedule.drops": "milestones",
    "schedule.factor": "gamma",
    "schedule.plateaus": "num_plateaus",
    "schedule.fall": "lr_range",
    "schedule.bias_plateaus": "num_bias_plateaus",
    "schedule.bias_fall": "bias_lr_range",
    "schedule.warm_up": "warmup",
    "schedule.stages.rate": "learning_rate",
    "schedule.stages.bias_rate": "bias_learning_rate",
    "schedule.stages.layer_rates": "layer_learning_rates",
    "schedule.stages.colour_noise": "color_noise",
    "training.average": "ema_decay",
    "descriptors.factor": "scale_factor",
    "encoder.form": "kind",
    "encoder.limit": "max_descriptors",
    "encoder.neighbours": "neighbors",
    "encoder.penalty": "l1_penalty",
    "encoder.sample": "sample_size",
    "classifier.rate": "learning_rate",
    "classifier.decay": "weight_decay",
    "protocol.measure": "evaluate_on",
}
"""New keys of renamed settings, by group and old key. Old files are read; old options are refused."""
OLD_VALUES: Mapping[str, Mapping[str, str]] = {
    "data.mean": {"own-place": "crop", "centre": "center"},
    "descriptors.kinds": {"colour": "color"},
}
"""Renamed values of settings, by group and current key; in a comma-separated list, each entry."""


def recipe_to_dict(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain dictionaries, lists and numbers, ready for YAML or JSON."""
    content: dict[str, Any] = _plain(asdict(recipe))
    return content


def _plain(value: Any) -> Any:
    """The value with all nested mappings as dictionaries, and all tuples as lists."""
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value


def recipe_from_dict(content: dict[str, Any]) -> Recipe:
    """The recipe that `recipe_to_dict` wrote.

    Raises:
        RequestError: an unknown key, or a value that a setting does not allow.
    """
    known = {"name", "claim", *GROUPS}
    if unknown := sorted(set(content) - known, key=str):
        raise RequestError(f"unknown recipe keys {unknown}; known are {sorted(known)}")
    for text in ("name", "claim"):
        if not isinstance(content.get(text, ""), str):
            raise RequestError(f"the recipe's {text} is {content[text]!r}; allowed is text")
    groups = {name: settings_from(settings, name, content.get(name, {})) for name, settings in GROUPS.items()}
    return Recipe(name=content.get("name", ""), claim=content.get("claim", ""), **groups)


def settings_from(kind: type, name: str, content: Any) -> Any:
    """A frozen group of settings, or a stage of a schedule, from its keys and values.

    Args:
        kind: type of the group.
        name: of the group, for messages.

    Raises:
        RequestError: an unknown or missing key, or a value that the group does not allow.
    """
    if not isinstance(content, Mapping):
        raise RequestError(f"{name} is {content!r}; allowed are keys and values")
    content = _with_current_names("schedule.stages" if kind is Stage else name, content)
    allowed = {one.name for one in fields(kind)}
    if unknown := sorted(set(content) - allowed, key=str):
        raise RequestError(f"unknown keys {unknown} under {name}; known are {sorted(allowed)}")
    if missing := sorted(
        one.name for one in fields(kind) if {one.default, one.default_factory} == {MISSING} and one.name not in content
    ):
        raise RequestError(f"keys {missing} are missing under {name}")
    return kind(**{key: _typed(kind, name, key, value) for key, value in content.items()})


def _with_current_names(group: str, content: Mapping[str, Any]) -> dict[str, Any]:
    """The keys and values of a file under their current names.

    Raises:
        RequestError: a setting is given under its old and its current name.
    """
    current: dict[str, Any] = {}
    for key, value in content.items():
        name = OLD_KEYS.get(f"{group}.{key}", key)
        if name != key and name in content:
            raise RequestError(f"{group} has {key} and {name}, which are the same setting; keep {name}")
        values = OLD_VALUES.get(f"{group}.{name}")
        if values and isinstance(value, str):
            value = ",".join(values.get(one.strip(), one) for one in value.split(","))
        current[name] = value
    return current


def change_settings(base: Recipe, changes: Mapping[str, Mapping[str, Any] | None]) -> Recipe:
    """`base` with changed settings.

    Args:
        changes: values by name, by group, as in `--GROUP.NAME VALUE`; None changes nothing.

    Raises:
        RequestError: an unknown or renamed setting, a value that it does not allow, or a setting that the schedule
            ignores.
    """
    recipe = replace(base, **changed_groups(base, GROUPS, changes))
    refuse_unread_changes(base, recipe)
    return recipe


def changed_groups(
    base: Any, groups: Mapping[str, type], changes: Mapping[str, Mapping[str, Any] | None]
) -> dict[str, Any]:
    """The groups of settings of `base`, a recipe of any kind, that `changes` names, changed; see `change_settings`."""
    known = [f"--{group}.{one.name}" for group, kind in groups.items() for one in fields(kind)]
    changed = {}
    for group, values in changes.items():
        if values is None:
            continue
        if not isinstance(values, Mapping):
            raise RequestError(f"{group} is {described(values)}; allowed is a mapping of its settings to values")
        for name in values:
            if (option := f"--{group}.{name}") not in known:
                problem = unknown_option(option, known)
                if problem == f"unknown option {option}":  # without a suggestion
                    problem += f"; {group} has {', '.join(one.name for one in fields(groups[group]))}"
                raise RequestError(problem)
        kind = groups[group]
        typed = {name: _typed(kind, f"--{group}", name, value) for name, value in values.items()}
        changed[group] = replace(getattr(base, group), **typed)
    return changed


def unknown_option(option: str, known: Sequence[str], renamed: Mapping[str, str] | None = None) -> str:
    """Why an option is refused: it has a new name, or does not exist; then the nearest known one is named.

    Args:
        renamed: new names of options that are not settings.
    """
    settings = {f"--{old}": f"--{old.rpartition('.')[0]}.{new}" for old, new in OLD_KEYS.items()}
    if (new := {**settings, **(renamed or {})}.get(option)) in known:
        return f"{option} is now {new}"
    key = option.lstrip("-").replace("-", "_").rpartition(".")[2]
    keys = {name: name.lstrip("-").replace("-", "_").rpartition(".")[2] for name in known}
    nearest = [name for name in known if keys[name] == key]
    if not nearest and (close := difflib.get_close_matches(key, keys.values(), 1)):
        nearest = [name for name in known if keys[name] == close[0]]
    return f"unknown option {option}" + (f"; did you mean {' or '.join(nearest)}?" if nearest else "")


def setting_from_text(kind: type, group: str, key: str, text: str) -> Any:
    """The value of setting `group.key` from an option's text: strings and choices as they are, all else as YAML.

    Raises:
        RequestError: the setting does not allow it.
    """
    value: Any = text
    field_type = get_type_hints(kind)[key]
    if field_type is not str and get_origin(field_type) is not Literal:
        try:
            value = load_yaml(text)
        except ValueError as error:
            raise RequestError(
                f"--{group}.{key} is {text!r}, which is not YAML: {' '.join(str(error).split())}"
            ) from error
    return _typed(kind, f"--{group}", key, value)


def _typed(settings: type, group: str, key: str, value: Any) -> Any:
    """The value converted to the setting's type: YAML reads 1e-3 as text and 1 as an integer.

    Raises:
        RequestError: it cannot be converted.
    """
    kind = get_type_hints(settings)[key]
    choices = get_args(kind) if get_origin(kind) is Literal else ()
    if isinstance(value, numbers.Number) and hasattr(value, "item"):
        value = value.item()  # NumPy's
    number = (int, float, str)
    if kind == tuple[Stage, ...] and isinstance(value, list | tuple):
        return tuple(_stage(f"{group}.{key}", number, one) for number, one in enumerate(value, 1))
    try:
        if choices and value in choices:
            return value
        if kind == float | None and value is None:
            return None
        if kind in (float, float | None) and isinstance(value, number) and not isinstance(value, bool):
            return float(value)
        if get_origin(kind) is tuple and isinstance(value, list | tuple):
            return tuple(float(one) for one in value)
        if get_origin(kind) is Mapping and isinstance(value, Mapping):
            return {str(name): float(one) for name, one in value.items()}
        if kind in (int, bool, str) and type(value) is kind:
            return value
    except (TypeError, ValueError, OverflowError):
        pass
    if choices:
        current = OLD_VALUES.get(f"{group.lstrip('-')}.{key}", {}).get(str(value))
        allowed = f"one of {', '.join(map(str, choices))}" + (f" ({value} is now {current})" if current else "")
    elif kind == tuple[Stage, ...]:
        allowed = "a list of stages, each with epochs, learning_rate and more"
    else:
        allowed = _ALLOWED[get_origin(kind) or kind]
    raise RequestError(f"{group}.{key} is {described(value)}; allowed is {allowed}")


_ALLOWED: Mapping[Any, str] = {
    Mapping: "a mapping from names to numbers",
    tuple: "a list of numbers",
    UnionType: "a number or null",
    float: "a number",
    int: "a whole number",
    bool: "true or false",
    str: "text",
}


def _stage(name: str, number: int, content: Any) -> Stage:
    """Stage `number` (1 is the first) of a schedule."""
    if isinstance(content, Stage):
        return content
    try:
        stage: Stage = settings_from(Stage, f"{name}, stage {number}", content)
    except RequestError as error:
        raise RequestError(f"{name}, stage {number}: {error}") from error
    return stage


def flat_settings(recipe: Any) -> dict[str, object]:
    """Every setting of a recipe by its dotted name."""
    groups = {name: group for name, group in vars(recipe).items() if is_dataclass(group)}
    return {f"{name}.{key}": value for name, group in groups.items() for key, value in vars(group).items()}


def recipe_differences(first: Any, second: Any) -> list[str]:
    """Dotted settings in which two recipes of one kind differ, as `group.key: first -> second`."""
    other = flat_settings(second)
    return [
        f"{name}: {_setting_text(name, value)} -> {_setting_text(name, other[name])}"
        for name, value in flat_settings(first).items()
        if value != other[name]
    ]


def _setting_text(name: str, value: Any) -> str:
    """A setting on one line; of stages, their lengths and learning rates."""
    if name == "schedule.stages":
        return ", ".join(f"{stage.epochs:g} epochs at {stage.learning_rate:g}" for stage in value) or "no stages"
    return str(value)


def read_config(path: Path, base: Recipe) -> Recipe:
    """`base` with the settings of a YAML file, which has the form of a run's recipe.yaml, possibly only parts of it.

    Raises:
        RequestError: the file is missing, not YAML, or has an unknown key or a value that is not allowed.
    """
    try:
        content = load_yaml(read_bounded(path, MAX_YAML_BYTES).decode()) or {}
    except OSError as error:
        raise_unless_damage(error, path)
        raise RequestError(f"cannot read the recipe {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise RequestError(f"the recipe {path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict) or not all(isinstance(content.get(group, {}), dict) for group in GROUPS):
        raise RequestError(f"the recipe {path} must hold groups of settings ({', '.join(GROUPS)}), each `key: value`")
    content.pop(SEAL, None)  # a copy of a run's recipe may be edited
    merged = recipe_to_dict(base)
    for key, value in content.items():
        merged[key] = {**merged[key], **_with_current_names(key, value)} if key in GROUPS else value
    return recipe_from_dict(merged)
