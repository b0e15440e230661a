"""Read Triton's log: its records as they arrive, and the one that says why a model did not load."""

import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_HEADER = re.compile(r"([IWEFV])\d{4} \d\d:\d\d:\d\d\.\d+ +\d+ ([^\s:]+:\d+)\] ?(.*)")


@dataclass(frozen=True)
class Record:
    """One record of the log.

    Attributes:
        severity: I, W, E, F or V; empty for a line that is not Triton's own, such as a model's `print`.
        source: file and line that wrote it, such as "model.py:4".
        message: what it says, over as many lines as were written.
        text: the lines as they stand in the log.
    """

    severity: str
    source: str
    message: str
    text: str


@dataclass(frozen=True)
class LoadFailure:
    """The first model that did not load, and why, in one line. A process that serves several names no model."""

    model: str
    reason: str

    def __str__(self) -> str:
        what = f"model {self.model!r}" if self.model else "a Python model"
        library = "cannot open shared object file" in self.reason
        next_step = ". Put the library's folder on LD_LIBRARY_PATH." if library else ""
        return f"{what} did not load: {self.reason}{next_step}"


# The loader's or the shell's words about a stub that cannot run; Triton 24.10 then waits for it until its timeout, ten
# minutes for all models together.
_STUB_FAILURE = re.compile(r"(?:\S*sh: .*? )?(?P<reason>/\S*/triton_python_backend_stub: .+)")


def parse(lines: Iterable[str]) -> list[Record]:
    """Group lines into records.

    Triton 24.10 quotes a message on one line, `"first\\nsecond"`; the Python stub's own records and older servers write
    it as it is, over several lines.
    """
    records: list[Record] = []
    continues = False
    for line in lines:
        if header := _HEADER.match(line):
            severity, source, message = header.groups()
            unquoted = _unquote(message)
            records.append(Record(severity, source, message.strip() if unquoted is None else unquoted, line))
            continues = unquoted is None
        elif continues and not (line.startswith(("error: ", "[libprotobuf")) or _STUB_FAILURE.match(line)):
            last = records[-1]
            records[-1] = Record(last.severity, last.source, f"{last.message}\n{line}", f"{last.text}\n{line}")
        else:
            records.append(Record("", "", line, line))
            continues = False
    return records


def _unquote(message: str) -> str | None:
    if len(message) < 2 or message[0] != '"' or message[-1] != '"':
        return None
    try:
        return str(json.loads(message, strict=False))
    except ValueError:
        return message[1:-1]


class LogFollower:
    """Read a growing log file, record by record."""

    def __init__(self, path: Path, from_end: bool = False) -> None:
        self._file = path.open("rb")
        if from_end:
            self._file.seek(0, os.SEEK_END)
        self._tail = b""
        self._lines: list[str] = []

    def read(self) -> list[Record]:
        """Return the records completed since the last call. The newest waits until a call finds it did not grow."""
        *complete, self._tail = (self._tail + self._file.read()).split(b"\n")
        records = parse(self._lines + [line.decode(errors="replace") for line in complete])
        newest = [records.pop()] if complete else []
        self._lines = [line for record in newest for line in record.text.split("\n")]
        return records

    def close(self) -> None:
        self._file.close()


_FAILURES = (
    re.compile(r"failed to load '(?P<model>[^']+)' version \d+: (?P<reason>.*)", re.DOTALL),
    re.compile(r"failed to load model '(?P<model>[^']+)': (?P<reason>.*)", re.DOTALL),
    re.compile(r"Poll failed for model directory '(?P<model>[^']+)': (?P<reason>.*)", re.DOTALL),
    re.compile(r"Invalid argument: (?:in )?ensemble '?(?P<model>[^\s',]+)'?,? (?P<reason>.*)", re.DOTALL),
    # Logged as information, and then Triton 2.51 waits for ever.
    re.compile(r"Failed to preinitialize Python stub: (?P<reason>.*/(?P<model>[^/]+)/\d+/[^/]+')", re.DOTALL),
    re.compile(rf"(?P<model>){_STUB_FAILURE.pattern}"),
)


def load_failure(records: Iterable[Record]) -> LoadFailure | None:
    """Return the first failure to load: Triton reports a model before the ensembles that depend on it."""
    syntax_error = ""
    for record in records:
        if record.message.startswith("[libprotobuf ERROR"):
            syntax_error = record.message.partition("] ")[2]
        for pattern in _FAILURES:
            if match := pattern.match(record.message):
                reason = one_line(match["reason"])
                if "failed to read text proto" in reason and syntax_error:
                    reason = f"{reason} ({syntax_error})"
                return LoadFailure(match["model"], reason)
    return None


def one_line(reason: str) -> str:
    """Strip status, traceback and line breaks: "Internal: KeyError: 1\\n\\nAt:\\n ..." -> "KeyError: 1"."""
    reason = reason.rpartition("\n\nAt:\n")[0] or reason
    reason = re.sub(r"^(Internal|Invalid argument|Unavailable|Not found|Unsupported|Unknown): ", "", reason)
    return " ".join(reason.removeprefix("TritonModelException: ").split())


def last_words(records: list[Record]) -> str:
    """Return the line that most likely says why the server ended: its last error, else the last line of all."""
    for record in reversed(records):
        if record.severity in ("E", "F") or record.message.lower().startswith("error: creating server"):
            return one_line(record.message)
    lines = [line for record in records for line in record.message.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "it said nothing"
