"""Mutations of inputs: seeded, and aware of their structure (lines and numbers, headers, JSON, compression).

A mutation is a function of a `random.Random` and the bytes of an input; equal states give equal bytes.
"""

import gzip
import json
import lzma
import re
import zlib

MOST = 1 << 17  #: bytes of an input; a mutation that makes more is cut
_NUMBER = re.compile(rb"0[xX][0-9a-fA-F]+|[0-9]+")
_BITS = (0, 1, 7, 8, 12, 15, 16, 20, 31, 32, 40, 52, 62, 63, 64, 65)
_EDGES = sorted({(1 << bits) + more for bits in _BITS for more in (-1, 0, 1)})
_RUNS = (2, 3, 17, 64, 300, 5000)  #: how often something is repeated; Python refuses decimals of 4301 digits
_LONG_RUN = 60_000  #: a search that is quadratic takes its time; a rare one, for the fuzzer takes its own too
#: Text that trips readers: control characters, digits that are not ASCII, half a character, other line ends.
_ODD = (
    b"\0", b"\x1b[31m", b"\x07", b"\xff", b"\xc3", b"\xef\xbb\xbf", b"\r", b"\r\n", b"\n", b"\x0b", b"\x85",
    "٣".encode(), "５".encode(), "²".encode(), "\u202e".encode(), "\u2028".encode(), "é".encode(),
    b" ", b"\t", b"_", b"-", b"+", b".", b",", b"=", b":", b"#", b"'", b'"', b"[", b"]", b"{", b"}", b"e9", b"nan",
    b"inf", b"true", b"null", b"[[", b"1979-05-27", b"../", b"$9", b"%n",
)  # fmt: skip


def _run(rng):
    return _LONG_RUN if rng.random() < 0.02 else rng.choice(_RUNS)


def number(rng, old):
    """Return another number, in the notation of the old one."""
    value = int(old[:34], 16) if old[:2].lower() == b"0x" else int(old[:34])
    kind = rng.random()
    if kind < 0.5:
        value = rng.choice(_EDGES)
    elif kind < 0.8:
        value = max(value + rng.choice((-4096, -1, 1, 2, 4096, value)), 0)
    elif kind < 0.95:
        value = rng.getrandbits(rng.choice((3, 8, 16, 33, 64)))
    else:
        return old[:3] * _run(rng)
    hexadecimal = (old[:2].lower() == b"0x") ^ (rng.random() < 0.05)
    return b"%#x" % value if hexadecimal else b"%d" % value


def _changed_number(rng, data):
    found = list(_NUMBER.finditer(data))
    if not found:
        return data + b"7"
    match = rng.choice(found)
    return data[: match.start()] + number(rng, match[0]) + data[match.end() :]


def _changed_bytes(rng, data):
    at = rng.randrange(len(data) + 1)
    kind = rng.randrange(5)
    if kind == 0:
        return data[:at] + rng.randbytes(rng.choice((1, 1, 2, 8))) + data[at:]
    if kind == 1:
        return data[:at] + data[at + rng.choice((1, 1, 2, 8, 64, 4096)) :]
    if kind == 2:
        return data[:at]
    if kind == 3:
        end = at + rng.choice((1, 2, 8, 64))
        return data[:end] + data[at:end] * _run(rng) + data[end:]
    return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :] if at < len(data) else data


def _changed_lines(rng, data):
    lines = data.splitlines(keepends=True) or [b""]
    a, b = rng.randrange(len(lines)), rng.randrange(len(lines))
    kind = rng.randrange(5)
    if kind == 0:
        del lines[a]
    elif kind == 1:
        lines.insert(b, lines[a])
    elif kind == 2:
        lines[a], lines[b] = lines[b], lines[a]
    elif kind == 3:
        lines[a] = lines[a].rstrip(b"\n")
    else:
        half = lines[b][rng.randrange(len(lines[b]) + 1) :]
        lines[a] = lines[a][: rng.randrange(len(lines[a]) + 1)] + half
    return b"".join(lines)


def _times(rng):
    return rng.choice((1, 1, 1, 2, 3, 6))


