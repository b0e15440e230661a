"""What a comparison found: plain data that the terminal, `--json` and the report all show.

Contenders go by name. The first is the baseline: every ratio is another contender's figure over the baseline's, taken
turn by turn, so that a drifting machine hits both.
"""

from dataclasses import dataclass, field
from typing import Any

from dualpath.compare import result_views
from dualpath.compare.stats import Ratio

PERCENTILES = (0, 1, 5, 10, 25, 50, 75, 90, 95, 99, 99.9, 100)
"""Of which a distribution of latencies is made, enough to draw it."""
CONFIG = "in config.pbtxt"
"""Said of an output that the models' configs describe differently: no row of it was compared."""


@dataclass(frozen=True)
class Load:
    """How requests are sent: by so many clients in a closed loop, or at so many a second whatever happens.

    Attributes:
        batch: rows per request.
        concurrency: clients; None if `rate` is given.
        rate: requests per second on average, Poisson; None if `concurrency` is given.
    """

    batch: int
    concurrency: int | None = None
    rate: float | None = None

    def __str__(self) -> str:
        """Return such as "16 clients, 1 row" or "20 requests/s, 8 rows"."""
        return f"{self.senders}, {n_rows(self.batch)}"

    @property
    def senders(self) -> str:
        """Such as "16 clients" or "20 requests/s"."""
        if self.rate is not None:
            return f"{self.rate:,.6g} requests/s"
        return f"{self.concurrency} client{'s' * (self.concurrency != 1)}"


def n_rows(number: int) -> str:
    """Return such as "1 row" or "512 rows"."""
    return f"{number:,} row{'s' * (number != 1)}"


@dataclass(frozen=True)
class Measured:
    """One contender under one load, all turns together.

    Errors are in no latency and no throughput. A time-out is in no throughput, but in the latencies with the time until
    it was given up: less than its answer would have taken, yet who drops the slow requests does not look fast.

    Attributes:
        n_requests: sent and counted: answered, failed or timed out.
        n_errors: failed, time-outs not among them.
        n_timeouts: not answered within `--timeout`.
        latencies_ms: by percentile (PERCENTILES); empty if nothing was answered. At a rate it counts from the
            intended send time.
        groups_ms: the same by BERT_WEIGHT, if weights are mixed.
    """

    rows_per_s: float
    n_requests: int
    n_errors: int
    n_timeouts: int
    first_error: str | None
    latencies_ms: dict[float, float]
    groups_ms: dict[str, dict[float, float]] = field(default_factory=dict)

    @property
    def n_failed(self) -> int:
        """Requests that failed or timed out."""
        return self.n_errors + self.n_timeouts


@dataclass(frozen=True)
class Compared:
    """A contender over the baseline under the same load.

    A turn without an answer counts half a row in the throughput; percentiles leave its round out.
    """

    throughput: Ratio
    p50: Ratio
    p99: Ratio


@dataclass
class Cell:
    """All contenders under one load.

    Attributes:
        measured: by contender; one that could not be measured is missing.
        compared: by contender, the baseline left out.
        notes: what a reader must know: too noisy for a verdict, the client was the bottleneck.
        not_measured: by contender, why: "no GPU", "over 30 s a request".
        no_verdict: by contender on whose speed nothing may be concluded, whatever its ratios, why: "cannot keep up".
        client_bound: contenders with which the client was the bottleneck: equal figures do not mean equal speed then.
    """

    load: Load
    measured: dict[str, Measured] = field(default_factory=dict)
    compared: dict[str, Compared] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    not_measured: dict[str, str] = field(default_factory=dict)
    no_verdict: dict[str, str] = field(default_factory=dict)
    client_bound: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class WorstRow:
    """A row on which two contenders disagree most; `where` names it in the input.

    Of a tensor it is the element that differs most. Texts that differ have the difference 1, forms (shape, type, an
    output that is not there) NaN. `place` says in which batch and where in it the row was, "" of a row alone, and
    whose answer it got, if it is another row's.
    """

    where: str
    baseline: float | str
    other: float | str
    difference: float
    place: str = ""

    def __str__(self) -> str:
        """Return such as "in.csv:7, in a batch of 4, position 2: 0.5 and 0.25 (0.25 apart)"."""
        apart = "" if isinstance(self.other, str) else f" ({self.difference:.2g} apart)"
        place = f", {self.place}" if self.place else ""
        return f"{self.where}{place}: {self.baseline} and {self.other}{apart}"


