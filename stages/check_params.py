"""Check params.yaml before anything else runs.

python stages/check_params.py              # the whole file: the first stage of the graph, on which all others depend
python stages/check_params.py --commands   # only values that stand in commands; every stage's command starts with it

DVC puts values of params.yaml into shell commands, so they must be checked before the shell sees them. The content of
the output is constant: it never makes a stage that depends on it run again.
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

    A mistake in a method that the study does not use is printed and stops nothing. torch, which takes seconds to
    import, is not imported unless a method's file computes with it on import.
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
    """The mistakes in methods that the study does not use. Raises ``ParamsError`` for all other mistakes.

    ``certain``: torch itself is in place, not its stand-in. If False, an unused method's file that fails to import is
    raised too, since it may import with torch.
    """
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
    """Exit with one line per cause if DVC runs this as an experiment in a copy and would lose the results."""
    repository = Path(os.environ.get("DVC_ROOT", os.curdir)).resolve()
    if repository == Path.cwd():
        return
    if status := subprocess.run([sys.executable, CHECK_CHECKOUT, repository]).returncode:
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
