"""Results as runs bring them: whole, interrupted, failed, noisy, of `dualpath bench`, and with texts that break out."""

from __future__ import annotations

import math
from dataclasses import replace

from dualpath.compare.result import (
    PERCENTILES,
    Cell,
    Compared,
    Load,
    Measured,
    Parity,
    Process,
    Result,
    Span,
    Stage,
    Step,
    WorstRow,
)
from dualpath.compare.stats import Ratio

A, B = "ensemble_all", "orchestrator"
MACHINE = {
    "processor": "AMD EPYC 9B14, 2 cores",
    "memory": "8 GB",
    "system": "Debian 12, Linux 6.1",
    "server": "Triton 2.51.0 (embedded), localhost:8001",
    "backends": "pytorch and fil: the stand-ins",
    "precision": "float32",
    "python": "3.11.2",
    "dualpath": "0.1.0",
}
SETUPS = ("everything in Triton, CPU", "models in Triton (CPU), text in the client", "everything in Triton, GPU")


def parity(baseline, other, output, n_rows, n_equal, largest, mean, atol, worst):
    """Put a parity together whose tolerance is absolute."""
    beyond = {"alone": 1} if n_rows and not largest <= atol else {}
    rest = {"tolerance": f"{atol:g}", "n_answers": n_rows, "beyond": beyond}
    return Parity(baseline, other, output, n_rows, n_equal, largest, mean, atol, worst, **rest)


def latencies(median: float, tail: float = 2.0) -> dict[float, float]:
    """Percentiles of a long-tailed distribution whose p99 is `tail` times its median."""
    spread = {
        0: -2.6,
        1: -2.3,
        5: -1.6,
        10: -1.3,
        25: -0.7,
        50: 0,
        75: 0.7,
        90: 1.3,
        95: 1.6,
        99: 2.33,
        99.9: 3.1,
        100: 3.4,
    }
    return {p: median * math.exp(math.log(tail) / 2.33 * spread[p] * (1 if p > 50 else 0.4)) for p in PERCENTILES}


def measured(rows_per_s: float, median: float, tail: float = 2.0, n: int = 1200, **more: object) -> Measured:
    return Measured(rows_per_s, n, 0, 0, None, latencies(median, tail), **more)  # type: ignore[arg-type]


def about(value: float, half: float = 0.04) -> Ratio:
    return Ratio(value, value * (1 - half), value * (1 + half))


def _pair(load: Load, a: Measured, b: Measured, half: float = 0.04) -> Cell:
    p50, p99 = (b.latencies_ms[p] / a.latencies_ms[p] for p in (50, 99))
    compared = Compared(about(b.rows_per_s / a.rows_per_s, half), about(p50, half), about(p99, 2 * half))
    return Cell(load, {A: a, B: b}, {B: compared})


def full() -> Result:
    """A comparison with nothing amiss: three batch sizes, three concurrencies, two rates, a mix of weights."""
    closed = [
        _pair(
            Load(batch, concurrency),
            measured(a := 24.7 * min(1, (concurrency / 2) ** 0.5) * batch**-0.2, 1000 * concurrency * batch / a, 1.5),
            measured(b := 23.9 * min(1, (concurrency / 2) ** 0.5) * batch**0.02, 1000 * concurrency * batch / b, 1.9),
        )
        for batch in (1, 8, 64)
        for concurrency in (1, 4, 16)
    ]
    mixed = {"0": latencies(8.1, 5.9), "0.5": latencies(640, 1.4)}
    closed[2] = _pair(
        Load(1, 16),
        measured(23.3, 637, 1.3, groups_ms={"0": latencies(637, 1.3), "0.5": latencies(641, 1.3)}),
        measured(46.4, 320, 2.4, groups_ms=mixed),
        0.05,
    )
    opened = [
        _pair(Load(1, rate=rate), measured(rate, slow, 3.2), measured(rate, quick, 2.1), 0.1)
        for rate, slow, quick in ((5, 95, 92), (10, 131, 104), (20, 612, 188))
    ]
    return Result(
        "ensemble_all and orchestrator on localhost:8001",
        [A, B],
        "dualpath compare ensemble_all orchestrator --mix '0:0.5,0.5:0.5' --concurrency 1,4,16 --batch 1,8,64 "
        "--rate 5,10,20 --duration 30 --report report",
        "2026-07-14 09:30 UTC",
        MACHINE,
        [
            parity(
                A,
                B,
                "SCORE",
                512,
                489,
                3.6e-6,
                1.1e-8,
                2e-5,
                (
                    WorstRow("excerpts.csv:118", -1.2340021, -1.2340057, 3.6e-6),
                    WorstRow("excerpts.csv:12", 0.51200002, 0.51200211, 2.1e-6),
                ),
            )
        ],
        [*closed, *opened],
        [
            Step(A, "preprocess", 4800, 4800, 0.21, 3.4),
            Step(A, "bert-large", 4800, 2410, 18.2, 61.3),
            Step(A, "cuml", 4800, 4790, 0.35, 0.61),
            Step(A, "postprocess", 4800, 4800, 0.11, 0.32),
            Step(B, "bert-large", 2390, 1205, 2.1, 30.9),
            Step(B, "cuml", 4800, 611, 0.05, 0.09, "other clients' requests may be among them"),
        ],
        [
            Stage(B, "preprocess", 4800, 3.31),
            Stage(B, "bert", 2390, 63.9),
            Stage(B, "forest", 4800, 1.42),
            Stage(B, "combine", 4800, 0.08),
            Stage(B, "bert+cuml", 2390, None),
            Stage(B, "cuml", 2410, None),
        ],
        [
            Process("tritonserver", 4100, 12.4, 412),
            Process("stub of bert-large (0)", 4121, 201.3, 611),
            Process("stub of bert-large (1)", 4122, 198.7, 608),
            Process("stub of cuml", 4130, 6.2, 210),
            Process("stub of preprocess", 4140, 14.9, 186),
            Process("stub of orchestrator", 4150, 21.6, 242),
            Process("client", 4001, 9.4, 164),
        ],
        spans(),
        failed=False,
        verdict="With half of the requests at weight 0 and 16 clients, orchestrator answers 1.99 times as many rows "
        "per second as ensemble_all (95 % interval 1.89 to 2.09); alone, neither is faster. Scores agree.",
    )


