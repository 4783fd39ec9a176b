import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
import yaml

import compare
import report
from prunus import layout
from prunus.reporting.channel_figures import accuracy_against_channels, layer_ratios
from prunus.reporting.drawing import legend_columns
from prunus.reporting.figures import INLINE_ONLY, SAVED
from prunus.reporting.files import read_table
from prunus.reporting.names import METHOD_NAMES, look, method_name
from prunus.reporting.page import render

DVC = yaml.safe_load((Path(report.__file__).parents[1] / "dvc.yaml").read_text())["stages"]

VOID = {"meta", "br", "hr", "img", "link", "input"}


class Page(HTMLParser):
    """Checks that elements are closed in order and collects the ids, attributes and text outside of figures."""

    def __init__(self, source):
        super().__init__()
        self.open, self.ids, self.tags, self.words = [], [], [], []
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.handle_startendtag(tag, attributes)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.ids += [value for name, value in attributes if name == "id"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "svg" not in self.open and "style" not in self.open:
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).replace("\u202f", " ").split())


def _report(run):
    run(compare)
    run(report)
    return layout.REPORT.read_text(encoding="utf-8")


def _text(run, study):
    """The words of the report, without drawing its figures."""
    run(compare)
    tables = {name: read_table(layout.TABLES / f"{name}.csv", report.COMPARE) for name in report.TABLES}
    metrics = json.loads(layout.METRICS.read_text())
    return Page(render(study, tables, metrics, dict.fromkeys(SAVED | INLINE_ONLY, ""), "mipp")).text


def test_report_stands_alone(build, run):
    build()
    source = _report(run)
    page = Page(source)
    assert "http" not in source
    assert not {tag for tag, _ in page.tags} & {"script", "link", "img", "iframe"}
    assert len(page.ids) == len(set(page.ids))
    for name, value in (item for _, attributes in page.tags for item in attributes.items()):
        if name in ("href", "xlink:href", "src"):
            assert value.startswith("data:") or value.removeprefix("#") in page.ids
    for target in re.findall(r"url\(#([^)]+)\)", source):
        assert target in page.ids
    figures = [attributes for tag, attributes in page.tags if attributes.get("class") == "card"]
    assert len(figures) == 7
    assert all(figure["role"] == "img" and len(figure["aria-label"]) > 40 for figure in figures)


def test_findings_of_two_seeds_say_that_they_are_too_few(build, run):
    text = _text(run, build(seeds=[0, 1]))
    assert (
        "At equal density (39.4 %) InCoP-IF takes 84 % fewer retraining epochs than SAP (95 % interval 84 to 84" in text
    )
    assert "What InCoP-IF and InCoP-GF save is confounded" in text
    assert "2 seeds: too few seeds to tell methods apart" in text
    assert "Final densities differ, from 32.8 % (One-shot) to 39.4 % (SAP)" in text


def test_findings_of_enough_seeds_give_a_verdict(build, run):
    text = _text(run, build(seeds=range(4), methods=["sap", "lth"], iterations=3))
    assert "too few" not in text
    assert "differs significantly from SAP's" in text
    assert "Holm-adjusted p" in text


def test_one_seed_one_method_without_flow(build, run):
    build(seeds=[0], methods=["sap"], iterations=1)
    text = Page(_report(run)).text
    assert "SAP reached test accuracy" in text
    assert "1 seed: too few" in text
    assert "Paired tests" not in text
    assert "nan" not in re.sub(r"[a-z]nan|nan[a-z]", "", text.lower())


def test_one_seed_two_methods_without_a_baseline(build, run):
    text = _text(run, build(seeds=[0], methods=["one_shot", "incop_if"], iterations=2))
    assert "With one seed nothing can be tested" in text
    assert "fewer retraining epochs than One-shot" in text


def test_more_than_one_device_is_said(build, run):
    study = build(methods=["sap"], iterations=1)
    path = layout.iteration_record(0, "sap", 1)
    path.write_text(path.read_text().replace('"device": "cpu"', '"device": "A GPU"'))
    layout.iteration_record(1, "sap", 1).unlink()
    text = _text(run, study)
    assert "more than one device: cpu and A GPU" in text
    assert "1 stage run left no record" in text


def test_removed_channels_have_figures_and_tables(build, run):
    build(seeds=[0, 1], methods=["sap", "mipp", "iter_snip", "thinet"], imposed=["thinet"])
    page = Page(_report(run))
    figures = [attributes["aria-label"] for _, attributes in page.tags if attributes.get("class") == "card"]
    assert len(figures) == 9
    assert "Left out, since they remove hardly a whole channel: SAP." in page.text
    assert "4 methods (1 also at an imposed ratio), 2 seeds" in page.text
    assert "MIPP (70.0 % removed) is 3.33 ± 0.00 times as fast as the dense network" in page.text
    assert "10,000 → 900 93,900 → 8,451 1.00 → 0.860 (1.16×) 80.0 → 24.0 (3.33×)" in page.text
    assert "the same answer: IterSNIP in 2 of 10 runs, from 65 % sparsity on" in page.text
    assert "Layer collapse" in page.text
    assert "Accuracy at the ratios of MIPP" in page.text
    assert "ThiNet at MIPP's ratio" in page.text


def test_a_baseline_that_removes_channels_has_its_speed_told(build, run):
    text = _text(run, build(methods=["thinet"], iterations=5))
    assert "ThiNet reached test accuracy" in text
    assert "ThiNet (50.0 % removed) is 2.00 ± 0.00 times as fast" in text
    assert "Left out" not in text


