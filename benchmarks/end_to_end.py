"""What a pruned network costs from end to end: SAP, LTH, InCoP and the null of one epoch, at equal final density.

The study is studies/fashion_mnist_speed, run by `snakemake` in a scratch copy of this checkout, so that
every number is of this run and this code. All methods rewind to the same weights: to the trained ones, as InCoP's code
does, and with `--rewind trained initial` in a second study to the initial ones, as the papers of SAP and LTH do. The
peers are this project's own SAP and LTH, on the same loop; `fixed_epochs` is SAP with one epoch an iteration.

Densities after equally many iterations differ, so all is read at the smallest density that every method of a seed
reaches (the largest of their last ones): costs summed from the dense network on and test accuracy are interpolated
linearly in log density between iterations. Three sums of seconds:
  work    choosing masks, training, flow and validation; InCoP's starts with measuring Phi*
  inside  the whole stage, reading data and writing networks included
  wall    the job as Snakemake sees it: also the start of DVC, of Python and of torch
Training the dense network, shared by all, and testing are not in them. Stages that run at the same time share the
machine, so read ratios; `--cores 1` runs one stage at a time.

python benchmarks/end_to_end.py                                       # 25 minutes on two cores
python benchmarks/end_to_end.py --rewind trained initial --keep FOLDER  # 55 minutes; tables and figures to FOLDER
python benchmarks/end_to_end.py --quick                               # digits, one seed: two minutes
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import pandas as pd

from harness import Bench, arguments, measure, save
from overlay import of_study, text
from prunus.comparing.matched import equal_density
from prunus.comparing.statistics import SECONDS
from prunus.study import layout

STUDY = "fashion_mnist_speed"
COPIED = ("Snakefile", "dvc.yaml", "stages", "profiles", "tools", "data/images", ".dvcignore", ".gitignore")
KEPT_TABLES = ("comparison", "summary", "paired_tests", "matched_density", "histories", "runs")
KEPT_FIGURES = ("headline", "time_split", "distance_to_reference")
REWINDS = ("trained", "initial")
SUMS = ("work", "inside", "wall")
COSTS = ("epochs", "flow_seconds", *SUMS)
KEYS = ["seed", "method", "iteration"]

TABLE = {  # column of the headline: its name, unit and digits
    "epochs": ("epochs", "", 1),
    "work": ("work", "s", 1),
    "work_of_sap": ("work / SAP's", "%", 1),
    "flow_share": ("flow's share of work", "%", 1),
    "wall": ("wall", "s", 1),
    "wall_of_sap": ("wall / SAP's", "%", 1),
    "test_accuracy": ("test accuracy", "%", 2),
    "inside_more": ("overhead an iteration, inside the stage", "s", 2),
    "outside_more": ("overhead an iteration, around it", "s", 2),
}


class Scratch:
    """A copy of the checkout's code in a new folder, with a study of its own and the checkout's raw data."""

    def __init__(self, study: dict):
        self.root, self.study = Path(tempfile.mkdtemp(prefix="prunus-end-to-end-")), study
        for path in COPIED:
            source, target = layout.ROOT / path, self.root / path
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(source, target)
        raw = layout.ROOT / layout.RAW_DATA
        raw.mkdir(parents=True, exist_ok=True)
        (self.root / layout.RAW_DATA).symlink_to(raw)
        self._write()
        self._run("git", "init", "-q")
        self._run("dvc", "init", "-q")
        self._run("git", "add", "-A")
        identity = ("-c", "user.name=bench", "-c", "user.email=bench@localhost", "-c", "commit.gpgsign=false")
        self._run("git", *identity, "commit", "-qm", "the study")

    def rewind(self, to: str) -> None:
        """Let every method of the study rewind ``to`` initial or trained weights."""
        for method in self.study["study"]["methods"]:
            self.study["methods"][method]["rewind"] = to
        self._write()

    def snakemake(self, cores: str) -> float:
        """Run the study; elapsed seconds."""
        start = time.perf_counter()
        self._run("snakemake", "--cores", cores)
        return time.perf_counter() - start

    def table(self, name: str) -> pd.DataFrame:
        return pd.read_csv(self.root / layout.TABLES / f"{name}.csv")

    def wall(self, stage: str) -> float:
        """Seconds of a stage's job, by Snakemake's own benchmark file."""
        return pd.read_csv(self.root / f"logs/benchmarks/{stage}.tsv", sep="\t")["s"].item()

    def keep(self, folder: Path) -> None:
        for kept, source, suffix in ((KEPT_TABLES, layout.TABLES, "csv"), (KEPT_FIGURES, layout.FIGURES, "png")):
            (folder / source.name).mkdir(parents=True, exist_ok=True)
            for name in kept:
                shutil.copy2(self.root / source / f"{name}.{suffix}", folder / source.name)

    def _write(self) -> None:
        (self.root / layout.PARAMS).write_text(text(self.study))

    def _run(self, *command: str) -> None:
        environment = os.environ | {
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "DVC_NO_ANALYTICS": "1",
            # A cache shared by the user's projects would hand out the results, and the seconds, of an earlier run.
            "DVC_GLOBAL_CONFIG_DIR": str(self.root / ".config"),
            "DVC_SYSTEM_CONFIG_DIR": str(self.root / ".config"),
        }
        log = self.root / "logs" / f"{command[0]}.log"
        log.parent.mkdir(exist_ok=True)
        with log.open("w") as output:
            done = subprocess.run(command, cwd=self.root, env=environment, stdout=output, stderr=subprocess.STDOUT)
        if done.returncode:
            last = log.read_text()[-4000:]
            sys.exit(f"{last}\n{' '.join(command)} ended {done.returncode} in {self.root}, which stays")


def the_study(quick: bool, threads: int) -> dict:
    """The content of its params.yaml."""
    study = of_study(STUDY)
    study["device"]["threads"] = threads
    if quick:
        study["study"] |= {"dataset": "digits", "network": "mlp", "seeds": [0]}
        study["study"]["iterations"] = study["study"]["iterations"][:2]
        study["training"]["epochs"], study["flow"]["samples"] = 2, 64
        for settings in study["methods"].values():
            key = "max_epochs" if "max_epochs" in settings else "epochs"
            settings[key] = min(settings[key], 2)
    return study


def chains(scratch: Scratch) -> pd.DataFrame:
    """One row per seed, method and iteration: density, accuracy, and its own epochs and seconds of each kind.

    Iteration 0 is the dense network, whose cost to a method is Phi*'s if it looks at flow, else nothing.
    """
    comparison = scratch.table("comparison")
    runs = scratch.table("runs").rename(columns={"seconds_total": "inside"})
    pruning = runs[runs["stage"] == "prune_iteration"].astype({"seed": int, "iteration": int})
    table = comparison.merge(pruning[[*KEYS, "inside"]], on=KEYS, validate="one_to_one")
    table["work"] = table[list(SECONDS)].sum(axis=1, skipna=False)
    # DVC names the entries of `study.iterations` by position
    table["wall"] = [scratch.wall(f"prune_iteration@{s}-{m}-iteration{t - 1}") for s, m, t in table[KEYS].to_numpy()]
    references = runs[runs["stage"] == "reference_flow"].set_index("seed")
    rows = []
    for (seed, method), chain in table.groupby(["seed", "method"], sort=False):
        costs = dict.fromkeys(COSTS, 0.0)
        if chain["epsilon"].notna().any():
            flow = references.loc[seed, "seconds_flow"]
            spent = {"inside": references.loc[seed, "inside"], "wall": scratch.wall(f"reference_flow@{seed}")}
            costs |= {"flow_seconds": flow, "work": flow} | spent
        accuracy = chain["dense_test_accuracy"].iloc[0]
        dense = {"seed": seed, "method": method, "iteration": 0, "density": 1.0, "test_accuracy": accuracy}
        rows += [dense | costs, *chain.sort_values("iteration").to_dict("records")]
    return pd.DataFrame(rows)[[*KEYS, "density", "test_accuracy", *COSTS]]


def at_equal_density(chains: pd.DataFrame) -> pd.DataFrame:
    """One row per seed and method: costs until, and accuracy at, the smallest density all methods of the seed reach.

    Shares and accuracies are in percent. Overheads are means over the iterations, in seconds.
    """
    keys = ["seed", "method"]
    chain_costs = chains.groupby(keys)[list(COSTS)].sum(min_count=1).add_suffix("_all")
    pruned = chains[chains["iteration"] > 0].groupby(keys)[list(SUMS)].mean()
    overheads = pd.DataFrame(
        {"inside_more": pruned["inside"] - pruned["work"], "outside_more": pruned["wall"] - pruned["inside"]}
    )
    table = equal_density(chains, COSTS).join(chain_costs, on=keys).join(overheads, on=keys)
    share = 100 * table["flow_seconds"] / table["work"]
    return table.assign(test_accuracy=100 * table["test_accuracy"], flow_share=share)


def against_sap(table: pd.DataFrame, dense: dict[int, float]) -> pd.DataFrame:
    """``table`` with every cost also in percent of SAP's of the same seed, and the accuracy less SAP's, in points.

    ``dense``: wall seconds of training each seed's dense network, for the shares with it included.
    """
    table = table.assign(wall_with_dense=table["wall"] + table["seed"].map(dense))
    sap = table[table["method"] == "sap"].set_index("seed")
    of_sap = {
        f"{cost}_of_sap": 100 * table[cost] / table["seed"].map(sap[cost])
        for cost in (*SUMS, "work_all", "wall_with_dense")
    }
    return table.assign(**of_sap, accuracy_over_sap=table["test_accuracy"] - table["seed"].map(sap["test_accuracy"]))


def report(bench: Bench, case: str, table: pd.DataFrame) -> None:
    """Write down every method's numbers, and what the paper promised of InCoP-IF."""
    by_seed = table.groupby("seed", sort=False).first()
    bench.record(case, "density compared at", (100 * by_seed["density"]).tolist(), "%")
    columns = TABLE | {
        "inside": ("inside", "s", 1),
        "work_all_of_sap": ("work / SAP's, whole chains", "%", 1),
        "wall_with_dense_of_sap": ("wall / SAP's, both with the dense network", "%", 1),
    }
    for method, rows in table.groupby("method", sort=False):
        for column, (name, unit, _) in columns.items():
            bench.record(case, f"{method}: {name}", rows[column].tolist(), unit)
    incop = table[table["method"] == "incop_if"].median(numeric_only=True)
    for cost in ("work", "wall"):
        bench.judge(case, f"incop_if / sap, {cost}", incop[f"{cost}_of_sap"] / 100, "x", at_most=0.13)
    bench.judge(case, "incop_if - sap, test accuracy", incop["accuracy_over_sap"], "point", at_least=-1.0)


