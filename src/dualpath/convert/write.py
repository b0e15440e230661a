"""Write the model.py of a BLS model that does what an ensemble does."""

from collections.abc import Callable, Iterable, Iterator, Sequence

from dualpath.convert import code
from dualpath.convert.code import METHODS, RESERVED, Code, free, identifier, identifiers, lay_out, mapping, text
from dualpath.convert.graph import EnsembleStep, Graph, GraphTensor
from dualpath.convert.plan import Item, Stream, Together, plan, steps_of

_End = Callable[[int], Iterator[str]]
"""Gives the lines that end a block, from their indent."""

CONDITION = (
    "# A condition goes here: put an `if` around whatever a request does not need.",
    "# Its tensors are NumPy arrays.",
)

HELPERS = {
    "as_batch": (
        "def as_batch(tensor: Any) -> Any:",
        '    """Give a tensor of a model without batches to one with: as a batch of one row."""',
        "    return None if tensor is None else tensor[None]",
    ),
    "one_row": (
        "def one_row(tensor: Any) -> Any:",
        '    """Give a lone row to a model without batches; more rows are left for it to refuse."""',
        "    return tensor[0] if tensor is not None and len(tensor) == 1 else tensor",
    ),
}
"""What an ensemble does by itself between models with and without a batch dimension."""


def model_py(graph: Graph) -> str:
    """Return the text of model.py.

    Raises:
        ValueError: the graph cannot be written as calls one after the other.
    """
    return "\n".join(_Writer(graph).lines()) + "\n"


