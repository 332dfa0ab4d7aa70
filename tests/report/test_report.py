"""What is made of results: the file, the page, the plots, the comparison, the figures in the documentation."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from fastcnn.__main__ import app
from fastcnn.workbench.report import commands, docs, roofline
from fastcnn.workbench.report.cases import TINY, Case, Layer, capture
from fastcnn.workbench.report.results import Results, assemble, file_name
from fastcnn.workbench.report.roofline import Ceilings, floor_seconds
from fastcnn.workbench.report.summary import geometric_mean, slower, speed_up

from .made_up import CEILINGS, FACTORS, file
from .made_up import row as made_row

ROOT = Path(__file__).resolve().parents[2]


def some_cases() -> list[Case]:
    networks = [Case("network", name, name, batch) for name in ("lenet5", "alexnet") for batch in (1, 8)]
    layers = [
        Case("op", call.function, call.label, call=call, networks=(("alexnet", 1),)) for call in capture("alexnet")
    ]
    growing = [Case("network", "googlenet", "googlenet", image=image) for image in (0, 160, 320)]
    tiny = [Case("overhead", call.function, f"tiny {call.function}", call=call) for call in TINY]
    return networks + layers + growing + tiny


@pytest.fixture(scope="module")
def made() -> Results:
    return file(some_cases())


@pytest.fixture(scope="module")
def folder(made, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    made.save(folder / "made-up.json")
    return folder


def test_file_reads_back(made, folder):
    read = Results.load(folder / "made-up.json")
    assert len(read.rows) == len(made.rows)
    rows = read.find("network", "alexnet", 8)
    assert set(rows) == set(FACTORS)
    assert speed_up(rows, "eager") == pytest.approx(2.0, rel=0.02)
    assert speed_up(rows, "best") == pytest.approx(0.8, rel=0.02)
    assert speed_up(rows, "mnn") is None


def test_dtypes_are_cases_of_their_own():
    case = Case("op", "conv2d", "tiny conv2d", call=TINY[3])
    rows = [made_row(case, "fastcnn", 1.0, dtype=dtype) for dtype in ("float32", "float16")]
    assert len(assemble(rows, {"commit": {}}).cases) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "no such result file"), ("{", "not a result file"), ("{}", "has format 1, this one None")],
)
def test_other_files_are_refused(tmp_path, text, message):
    path = tmp_path / "other.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=message):
        Results.load(path)


def test_page_is_self_contained(folder, tmp_path):
    pytest.importorskip("matplotlib")
    result = CliRunner().invoke(app, ["report", str(folder / "made-up.json"), "--output", str(tmp_path)])
    assert result.exit_code == 0, result.output
    html = (tmp_path / "report.html").read_text("utf-8")
    assert not re.search(r"(src|href)=['\"](?!data:)", html)
    for name in ("networks", "latency", "layers", "roofline", "growth", "memory", "overhead"):
        png = tmp_path / f"made-up-{name}.png"
        assert png.read_bytes()[:4] == b"\x89PNG"
    assert html.count("<img") == 7
    assert "MNN is not installed &lt;b&gt;" in html
    assert "conv2d 5x5 64-&gt;192 27x27" in html


def test_report_against_an_older_file(folder, tmp_path):
    pytest.importorskip("matplotlib")
    file(some_cases()[:4], slower=1.5, seed=1).save(tmp_path / "new.json")
    arguments = ["report", str(tmp_path / "new.json"), "--against", str(folder / "made-up.json")]
    result = CliRunner().invoke(app, [*arguments, "--output", str(tmp_path / "page")])
    assert result.exit_code == 0, result.output
    assert "lenet5, batch 1" in result.output
    assert "Slower than" in (tmp_path / "page" / "report.html").read_text("utf-8")


def test_the_table_of_operators_is_of_batch_1(folder, tmp_path):
    wider = [replace(case, batch=8) for case in some_cases() if case.kind == "op"]
    for name, cases in (("one", some_cases()), ("more", [*some_cases(), *wider])):
        made = file(cases)
        first = next(r for r in made.rows if r.contender == "eager" and r.label.startswith("conv2d 3x3"))
        first.data["stats"]["median"] *= 1.5
        made.save(tmp_path / name / "results" / "made-up.json")
    text = "<!-- fastcnn: table operators --><!-- end -->"
    one, more = (docs.filled(text, tmp_path / name / "results") for name in ("one", "more"))
    assert one == more
    least, most = map(float, re.search(r"\| conv2d 3x3 \| 3 \| [\d.]+ \| ([\d.]+) \| ([\d.]+) \|", one).groups())
    assert 1.9 < least < 2.1 < 2.8 < most < 3.2


def test_slower_needs_more_than_a_slower_machine(made):
    assert slower(file(some_cases(), seed=1), made) == []
    found = slower(file(some_cases(), slower=1.5, seed=1), made)
    assert len(found) == len(some_cases())
    assert all(change.ratio == pytest.approx(1.5, rel=0.03) for change in found)
    drifted = json.loads(json.dumps(file(some_cases(), seed=1).data))
    for row in drifted["benchmarks"]:
        row["stats"]["median"] *= 1.5
    assert slower(Results(drifted), made) == []


def test_report_without_files_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["report"])
    assert result.exit_code == 1
    assert "no result file was given" in result.output


def test_bench_refuses_in_words():
    for arguments, message in (
        (["--networks", "lenet6"], "unknown network 'lenet6'"),
        (["--kinds", "layer"], "unknown kind 'layer'; allowed: network, classifier, op, overhead"),
        (["--batches", "1,x"], "batch 'x' is not a whole number"),
        (["--networks", "lenet5", "--match", "vgg"], "no case is called 'vgg'"),
    ):
        result = CliRunner().invoke(app, ["bench", *arguments])
        assert result.exit_code == 1
        assert message in result.output


def test_bench_writes_a_result_file(tmp_path, monkeypatch):
    monkeypatch.setattr(roofline, "measure", lambda *_: CEILINGS)
    console = Console(width=200, record=True)
    arguments = {"kinds": ("overhead",), "networks": "lenet5", "contenders": "fastcnn,eager", "match": "tiny add_relu"}
    commands.bench(console, device="cpu", output=tmp_path, **arguments)
    read = Results.load(tmp_path / file_name())
    assert [row.contender for row in read.rows] == ["fastcnn", "eager"]
    text = console.export_text()
    assert "tiny add_relu, batch 1" in text
    assert "2 rows" in text


def test_bench_updates_a_result_file(tmp_path, monkeypatch):
    monkeypatch.setattr(roofline, "measure", lambda *_: CEILINGS)
    monkeypatch.setattr("fastcnn.workbench.report.results.commit", lambda: {"id": "one", "dirty": False})
    file = tmp_path / "made.json"

    def bench(**options):
        arguments = {"kinds": ("overhead",), "networks": "lenet5", "contenders": "fastcnn,eager", "output": file}
        commands.bench(Console(quiet=True), device="cpu", **{**arguments, **options})
        return Results.load(file)

    before = bench(match="tiny add")
    assert {row.subject for row in before.rows} == {"add_relu"}
    both = bench(match="tiny max_pool2d", update=True)
    assert both.rows[:2] == before.rows
    assert [row.subject for row in both.rows] == ["add_relu", "add_relu", "max_pool2d", "max_pool2d"]
    monkeypatch.setattr("fastcnn.workbench.report.results.commit", lambda: {"id": "two", "dirty": False})
    again = bench(match="tiny add", update=True, contenders="fastcnn")
    assert [(row.subject, row.commit) for row in again.rows] == [
        ("add_relu", "two"), ("max_pool2d", "one"), ("max_pool2d", "one"),
    ]  # fmt: skip
    assert again.rows[1:] == both.rows[2:]

    data = {**again.data, "fastcnn": {**again.data["fastcnn"], "device": "another"}}
    Results(data).save(file)
    with pytest.raises(ValueError, match=r"made.json is of another with \d+ threads, this is "):
        bench(update=True)


def test_table_names_the_missing(made):
    console = Console(width=200, record=True)
    commands.print_table(made, console)
    text = console.export_text()
    assert "missing in 1 cases: mnn: MNN is not installed" in text
    assert re.search(r"alexnet, batch 8 .* 2\.\d+", text)


@pytest.mark.parametrize(
    ("value", "text"), [(2.5, "2.5 s"), (0.1234, "123 ms"), (0.0123, "12.3 ms"), (4.2e-5, "42 us"), (5e-9, "5 ns")]
)
def test_seconds(value, text):
    assert commands.seconds(value) == text


def test_floor_is_the_larger_of_work_and_traffic():
    ceilings = Ceilings({"float32": 1e9}, {1024: 1e9, 1 << 20: 1e8})
    conv = Case("overhead", "conv2d", "tiny conv2d", call=TINY[3])
    (layer,) = conv.work
    assert floor_seconds(conv, ceilings) == pytest.approx(layer.flops / 1e9)
    add = Case("overhead", "add_relu", "tiny add_relu", call=TINY[0])
    slow = replace(ceilings, flops={"float32": 1e15})
    assert floor_seconds(add, slow) == pytest.approx(3 * 8 * 4 / 1e9)
    assert ceilings.bytes_per_second(1 << 21) == 1e8
    assert ceilings.bytes_per_second(1) == 1e9


def test_geometric_mean():
    assert geometric_mean([1.0, 4.0]) == pytest.approx(2.0)


# ---- figures in the documentation --------------------------------------------------------------------------


def test_figures_are_filled_in(folder):
    text = (
        "It takes <!-- fastcnn: time alexnet 8 fastcnn -->?<!-- end -->, "
        "<!-- fastcnn(made-up): ratio alexnet 8 eager --><!-- end --> times less.\n"
        "<!-- fastcnn: table networks -->\nold\n<!-- end -->\n"
        "<!-- fastcnn: table operators -->\n<!-- end -->\n"
    )
    new = docs.filled(text, folder)
    assert re.search(r"fastcnn -->\d+ ms<!-- end -->", new)
    assert re.search(r"eager -->(1\.9\d|2\.0\d)<!-- end -->", new)
    assert "| alexnet | 8 |" in new
    assert re.search(r"\| conv2d 3x3 \| \d+ \| (1\.9\d|2\.0\d) \|", new)
    assert "old" not in new
    assert docs.filled(new, folder) == new
    example = "    see <!-- fastcnn: time nothing 1 nobody -->?<!-- end -->"
    assert docs.filled(example, folder) == example


def test_a_figure_comes_from_the_first_file_that_has_it(folder):
    case = Case("classifier", "timm:dla34", "timm:dla34")
    vars(case)["work"] = (Layer("dla34", 6_120_000_000, 63_000_000, 602_112),)
    made = [made_row(case, name, 0.02 * factor, share=0.987) for name, factor in (("fastcnn", 1), ("eager", 2))]
    assemble(made, file([case]).about).save(folder / "others.json")
    text = docs.filled(
        "<!-- fastcnn: table classifiers --><!-- end --><!-- fastcnn: time alexnet 8 --><!-- end -->", folder
    )
    assert re.search(r"\| timm dla34 \| 6\.12 \| 99% \| [\d.]+ ms \| (1\.9\d|2\.0\d) \| - \|", text)
    assert re.search(r"alexnet 8 -->\d+ ms<", text)


def test_the_table_of_memory(folder):
    held = {"eager": 200, "fastcnn": 300, "fastcnn_unpacked": 150}
    case = Case("network", "lenet5", "lenet5")
    made = [made_row(case, name, mib / 1e4, memory=mib << 20) for name, mib in held.items()]
    without = [made_row(replace(case, batch=8), name, 1.0) for name in held]
    assemble([*made, *without], file([case]).about).save(folder / "a_first.json")
    text = docs.filled("<!-- fastcnn: table memory --><!-- end -->", folder)
    assert re.search(r"\| lenet5 \| 200 \| 300 \| 150 \| 0\.[45]\d \|", text)
    assert text.count("lenet5") == 1, "a batch without memory is left out"


@pytest.mark.parametrize(
    ("marker", "message"),
    [
        ("fastcnn: time vgg16 1", "vgg16 at batch 1 was not run"),
        ("fastcnn: speed alexnet 1", "no such figure"),
        ("fastcnn(cray): device", "no result file cray"),
    ],
)
def test_a_figure_that_is_not_there_is_refused(folder, marker, message):
    with pytest.raises(ValueError, match=message):
        docs.filled(f"<!-- {marker} --><!-- end -->", folder)


def test_documentation_agrees_with_the_results():
    """Every marked figure of README.md and docs/ is what the result files say; --write-docs makes it so."""
    for document in docs.documents(ROOT):
        text = document.read_text("utf-8")
        assert docs.filled(text, ROOT / "results", str(document)) == text, (
            f"python -m fastcnn report --write-docs: {document}"
        )
