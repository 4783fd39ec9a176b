"""The documentation holds together: links lead somewhere, commands exist, the reference is current, the site builds."""

import difflib
import importlib.util
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import PurePosixPath

import pytest

import reference
from prunus.study import catalogue, layout

PAGES = sorted(
    layout.ROOT / path
    for pattern in ("README.md", "docs/**/*.md", "studies/*/README.md", "benchmarks/README.md")
    for path in layout.ROOT.glob(pattern)
)
IDS = [str(page.relative_to(layout.ROOT)) for page in PAGES]
FOLDERS = ("stages", "tests", "tools", "docs", "benchmarks", "studies", "profiles")
TO_BE_WRITTEN = {"stages/prunus/methods/random_pruning.py"}  # by the reader
NOT_ROOMS = ("json", "a")  # prunus.json is a file in a network's, prunus.a an example
STAGES = layout.ROOT / "stages"
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def prose(page):
    return FENCE.sub("", page.read_text())


@cache
def anchors(page):
    """The anchors of a page's headings, as forges and mkdocs make them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    shown = [re.sub(r"\[(.+?)\]\(.+?\)", r"\1", heading).replace("`", "") for heading in headings]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in shown}


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_relative_links_and_images_lead_somewhere(page):
    wrong = []
    for link in re.findall(r"\]\(\s*([^)\s]+)\s*\)", prose(page)):
        target, _, anchor = link.partition("#")
        path = (page.parent / target).resolve() if target else page
        if "://" in link:
            continue
        if not path.is_file() or (anchor and anchor not in anchors(path)):
            wrong.append(link)
    assert not wrong


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_a_link_to_a_file_is_called_by_its_name(page):
    """A file that moves takes its links along, and leaves what they are called."""
    links = re.findall(r"\[([^\]]+\.(?:py|ya?ml))\]\(([^)#\s]+)", prose(page))
    assert [(text, target) for text, target in links if text.split("/")[-1] != target.split("/")[-1]] == []


@cache
def tracked():
    """Files of the checkout and the folders that hold them."""
    listed = subprocess.run(["git", "ls-files"], cwd=layout.ROOT, capture_output=True, text=True, check=True).stdout
    files = [PurePosixPath(line) for line in listed.splitlines()]
    return {str(path) for file in files for path in (file, *file.parents)}


def paths_in(text):
    """What reads as the path of a file or folder of the code, with what it is written after."""
    return re.findall(rf"(?<![\w/.*}}-])(?:{'|'.join(FOLDERS)})/[\w./-]*\w", text)


def modules_in(text):
    """Room, and file in it, of dotted names such as ``prunus.training.loop``; a name of the room itself has no file."""
    return [found for found in re.findall(r"\bprunus\.(\w+)(?:\.(\w+))?", text) if found[0] not in NOT_ROOMS]


NAMING = sorted({*PAGES, *(layout.ROOT / name for name in ("Makefile", "Snakefile", "dvc.yaml", "params.yaml"))})
NAMING += sorted(path for folder in ("stages", "tools") for path in (layout.ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("page", NAMING, ids=lambda page: str(page.relative_to(layout.ROOT)))
def test_paths_and_modules_that_are_named_exist(page):
    text = page.read_text()
    assert {path for path in paths_in(text) if path not in tracked() | TO_BE_WRITTEN} == set()
    for room, name in modules_in(text):
        place = STAGES / "prunus" / room
        face = place / "__init__.py"
        assert face.exists() or place.with_suffix(".py").exists(), f"prunus.{room}"
        if face.exists() and name:
            found = (place / name).is_dir() or (place / f"{name}.py").exists() or name in face.read_text()
            assert found, f"prunus.{room}.{name}"


def test_a_path_that_is_not_there_would_be_found():
    text = "`stages/prunus/nothing.py`, [tests/run](../tests/run) and runs/seed0; data/stages/x.py"
    assert paths_in(text) == ["stages/prunus/nothing.py", "tests/run"]
    assert modules_in("``prunus.params``, prunus.training.loop.train") == [("params", ""), ("training", "loop")]


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_commands_name_scripts_and_targets_that_exist(page):
    targets = set(re.findall(r"^(\w+):", (layout.ROOT / "Makefile").read_text(), re.MULTILINE)) | {""}
    wrong = []
    for _, block in FENCE.findall(page.read_text()):
        for script in re.findall(r"^python (\S+\.py)", block, re.MULTILINE):
            if not (layout.ROOT / script).is_file():
                wrong.append(script)
        for target in re.findall(r"^make\b *(\w*)(?!\w|=)", block, re.MULTILINE):
            if target not in targets:
                wrong.append(f"make {target}")
    assert not wrong


def test_make_help_lists_every_target():
    targets = re.search(r"^\.PHONY: (.*)$", (layout.ROOT / "Makefile").read_text(), re.MULTILINE)[1].split()
    shown = subprocess.run(["make", "help"], cwd=layout.ROOT, capture_output=True, text=True, check=True).stdout
    assert sorted(re.findall(r"^make (\w+) +\S.*$", shown, re.MULTILINE)) == sorted(targets)


@pytest.mark.parametrize(
    ("path", "content"), [(reference.PAGE, reference.page), (reference.SCHEMA, reference.schema_text)]
)
def test_what_is_written_from_the_schema_is_current(path, content):
    written, wanted = path.read_text(), content()
    diff = difflib.unified_diff(written.splitlines(), wanted.splitlines(), "is", "should be", lineterm="")
    assert written == wanted, f"run `{reference.COMMAND}`\n" + "\n".join(diff)


def test_every_method_has_its_section():
    sections = {
        name: page.stem
        for page in (layout.ROOT / "docs/methods").glob("*.md")
        for name in re.findall(r"^## `(\w+)`$", page.read_text(), re.MULTILINE)
    }
    assert sorted(sections) == catalogue.method_names()


def test_every_study_is_among_the_findings():
    found = (layout.ROOT / "docs/found.md").read_text()
    studies = {path.parent.name for path in layout.ROOT.glob("studies/*/README.md")}
    assert {name for name in studies if f"](../studies/{name}/README.md)" not in found} == set()


@pytest.mark.skipif(importlib.util.find_spec("material") is None, reason="mkdocs-material is not installed")
def test_the_site_builds_without_a_warning(tmp_path):
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--config-file",
        "docs/mkdocs.yml",
        "--site-dir",
        tmp_path,
    ]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=layout.ROOT, env=environment, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    assert "WARNING" not in built.stderr
    pages = "".join(page.read_text() for page in tmp_path.rglob("*.html"))
    drawn = re.findall(r"<math.*?</math>", pages, re.DOTALL)
    assert drawn and "arithmatex" not in pages
    assert [formula for formula in drawn if "\\" in formula] == []  # TeX that was not understood
    assert (
        re.findall(r'<(?:script|img|link)[^>]+(?:src|href)="https?:', pages) == []
    )  # nothing is fetched from elsewhere
