"""Write docs/reference/params.md: every key of params.yaml with its shipped value, what is allowed and its meaning.

What is allowed comes from the schema, what a key means from its comment in params.yaml, which is said nowhere else.

python docs/reference.py
"""

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "stages"))

from prunus.study import reading  # noqa: E402
from prunus.study.reading import parse  # noqa: E402
from prunus.study.schema import Sections  # noqa: E402

PAGE = ROOT / "docs/reference/params.md"
INTRODUCTION = """\
# params.yaml, key by key

<!-- Written by `python docs/reference.py` from params.yaml and its schema. Edit those, not this page. -->

Every key is required, and a key that is not listed here is an error. *Shipped* is the value in `params.yaml`.
No integer may be above 10^9.
"""
HEAD = "| key | shipped | allowed | meaning |\n|---|---|---|---|\n"
BOUNDS = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
NAMES = {"integer": "integer", "number": "number", "string": "text"}
EXPLAINED = re.compile(r" {2}(\w+(?:, \w+)*) {2,}(\S.*)")

Key = tuple[str, ...]


def _keys(node: yaml.MappingNode, path: Key = ()) -> Iterator[tuple[int, Key]]:
    """The line and path of every key in block style; what stands in braces belongs to the key before them."""
    for key, value in node.value:
        if not node.flow_style:
            yield key.start_mark.line, (*path, key.value)
        if isinstance(value, yaml.MappingNode):
            yield from _keys(value, (*path, key.value))


def _comments(text: str) -> Iterator[tuple[int, bool, int, str]]:
    """Line, whether anything stands before it, column and text of every comment."""
    ends = {}
    for token in yaml.scan(text):
        if token.start_mark.index < token.end_mark.index:
            ends[token.end_mark.line] = token.end_mark.column
    for number, line in enumerate(text.splitlines()):
        end = ends.get(number, 0)
        if found := re.search(r"#( ?)(.*)", line[end:]):
            yield number, end > 0, end + found.start(), found[2]


def meanings(text: str) -> tuple[dict[Key, str], dict[Key, dict[str, str]]]:
    """The comments of params.yaml by key, and by section what its comment says of the keys in the blocks below it.

    A comment belongs to the key on its line, and a comment line below it in the same column goes on with it; comment
    lines above a key, without an empty line between, belong to that key. Of these, lines `#   name   meaning` explain
    a key: above a section one of its blocks, within it the next ones.
    """
    keys, lines = dict(_keys(yaml.compose(text))), text.splitlines()
    said: dict[Key, list[str]] = {}
    waiting, previous, owner, column = [], -2, None, -1
    for number, beside, at, words in _comments(text):
        if beside:
            owner = keys[max(line for line in keys if line <= number)]
        elif number != previous + 1 or at != column:
            owner, waiting = None, []
        if owner is None:
            waiting.append(words)
            if number + 1 in keys and lines[number + 1].strip():
                said[keys[number + 1]] = waiting
        else:
            said.setdefault(owner, []).append(words)
        previous, column = number, at
    glossaries = {path: glossary for path, words in said.items() if (glossary := _glossary(words))}
    joined = {path: " ".join(word for word in words if not word.startswith("  ")) for path, words in said.items()}
    for path in [path for path in glossaries if len(path) > 1]:
        joined |= {(*path[:-1], name): meaning for name, meaning in glossaries.pop(path).items()}
    return joined, glossaries


def _glossary(words: list[str]) -> dict[str, str]:
    explained, names = {}, []
    for line in words:
        if found := EXPLAINED.fullmatch(line):
            names = found[1].split(", ")
            explained |= dict.fromkeys(names, found[2])
        elif names and line.startswith("   "):
            explained |= {name: f"{explained[name]} {line.strip()}" for name in names}
    return explained


