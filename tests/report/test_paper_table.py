"""The paper's table: rows and errors recomputed in NumPy from probabilities that the test stored."""

import json
import math
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from markdown_it import MarkdownIt
from tests.prepared_files import write_prepared

from alexnet.data.dataset import ClassInfo, PreparedData, Split
from alexnet.data.synsets import synset_words
from alexnet.errors import RequestError, WorkError
from alexnet.evaluation.predictions import predictions_path, save_predictions
from alexnet.report.paper_table import is_ilsvrc2012_val, paper_table
from alexnet.report.paper_table_text import as_json, as_latex, as_markdown, latex_text, markdown_text, notes
from alexnet.runs.folder import RunFolder
from alexnet.runs.recipes import QUICK

NUM, NUM_CLASSES = 60, 24
NAMES = ["SIFT + FVs", "Sparse coding", "1 CNN", "5 CNNs", "1 CNN*", "7 CNNs*"]
SPECIAL = "a&b%c$d#e_f{g}h~i^j\\k|l[m]<n>`o`*p*--q"


def write_data(folder, *, seed=0, title="Made up", ids=None, splits=None):
    """A prepared data set of random pictures."""
    ids = ids or [f"c{place:02}" for place in range(NUM_CLASSES)]
    splits = splits or {"train": NUM_CLASSES, "val": NUM}
    write_prepared(folder, splits, title=title, classes=[(one, one) for one in ids], seed=seed)
    return PreparedData.open(folder)


@pytest.fixture
def data(tmp_path):
    return write_data(tmp_path / "data")


def make_run(folder, data, seed, *, start_from=None, name="quick", variant="quick-3x3", num_views=10, state="finished"):
    """A run that names about half of the images rightly, and its probabilities."""
    recipe = replace(QUICK, name=name, network=replace(QUICK.network, variant=variant))
    facts = {
        "commit": "0123456789ab",
        "machine": {"processor": "a processor", "cores": 2},
        "start_from": start_from,
        "data": {
            "folders": [str(data.folder)],
            "title": data.title,
            "checksum": data.checksum,
            "num_classes": data.num_classes,
            "splits": {key: len(split) for key, split in data.splits.items()},
        },
    }
    run = RunFolder.create(folder, recipe, facts)
    run.log("start", step=0, device="cpu")
    run.log("step", step=9, epoch=1.0, loss=0.5, elapsed_s=90.0)
    run.update_metadata(state=state, **({"duration_s": 5400.0} if state == "finished" else {}))
    split = data.splits[data.evaluation_split]
    scores = np.random.default_rng(seed).gumbel(size=(len(split), data.num_classes))
    scores[np.arange(len(split)), split.labels] += 3.0
    powers = np.exp(scores)
    probabilities = (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)
    save_predictions(run.path / "predictions", split.name, num_views, probabilities, data)
    return run.path, probabilities


def errors_by_sorting(probabilities, labels):
    """Top-1 and top-5 error, fractions, of probabilities without ties."""
    ranked = np.argsort(-probabilities, axis=1)
    return [1 - np.mean((ranked[:, :k] == labels[:, None]).any(axis=1)) for k in (1, 5)]


def wilson(rate, num):
    z = 1.959963984540054
    middle, half = rate + z**2 / (2 * num), z * math.sqrt(rate * (1 - rate) / num + z**2 / (4 * num**2))
    return (middle - half) / (1 + z**2 / num), (middle + half) / (1 + z**2 / num)


def by_name(table):
    return {row.name: row for row in table.rows}


