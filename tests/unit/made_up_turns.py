"""Turns that are made up instead of waited for, of contenders of known speed."""

import numpy as np

from dualpath.compare.load import Contender, Turn
from dualpath.compare.result import Load, Result
from dualpath.compare.run import Measurement, Timing, TurnSpec

ONE_LOAD = (Load(1, concurrency=4),)
PLAN = Timing()


class Machine:
    """Measures turns of contenders with known latencies, while its own speed walks at random.

    Args:
        latency_s: of a row, by contender.
        drift, noise: standard deviations of the log speed, from turn to turn and within one.
    """

    def __init__(self, latency_s, drift=0.0, noise=0.0, seed=0):
        self.latency_s = latency_s
        self.drift, self.noise = drift, noise
        self.orders: list[TurnSpec] = []
        self._rng = np.random.default_rng(seed)
        self._slow = 1.0

    def __call__(self, order):
        self.orders.append(order)
        self._slow *= np.exp(self._rng.normal(0, self.drift))
        load = order.load
        latency_s = (
            self.latency_s[order.contender.name] * self._slow * np.exp(self._rng.normal(0, self.noise)) * load.batch
        )
        n_requests = max(1, int(order.duration_s * (load.rate or (load.concurrency or 1) / latency_s)))
        latencies_ms = self._rng.gamma(20, latency_s * 1e3 / 20, n_requests).tolist()
        elapsed_s = order.duration_s if load.rate else n_requests * latency_s / load.concurrency
        return Turn(elapsed_s, n_requests * load.batch, 0, {"all": latencies_ms})


def make(name, load):
    return Contender(name, [b""], ["all"], load.batch)


def compare(measure_turn, loads=ONE_LOAD, make=make, plan=PLAN, **options):
    result = Result("a pair", ["A", "B"], "", "")
    Measurement(result, loads, make, measure_turn, plan, **options).run()
    return result
