"""Damage to bytes and to tables of text, from a generator of random numbers."""

from __future__ import annotations

from random import Random

__all__ = ["WORDS", "damaged_bytes", "damaged_table"]

_BYTES = (0, 1, 9, 10, 13, 0x1F, 0x20, 0x22, 0x7F, 0x80, 0xC3, 0xFE, 0xFF)
_INTEGERS = (0, 1, 2, 7, 255, 32767, 32768, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63, 2**64 - 1)

WORDS = (
    "", " ", "n/a", "NA", "nan", "NaN", "inf", "-inf", "1e999", "-1e999", "1e-999", "0", "-0", "-1", "1", "1.0", "0.5",
    "2147483647", "2147483648", "-2147483649", "9223372036854775808", "1_000", "0x10", "1,5", "١٢", "²", "½", "+3",
    "True", "None", "\N{NO-BREAK SPACE}", "\N{ZERO WIDTH SPACE}", "\N{RIGHT-TO-LEFT OVERRIDE}abc", "é", "e\u0301", "😀",
    "\udc80", "\x00", "\x1b[31m", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", '"', '""', '"a', "'", "`", "\\", "=1+1",
    "=cmd|' /C calc'!A0", "<script>alert(1)</script>", "../../../etc/passwd", "/dev/zero", "~", "~root", "$HOME", "{0}",
    "{participant_id}", "{0.__class__}", "%s", "%n", "participant_id", "index", "name", "onset", "gpuroi_trap()",
    "__import__('os')", "a" * 300, "9" * 400, "1" + "0" * 309, "/Matrix", "/NumWaves", "#", "//", "<label>", "&lt;",
    "&#0;", "]]>", "<!--",
)  # fmt: skip


def damaged_bytes(random: Random, raw: bytes, most: int = 4) -> bytes:
    """Change up to `most` things: bits, bytes, whole numbers, what is cut out, put in, doubled or cut off."""
    data = bytearray(raw)
    for _ in range(random.randint(1, most)):
        at = random.randrange(len(data) + 1)
        length = random.choice((1, 1, 2, 4, 8, 16, 64, 512))
        match random.randrange(9):
            case 0 if data:
                data[at % len(data)] ^= 1 << random.randrange(8)
            case 1 if data:
                data[at % len(data)] = random.choice(_BYTES)
            case 2:
                data[at : at + length] = random.randbytes(length)
            case 3:
                data[at:at] = random.choice((bytes(length), random.randbytes(length), b"\xff" * length))
            case 4:
                del data[at : at + length]
            case 5:
                data[at:at] = data[at : at + length]
            case 6:
                del data[at:]
            case 7:
                size = random.choice((2, 4, 8))
                value = random.choice(_INTEGERS) % 256**size
                data[at : at + size] = value.to_bytes(size, random.choice(("little", "big")))
            case _ if data:
                other = random.randrange(len(data))
                data[at : at + length] = data[other : other + length]
    return bytes(data)


def damaged_table(random: Random, raw: bytes, separator: str | None) -> bytes:
    """Change cells, columns and lines of a table, then its line ends, its encoding, and at times its bytes."""
    rows = [line.split(separator) for line in raw.decode().splitlines()]
    joint = separator or " "
    for _ in range(random.randint(0, 3)):
        _change_rows(random, rows)
    text = random.choice(("\n", "\n", "\n", "\r\n", "\r", "\n\n", "\x85")).join(joint.join(row) for row in rows)
    text += random.choice(("\n", "\n", "", "\r\n", "\n\n\n", " "))
    encoding = random.choice(("utf-8", "utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-16-be", "latin-1"))
    data = text.encode(encoding, "surrogateescape" if encoding.startswith("utf-8") else "replace")
    return damaged_bytes(random, data, 3) if random.random() < 0.3 else data


def _change_rows(random: Random, rows: list[list[str]]) -> None:
    if not rows:
        rows.append([random.choice(WORDS)])
    row = random.choice(rows)
    at = random.randrange(len(row) + 1)
    match random.randrange(12):
        case 0 | 1 | 2 | 3:
            row[at : at + 1] = [random.choice(WORDS)]
        case 4:
            row[at:at] = [random.choice(WORDS)]
        case 5:
            del row[at : at + 1]
        case 6:
            rows.insert(random.randrange(len(rows) + 1), list(random.choice(rows)))
        case 7:
            rows.remove(row)
        case 8:
            random.shuffle(rows)
        case 9:
            for one in rows:  # a column twice
                one.append(one[at % len(one)] if one else "")
        case 10:
            for one in rows:
                del one[at : at + 1]
        case _:
            row[at:at] = [random.choice(WORDS)] * random.choice((2, 50, 2000))
