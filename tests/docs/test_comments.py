"""The comments of params.yaml say what the schema says: each is the beginning of its key's description."""

import re
from collections.abc import Iterator

import yaml

import reference
from prunus.study import layout

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


def test_a_comment_belongs_to_its_key():
    text = """\
# of the file, of no key

# Of the block, in
# two lines.
#   a, b   shared by two
#          keys
block:                 # and beside it
  one: {x: 1, y: "#"}  # of one
                       # and going on
  # of two
  two: 2
  #   three, four   of the two below
  three: 3
  four: 4
"""
    said, shared = meanings(text)
    assert said == {
        ("block",): "Of the block, in two lines. and beside it",
        ("block", "one"): "of one and going on",
        ("block", "two"): "of two",
        ("block", "three"): "of the two below",
        ("block", "four"): "of the two below",
    }
    assert shared == {("block",): {"a": "shared by two keys", "b": "shared by two keys"}}


def agree(comment: str, description: str, allowed: str = "") -> bool:
    """Whether the comment is the beginning of the description, up to the end of a phrase, or the list of what is
    allowed."""
    comment, description = (" ".join(text.split()).removesuffix(".").lower() for text in (comment, description))
    rest = description.removeprefix(comment)
    return rest != description and re.match(r"$|[.;,:]| \(", rest) or comment.replace(" | ", ", ") == allowed.lower()


def test_what_agrees():
    assert agree("Steps of SGD.", "steps of SGD; 0: none") and agree("steps of SGD", "steps of\nSGD")
    assert agree("a | b", "which one", "a, b") and not agree("a | c", "which one", "a, b")
    assert not agree("steps of SGD", "steps of Adam") and not agree("step", "steps of SGD")


def described() -> tuple[dict[Key, tuple[str, str]], set[Key]]:
    """By key its description and what is allowed, and the keys."""
    whole, found = reference.schema(), {}

    def collect(block, path):
        found[path] = block.about, ""
        for name, part in block.properties.items():
            if below := block.below(name):
                collect(below, (*path, name))
            if "description" in part:
                about = found.get((*path, name), ("", ""))[0] if "items" not in part else ""
                kind = "" if below else reference.allowed(part).replace("`", "")
                found[*path, name] = f"{part['description']}", kind
                if about:
                    found[*path, name, ""] = about, ""  # of the block itself

    for section, part in whole["properties"].items():
        collect(reference.Block(whole, part), (section,))
    return found


def test_every_key_and_every_block_is_described():
    assert [key for key, (description, _) in described().items() if not description.strip()] == []


def test_no_comment_of_params_yaml_says_anything_else():
    found = described()
    said, shared = meanings((layout.ROOT / layout.PARAMS).read_text(encoding="utf-8"))
    wrong = [
        f"{'.'.join(key)}: {comment!r} is not how {found[key][0]!r} begins"
        for key, comment in said.items()
        if not any(agree(comment, *found[place]) for place in (key, (*key, "")) if place in found)
    ]
    for name, comment in shared[("methods",)].items():
        meant = {description for key, (description, _) in found.items() if key[0] == "methods" and key[2:] == (name,)}
        if not any(agree(comment, description) for description in meant):
            wrong.append(f"{name}: {comment!r} is how none of these begins: {meant}")
    assert wrong == []
