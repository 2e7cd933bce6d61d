"""How sizes, counts and rates are shown. Scripts read these texts, so styles stay apart. Parsing is in `values`."""

from __future__ import annotations

import math

_IEC = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def ibytes(count: int) -> str:
    """For tables and prompts: `0 B`, `512 B`, `1.6 MiB`, `10 GiB`."""
    if count < 10:
        return f"{count} B"
    exponent = (count.bit_length() - 1) // 10
    value = math.floor(count / (1 << 10 * exponent) * 10 + 0.5) / 10
    return f"{value:.{1 if value < 10 else 0}f} {_IEC[exponent]}"


def exact_bytes(count: int) -> str:
    """For `info` and progress: `123 Bytes`, `789.02 KiB (807955 Bytes)`."""
    if count < 1024:
        return f"{count} Bytes"
    exponent, scaled = 1, count
    while scaled >= 1 << 20 and exponent < len(_IEC) - 1:
        scaled >>= 10
        exponent += 1
    return f"{scaled / 1024:.2f} {_IEC[exponent]} ({count} Bytes)"


def rate(mbps: int) -> str:
    """Megabits per second: `100.0 Mbps`, `1.0 Gbps`."""
    value, unit = float(mbps), "Mbps"
    for larger in ("Gbps", "Tbps", "Pbps"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.1f} {unit}"


def thousands(count: int) -> str:
    """`1,000`."""
    return f"{count:,}"
