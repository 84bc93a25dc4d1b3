"""The console of tables, log lines and progress bars."""

from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from alexnet.system.visible_text import visible

MOST_WIDTH = 100_000
"""Columns within which a table is measured: more than any table needs."""
LEAST_TEXT_WIDTH = 10
"""Columns of text are folded to no less than this width."""


class TerminalConsole(Console):
    """A console that prints text as `visible` returns it, without markup or emoji codes: a string is only text.

    If nobody reads stderr any more, the work continues without lines of progress.
    """

    def __init__(self, *, stderr: bool = False, highlight: bool = True, **others: Any) -> None:
        others = {"force_jupyter": False, **others}  # a notebook gets plain lines, not rich's own HTML
        super().__init__(stderr=stderr, highlight=highlight, markup=False, emoji=False, **others)

    def visible(self, text: str) -> str:
        """The text as this console's terminal can show it."""
        return visible(text, self.encoding)

    def render_str(self, text: str, **how: Any) -> Text:
        """Convert a string that is printed, including cells and titles of tables."""
        return super().render_str(self.visible(text), **how)

    def print_labeled(self, text: str, label: str = "", style: str = "") -> None:
        """Print a line of text after a label in a style, such as a color."""
        self.print(Text.assemble((f"{label}: " if label else "", style), self.visible(text)))

    def print_table(self, table: Table) -> None:
        """Print a table; in a terminal that is too narrow for it, one line per cell. Nothing is cut."""
        columns = [
            (self.visible(str(column.header)), [self.visible(str(cell)) for cell in column.cells])
            for column in table.columns
        ]
        widths = [max(map(cell_len, (heading, *cells))) for heading, cells in columns]
        foldable = sum(
            0 if column.no_wrap else max(0, width - LEAST_TEXT_WIDTH)
            for column, width in zip(table.columns, widths, strict=True)
        )
        if self.measure(table, options=self.options.update(width=MOST_WIDTH)).maximum - foldable <= self.width:
            self.print(table)
            return
        if table.title:
            self.print(table.title)
        for row in range(table.row_count):
            self.print()
            for heading, cells in columns:
                if cells[row]:
                    self.print(f"{heading}: {cells[row]}" if heading else cells[row], soft_wrap=True)
        self.print()

    def on_broken_pipe(self) -> None:
        """On stderr, stop printing; on stdout, raise BrokenPipeError."""
        if not self.stderr:
            raise BrokenPipeError
        self.quiet = True
