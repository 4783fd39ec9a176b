"""A file of results as the Markdown table that the README shows: every comparison, what was promised, what came out.

python benchmarks/table.py benchmarks/results/<machine>-<date>.csv [NAME ...]
"""

import csv
import sys


def figures(value: str) -> str:
    return f"{float(value):.3g}" if float(value) < 1000 else f"{float(value):,.0f}"


def lines(rows: list[dict]) -> list[str]:
    """One line per ratio, with the medians it is made of, and per other number that was promised."""
    medians = {(row["benchmark"], row["case"], row["variant"]): row for row in rows}
    table = ["| | measured | ratio | target |", "|---|---|---:|---|"]
    for row in rows:
        parts = [medians.get((row["benchmark"], row["case"], part)) for part in row["variant"].split(" / ")]
        verdict = f"{row['target']}: {'met' if row['met'] == 'True' else '**missed**'}" if row["target"] else ""
        if len(parts) == 2 and all(parts):
            measured = ", ".join(f"{part['variant']} {figures(part['median'])} {part['unit']}" for part in parts)
            table.append(f"| {row['case']} | {measured} | {figures(row['median'])} | {verdict} |")
        elif verdict:
            table.append(f"| {row['case']} | {row['variant']} {figures(row['median'])} {row['unit']} | | {verdict} |")
    return table


def main() -> None:
    path, *names = sys.argv[1:]
    with open(path, newline="") as file:
        rows = [row for row in csv.DictReader(file) if not names or row["benchmark"] in names]
    print("\n".join(lines(rows)))


if __name__ == "__main__":
    main()
