"""The grammars of option values: numbers, sizes, rates, durations, modes. Parsing only, no option table.

Every parser raises ValueError with a short reason; the option table (`args`) adds which option it was.
"""

from __future__ import annotations

UNITS = "BKMGTPE"
_SIGNED = (-(1 << 63), (1 << 63) - 1)
_UNSIGNED = (0, (1 << 64) - 1)
_TRUE = ("1", "t", "T", "TRUE", "true", "True")
_FALSE = ("0", "f", "F", "FALSE", "false", "False")
_BASES = {"x": 16, "o": 8, "b": 2}
_DURATION_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_RATES = {"M": 1, "G": 1_000, "T": 1_000_000, "P": 1_000_000_000}


def boolean(text: str) -> bool:
    """1 t T TRUE true True, and the same for false."""
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError("parse error")


def integer(text: str, *, signed: bool = True) -> int:
    """A 64-bit number; 0x, 0o, 0b and a leading 0 choose the base, underscores may stand between digits."""
    sign, digits = (-1, text[1:]) if text[:1] == "-" else (1, text[1:] if text[:1] == "+" else text)
    if not digits or not digits[0].isdigit() or (sign == -1 and not signed):
        raise ValueError("parse error")
    base = 10
    if len(digits) > 1 and digits[0] == "0":
        base = _BASES.get(digits[1].lower(), 8)
        digits = digits[2:].removeprefix("_") if digits[1].lower() in _BASES else digits[1:].removeprefix("_")
    try:
        number = sign * int(digits, base) if digits[:1] not in "+- " else None
    except ValueError:
        number = None
    if number is None:
        raise ValueError("parse error")
    low, high = _SIGNED if signed else _UNSIGNED
    if not low <= number <= high:
        raise ValueError("value out of range")
    return number


def size(text: str, unit: str) -> int:
    """Bytes of `FLOAT[unit]`: one letter of B K M G T P E in either case; `unit` is meant where there is none."""
    if not text:
        return 0
    letter = text[-1].upper()
    number = text[:-1] if letter in UNITS else text
    exponent = UNITS.index(letter if letter in UNITS else unit)
    value = _plain_float(number)
    if value < 0:
        raise ValueError("must not be negative")
    total = int(value * (1 << 10 * exponent))
    if total > _UNSIGNED[1]:
        raise ValueError("too big")
    return total


def mbps(text: str) -> int:
    """Megabits per second of `FLOAT[M|G|T|P]` (decimal units, M where there is none), cut to an integer."""
    if not text:
        return 0
    scale = _RATES.get(text[-1].upper())
    value = _plain_float(text if scale is None else text[:-1]) * (scale or 1)
    if value < 0:
        raise ValueError("must not be negative")
    return int(value)


def duration(text: str) -> float:
    """Seconds of a duration string: a bare number of seconds, or `1d12h`, `1h30m`, `100ms`. Empty is 0."""
    if not text:
        return 0.0
    try:
        return round(_plain_float(text), 6)
    except ValueError:
        pass
    days, separator, rest = text.partition("d")
    if not separator:
        return go_duration(text)
    if not days.isdigit():
        raise ValueError("not a duration")
    return int(days) * 86400 + (go_duration(rest) if rest else 0.0)


def go_duration(text: str) -> float:
    """Seconds of a sequence of numbers with units: `90m`, `1h30m`, `1.5s`, `-2h`, or `0`."""
    sign = -1.0 if text.startswith("-") else 1.0
    rest = text[1:] if text[:1] in ("-", "+") else text
    if rest == "0":
        return 0.0
    if not rest:
        raise ValueError("not a duration")
    seconds = 0.0
    while rest:
        number = rest[: len(rest) - len(rest.lstrip("0123456789."))]
        rest = rest[len(number) :]
        unit = rest[: len(rest) - len(rest.lstrip("nuµμmsh"))]
        rest = rest[len(unit) :]
        if unit not in _DURATION_UNITS or number.count(".") > 1 or not number.strip("."):
            raise ValueError("not a duration")
        seconds += float(number) * _DURATION_UNITS[unit]
    return sign * seconds


def octal(text: str, bits: int) -> int:
    """A file mode in octal that fits in `bits` bits."""
    if not text or text.strip("01234567"):
        raise ValueError("not an octal number")
    mode = int(text, 8)
    if mode >> bits:
        raise ValueError("value out of range")
    return mode


def hours(text: str) -> tuple[int, int]:
    """`START-END` or `START,END`, hours of the day."""
    start, separator, end = text.replace(",", "-").partition("-")
    if not separator or not start.isdigit() or not end.isdigit() or int(start) > 23 or int(end) > 23:
        raise ValueError("expected START-END with hours 0 to 23")
    return int(start), int(end)


def tag(text: str) -> tuple[str, str]:
    """`key=value`, exactly one of them."""
    key, _, value = text.partition("=")
    if not key or not value or "=" in value:
        raise ValueError("expected one KEY=VALUE")
    return key, value


def _plain_float(text: str) -> float:
    """A finite decimal number without the spellings that only Python accepts."""
    if not text or text.strip("0123456789.eE+-"):
        raise ValueError("not a number")
    try:
        value = float(text)
    except ValueError:
        raise ValueError("not a number") from None
    if value in (float("inf"), float("-inf")):
        raise ValueError("value out of range")
    return value