def spans() -> list[Span]:
    """One request each: the ensemble's steps one after another, the orchestrator's children side by side."""
    return [
        Span(A, "ensemble_all", 0, 0, 88.7),
        Span(A, "preprocess", 1, 0.4, 4.1),
        Span(A, "bert-large", 1, 4.6, 86.2),
        Span(A, "queue", 2, 4.6, 6.9),
        Span(A, "compute", 2, 6.9, 86.1),
        Span(A, "cuml", 1, 4.7, 5.5),
        Span(A, "postprocess", 1, 86.9, 88.3),
        Span(B, "orchestrator", 0, 0, 83.3),
        Span(B, "bert-large", 1, 3.9, 82.2),
        Span(B, "cuml", 1, 4.0, 5.1),
    ]


def interrupted() -> Result:
    """Ctrl-C in the third load: no steps, no timelines."""
    whole = full()
    return replace(
        whole,
        cells=whole.cells[:2],
        steps=[], stages=[], processes=[], timelines=[],
        notes=["Interrupted after 2 of 12 loads: what was measured so far."],
        verdict="Interrupted: with 1 and 4 clients no difference is shown.",
    )  # fmt: skip


def failed() -> Result:
    """The server died in the second load, and one row differs by 1e-3."""
    whole = full()
    dead = Cell(
        Load(1, 4),
        {A: replace(measured(22.1, 180, n=300), n_errors=12, first_error="UNAVAILABLE: failed to connect"),
         B: Measured(0.0, 16, 14, 2, "UNAVAILABLE: Stub process 'bert-large_0_0' is not healthy.", {})},
        {B: Compared(Ratio(0, 0, 0), Ratio(math.nan, math.nan, math.nan), Ratio(math.nan, math.nan, math.nan))},
        ["The server stopped answering in this load."],
    )  # fmt: skip
    return replace(
        whole,
        parity=[
            parity(
                A,
                B,
                "SCORE",
                512,
                480,
                1.02e-3,
                2.1e-6,
                2e-5,
                (WorstRow("excerpts.csv:301", 0.4120, 0.41302, 1.02e-3),),
            ),
            parity(A, B, "ROUTE", 512, 511, 1, 1 / 512, 0, (WorstRow("excerpts.csv:7", "bert+cuml", "cuml", 1),)),
            parity(
                A, B, "DEBUG", 512, 0, math.nan, math.nan, 2e-5, (WorstRow("excerpts.csv:1", math.nan, 1.0, math.nan),)
            ),
        ],
        cells=[whole.cells[0], dead],
        timelines=[span for span in whole.timelines if span.contender == A],
        notes=["The server died at 09:41:07.", "Outputs of one model alone, left out: ROUTE (orchestrator)."],
        failed=True,
        verdict="Scores differ: 1 of 512 rows is beyond the tolerance of 2e-5. The server died in the second load.",
    )


def noisy() -> Result:
    """A machine too noisy for a verdict, one load only."""
    cell = _pair(Load(1, 4), measured(21.0, 188, 6, n=60), measured(22.4, 170, 9, n=64), 0.45)
    cell.notes += ["Too noisy for a verdict.", "The client was the bottleneck: it used 97 % of its processor time."]
    whole = full()
    return replace(whole, cells=[cell], verdict="Too noisy for a verdict: the interval is 0.59 to 1.55.", timelines=[])


