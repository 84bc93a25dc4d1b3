"""The parser of every command: one-line errors, help in two lengths, and old options refused with their new names."""

import argparse
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from alexnet.cli.output import print_lines
from alexnet.errors import RequestError

HELP_OPTIONS = ("-h", "--help", "--help-all")
OLD_OPTIONS: Mapping[str, str] = {
    "--columns-in": "--column-layers",
    "--sums-in": "--grad-dtype",
    "--stalls-after": "--stall-warning",
    "--gives-up-after": "--timeout",
    "--kind": "--source-format",
}
"""Options of earlier versions and their current names. Those of settings are in `runs.recipe_file.OLD_KEYS`."""


class CommandParser(argparse.ArgumentParser):
    """An argument parser that raises `RequestError` and takes options and positionals in any order.

    `--help` lists the common options and `--help-all` every option. Both may appear anywhere.
    """

    def __init__(self, prog: str, description: str, epilog: str, **others: Any) -> None:
        others |= {"add_help": False, "allow_abbrev": False, "formatter_class": _HelpFormatter}
        super().__init__(prog=prog, description=description, epilog=epilog, **others)
        self.full_help: dict[argparse.Action, str] = {}
        """Help texts for `--help-all`, where they differ from those for `--help`."""
        self._sections: dict[str, argparse._ArgumentGroup] = {}
        self._kinds: Any = None
        self.moved_kinds: Mapping[str, str] = {}
        """Sub-commands of earlier versions, and what replaces each."""
        self.defaults_for_help: Callable[[argparse.Namespace | None], Mapping[str, Any]] = lambda options: {}
        """Maps the parsed options (None if they are incomplete) to defaults by option name, without dashes."""

    def section(self, title: str) -> argparse._ArgumentGroup:
        """The section of the help with this title, created on first use."""
        if title not in self._sections:
            self._sections[title] = self.add_argument_group(title)
        return self._sections[title]

    def show_only_in_full_help(self, action: argparse.Action) -> None:
        """List an option with `--help-all` and not with `--help`."""
        self.full_help[action] = str(action.help)
        action.help = argparse.SUPPRESS

    def add_subparsers(self, **arguments: Any) -> Any:
        """Add sub-commands, each with a parser of this class."""
        self._kinds = super().add_subparsers(**arguments)
        return self._kinds

    def parse(self, words: Sequence[str], options: argparse.Namespace | None = None) -> argparse.Namespace:
        """Parse the words after the command; print help and exit with code 0 if they ask for it.

        Raises:
            RequestError: an unknown or renamed option, a missing argument, or a value that is not allowed.
        """
        words = list(words)
        end = words.index("--") if "--" in words else len(words)
        wanted = {word for word in words[:end] if word in HELP_OPTIONS}
        if self._kinds is not None:
            plain = [word for word in words if word not in wanted]
            if plain and plain[0] in self.moved_kinds:
                raise RequestError(f"`{self.prog} {plain[0]}` is now {self.moved_kinds[plain[0]]}")
            if plain and plain[0] in self._kinds.choices:
                kind: CommandParser = self._kinds.choices[plain[0]]
                options = argparse.Namespace(**vars(options or argparse.Namespace()), **{self._kinds.dest: plain[0]})
                return kind.parse([*plain[1:], *wanted], options)
        if wanted:
            self._print_help([word for word in words[:end] if word not in wanted] + words[end:], "--help-all" in wanted)
            raise SystemExit(0)
        return self._parse(words, options)

    def error(self, message: str) -> NoReturn:
        """Raise the parser's own refusals as every other wrong request."""
        raise RequestError(f"{message.removeprefix('argument ')}; see `{self.prog} --help`")

    def _print_message(self, message: str, file: object = None) -> None:
        """Print help as every other output."""
        print_lines(*message.rstrip("\n").split("\n"))

    def _parse(self, words: Sequence[str], options: argparse.Namespace | None = None) -> argparse.Namespace:
        known = [*HELP_OPTIONS, *(name for action in self._actions for name in action.option_strings)]
        for word in words:
            if word == "--":
                break
            option = word.partition("=")[0]
            if option.startswith("--") and option not in known:
                from alexnet.runs.recipe_file import unknown_option

                raise RequestError(f"{unknown_option(option, known, OLD_OPTIONS)}; see `{self.prog} --help`")
        if self._kinds is not None:
            kinds = ", ".join(self._kinds.choices)
            got = f"{words[0]!r} is not one of them" if words else "none was given"
            raise RequestError(f"{self.prog} needs one of {kinds} first; {got}")
        return self.parse_intermixed_args(words, options)

    def _print_help(self, words: Sequence[str], everything: bool) -> None:
        try:
            defaults = self.defaults_for_help(self._parse(words))
        except RequestError:  # incomplete words, or a run that does not exist
            defaults = self.defaults_for_help(None)
        for action in self._actions:
            if everything and action in self.full_help:
                action.help = self.full_help[action]
            if action.help and action.help != argparse.SUPPRESS:
                action.help = _with_default(action, defaults)
        self.usage = " ".join(["%(prog)s", *_required(self._actions), "[options]"])
        if self.full_help and not everything:
            self.epilog = f"{self.prog} --help-all lists every option.\n{self.epilog}"
        self.print_help()


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Names of options on the left, up to 36 columns of them."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=36)

    def _split_lines(self, text: str, width: int) -> list[str]:
        """Wrap a help text without breaking names such as `one-cycle`."""
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)


def _required(actions: Sequence[argparse.Action]) -> list[str]:
    """Positionals and required options as the usage line names them."""
    words = []
    for action in actions:
        name = str(action.metavar or action.dest.upper())
        if action.option_strings:
            words += [f"{action.option_strings[0]} {name}"] if action.required else []
        else:
            several = f"{name}..." if action.nargs in ("*", "+") else name
            words.append(f"[{several}]" if action.nargs in ("*", "?") else several)
    return words


def _with_default(action: argparse.Action, defaults: Mapping[str, Any]) -> str:
    """The option's help with its default, unless the help already says it."""
    text, default = str(action.help), defaults.get(action.dest, action.default)
    if "default" in text or default is None or default is argparse.SUPPRESS or isinstance(default, bool):
        return text
    return f"{text} (default: {default})".replace("%", "%%") if default != [] else text
