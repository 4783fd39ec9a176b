"""The long fuzz of params.yaml: thousands of mutated files through its reader, a few dozen through the real commands.

python tests/fuzz/run.py --examples 500 --commands 12 --seed 5

Prints a table of the mutations by kind; ends with status 1 where a file caused a traceback or anything but short lines.
"""

import argparse
import random
import resource
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "stages"), str(ROOT / "tests/pipeline"), str(Path(__file__).parent)]

import hypothesis  # noqa: E402

import commands  # noqa: E402
import mutations  # noqa: E402
import properties  # noqa: E402
from prunus.study import params  # noqa: E402


def peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def tried(kind: str, examples: int, seed: int, folder: Path) -> tuple[Counter, float, list[bytes]]:
    """Counts of what ``examples`` mutations came to, the seconds of the slowest, and those that were refused."""
    counts, refused, slowest = Counter(), [], 0.0

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=examples,
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(mutations.KINDS[kind])
    def one(content):
        nonlocal slowest
        try:
            lines, seconds = properties.verdict(content, folder)
        except AssertionError as error:
            counts["wrong"] += 1
            print(f"{kind}: {error}\n{content[:300]!r}\n")
        except Exception:
            counts["traceback"] += 1
            print(f"{kind}: {traceback.format_exc()}\n{content[:300]!r}\n")
        else:
            counts["refused" if lines else "accepted"] += 1
            refused.extend([content] if lines else [])
            slowest = max(slowest, seconds)

    one()
    return counts, slowest, refused


def sample(refused: dict[str, list[bytes]], n: int, chance: random.Random, folder: Path) -> Counter:
    """Outcomes of ``n`` refused files, of as many kinds as there are, through each command."""
    root, outcomes = commands.project(folder / "project"), Counter()
    kinds = [kind for kind in refused if refused[kind]]
    for index in range(n):
        content = chance.choice(refused[kinds[index % len(kinds)]])
        for name in commands.COMMANDS:
            (root / "params.yaml").write_bytes(content)
            if (mistake := commands.mistake(root / "params.yaml", name)) is None:
                outcomes[name, "not its own"] += 1
                continue
            try:
                outcomes[name, commands.refused(root, name, content, mistake)] += 1
            except AssertionError as error:
                outcomes[name, "wrong"] += 1
                print(f"{name}, {kinds[index % len(kinds)]}: {error}\n{content[:300]!r}\n")
    return outcomes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=500, help="mutations of each kind, at most")
    parser.add_argument("--commands", type=int, default=34, help="refused files to give to the real commands")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    options = parser.parse_args()
    warnings.simplefilter("error")
    print(f"seed {options.seed}\n")
    params.read()  # imports torch and the methods, which is no part of what is measured
    before, total, refused, worst = peak_megabytes(), Counter(), {}, 0.0
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for kind in mutations.KINDS:
            counts, slowest, refused[kind] = tried(kind, options.examples, options.seed, Path(folder))
            total, worst = total + counts, max(worst, slowest)
            rows.append((kind, counts, slowest))
        grown = peak_megabytes() - before
        columns = ("accepted", "refused", "wrong", "traceback")
        print(f"| {'mutation':21} | tried | accepted | refused | wrong | tracebacks | slowest |")
        print("|---|--:|--:|--:|--:|--:|--:|")
        for kind, counts, slowest in [*rows, ("all", total, worst)]:
            cells = [counts.total(), *(counts[column] for column in columns), f"{slowest:.2f} s"]
            print(f"| {kind:21} | " + " | ".join(str(cell) for cell in cells) + " |")
        print(f"\nThe reader's memory grew by {grown:.0f} MB.\n")
        outcomes = Counter()
        if options.commands:
            chance = random.Random(options.seed)
            outcomes = sample(refused, options.commands, chance, Path(folder))
            print("| command | files | refused by Prunus | by DVC | a method it does not run | wrong |")
            print("|---|--:|--:|--:|--:|--:|")
            for name in commands.COMMANDS:
                cells = [outcomes[name, who] for who in ("Prunus", "DVC", "not its own", "wrong")]
                print(f"| `{name}` | {sum(cells)} | " + " | ".join(map(str, cells)) + " |")
    wrong = total["wrong"] + total["traceback"] + sum(n for (_, who), n in outcomes.items() if who == "wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
