"""Judge params.yaml before anything else runs.

python stages/check_params.py              # the whole file: the first stage of the graph, on which all others depend
python stages/check_params.py --commands   # only what stands in commands: what a stage's command runs first

DVC puts values of params.yaml into commands for a shell, so they must be known to be harmless before the shell sees
them. The output has constant content: no stage that depends on it ever runs again because of it.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from prunus.study import commands, layout
from prunus.study.mistakes import MethodFileError, ParamsError, refused_in_words
from prunus.study.reading import read_file

CHECK_CHECKOUT = Path("tools/check_checkout.py")


def judge() -> None:
    """One line per mistake on stderr and exit status 2, or nothing.

    What is wrong with a method that the study does not use is said and stops nothing. Without torch, which takes
    seconds to import, unless a method's file computes with it when it is imported.
    """
    from prunus.study import stand_ins

    with refused_in_words():
        try:
            with stand_ins.for_torch():
                unused = _judge(certain=False)
        except MethodFileError as error:
            if error.certain:
                raise
            unused = _judge()
    for error in unused:
        for line in str(error).splitlines():
            print(f"params.yaml: {line} (not a method of this study: ignored)", file=sys.stderr)


def _judge(certain: bool = True) -> list[ParamsError]:
    """What is wrong with methods that the study does not use. Raises ``ParamsError`` for all that is wrong besides,
    and where not ``certain`` also where a method's file could be imported with torch."""
    from prunus.study import checks

    content = read_file(layout.ROOT / layout.PARAMS)
    sections = checks.of_content(content)
    checks.validate(content, checks.used_methods(sections))
    if line := checks.absent_folder(sections):
        raise ParamsError(line)
    unused = checks.mistakes_in_unused(sections)
    for error in unused:
        if isinstance(error, MethodFileError) and not (certain or error.certain):
            raise error
    return unused


def refuse_where_results_are_lost() -> None:
    """End in a line per cause where DVC, for which this is an experiment in a copy, would lose what it computes."""
    kept_in = Path(os.environ.get("DVC_ROOT", os.curdir)).resolve()
    if kept_in != Path.cwd() and (status := subprocess.run([sys.executable, CHECK_CHECKOUT, kept_in]).returncode):
        sys.exit(status)


def main() -> None:
    os.chdir(layout.ROOT)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--commands", action="store_true", help="only the values that stand in commands")
    arguments = parser.parse_args()
    refuse_where_results_are_lost()
    if arguments.commands:
        with refused_in_words():
            commands.check(read_file(layout.PARAMS))
        return
    judge()
    from prunus.run.errors import one_line_errors
    from prunus.run.files import write_atomically

    with one_line_errors(), write_atomically(layout.CHECKED) as partial:
        partial.write_text("params.yaml has been found valid\n")
    print("check_params: params.yaml is valid")


if __name__ == "__main__":
    main()
