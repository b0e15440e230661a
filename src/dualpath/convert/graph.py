"""An ensemble as a graph: pure data, read from configs; nested ensembles can be opened."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from dualpath.extras import needs

with needs("cli"):
    from tritonclient.grpc.model_config_pb2 import DataType

if TYPE_CHECKING:
    from dualpath.convert.models import Models, RepositoryModel


@dataclass(frozen=True)
class GraphTensor:
    """What one end of an edge says of a tensor.

    Attributes:
        name: at this end: a model's input or output.
        tensor: the ensemble's name for it.
        dtype: such as "FP32"; "" if the config does not say it.
        dims: without the batch dimension; None if the config does not say them.
        batched: whether a batch dimension comes before them.
        optional: of an input: whether it may be missing.
    """

    name: str
    tensor: str
    dtype: str
    dims: tuple[int, ...] | None
    batched: bool
    optional: bool = False

    @property
    def shape(self) -> tuple[int, ...] | None:
        """All dimensions; -1 for those that vary, as the batch does."""
        return None if self.dims is None else ((-1, *self.dims) if self.batched else self.dims)


@dataclass(frozen=True)
class EnsembleStep:
    """One step of an ensemble.

    Attributes:
        index: its place in the config, from 0.
        version: -1 if Triton's version policy chooses; a step that does not say it means 0.
        known: whether the model's config could be read and names its tensors.
        graph: the model's own graph if it is an ensemble.
    """

    index: int
    model: str
    version: int
    namespace: str
    inputs: tuple[GraphTensor, ...]
    outputs: tuple[GraphTensor, ...]
    known: bool = True
    batched: bool = False
    decoupled: bool = False
    sequence: bool = False
    graph: Graph | None = None

    @property
    def needs(self) -> frozenset[str]:
        """The ensemble's tensors that go in."""
        return frozenset(tensor.tensor for tensor in self.inputs)

    @property
    def gives(self) -> frozenset[str]:
        """The ensemble's tensors that come out."""
        return frozenset(tensor.tensor for tensor in self.outputs)


@dataclass(frozen=True)
class Graph:
    """An ensemble: its published tensors and its steps, in the order of the config."""

    name: str
    max_batch_size: int
    inputs: tuple[GraphTensor, ...]
    outputs: tuple[GraphTensor, ...]
    steps: tuple[EnsembleStep, ...]

    @property
    def decoupled(self) -> bool:
        """Whether a request may have any number of answers."""
        return any(step.decoupled for step in self.steps)

    def source(self, tensor: str) -> GraphTensor | None:
        """Return a tensor as its producer describes it: a step, or the caller."""
        for made in self.inputs:
            if made.tensor == tensor:
                return made
        return next((out for _, out in self.outputs_of_steps() if out.tensor == tensor), None)

    def outputs_of_steps(self) -> Iterator[tuple[EnsembleStep, GraphTensor]]:
        """Give what each step gives."""
        yield from ((step, tensor) for step in self.steps for tensor in step.outputs)

    def stages(self) -> list[list[EnsembleStep]]:
        """Return the steps by the moment at which they can start; those of a stage do not depend on each other.

        Steps that can never start, on a circle or behind a tensor that nobody gives, are left out.
        """
        return self.in_stages()[0]

    def in_stages(self, given: Collection[str] = ()) -> tuple[list[list[EnsembleStep]], list[EnsembleStep], set[str]]:
        """Return the stages if these tensors are there too, the steps that never start, and all that is there then."""
        there = {*given, *(tensor.tensor for tensor in self.inputs)}
        left, stages = list(self.steps), []
        while ready := [step for step in left if step.needs <= there]:
            stages.append(ready)
            left = [step for step in left if step not in ready]
            there.update(*(step.gives for step in ready))
        return stages, left, there


def read_graph(ensemble: RepositoryModel, models: Models, around: tuple[str, ...] = ()) -> Graph:
    """Return the graph of an ensemble, named after its folder.

    Args:
        around: names of the ensembles around this one; a step that names one of them is not opened.
    """
    config, around = ensemble.message, (*around, ensemble.name)
    batched = config.max_batch_size > 0
    steps = []
    for index, step in enumerate(config.ensemble_scheduling.step):
        found = models.find(step.model_name)
        model: Any = found.message if found else None
        nested = None
        if found and len(model.ensemble_scheduling.step) and step.model_name not in around:
            nested = read_graph(found, models, around)
        known = model is not None and bool(len(model.input) or len(model.output))
        takes_batch = model.max_batch_size > 0 if known else batched
        steps.append(
            EnsembleStep(
                index,
                step.model_name,
                step.model_version,
                step.model_namespace,
                tuple(_mapped(step.input_map, model.input if known else (), takes_batch)),
                tuple(_mapped(step.output_map, model.output if known else (), takes_batch)),
                known,
                takes_batch,
                nested.decoupled if nested else known and model.model_transaction_policy.decoupled,
                known and model.HasField("sequence_batching"),
                nested,
            )
        )
    inputs, outputs = (tuple(_published(tensors, batched)) for tensors in (config.input, config.output))
    return Graph(ensemble.name, config.max_batch_size, inputs, outputs, tuple(steps))


def _mapped(mapping: Any, declared: Iterable[Any], batched: bool) -> Iterator[GraphTensor]:
    """Give the mapped tensors, in the order in which the model declares them."""
    by_name = {tensor.name: tensor for tensor in declared}
    for name, tensor in by_name.items():
        if name in mapping:
            yield GraphTensor(name, mapping[name], dtype(tensor), tuple(tensor.dims), batched, _optional(tensor))
    for name in sorted(set(mapping) - by_name.keys()):
        yield GraphTensor(name, mapping[name], "", None, batched)


def _published(tensors: Iterable[Any], batched: bool) -> Iterator[GraphTensor]:
    """Give an ensemble's own tensors as its steps see them: reshaped."""
    for tensor in tensors:
        dims = tensor.reshape.shape if tensor.HasField("reshape") else tensor.dims
        yield GraphTensor(tensor.name, tensor.name, dtype(tensor), tuple(dims), batched, _optional(tensor))


def _optional(tensor: Any) -> bool:
    return bool(getattr(tensor, "optional", False))  # an output has no such field


def dtype(tensor: Any) -> str:
    """Return a data type as clients name it, such as "FP32"."""
    return str(DataType.Name(tensor.data_type)).removeprefix("TYPE_")


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
        for name in (tensor.tensor for part in inner.steps for tensor in part.outputs):
            names.setdefault(name, f"{step.model}_{name}" if name in taken else name)
        missing = {tensor.name for tensor in inner.inputs} - set(outside)  # optional ones that are not mapped
        for part in inner.steps:
            inputs = tuple(_renamed(t, names) for t in part.inputs if t.tensor not in missing)
            steps.append(replace(part, inputs=inputs, outputs=tuple(_renamed(t, names) for t in part.outputs)))
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