@dataclass(frozen=True)
class Parity:
    """One output of a contender, every answer compared with the baseline's answer to the row alone.

    `baseline` need not be the first contender of all; it is `other` too if it contradicts itself. Differences are
    absolute; NaN equals NaN only. Texts are equal or not: `mean` is the share of those that are not.

    Attributes:
        n_rows: rows that were compared, each alone and in `n_answers` / `n_rows` answers on average.
        n_equal: rows whose answers were all bitwise equal.
        tolerance: in words, such as "2e-05", "128 ulp" or "exact".
        beyond: answers beyond the tolerance, by how the row was asked, such as "alone".
    """

    baseline: str
    other: str
    output: str
    n_rows: int
    n_equal: int
    largest: float
    mean: float
    atol: float
    worst: tuple[WorstRow, ...]
    tolerance: str = ""
    n_answers: int = 0
    beyond: dict[str, int] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether no answer differs by more than the tolerance."""
        return not self.beyond


@dataclass(frozen=True)
class Step:
    """A model's share in a contender's requests, from Triton's statistics.

    Durations are per row asked of the contender. Requests that ran together share their compute time; each has its own
    in the queue. `note` says what the figures of a model that calls others cover.
    """

    contender: str
    model: str
    n_rows: int
    n_executions: int
    queue_ms: float
    compute_ms: float
    note: str = ""


@dataclass(frozen=True)
class Stage:
    """A stage or a route of a BLS model, from its own histograms and counters."""

    contender: str
    name: str
    n: int
    mean_ms: float | None  # None for a route, which is a count


@dataclass(frozen=True)
class Process:
    """A local process during the loads: CPU seconds and memory."""

    name: str
    pid: int
    cpu_s: float
    rss_mb: float


@dataclass(frozen=True)
class Span:
    """A step of one traced request, in ms from its begin; `depth` 0 is the request itself."""

    contender: str
    name: str
    depth: int
    start_ms: float
    end_ms: float


@dataclass(frozen=True)
class GateCheck:
    """A condition under a load: "passed", "failed" or "undecided", and why if the ratio's interval does not say."""

    load: str
    condition: str
    outcome: str
    ratio: Ratio | None = None
    why: str = ""


@dataclass
class Result:
    """A whole run.

    Attributes:
        title: what was compared.
        contenders: names; the first is the baseline.
        command: the exact command to run it again, if a command ran it.
        environment: machine and versions, by what they are: "processor", "cores", "Triton", "precision", …
        notes: about the whole run: outputs left out, interrupted, the server died.
        gate: what the conditions of a gate came to, load by load.
        n_excused: answers that were meant to differ.
        failed: whether the run found a failure.
        interrupted: whether Ctrl-C ended it; it holds what was found until then.
    """

    title: str
    contenders: list[str]
    command: str = ""
    started: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    parity: list[Parity] = field(default_factory=list)
    cells: list[Cell] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    stages: list[Stage] = field(default_factory=list)
    processes: list[Process] = field(default_factory=list)
    timelines: list[Span] = field(default_factory=list)
    gate: list[GateCheck] = field(default_factory=list)
    n_excused: int = 0
    notes: list[str] = field(default_factory=list)
    failed: bool = False
    interrupted: bool = False
    verdict: str = ""

    @property
    def exit_code(self) -> int:
        """0 good, 1 a failure or a gate's condition that does not hold, 3 a gate that cannot decide, 130 Ctrl-C."""
        outcomes = {check.outcome for check in self.gate}
        if self.failed or "failed" in outcomes:
            return 130 if self.interrupted else 1
        return 130 if self.interrupted else 3 * ("undecided" in outcomes)

    def table(self) -> list[dict[str, Any]]:
        """Return a flat row for each contender under each load, as `pandas.DataFrame` takes them.

        Ratios are over the baseline, which has none.
        """
        found = list[dict[str, Any]]()
        for cell in self.cells:
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

    def _repr_html_(self) -> str:
        """Show the verdict, the table and the notes in a notebook."""
        return result_views.html(self.title, self.verdict, self.table(), self.notes)

    def to_dict(self) -> dict[str, Any]:
        """Return plain dictionaries and lists for JSON, which has no number that is not finite.

        Such a number becomes None; in a worst row, if it is what was found, "nan", "inf" or "-inf".
        """
        return result_views.plain(self)
