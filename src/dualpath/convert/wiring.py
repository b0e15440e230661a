"""Check how an ensemble's steps are wired, as Triton does when it loads the ensemble, but all faults at once.

The rules are those of Triton 24.10 and of its current source: `ValidateEnsembleSchedulingConfig` for the flow and
`ValidateEnsembleConfig` for types and shapes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from dualpath.convert.ensemble import graph_of
from dualpath.convert.findings import RepositoryFault, meant
from dualpath.convert.flow import check_flow
from dualpath.convert.graph import EnsembleStep, Graph, GraphTensor
from dualpath.convert.models import STEPS, Models, RepositoryModel


def check_wiring(model: RepositoryModel, models: Models) -> Iterator[RepositoryFault]:
    """Give the faults of one ensemble."""
    return _Wiring(model, models, graph_of(model, models)).findings()


@dataclass(frozen=True)
class _Wiring:
    model: RepositoryModel
    models: Models
    graph: Graph

    def findings(self) -> Iterator[RepositoryFault]:
        if not self.graph.steps:
            yield self.model.at(STEPS[0], message="ensemble_scheduling: expected at least one step, got none. Add one.")
            return
        for step in self.graph.steps:
            yield from self._step(step)
        yield from check_flow(self.model, self.graph)
        yield from self._ends()

    def _step(self, step: EnsembleStep) -> Iterator[RepositoryFault]:
        if not step.model:
            yield self.model.at_step(step, message="model_name: expected a model's name, got none. Name the model.")
            return
        if not step.outputs:
            yield self.model.at_step(step, message="output_map: expected at least one entry, got none. Map an output.")
        if not step.inputs and not self._lacking_inputs(step):
            yield self.model.at_step(step, message="input_map: expected at least one entry, got none. Map an input.")
        if step.namespace:
            return  # the model lies in another repository
        if (found := self.models.find(step.model)) is None:
            yield self.model.at_step(
                step,
                "model_name",
                message=f"expected a model {step.model!r} in {self.models.repository}, got no such folder. "
                f"{meant(step.model, self.models.names())}",
            )
            return
        if _contains(found, self.model.name, self.models, set()):
            yield self.model.at_step(
                step,
                "model_name",
                message=f"expected a model that does without {self.model.name}, got an ensemble that contains it. "
                "Take that step out of one of them.",
            )
            return
        yield from self._version(step, found)
        if step.known:
            limit, mine = found.message.max_batch_size, self.graph.max_batch_size
            if 0 < limit < mine:
                yield self.model.at(
                    "max_batch_size",
                    message=f"max_batch_size: expected at most {limit}, which {step.model} takes, got {mine}. "
                    f"Write {limit} here, or more in {found.file}.",
                )
            yield from self._maps(step, found.message)

    def _version(self, step: EnsembleStep, found: RepositoryModel) -> Iterator[RepositoryFault]:
        there, written, policy = found.versions, step.version, found.message.version_policy
        if written == -1:
            return
        if self.model.config.find(*STEPS, step.index, "model_version") is None and written not in there:
            yield self.model.at_step(
                step,
                message="model_version: expected a version or -1, got none, which Triton takes for version 0. Write -1 "
                "for the one that the model's policy chooses.",
            )
        elif written not in there:
            yield self.model.at_step(
                step,
                "model_version",
                message=f"model_version: expected one of {', '.join(map(str, there)) or 'no'} version folders of "
                f"{found.folder}, got {written}. Write one that is there, or -1 for the one that its policy chooses.",
            )
        elif served := sorted(policy.specific.versions):
            if written not in served:
                yield self.model.at_step(
                    step,
                    "model_version",
                    message=f"model_version: expected one that the version_policy of {step.model} serves "
                    f"({', '.join(map(str, served))}), got {written}. Write one of them, or change the policy.",
                )
        elif not policy.HasField("all") and written not in there[-(policy.latest.num_versions or 1) :]:
            yield self.model.at_step(
                step,
                "model_version",
                message=f"model_version: expected the version that {step.model} serves ({max(there)}), got {written}. "
                f"Write -1, or add `version_policy {{ specific {{ versions: {written} }} }}` to {found.file}.",
            )

    def _maps(self, step: EnsembleStep, config: Any) -> Iterator[RepositoryFault]:
        inputs, outputs = {tensor.name for tensor in config.input}, {tensor.name for tensor in config.output}
        for which, declared, mapped in (("input_map", inputs, step.inputs), ("output_map", outputs, step.outputs)):
            kind = which.removesuffix("_map")
            for tensor in mapped:
                if tensor.name not in declared:
                    yield self.model.at_step(
                        step,
                        which,
                        tensor.name,
                        message=f"{which}: expected an {kind} of {step.model} "
                        f"({', '.join(sorted(declared)) or 'none'}), got {tensor.name!r}. "
                        f"{meant(tensor.name, sorted(declared))}",
                    )
        for name in self._lacking_inputs(step):
            yield self.model.at_step(
                step,
                message=f"input_map: expected an entry for the input {name!r} of {step.model}, got none. "
                f'Add `input_map {{ key: "{name}" value: "<tensor>" }}`.',
            )

    def _lacking_inputs(self, step: EnsembleStep) -> list[str]:
        """Return the inputs that the step's model needs and that are not mapped."""
        found = self.models.find(step.model) if step.model and not step.namespace else None
        mapped = {tensor.name for tensor in step.inputs}
        inputs = found.message.input if found else ()
        return [tensor.name for tensor in inputs if tensor.name not in mapped and not tensor.optional]

    def _ends(self) -> Iterator[RepositoryFault]:
        """Give the ends of tensors that do not fit the end that makes it, or the end that Triton reads first."""
        for i, tensor in enumerate(self.graph.outputs):
            if difference := self._difference(tensor):
                which = "data_type" if "data_type" in difference else "dims"
                yield self.model.at("output", i, which, message=f"output {tensor.name!r}: {difference}")
        for step in self.graph.steps:
            for tensor in step.inputs:
                if difference := self._difference(tensor):
                    yield self.model.at_step(
                        step, "input_map", tensor.name, message=f"input {tensor.name!r}: {difference}"
                    )

    def _difference(self, end: GraphTensor) -> str:
        """Say how an end of a tensor differs from the end that makes it, or else from the first that is read."""
        maker = self.graph.source(end.tensor)
        if maker is None or maker is end:
            return ""
        first = next(tensor for tensor, _ in self._mentions() if tensor.tensor == end.tensor)
        return self._between(end, maker) or ("" if first is end else self._between(end, first))

    def _mentions(self) -> Iterator[tuple[GraphTensor, str]]:
        """Give all ends in the order in which Triton reads them, with what they are."""
        yield from ((tensor, "the caller gives") for tensor in self.graph.inputs)
        yield from ((tensor, "the ensemble publishes") for tensor in self.graph.outputs)
        for step in self.graph.steps:
            yield from ((tensor, f"step {step.index} ({step.model}) takes") for tensor in step.inputs)
            yield from ((tensor, f"step {step.index} ({step.model}) gives") for tensor in step.outputs)

    def _between(self, end: GraphTensor, other: GraphTensor) -> str:
        if other.dims is None or end.dims is None:
            return ""
        by = next(what for tensor, what in self._mentions() if tensor is other)
        if other.dtype != end.dtype:
            return (
                f"data_type: expected {other.dtype}, as {by} {end.tensor!r}, got {end.dtype}. "
                "Use a model that fits, or one between them that casts."
            )
        if not _fit(other.dims, end.dims) and not _fit(other.shape or (), end.shape or ()):
            return (
                f"dims: expected {_shape(other, end)}, as {by} {end.tensor!r}, got {_shape(end, other)}. "
                "Correct the dims at one end, or put a model between them that reshapes."
            )
        return ""


def _contains(model: RepositoryModel, name: str, models: Models, seen: set[str]) -> bool:
    """Tell whether a model is, or contains at any depth, the ensemble of this name."""
    if model.name == name:
        return True
    seen.add(model.name)
    inner = {step.model_name for step in model.message.ensemble_scheduling.step} - seen
    return any(found is not None and _contains(found, name, models, seen) for found in map(models.find, sorted(inner)))


def _fit(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    return len(a) == len(b) and all(x == y or -1 in (x, y) for x, y in zip(a, b, strict=True))


def _shape(tensor: GraphTensor, other: GraphTensor) -> str:
    """Return the dims; with the batch dimension if only one end has it."""
    dims = tensor.shape if tensor.batched != other.batched else tensor.dims
    return f"[{', '.join(map(str, dims or ()))}]"
