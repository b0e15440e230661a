"""What a variant is: how it answers the requests of one execution, and what its config has of its own."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from pipeline import OUTPUTS, answer


@dataclass
class State:
    """What an instance remembers."""

    n_executions: int = 0
    n_requests: int = 0
    kept: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Config:
    """What a variant's config.pbtxt says; the default is the right model's."""

    outputs: dict = field(default_factory=lambda: dict(OUTPUTS))
    instances: int = 1
    max_batch_size: int = 16
    batching: str = "max_queue_delay_microseconds: 500"
    inputs_reversed: bool = False
    parameters: dict = field(default_factory=dict)
    version: int = 1
    more: str = ""


@dataclass(frozen=True)
class Variant:
    """Answers with `run(batches, state)`: outputs by name, or an exception, for each request's inputs."""

    run: Callable
    config: Config
    sends: bool = False


def stack(batches):
    return {name: np.concatenate([batch[name] for batch in batches]) for name in ("IMAGE", "MASK", "GAIN")}


def cut(outputs, batches):
    ends = np.cumsum([len(batch["IMAGE"]) for batch in batches])
    return [
        {name: array[end - len(batch["IMAGE"]) : end] for name, array in outputs.items()}
        for batch, end in zip(batches, ends, strict=True)
    ]


def right(batches, state=None):
    """Answer all requests in one batch."""
    return cut(answer(stack(batches)), batches)


RIGHT = Variant(right, Config())


class Variants(dict):
    """Variants by name, each a function with a decorator that says what it changes."""

    def execution(self, config=None, sends=False):
        """Register run(batches, state)."""

        def register(run):
            def counted(batches, state):
                state.n_executions += 1
                state.n_requests += len(batches)
                return run(batches, state)

            self[run.__name__] = Variant(counted, config or Config(), sends)
            return run

        return register

    def request(self, config=None):
        """Register change(inputs, outputs, state): changes the right outputs of one request, or returns others."""

        def register(change):
            def run(batches, state):
                found = []
                for batch, outputs in zip(batches, right(batches), strict=True):
                    state.n_requests += 1
                    outputs = {name: array.copy() for name, array in outputs.items()}
                    try:
                        found.append(change(batch, outputs, state) or outputs)
                    except ValueError as error:
                        found.append(error)
                return found

            self[change.__name__] = Variant(run, config or Config())
            return change

        return register

    def inputs(self):
        """Register change(inputs): the right answer to other inputs of one request."""

        def register(change):
            def run(batches, state):
                return right([{**batch, **change(batch)} for batch in batches])

            self[change.__name__] = Variant(run, Config())
            return change

        return register

    def only_config(self, name, **changes):
        self[name] = Variant(right, Config(**changes))
