"""The process of a Triton server, under its supervisor, with the folder and the log that belong to it."""

import http.client
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from dualpath.serving import access, log, supervise
from dualpath.serving.installation import Installation

EXIT_TIMEOUT_S = 10
"""How long Triton may finish requests in flight."""
GRACE_S = EXIT_TIMEOUT_S + 5
"""How long Triton may take to end, models unloaded, before it is killed."""
SHM_BYTES = 16 * 1024 * 1024
"""Of each Python model's pool of shared memory to begin with. Triton's own default, 1 MiB, has to grow under the first
large requests. Under load a stub of 24.10 once wrote beyond a mapping's end, most likely by that, and the server
ended."""

POLL_S = 0.1

_LOADED = re.compile(r"successfully loaded '([^']+)'")
_LISTENING = ("Started GRPCInferenceService", "Started HTTPService", "Started Metrics Service")


class ServerFailed(Exception):
    """Triton ended by itself. The message says why in one line and names the log."""


class StartFailed(ServerFailed):
    """Triton did not get ready. The message says which model failed and why in one line, and names the log."""


@dataclass(frozen=True)
class StartProgress:
    """How far a start is.

    Attributes:
        ready, waiting: names of the models that are loaded, and of those that are not.
        held_up: what has to end first; "" if nothing has.
    """

    ready: tuple[str, ...] = ()
    waiting: tuple[str, ...] = ()
    held_up: str = ""


