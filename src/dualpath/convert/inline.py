"""Open nested ensembles: their steps become steps of the graph around them."""

from __future__ import annotations

from dataclasses import replace

from dualpath.convert.graph import EnsembleStep, Graph, GraphTensor


class CannotInline(Exception):
    """A nested ensemble must stay one step. The message says why.

    Attributes:
        step: the step's index in the outer ensemble.
    """

    def __init__(self, step: int, reason: str) -> None:
        super().__init__(reason)
        self.step = step


def inlined(graph: Graph) -> Graph:
    """Return the graph with the steps of nested ensembles in their places.

    Inner tensors keep their names; if a name is taken, the step's model comes before it.

    Raises:
        CannotInline: a tensor of a nested ensemble changes its shape at the border.
    """
    steps: list[EnsembleStep] = []
    for step in graph.steps:
        if step.graph is None:
            steps.append(step)
            continue
        _check_border(graph, step, step.graph)
        inner = inlined(step.graph)
        taken = {tensor.tensor for other in (*graph.steps, *steps) for tensor in (*other.inputs, *other.outputs)}
        taken |= {tensor.tensor for tensor in graph.inputs}
        outside = {tensor.name: tensor.tensor for tensor in (*step.inputs, *step.outputs)}
        names = dict(outside)
        for tensor in (tensor for part in inner.steps for tensor in part.outputs):
            name = tensor.tensor
            names.setdefault(name, f"{step.model}_{name}" if name in taken else name)
        missing = {tensor.name for tensor in inner.inputs} - set(outside)  # optional ones that are not mapped
        for part in inner.steps:
            steps.append(
                replace(
                    part,
                    inputs=tuple(_renamed(t, names) for t in part.inputs if t.tensor not in missing),
                    outputs=tuple(_renamed(t, names) for t in part.outputs),
                )
            )
    needed = {tensor.tensor for tensor in graph.outputs}.union(*(step.needs for step in steps))
    kept = [replace(step, outputs=tuple(t for t in step.outputs if t.tensor in needed)) for step in steps]
    if idle := next((step for step in kept if not step.outputs), None):
        raise CannotInline(0, f"nothing takes what its step {idle.model} gives")
    return replace(graph, steps=tuple(replace(step, index=i) for i, step in enumerate(kept)))


def _renamed(tensor: GraphTensor, names: dict[str, str]) -> GraphTensor:
    return replace(tensor, tensor=names.get(tensor.tensor, tensor.tensor))


def _check_border(graph: Graph, step: EnsembleStep, inner: Graph) -> None:
    declared = {tensor.name: tensor for tensor in (*inner.inputs, *inner.outputs)}
    for end in (*step.inputs, *step.outputs):
        within = declared.get(end.name)
        if within is None:
            continue
        if within.dims != end.dims:
            raise CannotInline(step.index, f"{end.name!r} is reshaped at its border")
        source = graph.source(end.tensor)
        if source is not None and source.batched != end.batched:
            raise CannotInline(step.index, f"{end.name!r} gets or loses its batch dimension at its border")
    for passed in (tensor for tensor in inner.outputs if tensor.tensor in {t.tensor for t in inner.inputs}):
        if any(tensor.name == passed.name for tensor in step.outputs):
            raise CannotInline(step.index, f"{passed.name!r} is passed straight through it")
