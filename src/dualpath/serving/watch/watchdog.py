"""Decide what is dead or hangs, and have it replaced: by what `Plant` shows and can do, so that it needs no server."""

from collections.abc import Callable
from dataclasses import dataclass

from dualpath.serving.watch.plant import MendFailed, Plant
from dualpath.serving.watch.processes import Stub

STOPPED_S = 1.0
"""How long a signal may hold a process before it is replaced."""
HANG_S = 10.0
"""How long a canary may wait while its model answers nobody."""
BUSY_SHARE = 0.1
"""From this share of a core on, processes compute: a batch of 512 rows may take BERT half a minute."""
LONGEST_S = 50.0
"""How long a canary may wait while its model answers nobody but computes, or has others compute."""
CANARY_S = 3.0
"""How often each model is asked."""
SCORED_S = 3 * CANARY_S
"""How old a score may be to count as just made."""
ESCALATE = 3
"""Replacements of a model within `MEMORY_S` before the whole server is restarted in its place."""
MEMORY_S = 300.0
"""How long a replacement of a model counts for that."""
LONGEST_DELAY_S = 60.0
SERVER = "server"
"""The name of the server among the models in `incidents`."""


@dataclass
class Incident:
    """The last fault of a model or of the server: what, and when; and how often it was replaced or restarted so far."""

    what: str
    at: float
    restarts: int


