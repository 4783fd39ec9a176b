"""Mutations of the real params.yaml, by kind, as hypothesis strategies of the file's bytes."""

import copy

import yaml
from hypothesis import strategies as st

from prunus.study import layout
from prunus.study.reading import parse

REAL = (layout.ROOT / layout.PARAMS).read_bytes()
CONTENT = parse(REAL.decode(), layout.PARAMS)
TOKEN = "MUTATED"

OTHER_TYPES = [
    "null",
    "true",
    "no",
    "yes",
    "off",
    "~",
    "''",
    "' '",
    "[]",
    "{}",
    "[null]",
    "{a: 1}",
    "[[0]]",
    "0",
    "1",
    "x",
]
OTHER_TYPES += ["'1'", "1.0", "'true'", "-", "[1, [2, {a: 3}]]", "{? [1, 2] : 3}", "{1: 2}", "{null: 1}", "{true: 1}"]
NUMBERS = [
    "1e400",
    "-1e400",
    "1" * 5001,
    "-0.0",
    "-0",
    ".nan",
    ".inf",
    "-.inf",
    "1e-400",
    "4.9e-324",
    "1.7976931348623157e308",
]
NUMBERS += [
    "9223372036854775807",
    "9223372036854775808",
    "-1",
    "2147483648",
    "1" * 400,
    "1" * 300,
    "0.1",
    "1.5",
    "1e9",
    "1e10",
]
NUMBERS += [
    "010",
    "0o17",
    "0x1F",
    "0b11",
    "1_000",
    "1:30",
    "1e5",
    "1E5",
    "1.e5",
    ".5e3",
    ".5e+3",
    "+1",
    "+.5",
    "1.",
    "0.0",
    "00",
]
TAGGED = [
    "!!python/object/apply:os.system ['true']",
    "!!python/name:os.system",
    "!!binary aGVsbG8=",
    "!!set {a, b}",
    "!!omap [a: 1]",
]
TAGGED += [
    "!!int x",
    "!!float x",
    "!!bool x",
    "!!timestamp x",
    "!!str 1",
    "! 1",
    "!local 1",
    "!<tag:a> 1",
    "!!null ''",
    "!!pairs [a: 1]",
]
TAGGED += [
    "2020-01-01",
    "2020-01-01 10:00:00",
    "2020-13-45",
    "!!merge x",
    "=",
    "<<",
    "{<<: {a: 1}}",
    "%",
    "@",
    "`",
    "|",
    "> x",
]
TEXTS = ["\\ud800", "\\U00110000", "\\x00", "\\u202e", "\\u200b", "\\ufeff", "\\n", "\\e[31m", "\\N", "\\L", "\\a"]
UNICODE = [
    "\u202eabc",
    "\u200bsap",
    "\ufeffsap",
    "s\u0430p",
    "lenet\uff15",
    "\u0661",
    "\uff11",
    "\u00b2",
    "\u2028",
    "\x85",
    "\x7f",
    "\x9f",
]
UNICODE += ["\U0001f4a5", "e\u0301", "\u00e9", "x" * 5000, "\x1b[2J", "\x08", "\t", "\x00", "\ufffe"]
BOMBS = [
    "[" * 10_000,
    "{a: " * 10_000,
    "[" * 19 + "]" * 19,
    "[" * 300 + "]" * 300,
    "[" + "0," * 30_000 + "]",
    "&a [*a]",
    "&a {b: *a}",
]
BOMBS += [
    "[&a [x, x, x, x], "
    + ", ".join(f"&{b} [*{a}, *{a}, *{a}, *{a}]" for a, b in zip("abcdefghij", "bcdefghijk", strict=True))
    + "]"
]
BOMBS += [
    "[" + ", ".join(f"k{index}" for index in range(3000)) + "]",
    "{" + ", ".join(f"k{index}: 1" for index in range(2000)) + "}",
]
BOMBS += [
    "{" + "a: 1, " * 2000 + "}",
    "*nowhere",
    "[&a 1, *a]",
    "&a 5",
    "[&a sap, *a]",
    "x" * 120_000,
    "'" + "\\" * 90_000 + "'",
]
KEYS = [
    "epochs ",
    "Epochs",
    "\u0435pochs",
    "epochs\u200b",
    '"\\ud800"',
    '"\\n"',
    '"a\\nb: c"',
    "1",
    "1.5",
    "null",
    "true",
    "''",
    "<<",
    "? [a]",
    "'.'",
]
KEYS += [
    "__class__",
    "model_config",
    "x" * 3000,
    "\u202eepochs",
    '"\\0"',
    "'training.epochs'",
    "'[0]'",
    "study",
    "methods",
    "sap",
    "'  '",
    "*a",
    "&a b",
]