def test_every_row_is_what_numpy_counts(tmp_path, data):
    plain = [make_run(tmp_path / f"plain{seed}", data, seed) for seed in range(3)]
    started = [make_run(tmp_path / f"started{seed}", data, 10 + seed, start_from="/runs/big") for seed in range(2)]
    sparse = make_run(tmp_path / "sparse", data, 20, name="sparse-coding")
    order = [started[1], plain[0], sparse, plain[1], started[0], plain[2]]
    table = paper_table([path for path, _ in order])
    rows, labels = by_name(table), data.splits["val"].labels
    assert list(rows) == NAMES
    assert [rows[name].label for name in NAMES] == [
        "SIFT + FVs",
        "Sparse coding",
        "1 CNN (mean of 3)",
        "3 CNNs (paper: 5)",
        "1 CNN* (mean of 2)",
        "5 CNNs* (paper: 7)",
    ]
    assert rows["SIFT + FVs"].top1 is None and rows["SIFT + FVs"].runs == ()
    for name, members in (("1 CNN", plain), ("1 CNN*", started), ("Sparse coding", [sparse])):
        errors = np.array([errors_by_sorting(probabilities, labels) for _, probabilities in members])
        for figure, each in zip((rows[name].top1, rows[name].top5), errors.T, strict=True):
            assert figure.error == pytest.approx(each.mean(), abs=1e-12)
            assert figure.interval == pytest.approx(wilson(each.mean(), NUM), abs=1e-12)
            expected = (each.min(), each.max()) if len(members) > 1 else (None, None)
            assert (figure.lowest, figure.highest) == pytest.approx(expected, abs=1e-12)
        assert set(rows[name].runs) == {str(path) for path, _ in members}
    for name, members in (("5 CNNs", plain), ("7 CNNs*", plain + started)):
        average = np.mean([probabilities.astype(np.float64) for _, probabilities in members], axis=0)
        errors = errors_by_sorting(average, labels)
        assert [rows[name].top1.error, rows[name].top5.error] == pytest.approx(errors, abs=1e-12)
        assert rows[name].top1.interval == pytest.approx(wilson(errors[0], NUM), abs=1e-12)
        assert rows[name].top1.lowest is None
        assert set(rows[name].runs) == {str(path) for path, _ in members}
    assert rows["7 CNNs*"].top1.error < rows["1 CNN"].top1.error  # averaging helps nets that err independently
    single = rows["1 CNN"].top1
    text = f"{100 * single.error:.1f} [{100 * single.interval[0]:.1f}, {100 * single.interval[1]:.1f}]"
    assert f"| {text} ({100 * single.lowest:.1f} to {100 * single.highest:.1f}) |" in as_markdown(table)


def test_the_papers_numbers_of_networks_need_no_label(tmp_path, data):
    runs = [make_run(tmp_path / f"r{seed}", data, seed, start_from="/b" if seed > 4 else None)[0] for seed in range(7)]
    assert [row.label for row in paper_table(runs).rows][2:] == [
        "1 CNN (mean of 5)",
        "5 CNNs",
        "1 CNN* (mean of 2)",
        "7 CNNs*",
    ]


def test_the_papers_errors_are_beside_ours(tmp_path, data):
    run, probabilities = make_run(tmp_path / "run", data, 0)
    table = paper_table([run])
    papers = {
        name: (row.paper.top1_error, row.paper.top5_error, row.paper.test_top5_error)
        for name, row in by_name(table).items()
    }
    assert papers == {
        "SIFT + FVs": (None, None, 0.262),
        "Sparse coding": (0.471, 0.282, None),
        "1 CNN": (0.407, 0.182, None),
        "5 CNNs": (0.381, 0.164, 0.164),
        "1 CNN*": (0.390, 0.166, None),
        "7 CNNs*": (0.367, 0.154, 0.153),
    }
    lines = as_markdown(table).splitlines()
    assert "| SIFT + FVs |  |  | - | - | 26.2 |" in lines
    assert "| Sparse coding |  |  | 47.1 (table 1) | 28.2 (table 1) | - |" in lines
    assert "| 5 CNNs |  |  | 38.1 | 16.4 | 16.4 |" in lines
    assert r"| 7 CNNs\* |  |  | 36.7 | 15.4 | 15.3 |" in lines
    top1, top5 = errors_by_sorting(probabilities, data.splits["val"].labels)
    cells = [f"{100 * e:.1f} [{100 * wilson(e, NUM)[0]:.1f}, {100 * wilson(e, NUM)[1]:.1f}]" for e in (top1, top5)]
    assert f"| 1 CNN | {cells[0]} | {cells[1]} | 40.7 | 18.2 | - |" in lines
    assert f"1 CNN & {cells[0]} & {cells[1]} & 40.7 & 18.2 & - \\\\" in as_latex(table).splitlines()


