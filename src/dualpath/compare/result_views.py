"""A result as rows for pandas, as HTML for notebooks, and as plain values for JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dualpath.compare.result import Result


def rows(result: Result) -> list[dict[str, Any]]:
    """See `Result.table`."""
    found = []
    for cell in result.cells:
        for name, measured in cell.measured.items():
            row: dict[str, Any] = {
                "load": str(cell.load),
                "contender": name,
                "rows_per_s": measured.rows_per_s,
                "p50_ms": measured.latencies_ms.get(50),
                "p99_ms": measured.latencies_ms.get(99),
                "n_requests": measured.n_requests,
                "n_failed": measured.n_failed,
            }
            if compared := cell.compared.get(name):
                for of, ratio in vars(compared).items():
                    row |= {f"{of}_x": ratio.value, f"{of}_x_low": ratio.low, f"{of}_x_high": ratio.high}
            found.append(row)
    return found


def html(result: Result) -> str:
    """Return the verdict, the table and the notes."""
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
        for row in rows(result)
    ]
    return (
        f"<p><strong>{escape(result.title)}.</strong> {escape(result.verdict)}</p>"
        f"<table><thead>{_tr(heads, 'th')}</thead><tbody>{''.join(_tr(row, 'td') for row in body)}</tbody></table>"
        f"<ul>{''.join(f'<li>{escape(note)}</li>' for note in result.notes)}</ul>"
    )


def plain(result: Result) -> dict[str, Any]:
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