def text(words=()):
    """Return a mutation of lines of text; ``words`` are those that mean something to its reader."""
    words = (*words, *words, *_ODD)

    def odd(rng, data):
        at = rng.randrange(len(data) + 1)
        end = at + rng.choice((0, 0, 1, 5))
        return data[:at] + rng.choice(words) + data[end:]

    def mutation(rng, data):
        for _ in range(_times(rng)):
            data = rng.choice((_changed_number, _changed_number, odd, _changed_lines, _changed_bytes))(rng, data)
        return data[:MOST]

    return mutation


def binary(head):
    """Return a mutation of a file whose first ``head`` bytes are headers: mostly of numbers in them."""

    def field(rng, data):
        width = rng.choice((1, 2, 4, 8, 8))
        end = min(len(data), head if rng.random() < 0.8 else len(data))
        at = rng.randrange(max(end, 1)) & -width
        old = int.from_bytes(data[at : at + width], "little")
        new = rng.choice((rng.choice(_EDGES), rng.choice(_EDGES), old + 1, old - 1, 2 * old, rng.getrandbits(64)))
        return data[:at] + (new & (1 << 8 * width) - 1).to_bytes(width, "little") + data[at + width :]

    def mutation(rng, data):
        for _ in range(_times(rng)):
            data = rng.choice((field, field, field, field, _changed_bytes))(rng, data)
        return data[:MOST]

    return mutation


def packed(inner):
    """Return a mutation of the compressed bytes, or of their contents, which ``inner`` changes before packing."""

    def whole(data):
        opened = gzip.decompress if data[:2] == b"\x1f\x8b" else lzma.decompress
        try:
            return opened(data)
        except (OSError, EOFError, zlib.error, lzma.LZMAError):
            return data

    def mutation(rng, data):
        kind = rng.random()
        if kind < 0.2:
            again = rng.choice((lambda d: gzip.compress(d, 1), lzma.compress, lambda d: lzma.compress(d, 2)))
            return again(inner(rng, whole(data)))[:MOST]
        if kind < 0.3:
            return data + rng.choice((data, b"\0" * 4, b"\0" * 7, b"junk", gzip.compress(b""), lzma.compress(b"")))
        return _damaged(rng, data)

    def _damaged(rng, data):
        for _ in range(_times(rng)):
            data = _changed_bytes(rng, data)
        return data[:MOST]

    return mutation


def _odd_value(rng):
    return rng.choice((
        None, True, -1, 0, rng.choice(_EDGES), -rng.choice(_EDGES), 1.5, 1e400, "", "x", "0x", "-0x1", "٣", [], {},
        [[]], [None], "9" * 5000, {"a": 1}, "\u202e\x1b[31m", f"{rng.choice(_EDGES):#x}", f"{rng.choice(_EDGES)}",
    ))  # fmt: skip


def _place(rng, value):
    """Return a container inside a JSON value and a key in it."""
    while True:
        keys = list(value) if isinstance(value, dict) else range(len(value))
        key = rng.choice(keys)
        inner = value[key]
        if not isinstance(inner, (dict, list)) or not inner or rng.random() < 0.3:
            return value, key
        value = inner


def _changed_json(rng, line):
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return line
    if not isinstance(value, (dict, list)) or not value:
        return line
    holder, key = _place(rng, value)
    kind = rng.random()
    if kind < 0.15:
        del holder[key]
    elif kind < 0.3 and isinstance(holder, list):
        holder.insert(key, holder[rng.randrange(len(holder))])
    elif kind < 0.35:
        holder[key] = [holder[key]]
    elif kind < 0.7 and isinstance(holder[key], str) and _NUMBER.search(holder[key].encode()):
        holder[key] = _changed_number(rng, holder[key].encode()).decode()
    else:
        holder[key] = _odd_value(rng)
    return json.dumps(value).encode() + b"\n"


def json_lines(words=()):
    """Return a mutation of lines of JSON: mostly of a value in one of them, else as text."""
    as_text = text(words)

    def mutation(rng, data):
        for _ in range(_times(rng)):
            lines = data.splitlines(keepends=True)
            if not lines or rng.random() < 0.2:
                data = as_text(rng, data)
                continue
            at = 0 if rng.random() < 0.3 else rng.randrange(len(lines))
            lines[at] = _changed_json(rng, lines[at])
            data = b"".join(lines)
        return data[:MOST]

    return mutation