def test_the_notes_describe_data_and_runs(tmp_path, data):
    finished = make_run(tmp_path / "finished", data, 0)[0]
    cut = make_run(tmp_path / "cut", data, 1, state="interrupted", start_from="/runs/big")[0]
    RunFolder.open(cut).log("start", step=9, device="cuda")
    text = "\n".join(notes(paper_table([finished, cut])))
    for words in (
        f"Made up (checksum {data.checksum[:12]}), split val, 60 images, 24 classes, 10 views",
        "these images were generated by a program",
        "different task",
        f"1 CNN: error of {finished}.",
        f"2 CNNs* (paper: 7): average of the probabilities of {finished}, {cut}.",
        f"Run {finished}: recipe quick, variant quick-3x3; 1.50 hours on a processor, 2 cores; commit 0123456789ab.",
        f"Run {cut}: recipe quick, variant quick-3x3, started from /runs/big (its hours are not included), "
        "interrupted, not finished; 0.025 hours on a processor, 2 cores, cuda, name not recorded; commit",
    ):
        assert words in text


def test_top5_needs_twenty_classes(tmp_path):
    few = write_data(tmp_path / "few", ids=[f"c{place}" for place in range(10)])
    row = by_name(paper_table([make_run(tmp_path / "run", few, 0)[0]]))["1 CNN"]
    assert row.top1 is not None and row.top5 is None
    table = paper_table([tmp_path / "run"])
    assert re.search(r"\| 1 CNN \| [\d.]+ \[[^|]*\] \| - \| 40.7 \|", as_markdown(table))
    assert any("fewer than 20 classes" in note for note in notes(table))


def test_the_papers_task_is_recognized_by_its_classes_and_images(tmp_path, data):
    ids = list(synset_words())
    whole = np.arange(50_000, dtype=np.int64) % 1000
    classes = tuple(ClassInfo(one, one) for one in ids)

    def judged(labels, classes=classes, split="val"):
        held_out = Split(split, np.empty((0, 2, 2, 3), np.uint8), labels, [])
        return is_ilsvrc2012_val(replace(data, classes=classes, splits={split: held_out}), split)

    assert judged(whole) and judged(whole, classes[::-1])
    assert not judged(whole[:-1])
    assert not judged(whole, split="test")
    assert not judged(whole, (ClassInfo("n00000000", "another"), *classes[1:]))
    table = paper_table([make_run(tmp_path / "run", data, 0, num_views=1)[0]], num_views=1)
    for is_it in (True, False):
        text = "\n".join(notes(replace(table, is_ilsvrc2012_val=is_it)))
        assert ("different task" in text) != is_it
        assert ("The paper's errors are for ten views, ours for 1 view." in text) == is_it


def test_json_comes_back_as_it_was(tmp_path, data):
    table = paper_table([make_run(tmp_path / "run", data, 0)[0], make_run(tmp_path / "other", data, 1)[0]])
    content = as_json(table)
    assert json.loads(json.dumps(content, allow_nan=False)) == content
    assert [row["name"] for row in content["rows"]] == NAMES
    assert content["rows"][2]["top1"]["error"] == by_name(table)["1 CNN"].top1.error
    assert content["rows"][4]["top1"] is None and content["rows"][4]["paper"]["top1_error"] == 0.39
    assert (content["split"], content["num_images"], content["num_views"]) == ("val", NUM, 10)
    assert [run["hours"] for run in content["runs"]] == [1.5, 1.5]


def test_runs_without_sound_probabilities_are_refused(tmp_path, data):
    run = make_run(tmp_path / "my run", data, 0)[0]
    with pytest.raises(RequestError, match=rf"`alexnet evaluate '{run}' --split val --views 1`"):
        paper_table([run], num_views=1)
    path = predictions_path(run / "predictions", "val", 10)
    # As earlier versions wrote it: without a checksum of the whole file.
    content = path.read_bytes().replace(b'"content_sha256"', b'"of_no_checksum"')
    begin = 8 + int.from_bytes(content[:8], "little")
    # Behind the header lie the samples, then the probabilities.
    for place, words in ((begin, "not in the order"), (len(content) - 1, "are not those that were saved")):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(WorkError, match=words):
            paper_table([run])
    path.write_bytes(content)
    assert paper_table([run]).rows[2].top1 is not None


