"""Write the part of reference_flow.json that a method's chain is compared with; most methods need none of it.

python stages/chain_reference.py --seed 0 --method incop_if

The chain depends on this file and not on the whole, so a change in what it does not read retrains nothing.
"""

import prunus.run.warm  # noqa: F401 - first: does not return where a warm process runs this script

# isort: split
import argparse
import os

from prunus.run.errors import one_line_errors
from prunus.run.files import read_json, write_json
from prunus.study import layout, reference, stand_ins
from prunus.study.mistakes import refused_in_words
from prunus.study.params import view

PARAMS = ["methods.{method}"]


def main() -> None:
    os.chdir(layout.ROOT)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--method", required=True)
    arguments = parser.parse_args()
    seed, method = arguments.seed, arguments.method
    path = layout.chain_reference(seed, method)
    with refused_in_words():  # reading settings needs no torch, which takes seconds to import
        params = stand_ins.without_torch(view, [key.format(method=method) for key in PARAMS])
    keys = reference.part(vars(params.methods)[method].held_against)
    made_by = layout.reference_command(seed)
    reference_flow = read_json(layout.reference_flow(seed), made_by, keys)
    write_json(path, {key: reference_flow[key] for key in keys})
    print(f"seed {seed} {method}: compared with {', '.join(keys) or 'nothing'}, in {path}")


if __name__ == "__main__":
    with one_line_errors():
        main()