def headline(case: str, table: pd.DataFrame) -> str:
    """The table as Markdown: medians over the seeds, (lowest to highest)."""

    def cell(values: pd.Series, digits: int) -> str:
        low, high = values.min(), values.max()
        spread = f" ({low:.{digits}f} to {high:.{digits}f})" if len(values) > 1 else ""
        return f"{values.median():.{digits}f}{spread}"

    names = [f"{name}, {unit}" if unit else name for name, unit, _ in TABLE.values()]
    densities = 100 * table.groupby("seed")["density"].first()
    lines = [
        f"**{case}**, seeds: {len(densities)}, at density {cell(densities, 1)} %",
        "",
        "| | " + " | ".join(names) + " |",
        "|---|" + "---:|" * len(names),
    ]
    for method, rows in table.groupby("method", sort=False):
        cells = [cell(rows[column], digits) for column, (_, _, digits) in TABLE.items()]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def run(bench: Bench, rewinds=REWINDS[:1], cores: str = "all", keep: Path | None = None) -> None:
    scratch = Scratch(the_study(bench.quick, bench.threads))
    print(f"in {scratch.root}; follow logs/snakemake.log there", flush=True)
    tables, about = [], scratch.study["study"]
    for rewind in rewinds:
        scratch.rewind(rewind)
        elapsed = scratch.snakemake(cores)
        case = f"{about['network']} on {about['dataset']}, rewind {rewind}"
        dense = {seed: scratch.wall(f"pretrain@{seed}") for seed in about["seeds"]}
        bench.record(case, f"dense network, {scratch.study['training']['epochs']} epochs: wall", [*dense.values()])
        bench.record(case, f"the study, elapsed, --cores {cores}", [elapsed])
        table = against_sap(at_equal_density(chains(scratch)), dense)
        report(bench, case, table)
        tables.append(headline(case, table))
        if keep:
            scratch.keep(keep / rewind)
            table.to_csv(keep / rewind / "equal_density.csv", index=False)
            (keep / "headline.md").write_text("\n".join(tables))
    print("\n" + "\n".join(tables))
    shutil.rmtree(scratch.root)


if __name__ == "__main__":
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--rewind", nargs="+", choices=REWINDS, default=REWINDS[:1], help="one study each (trained)")
    parser.add_argument("--cores", default="all", help="of Snakemake, that is stages at a time (all)")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where tables and figures go")
    options = parser.parse_args()
    keep = options.keep and options.keep.resolve()
    os.chdir(layout.ROOT)
    work = partial(run, rewinds=options.rewind, cores=options.cores, keep=keep)
    bench = measure("end_to_end", work, options.quick, options.threads)
    if not options.quick:
        print(save([bench]).relative_to(layout.ROOT))