def test_a_speed_that_was_not_measured_is_not_told(build, run):
    study = build(seeds=[0], methods=["thinet"], iterations=2)
    layout.record("seed0", "thinet/evaluate").unlink()
    text = _text(run, study)
    assert "ThiNet (20.0 % removed) was not timed for every seed." in text
    assert "times as fast" not in text


def test_without_removed_channels_nothing_is_said_of_them(build, run):
    text = _text(run, build(methods=["sap", "lth"], iterations=2))
    for word in ("Whole channels", "cut out", "times as fast", "Layer collapse", "untrainable", "imposed"):
        assert word not in text


def test_picture_of_nothing_removed_says_so():
    summary = pd.DataFrame({"method": ["sap"], "channels_removed_mean": [0.0]})
    for draw in (accuracy_against_channels, layer_ratios):
        words = [text.get_text() for text in draw({"summary": summary, "channels": None}, ["sap"]).texts]
        assert words == ["No method of this study removed whole channels."]


def test_curves_of_channels_are_of_the_methods_that_removed_any(build, run):
    study = build(seeds=[0, 1], methods=["sap", "mipp", "iter_snip"])
    run(compare)
    tables = {name: read_table(layout.TABLES / f"{name}.csv", report.COMPARE) for name in report.TABLES}
    axes = accuracy_against_channels(tables, study.methods).axes[0]
    curves = {line.get_label(): line for line in axes.lines if not line.get_label().startswith("_")}
    assert set(curves) == {"dense network", "MIPP", "IterSNIP"}
    assert 1 - curves["MIPP"].get_xdata() == pytest.approx([0.14, 0.28, 0.42, 0.56, 0.7])
    ticks = {round(at, 6): label for at, label in zip(axes.get_xticks(), axes.get_xticklabels(), strict=True)}
    assert ticks[0.5].get_text() == "50\u202f%" and ticks[1.0].get_text() == "0\u202f%"
    assert axes.get_ylim()[0] > 0.5  # the collapsed network at 10 % is out of the frame, and the figure says so
    assert "below the frame: untrainable collapse" in [text.get_text() for text in axes.texts]
    cells = layer_ratios(tables, study.methods).axes[0]
    assert [label.get_text() for label in cells.get_yticklabels()] == ["MIPP", "IterSNIP"]
    # MIPP took none of conv1, 4 of 20 and 10 of 70 channels an iteration: 0, 0.2 and 1/7 with mean 0.1143
    assert [text.get_text() for text in cells.texts][:3] == ["0", "1.7", "1.2"]


def test_thirteen_methods_can_be_told_apart():
    methods = [name for name in METHOD_NAMES if name != "lth"][:13]
    looks = look(methods)
    assert len({(style["color"], style["linestyle"]) for style in looks.values()}) == 13
    assert len({(style["color"], style["marker"]) for style in looks.values()}) == 13


def test_figures_of_the_graph_are_the_ones_saved():
    outs = DVC["report"]["outs"]
    assert {f"reports/figures/{name}.png" for name in SAVED} == {path for path in outs if path.endswith(".png")}
    tables = {path for path in DVC["report"]["deps"] if path.startswith("reports/tables/")}
    assert tables == {f"reports/tables/{name}.csv" for name in report.TABLES}


def test_figures_without_times_or_pruning(build, run):
    build(methods=["sap", "incop_if"], iterations=1)
    layout.iteration_record(0, "sap", 1).unlink()
    for seed in (0, 1):
        for method in ("sap", "incop_if"):
            path = layout.evaluation(seed, method) / "iterations.csv"
            pd.read_csv(path).assign(density=1.0).to_csv(path, index=False)
    source = _report(run)
    assert "times not recorded" in source
    assert "At equal density (100.0" in source


def test_report_and_figures_are_the_same_bytes_every_time(build, run):
    build(seeds=[0], methods=["incop_if"], iterations=2)
    _report(run)
    files = [layout.REPORT, *(layout.FIGURES / f"{name}.png" for name in SAVED)]
    before = [path.read_bytes() for path in files]
    run(report)
    assert [path.read_bytes() for path in files] == before
    assert all(content.startswith(b"\x89PNG") for content in before[1:])
    assert {path.name for path in layout.FIGURES.iterdir()} == {f"{name}.png" for name in SAVED}


@pytest.mark.parametrize("name", ["tables/summary.csv", "metrics.json"])
def test_missing_input_names_the_file_and_the_command(build, run, capsys, name):
    build(methods=["sap"], iterations=1)
    run(compare)
    (layout.METRICS.parent / name).unlink()
    with pytest.raises(SystemExit) as ended:
        run(report)
    assert ended.value.code == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"reports/{name} is missing; `python stages/compare.py` makes it" in error


def test_tables_of_another_study_are_refused(build, run, capsys):
    build(methods=["sap", "lth"], iterations=1)
    run(compare)
    raw = layout.PARAMS.read_text().replace("  - lth\n", "")
    layout.PARAMS.write_text(raw)
    with pytest.raises(SystemExit):
        run(report)
    assert "is of other methods than the study's" in capsys.readouterr().err


def test_names_of_methods():
    assert method_name("imp_channels") == "IMP (channels)"
    assert method_name("thinet_at_mipp") == "ThiNet at MIPP's ratio"
    assert method_name("my_own") == "my own"


def test_legends_fit_the_figure():
    short = [f"M{number}" for number in range(13)]
    assert legend_columns(short) == 5  # three rows need no sixth column
    assert legend_columns(short[:4]) == 4
    long = [f"method {number} at another method's ratio" for number in range(9)]
    assert legend_columns(long) == 2
    assert legend_columns(["x" * 200]) == 1
