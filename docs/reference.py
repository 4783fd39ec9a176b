"""Write what the schema says about params.yaml: docs/reference/params.md for readers, params.schema.json for editors.

python docs/reference.py
"""

import importlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import Field, create_model

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "stages"))

from prunus.study import reading  # noqa: E402
from prunus.study.catalogue import method_names  # noqa: E402
from prunus.study.schema import Sections  # noqa: E402
from prunus.study.section import Section  # noqa: E402

COMMAND = "python docs/reference.py"
PAGE = ROOT / "docs/reference/params.md"
SCHEMA = ROOT / "docs/reference/params.schema.json"
INTRODUCTION = """\
# params.yaml, key by key

<!-- Written by `python docs/reference.py` from the schema (stages/prunus/study/schema.py and the methods' own). -->

Every key is required, and a key that is not listed here is an error. A key that is read *only with* a value of another
key is required with that value, and an error with any other. *Shipped* is the value in `params.yaml`.
No integer may be above 10^9. Editors that know YAML schemas complete and check the file with
[params.schema.json](params.schema.json), which its first line names.
"""
METHODS = "A block is a method's file under stages/prunus/methods/ and its settings."
HEAD = "| key | shipped | allowed | meaning |\n|---|---|---|---|\n"
BOUNDS = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
NAMES = {"integer": "integer", "number": "number", "string": "text"}


def schema() -> dict[str, Any]:
    """The JSON schema of params.yaml as a whole, the blocks of all methods included."""
    settings = {name: importlib.import_module(f"prunus.methods.{name}").Settings for name in method_names()}
    blocks = {name: (model, Field(default_factory=dict)) for name, model in settings.items()}  # none is required
    methods = create_model("Methods", __base__=Section, __doc__=METHODS, **blocks)
    params = create_model("Params", __base__=Sections, __doc__=Sections.__doc__, methods=(methods, ...))
    return _untitled(params.model_json_schema())


def _untitled(schema: Any) -> Any:
    """``schema`` without titles, which only repeat the keys' names."""
    if isinstance(schema, dict):
        return {key: _untitled(part) for key, part in schema.items() if key != "title" or not isinstance(part, str)}
    return [_untitled(part) for part in schema] if isinstance(schema, list) else schema


def allowed(schema: dict) -> str:
    """What a value may be, from its JSON schema. KeyError for an unknown type."""
    if "anyOf" in schema:
        return " or ".join(allowed(part) for part in schema["anyOf"])
    if choices := schema.get("enum") or ([schema["const"]] if "const" in schema else None):
        return ", ".join(f"`{choice}`" for choice in choices)
    if schema.keys() <= {"title"}:
        return "see meaning"  # only a validator knows it; the comment in params.yaml says it
    if schema["type"] == "null":
        return "`null`"
    if schema["type"] == "boolean":
        return "`true`, `false`"
    if schema["type"] == "array":
        items = schema["items"]
        kind = "list" if "$ref" in items else f"list, each entry: {allowed(items)}"
        return kind + ("; not empty" if schema.get("minItems") else "")
    limits = [
        f"{words} {schema[bound]:g}"
        for bound, words in BOUNDS.items()
        if bound in schema and (bound, schema[bound]) != ("maximum", reading.LARGEST)
    ]
    return " ".join([NAMES[schema["type"]], ", ".join(limits)]).strip()


class Block:
    """A block of params.yaml as the JSON schema ``document`` describes it."""

    def __init__(self, document: dict, reference: dict):
        schema = document["$defs"][reference["$ref"].split("/")[-1]]
        self._document = document
        self.about: str = schema["description"]
        self.properties: dict[str, dict] = schema["properties"]
        self.conditions: dict[str, tuple[str, str]] = {}  # key -> the other key and its value with which it is read
        for condition in schema.get("allOf", []):
            [(key, is_value)] = condition["if"]["properties"].items()
            self.conditions[condition["then"]["required"][0]] = key, is_value["const"]

    def below(self, name: str) -> "Block | None":
        """The block that a key holds, or that every entry of its list is."""
        part = self.properties[name]
        part = part.get("items", part)
        return Block(self._document, part) if "$ref" in part else None

    def rows(self, values: dict, prefix: str = "") -> Iterator[tuple[str, str, str, str]]:
        """Key, shipped value, what is allowed and the meaning, in the order of ``values``, those without one last."""
        for name in [*values, *(name for name in self.properties if name not in values)]:
            part, below = self.properties[name], self.below(name)
            is_list, kind = "items" in part, "the keys below"
            if is_list or not below:
                kind = allowed(part)
            if name in self.conditions:
                key, value = self.conditions[name]
                kind += f"; only with `{key}: {value}`"
            shown = _shown(values[name]) if name in values and (is_list or not below) else ""
            yield prefix + name, shown, kind, part["description"]
            if below:
                inner = values[name][0] if is_list else values[name]
                for key, shown, kind, meaning in below.rows(inner, f"{prefix}{name}{'[]' if is_list else ''}."):
                    yield key, "" if is_list else shown, kind, meaning


def _shown(value: object) -> str:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return f"{_shown(value[0])} and so on, {len(value)} entries"
    if isinstance(value, dict):
        return "`{" + ", ".join(f"{key}: {entry}" for key, entry in value.items()) + "}`"
    return "`" + json.dumps(value).replace('"', "") + "`"


def _text(text: str) -> str:
    """Text of a comment as Markdown, in a table too: nothing but code is markup."""
    parts = text.split("`")
    parts[::2] = [re.sub(r"(\*|(?<!\w)_|_(?!\w))", r"\\\1", part).replace("<", "&lt;") for part in parts[::2]]
    return "`".join(parts).replace("|", r"\|")


def _joined(text: str) -> str:
    """A docstring in one line."""
    return " ".join(text.split())


def _table(block: Block, values: dict) -> str:
    lines = []
    for key, shipped, kind, meaning in block.rows(values):
        meaning = _text(meaning)
        if meaning.replace(r" \| ", ", ") == kind.replace("`", ""):
            meaning = ""  # it says what is allowed
        lines.append(f"| `{key}` | {shipped} | {kind} | {meaning} |\n")
    return HEAD + "".join(lines)


def _described(method: str) -> str:
    """A link to the method's section in docs/methods, where there is one."""
    for page in sorted((ROOT / "docs/methods").glob("*.md")):
        if f"\n## `{method}`\n" in page.read_text(encoding="utf-8"):
            return f"[What it does](../methods/{page.name}#{method})."
    return ""


def page() -> str:
    """The content of docs/reference/params.md."""
    values = reading.read_file(ROOT / "params.yaml")
    document = schema()
    parts = [INTRODUCTION]
    for section, content in values.items():
        block = Block(document, document["properties"][section])
        parts += [f"## `{section}`\n", _text(_joined(block.about)) + "\n"]
        if section != "methods":
            parts.append(_table(block, content))
            continue
        for method, settings in content.items():
            about = [_text(_joined(block.below(method).about)), _described(method)]
            parts += [f"### `{method}`\n", " ".join(filter(None, about)) + "\n"]
            parts.append(_table(block.below(method), settings))
    return "\n".join(parts)


def schema_text() -> str:
    """The content of docs/reference/params.schema.json."""
    return json.dumps(schema(), indent=1) + "\n"


if __name__ == "__main__":
    for path, content in ((PAGE, page()), (SCHEMA, schema_text())):
        path.write_text(content, encoding="utf-8")
        print(f"wrote {path.relative_to(ROOT)}")
