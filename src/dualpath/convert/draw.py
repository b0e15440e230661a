"""Draw a graph: as text for the terminal, as Mermaid, as data for JSON."""

from collections.abc import Iterator
from itertools import chain
from typing import Any

from dualpath.convert.graph import EnsembleStep, Graph, GraphTensor

STEP_FACTS = ("model", "version", "namespace", "batched", "decoupled", "sequence")
"""Fields of a step that stand in JSON as they are."""


def as_text(graph: Graph) -> str:
    """Return the graph as lines: its stages from top to bottom, the steps of a stage being independent."""
    rows = f"up to {graph.max_batch_size} rows a request" if graph.max_batch_size else "no batch dimension"
    lines = [f"{graph.name} ({rows}{', several answers a request' if graph.decoupled else ''})"]
    lines += [f"  in   {_described(tensor)}" for tensor in graph.inputs]
    lines += [f"  {line}" for line in _stages(graph)]
    lines += [f"  out  {_described(graph.source(tensor.tensor) or tensor, tensor)}" for tensor in graph.outputs]
    return "\n".join(lines)


def as_mermaid(graph: Graph) -> str:
    """Return the graph as a Mermaid flow chart, nested ensembles opened, dtypes and shapes on the edges."""
    lines = ["flowchart LR"]
    lines += [f"  in_{i}([{_quoted(tensor.tensor)}])" for i, tensor in enumerate(graph.inputs)]
    lines += [f"  out_{i}([{_quoted(tensor.tensor)}])" for i, tensor in enumerate(graph.outputs)]
    lines += _nodes(graph, "s", "  ")
    ends = {tensor.tensor: [f"in_{i}"] for i, tensor in enumerate(graph.inputs)}
    lines += _edges(graph, "s", ends)
    for i, tensor in enumerate(graph.outputs):
        lines += _arrows(graph, tensor, ends, f"out_{i}")
    return "\n".join(lines)


def as_data(graph: Graph) -> dict[str, Any]:
    """Return the graph as dictionaries and lists; a step that is an ensemble has a "graph" of its own."""
    return {
        "name": graph.name,
        "max_batch_size": graph.max_batch_size,
        "decoupled": graph.decoupled,
        "inputs": [_tensor_data(tensor) for tensor in graph.inputs],
        "outputs": [_tensor_data(tensor) for tensor in graph.outputs],
        "steps": [
            {
                **{name: getattr(step, name) for name in STEP_FACTS},
                "inputs": [_tensor_data(tensor) for tensor in step.inputs],
                "outputs": [_tensor_data(tensor) for tensor in step.outputs],
                **({"graph": as_data(step.graph)} if step.graph else {}),
            }
            for step in graph.steps
        ],
        "stages": [[step.index for step in stage] for stage in graph.stages()],
    }


def kind(tensor: GraphTensor) -> str:
    """Return dtype and shape, such as "FP32 [rows, 207]"; what a config leaves open is a "?"."""
    if tensor.dims is None:
        return tensor.dtype or "?"
    dims = ["rows"] * tensor.batched + [str(size) if size >= 0 else "?" for size in tensor.dims]
    return f"{tensor.dtype} [{', '.join(dims)}]"


def _stages(graph: Graph) -> Iterator[str]:
    stages, idle, _ = graph.in_stages()
    for number, stage in enumerate(stages, 1):
        for i, step in enumerate(stage):
            bar = "─" if len(stage) == 1 else "┬" if i == 0 else "└" if i == len(stage) - 1 else "├"
            yield f"{number if i == 0 else ' ':>3} {bar}─ {_title(step)}"
            side = "│" if len(stage) > 1 and i < len(stage) - 1 else " "
            for tensor in step.inputs:
                yield f"    {side}    {tensor.name} <- {_described(graph.source(tensor.tensor) or tensor, tensor)}"
            for tensor in step.outputs:
                yield f"    {side}    {tensor.name} -> {_described(tensor)}"
            if step.graph:
                yield from (f"    {side}    : {line}" for line in as_text(step.graph).splitlines()[1:])
    for step in idle:
        yield f"  ! ── {_title(step)}: never starts; run `dualpath check`"


def _title(step: EnsembleStep) -> str:
    says = (
        [f"version {step.version}"] * (step.version >= 0)
        + [f"namespace {step.namespace}"] * bool(step.namespace)
        + ["no config"] * (not step.known)
        + ["several answers"] * step.decoupled
        + ["sequences"] * step.sequence
        + ["ensemble"] * (step.graph is not None)
    )
    return f"{step.model} ({', '.join(says)})" if says else step.model


def _described(tensor: GraphTensor, end: GraphTensor | None = None) -> str:
    """Describe a tensor by what its producer says, and by what the other end says if that differs."""
    text = f"{tensor.tensor}  {kind(tensor)}"
    if end is not None and end.dims is not None and kind(end) != kind(tensor):
        text += f" as {kind(end)}"
    return text + (" optional" if (end or tensor).optional else "")


def _nodes(graph: Graph, prefix: str, indent: str) -> Iterator[str]:
    for step in graph.steps:
        node = f"{prefix}{step.index}"
        if step.graph:
            yield f"{indent}subgraph {node}[{_quoted(_title(step))}]"
            yield from _nodes(step.graph, f"{node}_", f"{indent}  ")
            yield f"{indent}end"
        else:
            yield f"{indent}{node}[{_quoted(_title(step))}]"


def _edges(graph: Graph, prefix: str, ends: dict[str, list[str]]) -> Iterator[str]:
    """Give the arrows between steps; fill `ends` with the nodes at which each tensor begins."""
    for step in chain.from_iterable(graph.stages()):
        node = f"{prefix}{step.index}"
        if step.graph is None:
            for tensor in step.inputs:
                yield from _arrows(graph, tensor, ends, node)
            ends.update({tensor.tensor: [node] for tensor in step.outputs})
        else:
            inner = {tensor.name: ends.get(tensor.tensor, []) for tensor in step.inputs}
            yield from _edges(step.graph, f"{node}_", inner)
            ends.update({tensor.tensor: inner.get(tensor.name, []) for tensor in step.outputs})


def _arrows(graph: Graph, tensor: GraphTensor, ends: dict[str, list[str]], node: str) -> Iterator[str]:
    label = _quoted(_described(graph.source(tensor.tensor) or tensor, tensor).replace("  ", "<br>"))
    for end in ends.get(tensor.tensor, []):
        yield f"  {end} -- {label} --> {node}"


def _quoted(text: str) -> str:
    """Quote a text for Mermaid, with its special characters as entities."""
    escaped = text.replace("&", "#amp;").replace('"', "#quot;").replace("<", "#lt;").replace(">", "#gt;")
    return f'"{escaped.replace("#lt;br#gt;", "<br>")}"'


def _tensor_data(tensor: GraphTensor) -> dict[str, Any]:
    return {
        "name": tensor.name,
        "tensor": tensor.tensor,
        "dtype": tensor.dtype,
        "shape": None if tensor.shape is None else list(tensor.shape),
        **({"optional": True} if tensor.optional else {}),
    }
