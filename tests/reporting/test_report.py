import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
import yaml

import compare
import report
from prunus.comparing.files import read_table
from prunus.reporting import frame, page
from prunus.reporting.charts import figures, question
from prunus.reporting.names import method_name
from prunus.study import layout

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
        if not {"style", "script"} & set(self.open):
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).replace("\u202f", " ").split())


def _report(run, monkeypatch=None):
    """``monkeypatch``: without PNG files, of which each takes a tenth of a second or more."""
    if monkeypatch:
        monkeypatch.setattr(report, "png", lambda name, chart: b"")
    run(compare)
    run(report)
    return layout.REPORT.read_text(encoding="utf-8")


def _tables():
    return {name: read_table(layout.TABLES / f"{name}.csv", report.COMPARE) for name in report.TABLES}


def _text(run, study, monkeypatch):
    """The words of the report, without its PNG files and without Vega."""
    monkeypatch.setattr(frame, "_vega", str)
    run(compare)
    tables, metrics = _tables(), json.loads(layout.METRICS.read_text())
    settings = yaml.safe_load(layout.PARAMS.read_text())
    charts = figures.draw(tables, study.methods)
    return Page(page.render(study, settings, tables, metrics, charts, "mipp")).text


def test_report_stands_alone(build, run, monkeypatch):
    build()
    source = _report(run, monkeypatch)
    parsed = Page(source)
    assert len(parsed.ids) == len(set(parsed.ids))
    assert not {tag for tag, _ in parsed.tags} & {"link", "img", "iframe", "object", "base"}
    for name, value in (item for _, attributes in parsed.tags for item in attributes.items()):
        if name in ("href", "src"):
            assert value.removeprefix("#") in parsed.ids
    policy = next(attributes["content"] for _, attributes in parsed.tags if "http-equiv" in attributes)
    assert policy.startswith("default-src 'none';") and "http" not in policy
    assert source.count("</script") == source.count("<script") == 3
    charts = {attributes["data-chart"]: attributes for _, attributes in parsed.tags if "data-chart" in attributes}
    assert set(charts) == set(figures.CHARTS) - {"accuracy_against_channels", "layer_ratios", "transfer", "information"}
    assert all(chart["role"] == "img" and len(chart["aria-label"]) > 40 for chart in charts.values())
    drawing = json.loads(re.search(r'<script type="application/json" id="drawing">(.+?)</script>', source)[1])
    assert set(drawing["charts"]) == set(charts)
    contents = re.findall(r'<li><a href="#(\w+)">', source)
    assert contents == re.findall(r'<h2 id="(\w+)">', source)


def test_report_shows_the_parameters_of_its_methods(build, run, monkeypatch):
    study = build(seeds=[0], methods=["sap", "incop_if"], iterations=1)
    text = _text(run, study, monkeypatch)
    raw = yaml.safe_load(layout.PARAMS.read_text())
    shown = yaml.safe_load(page._settings(raw, study.methods))
    assert shown == raw | {"methods": {name: raw["methods"][name] for name in ("sap", "incop_if")}}
    assert f"warmup_steps: {raw['training']['warmup_steps']}" in text


def test_nothing_in_a_script_can_end_its_element():
    assert frame._inline("a = '</script>'; b = '</SCRIPT'; c = '<!--'; d = x </re/;") == (
        "a = '\\x3c/script>'; b = '\\x3c/SCRIPT'; c = '\\x3c!--'; d = x </re/;"
    )


def test_findings_of_two_seeds_say_that_they_are_too_few(build, run, monkeypatch):
    text = _text(run, build(seeds=[0, 1]), monkeypatch)
    assert (
        "At equal density (39.4 %) InCoP-IF takes 84 % fewer retraining epochs than SAP (95 % interval 84 to 84" in text
    )
    assert "What InCoP-IF and InCoP-GF save is confounded" in text
    assert "2 seeds: too few seeds to tell methods apart" in text
    assert "Final densities differ, from 32.8 % (One-shot) to 39.4 % (SAP)" in text


def test_findings_of_enough_seeds_give_a_verdict(build, run, monkeypatch):
    text = _text(run, build(seeds=range(4), methods=["sap", "lth"], iterations=3), monkeypatch)
    assert "too few" not in text
    assert "differs significantly from SAP's" in text
    assert "Holm-adjusted p" in text


