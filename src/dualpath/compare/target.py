"""The models to compare, read from their server: their tensors and what they have in common."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException

from dualpath.errors import UserError
from dualpath.readability.contract import Tensor

_TIMEOUT_S = 5


@dataclass(frozen=True)
class Target:
    """A model of a server, or one version of it.

    Attributes:
        model: its name.
        version: "" leaves the choice to the server.
        max_batch_size: 0 if its tensors have no batch dimension.
        optional: inputs that a request may leave out.
        decoupled: whether a request may have any number of responses.
        keeps_state: whether requests have to be steps of sequences: it has sequence batching, or a step of it.
    """

    model: str
    version: str
    max_batch_size: int
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    optional: frozenset[str] = frozenset()
    decoupled: bool = False
    keeps_state: bool = False

    @property
    def name(self) -> str:
        """The name as it is asked for: `orchestrator` or `orchestrator:2`."""
        return f"{self.model}:{self.version}" if self.version else self.model


@dataclass(frozen=True)
class Pair:
    """What two models have in common.

    Attributes:
        notes: name what is left out.
        optional: inputs that a request to either may leave out.
        watched: outputs that are asked for without being compared.
        streams: whether one is decoupled, so that both are asked over streams.
        keeps_state: whether one is asked sequences, so that both are.
        at_odds: outputs of the baseline that the other model lacks or has of another type, and how the configs of both
            describe them: "TYPE_INT64", or "no output".
    """

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    max_batch_size: int
    notes: tuple[str, ...] = ()
    optional: frozenset[str] = frozenset()
    watched: tuple[str, ...] = ()
    streams: bool = False
    keeps_state: bool = False
    at_odds: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    def without(self, ignored: Sequence[str]) -> Pair:
        """Leave out these outputs; UserError if one is none of theirs, or none is left."""
        known = [*(tensor.name for tensor in self.outputs), *self.at_odds]
        names = ", ".join(known)
        if unknown := [name for name in ignored if name not in known]:
            raise UserError(f"--ignore: expected one of the outputs {names}, got {unknown[0]!r}. Name another.")
        at_odds = {name: it for name, it in self.at_odds.items() if name not in ignored}
        outputs = tuple(tensor for tensor in self.outputs if tensor.name not in ignored)
        if not outputs:
            raise UserError(f"--ignore: expected an output that is left, got {names} ignored. Ignore fewer.")
        notes = [f"Ignored, as asked: {', '.join(ignored)}."] if ignored else []
        return replace(self, outputs=outputs, at_odds=at_odds, notes=(*self.notes, *notes))

    def given(self, is_given: Callable[[str], bool]) -> Pair:
        """Leave out the optional inputs for which there is no value."""
        left = [it.name for it in self.inputs if it.name in self.optional and not is_given(it.name)]
        notes = [f"Left out, as no row has a value for it: the optional input {name}." for name in left]
        inputs = tuple(tensor for tensor in self.inputs if tensor.name not in left)
        return replace(self, inputs=inputs, notes=(*self.notes, *notes))


def split(name: str) -> tuple[str, str]:
    """Split `model:version` or `model` into model and version, which may be ""; UserError if it is neither."""
    match = re.fullmatch(r"([^:]+)(?::([1-9][0-9]*))?", name)
    if not match:
        raise UserError(f"model: expected NAME or NAME:VERSION, got {name!r}. Write it like orchestrator:1.")
    return match[1], match[2] or ""


def read(client: grpcclient.InferenceServerClient, name: str) -> Target:
    """Read the tensors of `model` or `model:version` from its server; UserError if it does not serve it."""
    model, version = split(name)
    try:
        if not client.is_model_ready(model, version, client_timeout=_TIMEOUT_S):
            raise UserError(f"{name}: expected a model that is ready, got one that is not. {_served(client)}")
        config = client.get_model_config(model, version, as_json=True, client_timeout=_TIMEOUT_S)["config"]
        keeps_state = _keeps_state(client, config)
    except InferenceServerException as error:
        raise UserError(f"{name}: expected a model of the server, got: {error.message()}. {_served(client)}") from None
    return Target(
        model,
        version,
        int(config.get("max_batch_size", 0)),
        _tensors(config.get("input", ())),
        _tensors(config.get("output", ())),
        frozenset(tensor["name"] for tensor in config.get("input", ()) if tensor.get("optional")),
        bool(config.get("model_transaction_policy", {}).get("decoupled")),
        keeps_state,
    )


def _keeps_state(client: grpcclient.InferenceServerClient, config: Mapping[str, Any]) -> bool:
    """Return whether a model, or a step of it, has sequence batching."""
    steps = config.get("ensemble_scheduling", {}).get("step", ())
    of_steps = (
        client.get_model_config(step["model_name"], as_json=True, client_timeout=_TIMEOUT_S)["config"] for step in steps
    )
    return "sequence_batching" in config or any(_keeps_state(client, it) for it in of_steps)


def pair(a: Target, b: Target) -> Pair:
    """Find what two models have in common; UserError if their inputs differ, or no output is common."""
    notes: list[str] = []
    inputs = _common_inputs(a, b, notes)
    of_b = {tensor.name: tensor for tensor in b.outputs}
    if more := [name for name in of_b if name not in {tensor.name for tensor in a.outputs}]:
        notes.append(f"Left out, as only {b.name} has it: {', '.join(more)}.")
    in_b = {it.name: of_b[it.name].dtype if it.name in of_b else "no output" for it in a.outputs}
    missing_first = sorted(a.outputs, key=lambda it: it.name in of_b)
    at_odds = {it.name: (it.dtype, in_b[it.name]) for it in missing_first if it.dtype != in_b[it.name]}
    outputs = tuple(it for it in a.outputs if it.name not in at_odds)
    if not outputs:
        raise UserError(
            f"{a.name}, {b.name}: expected an output in common, got {_names(a.outputs)} of {a.name} and "
            f"{_names(b.outputs)} of {b.name}. Name two models with an output in common."
        )
    keeps_state = a.keeps_state or b.keeps_state
    # Triton takes a step of a sequence in a request of its own only.
    max_batch_size = 1 if keeps_state else min(a.max_batch_size or 1, b.max_batch_size or 1)
    return Pair(
        inputs,
        outputs,
        max_batch_size,
        tuple(notes),
        a.optional & b.optional,
        streams=a.decoupled or b.decoupled,
        keeps_state=keeps_state,
        at_odds=at_odds,
    )


def _common_inputs(a: Target, b: Target, notes: list[str]) -> tuple[Tensor, ...]:
    of_a, of_b = ({tensor.name: tensor for tensor in target.inputs} for target in (a, b))
    inputs = []
    for name in dict.fromkeys([*of_a, *of_b]):
        if name in of_a and name in of_b:
            inputs.append(_common(of_a[name], of_b[name], a, b))
        elif name in a.optional | b.optional:
            notes.append(f"Left out, as only {a.name if name in of_a else b.name} has it: the optional input {name}.")
        else:
            raise UserError(
                f"{a.name}, {b.name}: expected the same inputs, got {_names(a.inputs)} of {a.name} and "
                f"{_names(b.inputs)} of {b.name}. Name two models that take the same requests."
            )
    return tuple(inputs)


def _common(one: Tensor, other: Tensor, a: Target, b: Target) -> Tensor:
    """Return the tensor that both take; a fixed dimension wins over a variable one."""
    fits = all(-1 in pair or pair[0] == pair[1] for pair in zip(one.dims, other.dims, strict=False))
    if one.dtype != other.dtype or len(one.dims) != len(other.dims) or not fits:
        raise UserError(
            f"{one.name}: expected an input of the same type and shape in both, got {one.dtype} {list(one.dims)} of "
            f"{a.name} and {other.dtype} {list(other.dims)} of {b.name}. Name two models that take the same requests."
        )
    return Tensor(one.name, one.dtype, tuple(map(max, one.dims, other.dims)))


def _tensors(described: Sequence[dict[str, Any]]) -> tuple[Tensor, ...]:
    return tuple(Tensor(it["name"], it["data_type"], tuple(map(int, it.get("dims", ())))) for it in described)


def _names(tensors: Sequence[Tensor]) -> str:
    return ", ".join(tensor.name for tensor in tensors) or "none"


def _served(client: grpcclient.InferenceServerClient) -> str:
    try:
        index = client.get_model_repository_index(as_json=True, client_timeout=_TIMEOUT_S).get("models", ())
    except InferenceServerException:
        return "See `dualpath models`."
    ready = sorted({entry["name"] for entry in index if entry.get("state") == "READY"})
    return f"It serves {', '.join(ready) or 'none'}; see `dualpath models`."
