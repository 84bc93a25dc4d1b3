"""The console of tables, log lines and progress bars."""

from typing import Any

from rich.console import Console
from rich.text import Text

from alexnet.system.visible_text import visible


class TerminalConsole(Console):
    """A console that prints text as `visible` returns it, without markup or emoji codes: a string is only text.

    If nobody reads stderr any more, the work continues without lines of progress.
    """

    def __init__(self, *, stderr: bool = False, highlight: bool = True, **others: Any) -> None:
        super().__init__(stderr=stderr, highlight=highlight, markup=False, emoji=False, **others)

    def visible(self, text: str) -> str:
        """The text as this console's terminal can show it."""
        return visible(text, self.encoding)

    def render_str(self, text: str, **how: Any) -> Text:
        """Every string that is printed, also as a cell or a title of a table."""
        return super().render_str(self.visible(text), **how)

    def print_labeled(self, text: str, label: str = "", style: str = "") -> None:
        """Print a line of text after a label in a style, such as a color."""
        self.print(Text.assemble((f"{label}: " if label else "", style), self.visible(text)))

    def on_broken_pipe(self) -> None:
        """Stop printing to stderr; on stdout, raise the error that says so."""
        if not self.stderr:
            raise BrokenPipeError
        self.quiet = True