def paths(content: object, path: tuple = ()) -> list[tuple]:
    """Every place of ``content`` that holds a value, the whole left out."""
    below = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [place for key, value in below for place in [(*path, key), *paths(value, (*path, key))]]


def at(content: object, path: tuple) -> object:
    for key in path:
        content = content[key]
    return content


PATHS = paths(CONTENT)
IN_BLOCKS = [path for path in PATHS if isinstance(path[-1], str)]
NUMERIC = [path for path in PATHS if type(at(CONTENT, path)) in (int, float)]
LISTS = [path for path in PATHS if isinstance(at(CONTENT, path), list) and at(CONTENT, path)]


def written(content: object, snippet: str | None = None) -> bytes:
    """YAML of ``content``, with ``snippet`` as it stands where ``TOKEN`` does."""
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    return (text if snippet is None else text.replace(TOKEN, snippet)).encode("utf-8", "surrogatepass")


def put(path: tuple, value: object, content: object = CONTENT) -> object:
    content = copy.deepcopy(content)
    at(content, path[:-1])[path[-1]] = value
    return content


def _renamed(path: tuple, name: str) -> object:
    content = copy.deepcopy(CONTENT)
    block = at(content, path[:-1])
    entries = [(name if key == path[-1] else key, value) for key, value in block.items()]
    block.clear()
    block.update(entries)
    return content


def _replaced(snippets: list[str], places=PATHS):
    return st.tuples(st.sampled_from(places), st.sampled_from(snippets)).map(
        lambda two: written(put(two[0], TOKEN), two[1])
    )


@st.composite
def _several(draw):
    content = CONTENT
    for path in draw(st.lists(st.sampled_from(NUMERIC), min_size=2, max_size=60, unique=True)):
        content = put(
            path, draw(st.one_of(st.integers(), st.floats(), st.none(), st.text(max_size=5), st.booleans())), content
        )
    return written(content)


@st.composite
def _deleted(draw):
    content = copy.deepcopy(CONTENT)
    for path in draw(st.lists(st.sampled_from(IN_BLOCKS), min_size=1, max_size=4)):
        try:
            del at(content, path[:-1])[path[-1]]
        except (KeyError, TypeError):
            continue  # its block has gone before it
    return written(content)


@st.composite
def _duplicated(draw):
    lines = written(CONTENT).decode().splitlines(keepends=True)
    keys = [index for index, line in enumerate(lines) if line.rstrip().partition(":")[0].strip().isidentifier()]
    index = draw(st.sampled_from(keys))
    if draw(st.booleans()):
        return "".join([*lines[: index + 1], *lines[index:]]).encode()
    other = draw(st.sampled_from(lines))
    return "".join([*lines[:index], other, *lines[index:]]).encode()


@st.composite
def _lists(draw):
    path = draw(st.sampled_from(LISTS))
    entries = at(CONTENT, path)
    strange = st.sampled_from([None, -1, 0, 1, 1.0, "sap", "", [], {}, True, 10**30, *entries])
    chosen = draw(st.lists(st.one_of(st.sampled_from(entries), strange), max_size=12))
    return written(put(path, chosen))