def test_runs_of_different_data_are_refused_with_the_difference(tmp_path, data):
    run = make_run(tmp_path / "run", data, 0)[0]
    ids = [one.id for one in data.classes]
    swapped = write_data(tmp_path / "swapped", ids=[ids[1], ids[0], *ids[2:]], seed=1, title="Swapped")
    tested = write_data(tmp_path / "tested", splits={"train": 24, "test": 30})
    fewer = write_data(tmp_path / "fewer", ids=ids[:20])
    for other, words in (
        (swapped, r"'Made up' and 'Swapped' .*in its classes .*number 0 is 'c01', the other's 'c00'"),
        (tested, r"60 images of split 'val' and 30 of 'test'"),
        (fewer, r"24 classes and 20, .*number 20 is 'none', the other's 'c20'"),
    ):
        second = make_run(tmp_path / f"on {other.folder.name}", other, 1)[0]
        with pytest.raises(RequestError, match=rf"differ in their data: .*{words}"):
            paper_table([run, second])
        shutil.rmtree(other.folder)
        with pytest.raises(RequestError, match="differ in their data: 'Made up' and"):
            paper_table([run, second])


def test_data_that_were_prepared_again_are_refused(tmp_path, data):
    run = make_run(tmp_path / "run", data, 0)[0]
    shutil.rmtree(data.folder)
    write_data(data.folder, seed=1)
    with pytest.raises(RequestError, match="holds other data"):
        paper_table([run])


def test_runs_measured_on_one_other_data_set(tmp_path, data):
    """Networks trained on different images meet on the images that both were measured on."""
    other = write_data(tmp_path / "other", seed=1)
    own = make_run(tmp_path / "own", data, 0)[0]
    foreign, _ = make_run(tmp_path / "foreign", other, 1)
    with pytest.raises(RequestError, match=rf"--views 10 --data {data.folder}`"):
        paper_table([own, foreign], data_folder=data.folder)
    probabilities = np.random.default_rng(4).dirichlet(np.ones(NUM_CLASSES), NUM).astype(np.float32)
    (foreign / "predictions" / data.checksum[:12]).mkdir()
    save_predictions(foreign / "predictions" / data.checksum[:12], "val", 10, probabilities, data)
    table = paper_table([own, foreign], data_folder=data.folder)
    # Not repetitions of one training: not averaged.
    rows = {row.label: row for row in table.rows if row.name == "1 CNN"}
    labels = [f"1 CNN: trained on Made up ({one.checksum[:12]})" for one in (data, other)]
    assert list(rows) == labels
    row = rows[labels[1]]
    assert row.top1.error == pytest.approx(errors_by_sorting(probabilities, data.splits["val"].labels)[0])


def test_only_repetitions_of_one_training_are_averaged(tmp_path, data):
    runs = [make_run(tmp_path / f"r{number}", data, number)[0] for number in range(7)]

    def change(number, **changes):
        run = RunFolder(runs[number])
        run.change_recipe(replace(run.recipe(), **changes))

    training, optimizer = QUICK.training, QUICK.optimizer
    change(1, training=replace(training, seed=5, workers=3, device="cpu"))  # a repetition of run 0
    change(2, optimizer=replace(optimizer, learning_rate=0.01))
    change(3, optimizer=replace(optimizer, learning_rate=0.01), training=replace(training, seed=9))
    longer = {"name": "modern", "schedule": replace(QUICK.schedule, epochs=99)}
    change(4, **longer)
    change(5, **longer, optimizer=replace(optimizer, learning_rate=0.5, momentum=0.5, batch_size=7))
    RunFolder(runs[6]).update_metadata(state="interrupted")
    table = paper_table(runs)
    rows = [row for row in table.rows if row.name == "1 CNN"]
    changes = "optimizer.batch_size: 256 -> 7; optimizer.learning_rate: 0.05 -> 0.5 and 1 more"
    assert {row.label: row.runs for row in rows} == {
        "1 CNN: quick (mean of 2)": (str(runs[0]), str(runs[1])),
        "1 CNN: quick, optimizer.learning_rate: 0.05 -> 0.01 (mean of 2)": (str(runs[2]), str(runs[3])),
        "1 CNN: modern": (str(runs[4]),),
        f"1 CNN: modern, {changes}": (str(runs[5]),),
        "1 CNN: quick, not finished": (str(runs[6]),),
    }
    assert len([line for line in as_markdown(table).splitlines() if line.startswith("| 1 CNN:")]) == 5
    average = by_name(table)["5 CNNs"]
    assert average.method == "average of the probabilities of networks that differ in more than their seeds,"
    assert set(average.runs) == set(map(str, runs)) and average.label == "7 CNNs (paper: 5)"


