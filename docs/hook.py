"""The site has the paths of the repository: README.md, docs/ and whatever they link to, so that one relative link is
right on a forge and in the site. Formulas become MathML, which browsers draw without a script.
"""

import html
import re
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
SINGLE = re.compile(r"(?:\\[bB]ig[lr])?\\([lr])([vV]ert|floor|ceil)(?![a-zA-Z])")
PAIRED = {"l": "\\left", "r": "\\right"}


def links(page: Path) -> set[Path]:
    """The files that a page's relative links and images name, whether they exist or not."""
    targets = LINK.findall(FENCED.sub("", page.read_text(encoding="utf-8")))
    return {(page.parent / target).resolve() for target in targets if "://" not in target}


def published(root: Path) -> list[Path]:
    """Every file of the site but the theme's, relative to ``root``."""
    pages, new = set(), {root / "README.md", *root.glob("docs/**/*.md"), *root.glob("docs/*.css")}
    while new:
        pages |= new
        named = set().union(*(links(page) for page in new if page.suffix == ".md"))
        new = {path for path in named - pages if path.is_file() and path.is_relative_to(root)}
    return sorted(path.relative_to(root) for path in pages)


def on_files(files, config):
    root = Path(config.config_file_path).resolve().parents[1]
    pages = [File(path.as_posix(), str(root), config.site_dir, config.use_directory_urls) for path in published(root)]
    return Files([file for file in files if file.src_dir != config.docs_dir] + pages)


def mathml(tex: str, display: str) -> str:
    """A formula as MathML. Bars, floors and ceilings are paired first: latex2mathml draws single ones as operators."""
    return convert(SINGLE.sub(lambda match: rf"{PAIRED[match[1]]}\{match[1]}{match[2]}", tex), display=display)


def on_page_content(content, **_):
    def drawn(match):
        return mathml(html.unescape(match[2]), "block" if match[1] == "div" else "inline")

    return FORMULA.sub(drawn, content)