@st.composite
def _swapped(draw):
    a, b = draw(st.lists(st.sampled_from(IN_BLOCKS), min_size=2, max_size=2, unique=True))
    if a == b[: len(a)] or b == a[: len(b)]:
        return written(put(a, at(CONTENT, b)))
    return written(put(b, at(CONTENT, a), put(a, at(CONTENT, b))))


@st.composite
def _bytes(draw):
    text = bytearray(REAL if draw(st.booleans()) else written(CONTENT))
    for _ in range(draw(st.integers(1, 4))):
        if not text:
            break
        start = draw(st.integers(0, len(text) - 1))
        length = draw(st.integers(0, 40))
        what = draw(st.sampled_from(["flip", "cut", "insert", "repeat", "truncate"]))
        if what == "flip":
            text[start] ^= 1 << draw(st.integers(0, 7))
        elif what == "cut":
            del text[start : start + length]
        elif what == "insert":
            text[start:start] = draw(
                st.binary(max_size=6) | st.text("[]{}:,-?&*!|>'\"%@`#\t\n ~<", max_size=6).map(str.encode)
            )
        elif what == "repeat":
            text[start:start] = text[start : start + length]
        else:
            del text[max(start, 1) :]
    return bytes(text)


SPOKEN = written(put(("data", "image_folder", "path"), "Bilder/größe")).decode()
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1", "cp1252", "cp500", "utf-7"]
WHOLE = [
    b"",
    b"\n",
    b"# nothing\n",
    b"---\n",
    b"null\n",
    b"just text",
    b"[1, 2]",
    b"study",
    b"study:",
    b"3",
    b"\x00" * 100,
    b"---\n---\n",
]
WHOLE += [
    b"\x89PNG\r\n\x1a\n",
    b"PK\x03\x04",
    b"\x80\x04\x95",
    b"%YAML 1.1\n---\n" + REAL,
    b"%TAG ! tag:x:\n---\n" + REAL,
    b"---\n" + REAL,
]
WHOLE += [
    REAL + b"...\n",
    REAL + b"---\n" + REAL,
    REAL * 2,
    REAL * 20,
    REAL.replace(b"\n", b"\r\n"),
    REAL.replace(b"\n", b"\r"),
    b"[" + REAL,
]
WHOLE += [
    b"- " * 5000,
    b"&a " + REAL,
    b"!!map\n" + REAL,
    b"a: &a [x]\n<<: *a\n" + REAL,
    REAL.replace(b"  ", b"\t"),
    b"#" * 10**6,
]
WHOLE += [
    REAL + b"k: 1\n" * 4000,
    REAL + b"\n".join(b"k%d: 1" % index for index in range(4000)),
    b"? " * 3000,
    b"-" * 90_000,
]

KINDS = {
    "value of another type": _replaced(OTHER_TYPES),
    "number out of range": _replaced(NUMBERS, NUMERIC),
    "number elsewhere": _replaced(NUMBERS),
    "tag, date, YAML 1.1": _replaced(TAGGED),
    "escape in a text": _replaced([f'"{text}"' for text in TEXTS] + [f'"sap{text}"' for text in TEXTS]),
    "unicode in a text": _replaced(UNICODE),
    "bomb, alias": _replaced(BOMBS),
    "several values": _several(),
    "key deleted": _deleted(),
    "key renamed": st.tuples(st.sampled_from(IN_BLOCKS), st.sampled_from(KEYS)).map(
        lambda two: written(_renamed(two[0], TOKEN), two[1])
    ),
    "key added": st.tuples(st.sampled_from(IN_BLOCKS), st.sampled_from(KEYS), st.sampled_from(OTHER_TYPES)).map(
        lambda three: written(put((*three[0][:-1], TOKEN), 0), three[1]).replace(
            b": 0\n", f": {three[2]}\n".encode(), 1
        )
    ),
    "key or line twice": _duplicated(),
    "list rearranged": _lists(),
    "values swapped": _swapped(),
    "bytes": _bytes(),
    "another encoding": st.sampled_from(ENCODINGS).map(lambda name: SPOKEN.encode(name)),
    "another file": st.sampled_from(WHOLE) | st.binary(max_size=200),
}