def allowed(schema: dict) -> str:
    """What a value may be, from its JSON schema. KeyError for a type that this has no words for."""
    if "anyOf" in schema:
        return " or ".join(allowed(part) for part in schema["anyOf"])
    if choices := schema.get("enum") or ([schema["const"]] if "const" in schema else None):
        return ", ".join(f"`{choice}`" for choice in choices)
    if schema.keys() <= {"title"}:
        return "see meaning"  # only a validator knows, and the comment in params.yaml tells
    if schema["type"] == "null":
        return "`null`"
    if schema["type"] == "boolean":
        return "`true`, `false`"
    if schema["type"] == "array":
        items = schema["items"]
        what = "list" if "$ref" in items else f"list, each entry: {allowed(items)}"
        return what + ("; not empty" if schema.get("minItems") else "")
    limits = [
        f"{words} {schema[bound]:g}"
        for bound, words in BOUNDS.items()
        if bound in schema and (bound, schema[bound]) != ("maximum", reading.LARGEST)
    ]
    return " ".join([NAMES[schema["type"]], ", ".join(limits)]).strip()


def _rows(schema: dict, definitions: dict, values: dict, path: Key) -> Iterator[tuple[Key, str, str]]:
    """Path, shipped value and what is allowed, of every key in the order of params.yaml."""
    for name in values:
        own, value = schema["properties"][name], values[name]
        if "$ref" in own:
            yield (*path, name), "", "the keys below"
            yield from _rows(definitions[own["$ref"].split("/")[-1]], definitions, value, (*path, name))
        else:
            yield (*path, name), _shown(value), allowed(own)


def _shown(value: object) -> str:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return f"{_shown(value[0])} and so on, {len(value)} entries"
    text = yaml.safe_dump(value, default_flow_style=True, width=1000, sort_keys=False)
    text = text.removesuffix("...\n").strip()
    return f"`{text}`"


def _text(text: str) -> str:
    """Text of a comment as Markdown, in a table too: nothing but code is markup."""
    parts = text.split("`")
    parts[::2] = [re.sub(r"(\*|(?<!\w)_|_(?!\w))", r"\\\1", part).replace("<", "&lt;") for part in parts[::2]]
    return "`".join(parts).replace("|", r"\|")


def _sentence(text: str) -> str:
    """A block's comment as a sentence."""
    return f"{text[0].upper()}{text[1:].removesuffix('.')}." if text else ""


def _table(model: type, values: dict, path: Key, said: dict, shared: dict) -> str:
    schema, lines = model.model_json_schema(), []
    for key, shipped, kind in _rows(schema, schema.get("$defs", {}), values, path):
        meaning = _text(said.get(key, "[shared](#shared-settings)" if key[-1] in shared else ""))
        if meaning.replace(r" \| ", ", ") == kind.replace("`", ""):
            meaning = ""  # it says what is allowed
        name = ".".join(key[len(path) :])
        lines.append(f"| `{name}` | {shipped} | {kind} | {meaning} |\n")
    return HEAD + "".join(lines)


def _described(method: str) -> str:
    """A link to the method's section in docs/methods, where there is one."""
    for page in sorted((ROOT / "docs/methods").glob("*.md")):
        if f"\n## `{method}`\n" in page.read_text(encoding="utf-8"):
            return f"[What it does](../methods/{page.name}#{method})."
    return ""


def page() -> str:
    """The content of docs/reference/params.md."""
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    values = parse(text, "params.yaml")
    said, glossaries = meanings(text)
    parts = [INTRODUCTION]
    for section, content in values.items():
        shared = glossaries.get((section,), {})
        parts += [f"## `{section}`\n", _sentence(_text(said.get((section,), ""))) + "\n"]
        if shared:
            names = {text: [f"`{key}`" for key in shared if shared[key] == text] for text in shared.values()}
            lines = [f"| {', '.join(own)} | {_text(meaning)} |\n" for meaning, own in names.items()]
            parts += ["### Shared settings\n", "| key | meaning |\n|---|---|\n" + "".join(lines)]
        if section != "methods":
            parts.append(_table(Sections.model_fields[section].annotation, content, (section,), said, shared))
            continue
        for method, block in content.items():
            model = importlib.import_module(f"prunus.methods.{method}").Settings
            about = [_sentence(_text(said.get((section, method), ""))), _described(method)]
            table = _table(model, block, (section, method), said, shared)
            parts += [f"### `{method}`\n", " ".join(filter(None, about)) + "\n", table]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(parts))


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}")
