"""All benchmarks, or those named, one after the other.

python benchmarks/run.py                     # or: make bench
python benchmarks/run.py flow prune_step     # or: make bench ONLY="flow prune_step"
python benchmarks/run.py --quick             # small and few; writes no file
"""

import importlib
import os

import harness
from prunus.study import layout

BENCHMARKS = ("training_epoch", "flow", "prune_step", "terc", "orchestration", "scale", "evaluation", "end_to_end")


def main() -> None:
    os.chdir(layout.ROOT)
    parser = harness.arguments(__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", choices=[*BENCHMARKS, []], metavar="NAME", help=", ".join(BENCHMARKS))
    options = parser.parse_args()
    for name in options.names or BENCHMARKS:
        bench = harness.measure(name, importlib.import_module(name).run, options.quick, options.threads)
        if not options.quick:
            print(harness.save([bench]).relative_to(layout.ROOT))


if __name__ == "__main__":
    main()
