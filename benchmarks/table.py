"""A file of results as the Markdown table that docs/speed.md shows: every promise and what came out of it.

python benchmarks/table.py benchmarks/results/<machine>-<date>.csv         # --all: also comparisons without a promise
"""

import argparse
import csv
from pathlib import Path


def figures(value: str) -> str:
    return f"{float(value):.3g}" if float(value) < 1000 else f"{float(value):,.0f}"


def lines(rows: list[dict], everything: bool = False) -> list[str]:
    """One line per number with a target; a ratio's line also has the medians it is made of."""
    medians = {(row["benchmark"], row["case"], row["variant"]): row for row in rows}
    table = ["| | measured | ratio | target |", "|---|---|---:|---|"]
    for row in rows:
        parts = [medians.get((row["benchmark"], row["case"], part)) for part in row["variant"].split(" / ")]
        compared = len(parts) == 2 and all(parts)
        if not row["target"] and not (everything and compared):
            continue
        verdict = f"{row['target']}: {'met' if row['met'] == 'True' else '**missed**'}" if row["target"] else ""
        if compared:
            measured = "; ".join(f"{part['variant']} {figures(part['median'])} {part['unit']}" for part in parts)
            table.append(f"| {row['case']} | {measured} | {figures(row['median'])} | {verdict} |")
        else:
            table.append(f"| {row['case']} | {row['variant']} {figures(row['median'])} {row['unit']} | | {verdict} |")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("--all", action="store_true", help="also comparisons of which nothing was promised")
    options = parser.parse_args()
    with options.results.open(newline="") as file:
        print("\n".join(lines(list(csv.DictReader(file)), options.all)))


if __name__ == "__main__":
    main()
