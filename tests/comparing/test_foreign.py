"""A table of other columns, of words where numbers belong, or of another chain is named in one line, with the command
that makes it anew; what is written holds no infinite number."""

import math

import pandas as pd
import pytest

import compare
import report
from prunus.comparing import files, tables
from prunus.run.errors import StageError
from prunus.study import layout

METHODS = ("sap", "mipp")


def information(seed, method):
    row = dict.fromkeys(files.COLUMNS["information"], 0.5) | {"seed": seed, "method": method, "iteration": 1}
    pd.DataFrame([row]).to_csv(layout.evaluation(seed, method) / "information.csv", index=False)


def other_columns(path):
    path.write_text("colour,size\nblue,3\n")


def one_column_less(path):
    table = pd.read_csv(path)
    table.drop(columns=table.columns[-1]).to_csv(path, index=False)


def words_for_numbers(path):
    table = pd.read_csv(path)
    numbers = [name for name in table if name not in files.TEXT]
    table.astype(dict.fromkeys(numbers, object)).assign(**dict.fromkeys(numbers, "many")).to_csv(path, index=False)


DAMAGES = {damage.__name__: damage for damage in (other_columns, one_column_less, words_for_numbers)}


def refused(run, script, path, command, capsys):
    with pytest.raises(SystemExit) as ended:
        run(script)
    error = capsys.readouterr().err
    assert ended.value.code == 1 and error.count("\n") == 1
    assert f"{path} is not a table (" in error and f"`{command}` makes it anew" in error


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["iterations", "layers", "history", "channels"])
def test_compare_names_the_table_of_a_chain(name, damage, build, run, capsys):
    build(methods=METHODS, iterations=2)
    path = layout.evaluation(1, "mipp") / f"{name}.csv"
    DAMAGES[damage](path)
    refused(run, compare, path, "python stages/evaluate.py --seed 1 --method mipp", capsys)


@pytest.fixture(scope="module")
def compared(builder, tmp_path_factory):
    """The tables of a small study, by name."""
    root = tmp_path_factory.mktemp("compared")
    with pytest.MonkeyPatch.context() as patch:
        builder(root, patch)(methods=METHODS, iterations=2)
        patch.setattr("sys.argv", [compare.__file__])
        compare.main()
        return {name: (layout.TABLES / f"{name}.csv").read_text() for name in report.TABLES}, layout.METRICS.read_text()


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", report.TABLES)
def test_report_names_the_table(name, damage, compared, build, run, capsys):
    build(methods=METHODS, iterations=2)
    layout.TABLES.mkdir(parents=True)
    for other, text in compared[0].items():
        (layout.TABLES / f"{other}.csv").write_text(text)
    layout.METRICS.write_text(compared[1])
    path = layout.TABLES / f"{name}.csv"
    if damage == "words_for_numbers" and len(pd.read_csv(path)) == 0:
        pytest.skip("without rows there are no words")
    DAMAGES[damage](path)
    refused(run, report, path, report.COMPARE, capsys)


def test_the_columns_are_those_that_compare_writes(compared):
    for name, text in compared[0].items():
        written = text.split("\n", 1)[0].split(",")
        assert set(files.COLUMNS[name]) <= set(written), name


def test_a_table_of_another_chain_is_not_taken_for_this_one(build):
    study = build(methods=METHODS, iterations=2)
    (layout.evaluation(0, "sap") / "layers.csv").write_text((layout.evaluation(1, "sap") / "layers.csv").read_text())
    with pytest.raises(StageError, match=r"seed0/sap/layers\.csv has rows of seed 1, not of 0; `python stages/evalua"):
        tables.layers(study)
    information(0, "mipp")
    (layout.evaluation(1, "mipp") / "information.csv").write_text(
        (layout.evaluation(0, "mipp") / "information.csv").read_text()
    )
    with pytest.raises(StageError, match=r"information\.csv has rows of seed 0, not of 1"):
        tables.information(study, ["mipp"])


def test_a_history_with_one_column_more_is_refused(build):
    study = build(methods=METHODS, iterations=2)
    path = layout.evaluation(0, "sap") / "history.csv"
    pd.read_csv(path).assign(epsilon=0.1).to_csv(path, index=False)
    with pytest.raises(StageError, match=r"history\.csv is not a table \(unknown column epsilon\)"):
        tables.histories(study)


@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_infinite_numbers_are_neither_read_nor_written(value, tmp_path):
    path, table = tmp_path / "a.csv", pd.DataFrame({"seed": [0, 1], "density": [0.5, value]})
    with pytest.raises(StageError, match=r"a\.csv is not written: its column density holds an infinite number"):
        files.write_table(path, table)
    assert not path.exists()
    table.to_csv(path, index=False)
    with pytest.raises(StageError, match="column density holds -?inf, which is not a finite number"):
        files.read_table(path, "python x.py", ["seed", "density"])
    files.write_table(path, table.assign(density=math.nan))
    assert path.read_text() == "seed,density\n0,\n1,\n"
    assert files.read_table(path, "python x.py", ["seed", "density"])["density"].isna().all()
