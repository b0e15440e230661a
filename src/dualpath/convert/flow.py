"""Check an ensemble's flow: who gives each tensor, who takes it, circles, and streams of answers.

The rules are those of Triton 24.10 and of its current source: `ValidateEnsembleSchedulingConfig`.
"""

from __future__ import annotations

from collections.abc import Iterator

from dualpath.convert.findings import RepositoryFault, meant
from dualpath.convert.graph import Graph
from dualpath.convert.models import RepositoryModel


def check_flow(model: RepositoryModel, graph: Graph) -> Iterator[RepositoryFault]:
    """Give the faults of an ensemble's flow."""
    given: dict[str, str] = {tensor.tensor: "the ensemble's input" for tensor in graph.inputs}
    for step in graph.steps:
        for tensor in step.outputs:
            if tensor.tensor in given:
                yield model.at_step(
                    step,
                    "output_map",
                    tensor.name,
                    message=f"output_map: expected a tensor that nothing else gives, got {tensor.tensor!r}, which "
                    f"{given[tensor.tensor]} gives already. Choose another name.",
                )
            given.setdefault(tensor.tensor, f"step {step.index} ({step.model})")
    lacking = set()
    for step in graph.steps:
        for tensor in step.inputs:
            if tensor.tensor not in given:
                lacking.add(tensor.tensor)
                yield model.at_step(
                    step,
                    "input_map",
                    tensor.name,
                    message=f"input_map: expected a tensor that an input or a step gives, got {tensor.tensor!r}. "
                    f"{meant(tensor.tensor, sorted(given))}",
                )
    yield from _circles(model, graph, lacking)
    yield from _unused(model, graph, given)
    yield from _streams(model, graph)


def _circles(model: RepositoryModel, graph: Graph, lacking: set[str]) -> Iterator[RepositoryFault]:
    """Give one finding for each step that waits for itself."""
    there = {tensor.tensor for tensor in graph.inputs} | lacking
    left = list(graph.steps)
    while ready := [step for step in left if step.needs <= there]:
        left = [step for step in left if step not in ready]
        there.update(*(step.gives for step in ready))
    while before := [step for step in left if not any(step.gives & other.needs for other in left)]:
        left = [step for step in left if step not in before]  # behind the circle, not on it
    if left:
        names = ", ".join(f"{step.index} ({step.model})" for step in left)
        back = next(tensor for tensor in left[0].inputs if tensor.tensor not in there)
        yield model.at_step(
            left[0],
            "input_map",
            back.name,
            message=f"expected steps that can start one after the other, got a circle of steps {names} through "
            f"{back.tensor!r}. Give it another tensor.",
        )


def _unused(model: RepositoryModel, graph: Graph, given: dict[str, str]) -> Iterator[RepositoryFault]:
    needed = {tensor for step in graph.steps for tensor in step.needs}
    published = {tensor.tensor for tensor in graph.outputs}
    for i, tensor in enumerate(graph.inputs):
        if tensor.tensor not in needed:
            yield model.at(
                "input",
                i,
                message=f"input {tensor.name!r}: expected a step that takes it, got none. Map it, or remove it.",
            )
    for i, tensor in enumerate(graph.outputs):
        if tensor.tensor not in given:
            yield model.at(
                "output",
                i,
                message=f"output {tensor.name!r}: expected a step that gives it, got none. "
                f"{meant(tensor.name, sorted(given))}",
            )
    for step in graph.steps:
        for tensor in step.outputs:
            if tensor.tensor not in needed | published:
                yield model.at_step(
                    step,
                    "output_map",
                    tensor.name,
                    message=f"output_map: expected a tensor that a step or an output takes, got {tensor.tensor!r}, "
                    "which nothing takes. Remove the entry.",
                )


def _streams(model: RepositoryModel, graph: Graph) -> Iterator[RepositoryFault]:
    """Give the steps that join answers of different decoupled steps."""
    label: dict[str, int] = {tensor.tensor: 0 for tensor in graph.inputs}
    n_streams = 0
    for stage in graph.stages():
        for step in stage:
            labels = {label[tensor] for tensor in step.needs}
            if len(labels) > 1:
                yield model.at_step(
                    step,
                    "input_map",
                    message="expected tensors of one stream of answers, got some from before a decoupled step and "
                    "some from after it. Hand the earlier tensors through the decoupled step.",
                )
            n_streams += step.decoupled
            label.update(dict.fromkeys(step.gives, n_streams if step.decoupled else min(labels, default=0)))
    labels = {label[tensor.tensor] for tensor in graph.outputs if tensor.tensor in label}
    if len(labels) > 1:
        yield model.at(
            "output",
            message="output: expected tensors of one stream of answers, got some from before a decoupled step and "
            "some from after it. Publish only what comes after it.",
        )
