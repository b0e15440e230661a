"""A result as HTML for notebooks, and as plain values for JSON."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from html import escape
from typing import Any


def html(title: str, verdict: str, table: Sequence[Mapping[str, Any]], notes: Sequence[str]) -> str:
    """See `Result._repr_html_`."""
    heads = ("load", "contender", "rows/s", "ratio [95 %]", "p50 ms", "p99 ms", "failed")
    ratio = "{throughput_x:.3g} [{throughput_x_low:.3g}, {throughput_x_high:.3g}]"
    body = [
        (
            row["load"],
            row["contender"],
            f"{row['rows_per_s']:.4g}",
            ratio.format_map(row) if "throughput_x" in row else "",
            *("" if row[of] is None else f"{row[of]:.2f}" for of in ("p50_ms", "p99_ms")),
            str(row["n_failed"]),
        )
        for row in table
    ]
    return (
        f"<p><strong>{escape(title)}.</strong> {escape(verdict)}</p>"
        f"<table><thead>{_tr(heads, 'th')}</thead><tbody>{''.join(_tr(row, 'td') for row in body)}</tbody></table>"
        f"<ul>{''.join(f'<li>{escape(note)}</li>' for note in notes)}</ul>"
    )


def plain(result: Any) -> dict[str, Any]:
    """See `Result.to_dict`."""
    found = asdict(result)
    for parity in found["parity"]:
        parity["worst"] = [
            {name: str(it) if isinstance(it, float) and not math.isfinite(it) else it for name, it in row.items()}
            for row in parity["worst"]
        ]
    finite: dict[str, Any] = _finite(found)
    return finite


def _finite(value: Any) -> Any:
    match value:
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {key: _finite(item) for key, item in value.items()}
        case list() | tuple():
            return [_finite(item) for item in value]
    return value


def _tr(cells: Sequence[str], tag: str) -> str:
    return f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in cells)}</tr>"
