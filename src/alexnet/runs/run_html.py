"""A run as a notebook shows it: progress, errors, changed settings and the curve of the error."""

import hashlib
from datetime import timedelta

from markupsafe import Markup

from alexnet.figures.notebook_html import Cell, result_html, table_html
from alexnet.runs.folder import RunFolder
from alexnet.runs.learning_curves import learning_curve
from alexnet.runs.overview import describe_run


def run_html(run: RunFolder) -> str:
    """A run as HTML for a notebook; a run that cannot be read is its reason."""
    described, title = describe_run(run.path), f"run {run.path}"
    if "unreadable" in described:
        return result_html(title, table_html([], [["cannot be read", described["unreadable"]]]))
    rows: list[tuple[str, Cell]] = [("state", described["state"]), ("recipe", described["recipe"])]
    rows += [("network", described["variant"])] if described["variant"] else []
    if described["imported_from"]:
        rows.append(("imported from", described["imported_from"]))
    else:
        rows.append(("changed settings", "; ".join(described["changes"]) or "none"))
        rows.append(("data", described["data"] or "unknown"))
    if described["num_steps"]:
        rows.append(("steps", f"{described['step']:,} of {described['num_steps']:,}"))
    if not described["imported_from"]:
        rows.append(("training time", str(timedelta(seconds=round(described["seconds"])))))
    if described["top1_error"] is not None:
        error, lowest = described["top1_error"], described["lowest_error"]
        text = f"{100 * error:.2f} % after the last epoch, at its lowest {100 * lowest:.2f} %"
        rows.append((f"top-1 error on {described['split'] or 'validation images'}", text))
    parts = [table_html([], rows)]
    if evaluations := run.evaluations():
        parts.append(
            table_html(
                ["split", "views", "images", "top-1 error, %", "95 % interval", "top-5 error, %", "95 % interval"],
                [
                    [
                        one["split"],
                        str(one["num_views"]),
                        one["num_images"],
                        *(
                            cell
                            for error, interval in (
                                (one["top1_error"], one["top1_interval"]),
                                (one["top5_error"], one["top5_interval"]),
                            )
                            for cell in (f"{100 * error:.2f}", "{:.2f} to {:.2f}".format(*(100 * x for x in interval)))
                        ),
                    ]
                    for one in evaluations.values()
                ],
                caption="evaluations",
            )
        )
    # The output of several cells is one page, in which ids must differ.
    digest = hashlib.sha256(repr(described).encode("utf-8", "surrogateescape")).hexdigest()
    split = described["split"] or "validation"
    if curve := learning_curve(run.events(), "top1_error", split, name=f"curve-{digest[:12]}"):
        parts.append(Markup(f'<div style="max-width: 32em">{curve}</div>'))
    return result_html(title, *parts)