class _Writer:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.plan = plan(graph.steps)
        steps = steps_of(self.plan)
        tensors = [tensor.tensor for tensor in graph.inputs]
        tensors += [tensor.tensor for step in steps for tensor in step.outputs]
        self.variables = identifiers(tensors, RESERVED | set(HELPERS))
        self.maybe_missing = {
            *(tensor.tensor for tensor in graph.inputs if tensor.optional),
            *(tensor.tensor for step in graph.steps for tensor in step.inputs if tensor.optional),
        }
        # Steps that ask a model for the same thing share a child.
        self.children: dict[tuple[str, int, tuple[str, ...]], str] = {}
        used = set(METHODS)
        for step in steps:
            if (key := self._child_key(step)) not in self.children:
                self.children[key] = free(identifier(step.model), used)
                used.add(self.children[key])
        self.attributes = used
        self.methods: list[list[str]] = []
        self.helpers: set[str] = set()

    def lines(self) -> list[str]:
        body = [*self._inputs(), "", *self._block(self.plan, 8, self._results, marked=True)]
        decoupled = self.graph.decoupled
        returns = "AsyncIterator[Mapping[str, Any]]" if decoupled else "Mapping[str, Any]"
        return [
            f'"""The graph of the ensemble `{self.graph.name}`, written as calls that can be changed."""',
            "",
            f"from collections.abc import {'AsyncIterator, ' * decoupled}Mapping",
            "from typing import Any",
            "",
            "from dualpath import bls",
            "",
            "",
            *(line for name in sorted(self.helpers) for line in (*HELPERS[name], "", "")),
            "class TritonPythonModel:",
            "    def initialize(self, args: dict[str, str]) -> None:",
            "        config = bls.ModelConfig(args)",
            *self._children(),
            "        self.pipeline = bls.Pipeline(self.graph, config, merge_requests=False)",
            "",
            "    def execute(self, requests: list[Any]) -> list[Any] | None:",
            "        return self.pipeline.execute(requests)",
            "",
            "    def finalize(self) -> None:",
            "        self.pipeline.close()",
            "",
            f"    async def graph(self, request: bls.Request) -> {returns}:",
            *body,
            *(line for method in self.methods for line in ("", *method)),
        ]

    def _child_key(self, step: EnsembleStep) -> tuple[str, int, tuple[str, ...]]:
        return step.model, step.version, tuple(self._asked(output) for output in step.outputs)

    def _asked(self, output: GraphTensor) -> str:
        return f"{output.name}?" if output.tensor in self.maybe_missing else output.name

    def _children(self) -> Iterator[str]:
        bf16 = {
            (step.model, step.version): [tensor.name for tensor in step.inputs if tensor.dtype == "BF16"]
            for step in self.graph.steps
        }
        for (model, version, outputs), name in self.children.items():
            asked: Code = (
                text(outputs[0]) if len(outputs) == 1 and not outputs[0].endswith("?") else code.texts(outputs)
            )
            more: dict[str, Code] = {}
            if version >= 0:
                more["version"] = str(version)
            if bf16[model, version]:
                more["bf16_inputs"] = code.texts(bf16[model, version])
            more["forward_parameters"] = text("*")
            yield from lay_out(code.call("bls.Child", text(model), asked, **more), 8, f"self.{name} = ")

    def _inputs(self) -> Iterator[str]:
        for tensor in self.graph.inputs:
            name = text(tensor.name)
            read = f"request.inputs.get({name})" if tensor.optional else f"request.inputs[{name}]"
            yield f"        {self.variables[tensor.tensor]} = {read}"

    def _block(self, items: Sequence[Item], indent: int, end: _End, marked: bool = False) -> Iterator[str]:
        """Give the lines of a plan; `marked` puts the place for a condition after its first item."""
        for i, item in enumerate(items):
            if marked and i == min(1, len(items) - 1):
                yield from ["", *(f"{' ' * indent}{line}" for line in CONDITION)][i == 0 :]
            if isinstance(item, Stream):
                yield from self._stream(item, indent, end)
                return
            yield from self._together(item, indent) if isinstance(item, Together) else self._call(item, indent)
        yield from end(indent)

    def _call(self, step: EnsembleStep, indent: int) -> Iterator[str]:
        result, unpack = self._result(step, indent)
        yield from lay_out(self._asking(step), indent, f"{result} = await ")
        yield from unpack

    def _together(self, item: Together, indent: int) -> Iterator[str]:
        results, asked, unpacks = list[Code](), [], list[str]()
        answers: set[str] = set()
        for branch in item.branches:
            if len(branch) == 1 and isinstance(branch[0], EnsembleStep):
                result, unpack = self._result(branch[0], indent, answers)
                answers.add(result)
                results.append(result)
                unpacks += unpack
                asked.append(self._asking(branch[0]))
            else:
                variables = self._given(branch)
                results.append(variables[0] if len(variables) == 1 else code.names(variables))
                asked.append(self._branch(branch, variables))
        yield from code.assign(results, code.call("bls.together", *asked), indent)
        yield from unpacks

    def _stream(self, item: Stream, indent: int, end: _End) -> Iterator[str]:
        result, unpack = self._result(item.step, indent + 4)
        yield from lay_out(self._asking(item.step, "stream"), indent, f"async for {result} in ", ":")
        yield from unpack
        yield from self._block(item.body, indent + 4, end)

    def _branch(self, items: Sequence[Item], variables: Sequence[str]) -> Code:
        """Make a method of a branch; return the call of it."""
        steps = steps_of(items)
        given = {tensor for step in steps for tensor in step.gives}
        needed = dict.fromkeys(tensor.tensor for step in steps for tensor in step.inputs if tensor.tensor not in given)
        name = free(f"{identifier(steps[0].model)}_to_{identifier(steps[-1].model)}", self.attributes)
        self.attributes.add(name)
        arguments = [self.variables[tensor] for tensor in needed]
        parameters = code.Brackets("(", tuple(("", a) for a in ("self", *(f"{a}: Any" for a in arguments))), ")")
        method = lay_out(parameters, 4, f"async def {name}", " -> Any:")
        mine: list[str] = []
        self.methods.append(mine)
        result = ", ".join(variables)
        last = items[-1]
        mine += method
        if isinstance(last, EnsembleStep) and self._result(last, 8) == (result, []):
            mine += self._block(items[:-1], 8, lambda indent: iter(()))
            mine += lay_out(self._asking(last), 8, "return await ")
        else:
            mine += self._block(items, 8, lambda indent: iter(code.give_back(variables, indent)))
        return code.call(f"self.{name}", *arguments)

    def _given(self, items: Sequence[Item]) -> list[str]:
        """Return the variables of a branch that others need."""
        steps = steps_of(items)
        inside = {step.index for step in steps}
        needed = {tensor.tensor for tensor in self.graph.outputs}
        needed.update(*(step.needs for step in self.graph.steps if step.index not in inside))
        return [self.variables[out.tensor] for step in steps for out in step.outputs if out.tensor in needed]

    def _result(self, step: EnsembleStep, indent: int, taken: Iterable[str] = ()) -> tuple[str, list[str]]:
        """Return the variable that takes a step's answer, none of those taken, and the lines that take it apart."""
        outputs = self._child_key(step)[2]
        if len(outputs) == 1 and not outputs[0].endswith("?"):
            return self.variables[step.outputs[0].tensor], []
        answer = free(identifier(step.model), {*self.variables.values(), *RESERVED, *taken})
        lines = []
        for output in step.outputs:
            name = text(output.name)
            read = f"{answer}.get({name})" if output.tensor in self.maybe_missing else f"{answer}[{name}]"
            lines.append(f"{' ' * indent}{self.variables[output.tensor]} = {read}")
        return answer, lines

    def _asking(self, step: EnsembleStep, method: str = "call") -> Code:
        items = [(tensor.name, self._passed(tensor)) for tensor in step.inputs]
        return code.call(f"self.{self.children[self._child_key(step)]}.{method}", mapping(items))

    def _passed(self, end: GraphTensor) -> str:
        """Return a tensor as its consumer takes it: with or without the batch dimension, as an ensemble does."""
        variable = self.variables[end.tensor]
        made = self.graph.source(end.tensor)
        if made is None or made.batched == end.batched or made.dims is None or end.dims is None:
            return variable
        if len(made.dims) != len(end.dims):  # the batch dimension is one of the unbatched end's own
            return variable
        helper = "as_batch" if end.batched else "one_row"
        self.helpers.add(helper)
        return f"{helper}({variable})"

    def _results(self, indent: int) -> Iterator[str]:
        items = [(tensor.name, self._passed(tensor)) for tensor in self.graph.outputs]
        yield from lay_out(mapping(items), indent, "yield " if self.graph.decoupled else "return ")