def bench() -> Result:
    """Three set-ups against batch sizes, the third without a GPU."""
    cells = []
    for batch in [2**i for i in range(10)]:
        one, two = 15.2 + 61 * batch**0.93, 9.1 + 66 * batch**0.9
        cell = Cell(Load(batch, 1), not_measured={SETUPS[2]: "no GPU"})
        if batch < 512:
            cell.measured = {
                SETUPS[0]: measured(1000 * batch / one, one, 1.2, n=max(8, 2000 // batch)),
                SETUPS[1]: measured(1000 * batch / two, two, 1.3, n=max(8, 2000 // batch)),
            }
            cell.compared = {
                SETUPS[1]: Compared(about(one / two, 0.03), about(two / one, 0.03), about(1.1 * two / one, 0.08))
            }
        else:
            cell.not_measured |= dict.fromkeys(SETUPS[:2], "over 30 s a request")
        cells.append(cell)
    return Result(
        "three set-ups of the pipeline, by batch size",
        list(SETUPS),
        "dualpath bench --encoder-shape bert-large --report bench",
        "2026-07-14 11:02 UTC",
        {**MACHINE, "encoder": "bert-large, 340 M parameters, random weights", "GPU": "none"},
        cells=cells,
        notes=[
            "The weights of bert-large are random: speed can be judged, scores cannot.",
            "Set-up 3 was not measured: no GPU.",
        ],
        parity=[parity(*SETUPS[:2], "SCORE", 0, 0, math.nan, math.nan, 2e-5, ())],
        verdict="Alone, a row takes 75 ms in either set-up; from 8 rows on, text in the client is up to 16 % faster.",
    )


def doubtful() -> Result:
    """With 16 clients the client was the bottleneck; at 20 requests/s the baseline cannot keep up."""
    whole = full()
    bound = replace(whole.cells[2], client_bound=[B], notes=["With orchestrator the client itself was the bottleneck."])
    late = replace(whole.cells[-1], no_verdict={A: "cannot keep up"}, notes=["No verdict: ensemble_all is late."])
    return replace(whole, cells=[*whole.cells[:2], bound, *whole.cells[-3:-1], late])


def precisions() -> Result:
    """Of `dualpath bench` with two precisions: six contenders with long names, two of them not measured."""
    kinds = ("all in Triton, CPU", "models in Triton, pre- and postprocessing at the client", "all in Triton, GPU")
    names = [f"{kind}, {precision}" for precision in ("float32", "bfloat16") for kind in kinds]
    first, second, _, third, fourth, _ = names
    cells = []
    for batch in (1, 8, 64):
        times = {first: 28.0 * batch, second: 27.0 * batch, third: 9 + 6.8 * batch, fourth: 8 + 6.9 * batch}
        cell = Cell(Load(batch, 1), {name: measured(1000 * batch / ms, ms, 1.3) for name, ms in times.items()})
        for name, ms in times.items():
            if name != first:
                cell.compared[name] = Compared(
                    about(times[first] / ms), about(ms / times[first]), about(ms / times[first])
                )
        cell.not_measured = dict.fromkeys(names[2::3], "no GPU")
        cells.append(cell)
    cells[-1].client_bound = [fourth]
    return Result(
        "Set-ups of the pipeline, MiniLM",
        names,
        "dualpath bench --precision float32,bfloat16 --report bench",
        "2026-07-14 11:02 UTC",
        MACHINE,
        [
            parity(first, second, "SCORE", 32, 30, 3.1e-6, 2e-7, 2e-5, (WorstRow("in.csv:7", 0.5, 0.5000031, 3.1e-6),)),
            parity(third, fourth, "SCORE", 32, 12, 4.2e-3, 6e-4, 2e-2, (WorstRow("in.csv:9", 0.5, 0.5042, 4.2e-3),)),
        ],
        cells,
        verdict="One excerpt alone takes 15.8 ms. Scores agree in each precision.",
    )


def hostile() -> Result:
    """Names, errors and places that want to be markup, formulae or nothing printable at all."""
    evil = "<script>alert(1)</script>\"'&$x^2$\x1b[31m\x00 模型 😀 " + "long" * 30
    whole = failed()
    names = {A: "a<b>&$\\frac$", B: evil}
    cells = [
        Cell(
            cell.load,
            {names[name]: replace(m, first_error=evil if m.first_error else None) for name, m in cell.measured.items()},
            {names[name]: compared for name, compared in cell.compared.items()},
            [evil],
            {names[B]: evil} if cell is whole.cells[-1] else {},
        )
        for cell in whole.cells
    ]
    return Result(
        evil, list(names.values()), f"dualpath compare '{evil}' \udcff", "2026-07-14", {evil: evil},
        [parity(names[A], names[B], evil, 2, 1, 1e-3, 1e-4, 2e-5, (WorstRow(evil, evil, 1.0, 1e-3),))],
        cells,
        [replace(step, contender=names[step.contender], model=evil) for step in whole.steps],
        [replace(stage, contender=names[stage.contender], name=evil) for stage in whole.stages],
        [Process(evil, 1, 1.0, 1.0)],
        [replace(span, contender=names[span.contender], name=evil) for span in whole.timelines],
        [evil], True, evil,
    )  # fmt: skip


def empty() -> Result:
    """Interrupted before anything was measured."""
    return Result("ensemble_all and orchestrator", [A, B], "dualpath compare", "2026-07-14", notes=["Interrupted."])