def test_networks_with_the_classes_in_another_order(tmp_path, data):
    other = write_data(tmp_path / "other", seed=1)
    swapped = replace(
        data,
        classes=data.classes[::-1],
        splits={"val": replace(data.splits["val"], labels=NUM_CLASSES - 1 - data.splits["val"].labels)},
    )
    runs, probabilities = [], []
    for seed in range(2):
        run = make_run(tmp_path / f"run{seed}", other, seed)[0]
        probabilities.append(np.random.default_rng(seed).dirichlet(np.ones(NUM_CLASSES), NUM).astype(np.float32))
        (run / "predictions" / data.checksum[:12]).mkdir()
        save_predictions(run / "predictions" / data.checksum[:12], "val", 10, probabilities[-1], swapped)
        runs.append(run)
    rows = by_name(paper_table(runs, data_folder=data.folder))
    average = np.mean(np.array(probabilities, np.float64), axis=0)
    assert rows["5 CNNs"].top1.error == pytest.approx(errors_by_sorting(average, swapped.splits["val"].labels)[0])
    own = make_run(tmp_path / "own", data, 5)[0]
    with pytest.raises(RequestError, match=r"differs from .* in its classes: .*number 0 is 'c00', the other's 'c23'"):
        paper_table([*runs, own], data_folder=data.folder)


def test_dense_views_have_a_table_too(tmp_path, data):
    run = make_run(tmp_path / "run", data, 0, num_views="dense")[0]
    assert "dense views" in as_markdown(paper_table([run], num_views="dense"))
    with pytest.raises(RequestError, match="--views 10"):
        paper_table([run])


def test_runs_without_a_row_are_refused(tmp_path, data):
    with pytest.raises(RequestError, match="at least one run"):
        paper_table([])
    run = make_run(tmp_path / "run", data, 0)[0]
    with pytest.raises(RequestError, match="twice"):
        paper_table([run, tmp_path / "data" / ".." / "run"])
    six = make_run(tmp_path / "six", data, 1, variant="six-conv")[0]
    with pytest.raises(RequestError, match="no row for it"):
        paper_table([run, six])
    fine = make_run(tmp_path / "fine", data, 1, variant="six-conv", start_from=str(six))[0]
    assert by_name(paper_table([fine]))["1 CNN*"].runs == (str(fine),)
    lost = RunFolder.create(tmp_path / "lost", QUICK, {})
    with pytest.raises(WorkError, match="does not name the"):
        paper_table([lost.path])


def test_one_network_under_two_names_is_noted(tmp_path, data):
    runs = [make_run(tmp_path / name, data, 0, variant=name)[0] for name in ("minus-fc6", "minus-fc7", "minus-conv3")]
    assert [note for note in notes(paper_table(runs)) if note.startswith("minus-")] == [
        "minus-fc6 and minus-fc7 are the same network."
    ]


def test_special_characters_are_escaped(tmp_path):
    data = write_data(tmp_path / "data", title=SPECIAL + "\n| forged | 0.0 |")
    run = make_run(tmp_path / "a|b _c_ [d](e) <i>", data, 0)[0]
    table = paper_table([run])
    page = MarkdownIt("commonmark").enable("table").render(as_markdown(table))
    assert page.count("<table>") == 1 and page.count("<tr>") == 7 and page.count("<li>") == len(notes(table))
    assert not re.search(r"<(em|strong|code|a|i)\b", page)
    text = page.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", '"').replace("&amp;", "&")
    assert SPECIAL in text and str(run) in text
    latex = as_latex(table)
    assert latex.count(r"\begin{") == latex.count(r"\end{") == 3
    assert latex_text(SPECIAL) in latex


def test_markdown_in_cells():
    cell = markdown_text("x|y\\|z")
    page = MarkdownIt("commonmark").enable("table").render(f"| a | b |\n| --- | --- |\n| {cell} | 1 |")
    assert "<td>x|y\\|z</td>" in page and page.count("<td>") == 2


def test_latex_specials_one_by_one():
    expected = {
        "&": r"\&",
        "%": r"\%",
        "$": r"\$",
        "#": r"\#",
        "_": r"\_",
        "{": r"\{",
        "}": r"\}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "\\": r"\textbackslash{}",
    }
    assert {one: latex_text(one) for one in expected} == expected
    assert latex_text("".join(expected)) == "".join(expected.values())
    assert latex_text("---") == "{-}{-}-" and latex_text("a\nb\udcff") == r"a\textbackslash{}nb\textbackslash{}xff"
