"""The notebooks in docs/ run to their end, and show their results as tables and pictures."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tests.html_page import Page

FOLDER = Path(__file__).parent.parent / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebooks_are_stored_without_outputs(path: Path) -> None:
    for cell in code_cells(json.loads(path.read_text(encoding="utf-8"))):
        assert cell["outputs"] == [] and cell["execution_count"] is None


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebooks_run_to_their_end(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed; it is in the extra `dev`")
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed; it is in the extra `dev`")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed; it is in the extra `dev`")
    beside, temporary = tmp_path / "notebooks", tmp_path / "temporary"
    beside.mkdir()
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    notebook = nbformat.read(path, as_version=4)
    client = nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": beside}})
    client.execute()  # raises at the first cell that does
    assert not list(beside.iterdir())  # so it can be run again
    num_results = 0
    errors, pages = [], []
    for cell in code_cells(notebook):
        for output in cell["outputs"]:
            assert output["output_type"] != "error"
            assert output.get("name") != "stderr", output["text"]
            if output["output_type"] == "execute_result":
                text = output["data"]["text/plain"]
                assert text.count("\n") == 0 and len(text) < 300, text
                errors += re.findall(r"Evaluation\(.* top-1 error ([\d.]+) %", text)
                pages += re.findall(r"'(.*\.html)'", text)
                if "(" in text and "alexnet." in cell["source"] and not text.startswith("["):
                    Page(output["data"]["text/html"])
                    num_results += 1
            elif output["output_type"] == "display_data":  # what is left of a progress bar
                html = output["data"]["text/html"]
                assert html and "<progress" not in html
    assert num_results >= 6
    assert errors and all(float(error) < 40 for error in errors)  # 90 is chance
    assert pages and all(Path(page).is_file() for page in pages)