class Watchdog:
    """Looks at a server, several times a second, by `step`.

    Args:
        plant: the server.
        scorers: the models whose scores make the server ready.
        clock: seconds.
        report: gets one line for each fault and each mending.

    Attributes:
        incidents: by model, or SERVER.
    """

    def __init__(
        self, plant: Plant, scorers: tuple[str, ...], clock: Callable[[], float], report: Callable[[str], None]
    ) -> None:
        self._plant, self._scorers, self._clock, self._report = plant, scorers, clock, report
        self.incidents: dict[str, Incident] = {}
        self._known: set[Stub] = set()
        self._stopped: dict[int, float] = {}
        self._waits: dict[str, tuple[float, int, float]] = {}
        self._mended: dict[str, list[float]] = {}
        self._asked = -float("inf")
        self._delayed: tuple[str, float] | None = None
        self._down: str | None = None  # why the server restarts
        self._n_in_vain = 0  # restarts since the last time that both scorers had made a score

    def step(self) -> None:
        """Look once; mend what is broken. Returns when it is mended, or its next attempt is due later."""
        now = self._clock()
        if (reason := self._plant.death()) is not None:
            self._restart(reason)
            return
        if self._down is not None:  # a restart is due, or has failed
            self._restart(self._down)
            return
        if now - self._asked >= CANARY_S:
            self._asked = now
            self._plant.ask()
        if self._held(now, 0, self._plant.server_stopped()):
            self._restart("the server is stopped by a signal")
            return
        if self._n_in_vain and self.unready() is None:
            self._n_in_vain = 0
        for helper in self._plant.helpers():
            if self._held(now, helper.pid, helper.stopped):
                what = f"process {helper.pid}, which computes, is stopped by a signal"
                self._note(helper.model, what)
                self._report(f"{helper.model}: {what}; ending it, the next request starts another")
                self._plant.end(helper)
        for model, what in self._faults(now).items():
            if not self._mend(model, what):
                return  # a restart mends the others too

    def names(self) -> list[str]:
        """Name the server and the models that are watched."""
        return [SERVER, *sorted(self._plant.canaries())]

    def unready(self) -> str | None:
        """Say why no load balancer should send requests here, or None: both scorers have just made a score."""
        if self._down is not None:  # the scores of the one before count no more
            return f"the server restarts: {self._down}"
        now = self._clock()
        states = self._plant.canaries()
        for model in self._scorers:
            state = states.get(model)
            if state is None or now - state.scored > SCORED_S:
                return f"{model}: no score for {SCORED_S:g} s" + (f": {state.error}" if state and state.error else "")
        return None

    def _faults(self, now: float) -> dict[str, str]:
        stubs = self._plant.stubs()
        faults = {}
        for model in {stub.model for stub in self._known - set(stubs)}:
            n_expected = self._plant.expected(model)
            # Counted before and after, since a load that has just ended brings processes, and an unload takes some.
            n_living = max(sum(stub.model == model for stub in seen) for seen in (stubs, self._plant.stubs()))
            if n_living < n_expected:
                faults[model] = f"{n_expected - n_living} of {n_expected} processes ended"
        for stub in stubs:
            if self._held(now, stub.pid, stub.stopped):
                faults.setdefault(stub.model, f"process {stub.pid} is stopped by a signal")
        if not faults:
            self._known = set(stubs)
            faults = self._hanging(now)
        return faults

    def _held(self, now: float, pid: int, stopped: bool) -> bool:
        """Tell whether a process has been stopped for too long."""
        if not stopped:
            self._stopped.pop(pid, None)
            return False
        return now - self._stopped.setdefault(pid, now) >= STOPPED_S

    def _hanging(self, now: float) -> dict[str, str]:
        """Find models whose canary waits while they answer nobody: one that is only overloaded answers others, or
        computes. A scorer waits for the other models' processes."""
        faults = {}
        for model, canary in self._plant.canaries().items():
            if not canary.pending or now - canary.sent < HANG_S / 2:
                self._waits.pop(model, None)
                continue
            n_answered = self._plant.answered(model)
            cpu_s = sum(map(self._plant.cpu_s, self._plant.canaries() if model in self._scorers else [model]))
            since, before, cpu_before_s = self._waits.setdefault(model, (now, n_answered, cpu_s))
            if n_answered != before:
                self._waits[model] = now, n_answered, cpu_s
                continue
            computes = cpu_s - cpu_before_s >= BUSY_SHARE * (now - since)
            if now - since >= (LONGEST_S if computes else HANG_S) - HANG_S / 2:
                faults[model] = f"no answer to anybody for {now - since:.0f} s"
        for helper in self._plant.helpers() if faults else ():
            if helper.model in faults:  # new instances would ask the one that hangs
                self._plant.end(helper)
        return faults

    def _mend(self, model: str, what: str) -> bool:
        """Replace a model, or restart the server in its place; say whether it was replaced."""
        if len(self._recent(model)) >= ESCALATE:
            self._restart(f"{model}: {what}, again after {ESCALATE} replacements")
            return False
        self._note(model, what)
        self._report(f"{model}: {what}; replacing it")
        began = self._clock()
        try:
            self._plant.replace(model)
        except MendFailed as error:
            self._restart(f"{model}: {error}")
            return False
        self._forget(model)
        self._report(f"{model}: replaced within {self._clock() - began:.1f} s")
        return True

    def _restart(self, what: str) -> None:
        now = self._clock()
        self._down = what
        if self._delayed is None:
            delay_s = min(LONGEST_DELAY_S, 2.0**self._n_in_vain) if self._n_in_vain > 1 else 0.0
            self._n_in_vain += 1
            self._note(SERVER, what)
            self._report(f"server: {what}; restarting it" + (f" in {delay_s:g} s" if delay_s else ""))
            self._delayed = what, now + delay_s
        if now < self._delayed[1]:
            return
        self._delayed = None
        try:
            self._plant.restart()
        except MendFailed as error:
            self._report(f"server: not started: {error}")
            return
        self._down = None
        self._forget()
        self._report(f"server: serving again after {self._clock() - now:.1f} s")

    def _note(self, name: str, what: str) -> None:
        now = self._clock()
        self._mended.setdefault(name, []).append(now)
        before = self.incidents.get(name)
        self.incidents[name] = Incident(what, now, 1 + (before.restarts if before else 0))

    def _recent(self, name: str) -> list[float]:
        recent = [at for at in self._mended.get(name, ()) if self._clock() - at < MEMORY_S]
        self._mended[name] = recent
        return recent

    def _forget(self, replaced: str | None = None) -> None:
        """Begin anew with a model, or with all; another's process that has ended meanwhile is still to be found."""
        others = {stub for stub in self._known if stub.model != replaced} if replaced else set()
        self._known = others | set(self._plant.stubs())
        self._stopped.clear()
        self._waits.clear()
        self._asked = -float("inf")
