"""What of an ensemble cannot be written as a BLS model, and what the model does differently."""

from __future__ import annotations

from collections.abc import Iterator

from dualpath.convert.ensemble import Ensemble
from dualpath.convert.findings import RepositoryFault
from dualpath.convert.graph import EnsembleStep, Graph
from dualpath.convert.models import STEPS, Models
from dualpath.convert.plan import plan
from dualpath.convert.wiring import check_wiring


def refusals(ensemble: Ensemble) -> list[RepositoryFault]:
    """Return the reasons for which an ensemble is not translated, by line."""
    found = list(check_wiring(ensemble.model, ensemble.models))
    found += _steps(ensemble)
    if not found:
        try:
            plan(ensemble.graph.steps)
        except ValueError as error:
            found.append(ensemble.model.at(STEPS[0], message=f"expected a graph of calls, got one in which {error}."))
    return sorted(set(found))


def _steps(ensemble: Ensemble) -> Iterator[RepositoryFault]:
    for step in ensemble.graph.steps:
        if step.namespace:
            yield ensemble.model.at_step(
                step,
                "model_namespace",
                message=f"model_namespace: expected none, got {step.namespace!r}: a BLS request names a model "
                "without a namespace. Copy the model into this repository under a name of its own.",
            )
        for name in _sequence_models(step):
            yield ensemble.model.at_step(
                step,
                "model_name",
                message=f"sequence_batching of {name}: expected a model without sequences, got one with: its "
                "state belongs to the caller's sequence id, which dualpath.bls does not hand on. Keep the ensemble "
                "for this step.",
            )


def _sequence_models(step: EnsembleStep) -> Iterator[str]:
    if step.sequence:
        yield step.model
    for inner in step.graph.steps if step.graph else ():
        yield from _sequence_models(inner)


def notes(ensemble: Ensemble) -> list[str]:
    """Return what the written model does differently from the ensemble, or what was assumed."""
    return [*_own_notes(ensemble), *dict.fromkeys(_step_notes(ensemble.graph, ensemble.models))]


def _own_notes(ensemble: Ensemble) -> Iterator[str]:
    model, message = ensemble.model, ensemble.model.message
    if message.name and message.name != model.name:
        yield f"{model.file} says name {message.name!r}; the folder's name {model.name!r} is used, as Triton does."
    for unknown in model.config.unknown:
        yield f"{model.file}:{unknown.line}:{unknown.column}: {unknown.name} is not known here and has no counterpart."
    if message.ensemble_scheduling.max_inflight_requests:
        yield "max_inflight_requests has no counterpart: dualpath.bls bounds the rows in flight (1,024 by default)."
    if message.HasField("version_policy"):
        yield "version_policy is left out: the new model has version 1 alone."


def _step_notes(graph: Graph, models: Models) -> Iterator[str]:
    for step in graph.steps:
        found = models.find(step.model)
        if found is None:
            continue
        if not step.known:
            yield (
                f"{step.model}: its config names no tensors, so that it is taken to have "
                f"{'a' if step.batched else 'no'} batch dimension, as the ensemble has."
            )
        if found.message.dynamic_batching.priority_levels > 1:
            yield f"{step.model} has priority_levels: BLS requests have no priority, so all wait at its default level."
        if step.graph:
            yield from _step_notes(step.graph, models)
