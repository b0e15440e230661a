"""An ensemble as a graph: pure data, read from configs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from dualpath.extras import needs

with needs("cli"):
    from tritonclient.grpc.model_config_pb2 import DataType


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
        return next((out for step in self.steps for out in step.outputs if out.tensor == tensor), None)

    def stages(self) -> list[list[EnsembleStep]]:
        """Return the steps by the moment at which they can start; those of a stage do not depend on each other.

        Steps that can never start, on a circle or behind a tensor that nobody gives, are left out.
        """
        there = {tensor.tensor for tensor in self.inputs}
        left, stages = list(self.steps), []
        while ready := [step for step in left if step.needs <= there]:
            stages.append(ready)
            left = [step for step in left if step not in ready]
            there.update(*(step.gives for step in ready))
        return stages


def read_graph(config: Any, find: Callable[[str], Any], around: tuple[str, ...] = ()) -> Graph:
    """Return the graph of an ensemble.

    Args:
        config: its `ModelConfig`, with a name.
        find: returns the `ModelConfig` of a step's model by name, None if it is not known.
        around: names of the ensembles around this one; a step that names one of them is not opened.
    """
    batched = config.max_batch_size > 0
    steps = []
    for index, step in enumerate(config.ensemble_scheduling.step):
        model = find(step.model_name)
        nested = None
        if model is not None and len(model.ensemble_scheduling.step) and step.model_name not in (*around, config.name):
            nested = read_graph(model, find, (*around, config.name))
        steps.append(_step(index, step, model, nested, batched))
    return Graph(
        config.name,
        config.max_batch_size,
        tuple(_published(config.input, batched)),
        tuple(_published(config.output, batched)),
        tuple(steps),
    )


def _step(index: int, step: Any, model: Any, nested: Graph | None, ensemble_batched: bool) -> EnsembleStep:
    known = model is not None and bool(len(model.input) or len(model.output))
    batched = model.max_batch_size > 0 if known else ensemble_batched
    return EnsembleStep(
        index,
        step.model_name,
        step.model_version,
        step.model_namespace,
        tuple(_mapped(step.input_map, model.input if known else (), batched)),
        tuple(_mapped(step.output_map, model.output if known else (), batched)),
        known,
        batched,
        nested.decoupled if nested else known and model.model_transaction_policy.decoupled,
        known and model.HasField("sequence_batching"),
        nested,
    )


def _mapped(mapping: Any, declared: Iterable[Any], batched: bool) -> Iterator[GraphTensor]:
    """Give the mapped tensors, in the order in which the model declares them."""
    by_name = {tensor.name: tensor for tensor in declared}
    order = [*(name for name in by_name if name in mapping), *sorted(name for name in mapping if name not in by_name)]
    for name in order:
        if (tensor := by_name.get(name)) is None:
            yield GraphTensor(name, mapping[name], "", None, batched)
        else:
            optional = bool(getattr(tensor, "optional", False))
            yield GraphTensor(name, mapping[name], dtype(tensor), tuple(tensor.dims), batched, optional)


def _published(tensors: Iterable[Any], batched: bool) -> Iterator[GraphTensor]:
    """Give an ensemble's own tensors as its steps see them: reshaped."""
    for tensor in tensors:
        dims = tensor.reshape.shape if tensor.HasField("reshape") else tensor.dims
        optional = bool(getattr(tensor, "optional", False))
        yield GraphTensor(tensor.name, tensor.name, dtype(tensor), tuple(dims), batched, optional)


def dtype(tensor: Any) -> str:
    """Return a data type as clients name it, such as "FP32"."""
    return str(DataType.Name(tensor.data_type)).removeprefix("TYPE_")


def without(steps: Iterable[EnsembleStep], inner: Iterable[EnsembleStep]) -> list[EnsembleStep]:
    """Return the steps that are not among `inner`, in order."""
    gone = {step.index for step in inner}
    return [step for step in steps if step.index not in gone]