class TritonProcess:
    """A Triton server that was started; `stop` ends it and removes what belongs to it, but not the log.

    Args:
        found: the server's binary and its backends.
        arguments: for tritonserver, beside those that this process needs.
        key: that requests must carry, see `access`; not shown in the process list if that can be avoided.
        log_path: where its output goes.
        again: keep what the log holds, and pass only new records on.
        on_record: called with each record of the log.

    Attributes:
        pid: of the Triton process.
        shm_prefix: how the names of its regions in /dev/shm begin.
        records: the last ones of its log.
        failed: whether an error was made of what it did.
    """

    def __init__(
        self,
        found: Installation,
        arguments: Sequence[str],
        *,
        key: str,
        log_path: Path,
        again: bool = False,
        on_record: Callable[[log.Record], None] | None = None,
    ) -> None:
        self.failed = False
        self.records: deque[log.Record] = deque(maxlen=500)
        self._log_path, self._on_record = log_path, on_record
        self._folder = Path(tempfile.mkdtemp(prefix="dualpath-"))
        # Named after the folder, so that what a killed server leaves in /dev/shm can be told from others'.
        self.shm_prefix = f"{self._folder.name}-"
        self._supervisor: subprocess.Popen[bytes] | None = None
        self._log: log.LogFollower | None = None
        try:
            self.pid = self._start(found, arguments, key, again)
        except BaseException:
            self.stop()
            raise

    def _start(self, found: Installation, arguments: Sequence[str], key: str, again: bool) -> int:
        command = [
            str(found.binary),
            f"--backend-directory={found.assemble_backends(self._folder / 'backends')}",
            f"--exit-timeout-secs={EXIT_TIMEOUT_S}",
            f"--backend-config=python,shm-region-prefix-name={self.shm_prefix}",
            # Docker gives all of /dev/shm 64 MB: an installed server keeps its own default.
            *([f"--backend-config=python,shm-default-byte-size={SHM_BYTES}"] if found.embedded else []),
            # Nothing is traced until a client asks for it; it may do so, but not say where to.
            f"--trace-config=triton,file={self._folder / 'trace.json'}",
            "--trace-config=level=OFF",
            *arguments,
        ]
        hidden = {f"{supervise.HIDDEN}{i}": argument for i, argument in enumerate(access.arguments(key))}
        supervisor = [sys.executable, "-I", supervise.__file__, str(GRACE_S), str(self._folder), self.shm_prefix]
        self._log_path.parent.mkdir(parents=True, exist_ok=True)
        with self._log_path.open("ab" if again else "wb") as output:
            self._log = log.LogFollower(self._log_path, from_end=again)
            self._supervisor = subprocess.Popen(
                [*supervisor, *command, *hidden],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                env=found.environment() | hidden,
                # Ctrl-C is for this process alone, which then stops the server.
                start_new_session=True,
            )
        assert self._supervisor.stdout is not None
        return int(self._supervisor.stdout.readline() or 0)

    def read_log(self, pass_on: bool = True) -> list[log.Record]:
        """Return the log's new records, and pass them on."""
        records = self._log.read() if self._log else []
        self.records.extend(records)
        if pass_on and self._on_record is not None:
            for record in records:
                self._on_record(record)
        return records

    def await_ready(
        self, names: list[str], http_url: str, timeout_s: float, on_progress: Callable[[StartProgress], None]
    ) -> None:
        """Return when these models are loaded and Triton answers.

        Raises:
            StartFailed: a model did not load, Triton ended, or it takes longer than `timeout_s`.
        """
        deadline = time.monotonic() + timeout_s
        loaded: set[str] = set()
        listening: set[str] = set()
        while True:
            records = self.read_log()
            if records and (failure := log.load_failure(self.records)):
                raise self.failure(StartFailed, str(failure))
            for record in records:
                if match := _LOADED.match(record.message):
                    loaded.add(match[1])
                listening.update(service for service in _LISTENING if record.message.startswith(service))
            waiting = tuple(name for name in names if name not in loaded)
            on_progress(StartProgress(tuple(sorted(loaded)), waiting))
            self.check_alive(StartFailed, ready=False)
            # Its own log first: whoever else listens on the port would answer too.
            if len(listening) == len(_LISTENING) and _answers(http_url):
                return
            if time.monotonic() > deadline:
                what = f"{', '.join(waiting)} still loading" if waiting else "no answer"
                raise self.failure(StartFailed, f"Triton is not ready after {timeout_s:.0f} s: {what}")
            time.sleep(POLL_S)

    def check_alive(self, error: type[ServerFailed], ready: bool) -> None:
        """Raise the error, with the reason, if Triton ended by itself.

        Args:
            ready: whether it was; before that, the reason may be a model that did not load.
        """
        if self._supervisor is None or (status := self._supervisor.poll()) is None:
            return
        # Twice: the newest record waits one call.
        failure = log.load_failure(self.read_log() + self.read_log())
        if failure and not ready:
            raise self.failure(error, str(failure))
        if status > 128:
            raise self.failure(error, f"Triton was ended by {signal.Signals(status - 128).name}")
        raise self.failure(error, f"Triton ended by itself: {log.last_words(list(self.records))}")

    def failure(self, error: type[ServerFailed], sentence: str) -> ServerFailed:
        """Return an error that names the log."""
        self.failed = True
        return error(f"{sentence.rstrip('.')}. Triton's log: {self._log_path}")

    def stop(self, at_once: bool = False) -> None:
        """Stop the server and return when nothing of it is left.

        Args:
            at_once: leave requests in flight unanswered.
        """
        if self._supervisor is not None:
            # Closing its stdin would do, were it not that a fork of this process may hold the pipe open too.
            if self._supervisor.stdin and not self._supervisor.stdin.closed:  # Ctrl-C may have ended an earlier call
                with suppress(BrokenPipeError), self._supervisor.stdin as stdin:
                    stdin.write(b"k" if at_once else b"stop")
            self._supervisor.wait()
            if self._supervisor.stdout:
                self._supervisor.stdout.close()
        shutil.rmtree(self._folder, ignore_errors=True)
        if self._log is not None:
            self._log.close()


def _answers(http_url: str) -> bool:
    with suppress(OSError, http.client.HTTPException), closing(http.client.HTTPConnection(http_url, timeout=5)) as it:
        it.request("GET", "/v2/health/ready")
        return it.getresponse().status == 200
    return False