def test_one_seed_one_method_without_flow(build, run, monkeypatch):
    build(seeds=[0], methods=["sap"], iterations=1)
    text = Page(_report(run, monkeypatch)).text
    assert "SAP reached test accuracy" in text
    assert "1 seed: too few" in text
    assert "Paired tests" not in text
    assert "nan" not in re.sub(r"[a-z]nan|nan[a-z]", "", text.lower())


def test_one_seed_two_methods_without_a_baseline(build, run, monkeypatch):
    text = _text(run, build(seeds=[0], methods=["one_shot", "incop_if"], iterations=2), monkeypatch)
    assert "With one seed nothing can be tested" in text
    assert "fewer retraining epochs than One-shot" in text


def test_more_than_one_device_is_said(build, run, monkeypatch):
    study = build(methods=["sap"], iterations=1)
    path = layout.iteration_record(0, "sap", 1)
    path.write_text(path.read_text().replace('"device": "cpu"', '"device": "A GPU"'))
    layout.iteration_record(1, "sap", 1).unlink()
    text = _text(run, study, monkeypatch)
    assert "more than one device: cpu and A GPU" in text
    assert "1 stage run left no record" in text


def test_removed_channels_have_figures_and_tables(build, run, monkeypatch):
    build(seeds=[0, 1], methods=["sap", "mipp", "iter_snip", "thinet"], imposed=["thinet"])
    parsed = Page(_report(run, monkeypatch))
    drawn = {attributes["data-chart"] for _, attributes in parsed.tags if "data-chart" in attributes}
    assert drawn == set(figures.CHARTS) - {
        "distance_to_reference",
        "transfer",
        "information",
    }  # none of these methods measures its flow
    assert "Left out, because they remove almost no whole channels: SAP." in parsed.text
    assert "4 methods (1 also at an imposed ratio), 2 seeds" in parsed.text
    assert "MIPP (70.0 % removed) is 3.33 ± 0.00 times as fast as the dense network" in parsed.text
    assert "10,000 → 900 93,900 → 8,451 1.00 → 0.860 (1.16×) 80.0 → 24.0 (3.33×)" in parsed.text
    assert "the same answer: IterSNIP in 2 of 10 runs, from 65 % sparsity on" in parsed.text
    assert "Layer collapse" in parsed.text
    assert "Accuracy at the ratios of MIPP" in parsed.text
    assert "ThiNet at MIPP's ratio" in parsed.text


def test_a_baseline_that_removes_channels_has_its_speed_told(build, run, monkeypatch):
    text = _text(run, build(methods=["thinet"], iterations=5), monkeypatch)
    assert "ThiNet reached test accuracy" in text
    assert "ThiNet (50.0 % removed) is 2.00 ± 0.00 times as fast" in text
    assert "Left out" not in text


def test_that_not_all_test_images_were_looked_at_is_said(build, run, monkeypatch):
    study = build(seeds=[0], methods=["sap", "lth"], iterations=2)
    assert "of the test images" not in _text(run, study, monkeypatch)
    params = yaml.safe_load(layout.PARAMS.read_text())
    params["evaluation"]["fraction"] = 0.05
    layout.PARAMS.write_text(yaml.safe_dump(params))
    assert re.search(r"Test accuracies are of 5\.00\s%\sof the test images", _text(run, study, monkeypatch))


def test_a_speed_that_was_not_measured_is_not_told(build, run, monkeypatch):
    study = build(seeds=[0], methods=["thinet"], iterations=2)
    layout.record("seed0", "thinet/evaluate").unlink()
    text = _text(run, study, monkeypatch)
    assert "ThiNet (20.0 % removed) was not timed for every seed." in text
    assert "times as fast" not in text


def test_without_removed_channels_nothing_is_said_of_them(build, run, monkeypatch):
    text = _text(run, build(methods=["sap", "lth"], iterations=2), monkeypatch)
    for word in ("Whole channels", "cut out", "times as fast", "Layer collapse", "untrainable", "at an imposed ratio"):
        assert word not in text


