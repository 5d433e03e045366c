"""Numbers as people read them: bytes, rates, durations, ratios; a dash for what is not known yet."""

from __future__ import annotations

import math
from collections.abc import Mapping

from wire.words import printable

UNKNOWN = "–"
BARS = "·▁▂▃▄▅▆▇█"
MAX_BARS = 9


def show_count(value: float | None) -> str:
    """`950`, `18.2k`, `3.2M`."""
    return _scaled(value, 1000, ("", "k", "M", "G", "T"))


def show_bytes(value: float | None) -> str:
    """Decimal: `950 B`, `24.1 MB`."""
    return _scaled(value, 1000, (" B", " kB", " MB", " GB", " TB"))


def show_loss(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.4f}"


def show_ratio(dense: float | None, sent: float | None) -> str:
    """How many times fewer bytes than dense: `24.3x`."""
    return UNKNOWN if not dense or not sent else f"{dense / sent:.1f}x"


def show_seconds(value: float | None) -> str:
    """`0.21 s`, `48 s`, `2:05`, `1:02:03`."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    if value < 10:
        return f"{value:.2f} s"
    minutes, seconds = divmod(round(value), 60)
    if minutes == 0:
        return f"{seconds} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def show_share(value: float | None) -> str:
    """A share of one as percent."""
    return UNKNOWN if value is None else f"{value:.0%}"


def show_number(value: float | None) -> str:
    """A figure without a unit, in three digits: `0`, `0.25`, `1.2e+06`."""
    return UNKNOWN if value is None else f"{value:.3g}"


def show_histogram(counts: Mapping[str, int]) -> str:
    """Counts by value, a bar for each whole number of it: `█▂·▁ 0 to 3, mean 0.31`; the last bar is of all beyond."""
    values = {float(value): count for value, count in counts.items() if count}
    if not values:
        return UNKNOWN
    bars = [0] * (1 + min(int(max(values)), MAX_BARS - 1))
    for value, count in values.items():
        bars[min(int(value), len(bars) - 1)] += count
    drawn = "".join(BARS[math.ceil(bar / max(bars) * (len(BARS) - 1))] for bar in bars)
    mean = sum(value * count for value, count in values.items()) / sum(values.values())
    return f"{drawn} {min(values):g} to {max(values):g}, mean {mean:.2f}"


def show(value: object) -> str:
    """Anything else, others' words among them, as part of one line."""
    return UNKNOWN if value is None else printable(str(value))


def _scaled(value: float | None, base: int, units: tuple[str, ...]) -> str:
    if value is None or not math.isfinite(value):
        return UNKNOWN
    step = 0
    while abs(value) >= base * 0.9995 and step < len(units) - 1:
        value, step = value / base, step + 1
    number = f"{value:.0f}" if step == 0 else f"{value:.3g}" if abs(value) >= 100 else f"{value:.1f}"
    return number + units[step]
