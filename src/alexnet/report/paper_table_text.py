"""The paper's table with our runs beside it, in print: Markdown, LaTeX, JSON."""

import json
import re
from dataclasses import asdict
from typing import Any

from alexnet.evaluation.paired import TOP5_CLASSES
from alexnet.evaluation.predictions import describe_views
from alexnet.report.formatting import printable
from alexnet.report.paper_table import FISHER, SPARSE, MeasuredError, PaperTable, TableRow, TableRun


def as_json(table: PaperTable) -> dict[str, Any]:
    """The table as one JSON object: what `PaperTable` holds, and as `notes` the lines that stand under it."""
    content: dict[str, Any] = json.loads(json.dumps({**asdict(table), "notes": notes(table)}))
    return content


def as_markdown(table: PaperTable) -> str:
    """The table in GitHub's Markdown, and under it a list of what it was counted on."""
    heads = [f"top-{k} ({table.split}), %" for k in (1, 5)]
    heads += [f"paper: {what}, %" for what in ("top-1 (val)", "top-5 (val)", "top-5 (test)")]
    lines = ["| model | " + " | ".join(heads) + " |", "| --- |" + " ---: |" * len(heads)]
    lines += [f"| {markdown_text(row.label)} | " + " | ".join(_cells(row)) + " |" for row in table.rows]
    return "\n".join([*lines, "", *(f"- {markdown_text(note)}" for note in notes(table))])


def as_latex(table: PaperTable) -> str:
    """The table as a LaTeX `table` that needs no package, and under it what it was counted on."""
    split = latex_text(table.split)
    lines = [
        r"\begin{table}",
        r"\centering",
        r"\begin{tabular}{lrrrrr}",
        r"\hline",
        rf" & \multicolumn{{2}}{{c}}{{ours ({split}), \%}} & \multicolumn{{3}}{{c}}{{the paper's, \%}} \\",
        r"Model & Top-1 & Top-5 & Top-1 (val) & Top-5 (val) & Top-5 (test) \\",
        r"\hline",
        *(f"{latex_text(row.label)} & {' & '.join(_cells(row))} " + r"\\" for row in table.rows),
        r"\hline",
        r"\end{tabular}",
        r"\begin{flushleft}\footnotesize",
        *(latex_text(note) + r"\par" for note in notes(table)),
        r"\end{flushleft}",
        r"\end{table}",
    ]
    return "\n".join(lines)


def notes(table: PaperTable) -> list[str]:
    """What must stand under the table, in plain sentences: data, intervals, the paper's task, the runs, their cost."""
    drawn = "; a program drew these images, they are no photographs" if table.generated else ""
    lines = [
        f"Ours: {table.data_title} (checksum {table.data_checksum[:12]}), split {table.split}, {table.num_images:,} "
        f"images, {table.num_classes:,} classes to choose from, {describe_views(table.num_views)}, counted from the "
        f"probabilities in the run folders{drawn}.",
        "In brackets: 95 % Wilson interval over the images. An empty place: no run of that kind was given.",
    ]
    if any(row.top1 and row.top1.lowest is not None for row in table.rows):
        lines.append(
            "Mean of several: in parentheses the lowest and the highest; the interval is that of one network with that "
            "error."
        )
    if table.num_classes < TOP5_CLASSES:
        lines.append(f"No top-5 error is given with fewer than {TOP5_CLASSES} classes.")
    if not table.is_ilsvrc2012_val:
        lines.append(
            "The paper's figures are of a different task (ILSVRC-2012: 1,000 classes, 50,000 validation images, in the "
            "last column its test images; ten views) and are not to be compared with ours."
        )
    elif table.num_views != 10:
        lines.append(f"The paper's figures are of ten views, ours of {describe_views(table.num_views)}.")
    if table.num_views != 1 and any(row.runs for row in table.rows if row.name in (FISHER, SPARSE)):
        lines.append(f"{FISHER} and {SPARSE} look at the whole image, once.")
    lines.append("(table 1): of the test images of ILSVRC-2010; the paper has sparse coding there alone.")
    lines += [f"{row.label}: {row.how} {', '.join(row.runs)}." for row in table.rows if row.runs]
    return lines + [_cost(run) for run in table.runs]


def _cost(run: TableRun) -> str:
    """A run in a sentence: what it was, how long it took, on what."""
    words = f"Run {run.run}: recipe {run.recipe}"
    words += f" (changed: {'; '.join(run.changes)})" if run.changes else ""
    words += f", variant {run.variant}" if run.variant else ""
    words += f", started from {run.start_from}, whose hours are not counted" if run.start_from else ""
    words += f", {run.state}, not finished" if run.state != "finished" else ""
    hours = "unknown hours" if run.hours is None else f"{run.hours:{',.2f' if run.hours >= 0.1 else '.2g'}} hours"
    return f"{words}; {hours} on {run.machine}; commit {run.commit or 'unknown'}."


def _cells(row: TableRow) -> list[str]:
    """The five figures of a row as printed; they need no escaping."""
    ours = [_printed(row.top1), _printed(row.top5)] if row.runs else ["", ""]
    mark = " (table 1)" if row.name == SPARSE else ""
    papers = (row.paper.top1_error, row.paper.top5_error, row.paper.test_top5_error)
    return ours + ["-" if one is None else f"{100 * one:.1f}{mark}" for one in papers]


def _printed(figure: MeasuredError | None) -> str:
    """Percent, such as `18.2 [17.9, 18.5]`, with the lowest and the highest of several."""
    if figure is None:
        return "-"
    low, high = figure.interval
    text = f"{100 * figure.error:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
    if figure.lowest is None or figure.highest is None:
        return text
    return f"{text} ({100 * figure.lowest:.1f} to {100 * figure.highest:.1f})"


def markdown_text(text: str) -> str:
    """Text of any origin for a cell or a line of Markdown: nothing in it is taken for markup."""
    return re.sub(r"([\\`*_{}\[\]<>#|~&$!@^])", r"\\\1", str(printable(text)))


_LATEX = {
    **{one: f"\\{one}" for one in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    # These are read as something else at some places: options, and pairs that become one sign.
    **{one: f"{{{one}}}" for one in "[]`'"},
    "/": r"/\allowbreak{}",
    "\N{REPLACEMENT CHARACTER}": "?",
}


def latex_text(text: str) -> str:
    """Text of any origin for LaTeX: every character that it would read as a command stands for itself."""
    return re.sub("-(?=-)", "{-}", "".join(_LATEX.get(one, one) for one in str(printable(text))))