def test_figures_of_the_graph_are_the_ones_saved():
    outs = DVC["report"]["outs"]
    assert {f"reports/figures/{name}.png" for name in figures.CHARTS} == {path for path in outs if path.endswith("png")}
    made = set(DVC["compare"]["outs"]) | set(DVC["compare"].get("metrics", []))
    assert {f"reports/tables/{name}.csv" for name in report.TABLES} <= {str(path) for path in made}
    assert {"reports/tables", "stages/prunus/reporting"} <= set(DVC["report"]["deps"])


def test_report_and_figures_are_the_same_bytes_every_time(build, run):
    build(methods=["sap", "incop_if", "mipp", "thinet"], iterations=2, imposed=["thinet"])  # with nearly every chart
    _report(run)
    files = [layout.REPORT, *(layout.FIGURES / f"{name}.png" for name in figures.CHARTS)]
    before = [path.read_bytes() for path in files]
    run(report)
    assert [path.read_bytes() for path in files] == before
    assert all(content.startswith(b"\x89PNG") for content in before[1:])
    assert {path.name for path in layout.FIGURES.iterdir()} == {f"{name}.png" for name in figures.CHARTS}


def test_report_without_times_or_pruning(build, run, monkeypatch):
    study = build(methods=["sap", "incop_if"], iterations=1)
    layout.iteration_record(0, "sap", 1).unlink()
    for seed in (0, 1):
        for method in ("sap", "incop_if"):
            path = layout.evaluation(seed, method) / "iterations.csv"
            pd.read_csv(path).assign(density=1.0).to_csv(path, index=False)
    assert "At equal density (100.0" in _text(run, study, monkeypatch)
    charts = figures.draw(_tables(), study.methods)
    assert [row["label"] for row in charts["time_split"].datasets["totals"]][0] == "times not recorded"
    assert all(chart.png().startswith(b"\x89PNG") for chart in charts.values() if chart)


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
    assert "has other methods than the study" in capsys.readouterr().err


def test_names_of_methods():
    assert method_name("imp_channels") == "IMP (channels)"
    assert method_name("thinet_at_mipp") == "ThiNet at MIPP's ratio"
    assert method_name("my_own") == "my own"


def _moved(datasets):
    rows = []
    for dataset in datasets:
        for seed in (0, 1):
            rows.append((seed, "dense", 0, dataset, "initial", 1.0, 0.80 + 0.02 * seed, 8))
            rows += [(seed, "sap", t, dataset, "initial", 0.5**t, 0.8 - 0.1 * t, 8) for t in (1, 2)]
    columns = ["seed", "method", "iteration", "dataset", "start", "density", "test_accuracy", "epochs"]
    return pd.DataFrame(rows, columns=columns)


def test_networks_on_another_task_are_drawn_beside_the_dense_one_there():
    chart = question.transfer({"transfer": _moved(["mnist"])}, ["sap", "lth"])
    rows = pd.DataFrame(chart.datasets["rows"])
    assert list(rows["method"].unique()) == ["SAP"]
    assert rows.set_index("iteration")["accuracy"].to_dict() == pytest.approx({0: 0.81, 1: 0.7, 2: 0.6})
    both = question.transfer({"transfer": _moved(["mnist", "fashion_mnist"])}, ["sap"])
    assert {row["method"] for row in both.datasets["rows"]} == {"SAP on MNIST", "SAP on Fashion-MNIST"}
    assert question.transfer({"transfer": _moved([])}, ["sap"]) is None


def test_information_between_layers_is_a_mean_over_the_pairs():
    columns = ["seed", "method", "iteration", "layer", "quantity", "mean"]
    rows = [(0, "mipp", 1, layer, "before", 0.9) for layer in ("a", "b")]
    rows += [(0, "mipp", 1, "a", "kept", 0.8), (0, "mipp", 1, "b", "kept", 0.4)]
    rows += [(0, "mipp", 1, layer, name, 0.5) for layer in ("a", "b") for name in ("pruned", "retrained")]
    chart = question.information({"information": pd.DataFrame(rows, columns=columns)}, ["lth", "mipp"])
    means = {(row["quantity"], row["iteration"]): row["mean"] for row in chart.datasets["rows"]}
    assert means["kept", 0] == means["pruned", 0] == 0.9
    assert means["kept", 1] == pytest.approx(0.6)
    assert len(chart.panels) == 3 and chart.png().startswith(b"\x89PNG")
    assert question.information({"information": pd.DataFrame(columns=columns)}, ["mipp"]) is None
