"""Check how an ensemble's steps are wired, as Triton does when it loads the ensemble, but all faults at once.

The rules are those of Triton 24.10 and of its current source: `ValidateEnsembleSchedulingConfig` for the flow and
`ValidateEnsembleConfig` for types and shapes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import chain
from typing import Any

from dualpath.convert.graph import EnsembleStep, Graph, GraphTensor, read_graph
from dualpath.convert.models import STEPS, Models, RepositoryFault, RepositoryModel


def check_wiring(model: RepositoryModel, models: Models) -> Iterator[RepositoryFault]:
    """Give the faults of one ensemble."""
    return _Wiring(model, models, read_graph(model, models)).findings()


@dataclass(frozen=True)
class _Wiring:
    model: RepositoryModel
    models: Models
    graph: Graph

    def findings(self) -> Iterator[RepositoryFault]:
        if not self.graph.steps:
            yield self.model.at(STEPS[0]).fault("ensemble_scheduling: expected at least one step, got none. Add one.")
            return
        for step in self.graph.steps:
            yield from self._step(step)
        yield from self._flow()
        yield from self._streams()
        yield from self._ends()

    def _step(self, step: EnsembleStep) -> Iterator[RepositoryFault]:
        at = self.model.at_step
        if not step.model:
            yield at(step.index, step.model).fault("model_name: expected a model's name, got none. Name the model.")
            return
        if not step.outputs:
            yield at(step.index, step.model).fault("output_map: expected at least one entry, got none. Map an output.")
        if not step.inputs and not self._lacking_inputs(step):
            yield at(step.index, step.model).fault("input_map: expected at least one entry, got none. Map an input.")
        if step.namespace:
            return  # the model lies in another repository
        if (found := self.models.find(step.model)) is None:
            yield at(step.index, step.model, "model_name").fault(
                f"expected a model {step.model!r} in {self.models.repository}, got no such folder. "
                f"{_meant(step.model, self.models.names())}"
            )
            return
        if _contains(found, self.model.name, self.models, set()):
            yield at(step.index, step.model, "model_name").fault(
                f"expected a model that does without {self.model.name}, got an ensemble that contains it. "
                "Take that step out of one of them."
            )
            return
        yield from self._version(step, found)
        if step.known:
            limit, mine = found.message.max_batch_size, self.graph.max_batch_size
            if 0 < limit < mine:
                yield self.model.at("max_batch_size").fault(
                    f"max_batch_size: expected at most {limit}, which {step.model} takes, got {mine}. "
                    f"Write {limit} here, or more in {found.file}."
                )
            yield from self._maps(step, found.message)

    def _version(self, step: EnsembleStep, found: RepositoryModel) -> Iterator[RepositoryFault]:
        there, written, policy = found.versions, step.version, found.message.version_policy
        served = sorted(policy.specific.versions)
        if written == -1:
            return
        at = self.model.at_step(step.index, step.model, "model_version")
        if written not in there and self.model.config.find(*STEPS, step.index, "model_version") is None:
            yield at.fault(
                "model_version: expected a version or -1, got none, which Triton takes for version 0. Write -1 "
                "for the one that the model's policy chooses."
            )
        elif written not in there:
            yield at.fault(
                f"model_version: expected one of {', '.join(map(str, there)) or 'no'} version folders of "
                f"{found.folder}, got {written}. Write one that is there, or -1 for the one that its policy chooses."
            )
        elif served and written not in served:
            yield at.fault(
                f"model_version: expected one that the version_policy of {step.model} serves "
                f"({', '.join(map(str, served))}), got {written}. Write one of them, or change the policy."
            )
        elif not (served or policy.HasField("all")) and written not in there[-(policy.latest.num_versions or 1) :]:
            yield at.fault(
                f"model_version: expected the version that {step.model} serves ({max(there)}), got {written}. "
                f"Write -1, or add `version_policy {{ specific {{ versions: {written} }} }}` to {found.file}."
            )

    def _maps(self, step: EnsembleStep, config: Any) -> Iterator[RepositoryFault]:
        for kind, declared, mapped in (("input", config.input, step.inputs), ("output", config.output, step.outputs)):
            names = sorted({tensor.name for tensor in declared})
            for tensor in mapped:
                if tensor.name not in names:
                    yield self.model.at_step(step.index, step.model, f"{kind}_map", tensor.name).fault(
                        f"{kind}_map: expected an {kind} of {step.model} ({', '.join(names) or 'none'}), "
                        f"got {tensor.name!r}. {_meant(tensor.name, names)}"
                    )
        for name in self._lacking_inputs(step):
            yield self.model.at_step(step.index, step.model).fault(
                f"input_map: expected an entry for the input {name!r} of {step.model}, got none. "
                f'Add `input_map {{ key: "{name}" value: "<tensor>" }}`.'
            )

    def _lacking_inputs(self, step: EnsembleStep) -> list[str]:
        """Return the inputs that the step's model needs and that are not mapped."""
        found = self.models.find(step.model) if step.model and not step.namespace else None
        mapped = {tensor.name for tensor in step.inputs}
        inputs = found.message.input if found else ()
        return [tensor.name for tensor in inputs if tensor.name not in mapped and not tensor.optional]

    def _flow(self) -> Iterator[RepositoryFault]:
        """Give the tensors that two give, that nothing gives or that nothing takes, and the circles."""
        graph, at_step = self.graph, self.model.at_step
        given = {tensor.tensor: "the ensemble's input" for tensor in graph.inputs}
        for step, tensor in graph.outputs_of_steps():
            if tensor.tensor in given:
                yield at_step(step.index, step.model, "output_map", tensor.name).fault(
                    f"output_map: expected a tensor that nothing else gives, got {tensor.tensor!r}, which "
                    f"{given[tensor.tensor]} gives already. Choose another name."
                )
            given.setdefault(tensor.tensor, f"step {step.index} ({step.model})")
        lacking = set()
        for step in graph.steps:
            for tensor in step.inputs:
                if tensor.tensor not in given:
                    lacking.add(tensor.tensor)
                    yield at_step(step.index, step.model, "input_map", tensor.name).fault(
                        f"input_map: expected a tensor that an input or a step gives, got {tensor.tensor!r}. "
                        f"{_meant(tensor.tensor, sorted(given))}"
                    )
        yield from self._circles(lacking)
        needed = {tensor for step in graph.steps for tensor in step.needs}
        for i, tensor in enumerate(graph.inputs):
            if tensor.tensor not in needed:
                yield self.model.at("input", i).fault(
                    f"input {tensor.name!r}: expected a step that takes it, got none. Map it, or remove it."
                )
        for i, tensor in enumerate(graph.outputs):
            if tensor.tensor not in given:
                yield self.model.at("output", i).fault(
                    f"output {tensor.name!r}: expected a step that gives it, got none. "
                    f"{_meant(tensor.name, sorted(given))}"
                )
        needed |= {tensor.tensor for tensor in graph.outputs}
        for step, tensor in graph.outputs_of_steps():
            if tensor.tensor not in needed:
                yield at_step(step.index, step.model, "output_map", tensor.name).fault(
                    f"output_map: expected a tensor that a step or an output takes, got {tensor.tensor!r}, "
                    "which nothing takes. Remove the entry."
                )

    def _circles(self, lacking: set[str]) -> Iterator[RepositoryFault]:
        """Give the first step that waits for itself."""
        _, left, there = self.graph.in_stages(lacking)
        while before := [step for step in left if not any(step.gives & other.needs for other in left)]:
            left = [step for step in left if step not in before]  # behind the circle, not on it
        if left:
            names = ", ".join(f"{step.index} ({step.model})" for step in left)
            back = next(tensor for tensor in left[0].inputs if tensor.tensor not in there)
            yield self.model.at_step(left[0].index, left[0].model, "input_map", back.name).fault(
                f"expected steps that can start one after the other, got a circle of steps {names} through "
                f"{back.tensor!r}. Give it another tensor."
            )

    def _streams(self) -> Iterator[RepositoryFault]:
        """Give the steps that join answers of different decoupled steps."""
        label: dict[str, int] = {tensor.tensor: 0 for tensor in self.graph.inputs}
        n_streams = 0
        for step in chain.from_iterable(self.graph.stages()):
            labels = {label[tensor] for tensor in step.needs}
            if len(labels) > 1:
                yield self.model.at_step(step.index, step.model, "input_map").fault(
                    "expected tensors of one stream of answers, got some from before a decoupled step and "
                    "some from after it. Hand the earlier tensors through the decoupled step."
                )
            n_streams += step.decoupled
            label.update(dict.fromkeys(step.gives, n_streams if step.decoupled else min(labels, default=0)))
        if len({label[tensor.tensor] for tensor in self.graph.outputs if tensor.tensor in label}) > 1:
            yield self.model.at("output").fault(
                "output: expected tensors of one stream of answers, got some from before a decoupled step and "
                "some from after it. Publish only what comes after it."
            )

    def _ends(self) -> Iterator[RepositoryFault]:
        """Give the ends of tensors that do not fit the end that makes it, or the end that Triton reads first."""
        for i, tensor in enumerate(self.graph.outputs):
            if difference := self._difference(tensor):
                which = "data_type" if "data_type" in difference else "dims"
                yield self.model.at("output", i, which).fault(f"output {tensor.name!r}: {difference}")
        for step in self.graph.steps:
            for tensor in step.inputs:
                if difference := self._difference(tensor):
                    place = self.model.at_step(step.index, step.model, "input_map", tensor.name)
                    yield place.fault(f"input {tensor.name!r}: {difference}")

    def _difference(self, end: GraphTensor) -> str:
        """Say how an end of a tensor differs from the end that makes it, or else from the first that is read."""
        maker = self.graph.source(end.tensor)
        if maker is None or maker is end:
            return ""
        mentions = [(tensor, what) for tensor, what in self._mentions() if tensor.tensor == end.tensor]
        first, by_first = mentions[0]
        by_maker = next(what for tensor, what in mentions if tensor is maker)
        return _between(end, maker, by_maker) or ("" if first is end else _between(end, first, by_first))

    def _mentions(self) -> Iterator[tuple[GraphTensor, str]]:
        """Give all ends in the order in which Triton reads them, with what they are."""
        yield from ((tensor, "the caller gives") for tensor in self.graph.inputs)
        yield from ((tensor, "the ensemble publishes") for tensor in self.graph.outputs)
        for step in self.graph.steps:
            yield from ((tensor, f"step {step.index} ({step.model}) takes") for tensor in step.inputs)
            yield from ((tensor, f"step {step.index} ({step.model}) gives") for tensor in step.outputs)


def _between(end: GraphTensor, other: GraphTensor, by: str) -> str:
    """Say how an end of a tensor differs from another end, which is what `by` says."""
    if other.dims is None or end.dims is None:
        return ""
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


def _meant(name: str, known: Sequence[str]) -> str:
    """Suggest a name that is there."""
    close = get_close_matches(name, known, 1)
    return f"Write {close[0]!r}, if that is meant." if close else "Correct the name, or add what it names."
