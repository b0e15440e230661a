"""Write a unit test for the BLS model of an ensemble: children that each give a number of their own."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

from dualpath.convert.code import RESERVED, Brackets, call, identifiers, lay_out, mapping, text
from dualpath.convert.graph import EnsembleStep, Graph, dtype

NUMPY = {"BOOL": "bool", "STRING": "object", "FP16": "np.float16", "FP32": "np.float32", "FP64": "np.float64"}
NUMPY |= {f"{kind}{bits}": f"np.{kind.lower()}{bits}" for kind in ("UINT", "INT") for bits in (8, 16, 32, 64)}
NUMPY["BF16"] = "np.uint16"  # its bits


def unit_test(graph: Graph, config: Any, name: str) -> str:
    """Return the text of a test file.

    Args:
        graph: the ensemble's.
        config: its `ModelConfig`.
        name: the BLS model's name.
    """
    numbers = count(1)
    inputs = {tensor.name: (tensor, next(numbers)) for tensor in config.input if not tensor.optional}
    request = mapping(
        [
            (key, _filled(_sized(tensor.dims, graph.max_batch_size > 0), dtype(tensor), number))
            for key, (tensor, number) in inputs.items()
        ]
    )
    given: dict[tuple[str, str], tuple[int, str, Brackets]] = {}
    for step in graph.steps:
        for out in step.outputs:
            if (step.model, out.name) not in given:
                number, kind = next(numbers), out.dtype or "FP32"
                given[step.model, out.name] = number, kind, _filled(_sized(out.dims or (1,), out.batched), kind, number)
    expected = {}
    for output in graph.outputs:
        made = next((s for s in graph.steps if output.tensor in s.gives), None)
        if made is not None:
            port = next(out for out in made.outputs if out.tensor == output.tensor)
            number, kind, _ = given[made.model, port.name]
        elif output.tensor in inputs:
            number, kind = inputs[output.tensor][1], output.dtype
        else:
            continue  # an optional input passed straight through
        expected[output.name] = _value(kind, number)
    called = Brackets("[", tuple(("", text(model)) for model in sorted(step.model for step in graph.steps)), "]")
    lines = [
        f'"""The BLS model `{name}` without a server: every child gives numbers of its own."""',
        "",
        *(["from collections.abc import Iterator"] * graph.decoupled),
        "from pathlib import Path",
        *(["from typing import Any"] * graph.decoupled),
        "",
        "import numpy as np",
        "",
        "from dualpath.bls import testing",
        "",
        *_children(graph, given),
        "",
        "",
        "def test_the_answer_is_made_of_what_the_children_give() -> None:",
        *lay_out(request, 4, "inputs = "),
        "    with testing.serve(Path(__file__).parent, children=CHILDREN) as model:",
        *_ask(graph.decoupled),
        *(f"{' ' * (8 if graph.decoupled else 4)}{_check(key, value)}" for key, value in expected.items()),
        *lay_out(called, 4, "called = "),
        "    assert sorted(call.model_name for call in model.calls) == called",
    ]
    return "\n".join(lines) + "\n"


def _ask(decoupled: bool) -> list[str]:
    if not decoupled:
        return ["        answer = model.infer(inputs)"]
    return [
        "        answers = list(model.stream(inputs))",
        "    assert len(answers) == 1",
        "    for answer in answers:",
    ]


def _check(name: str, value: str) -> str:
    return f"assert set(answer[{text(name)}].ravel().tolist()) == {{{value}}}"


def _children(graph: Graph, given: dict[tuple[str, str], tuple[int, str, Brackets]]) -> Iterator[str]:
    streams: dict[str, str] = {}
    steps: dict[str, EnsembleStep] = {step.model: step for step in graph.steps}
    names = identifiers(
        [model for model, step in steps.items() if step.decoupled], RESERVED | {"np", "testing", "model"}
    )
    for model, name in names.items():
        streams[model] = name
        yield ""
        yield f"def {name}(inputs: dict[str, Any]) -> Iterator[dict[str, Any]]:"
        yield from lay_out(_outputs(model, given), 4, "yield ")
        yield ""
        yield ""
    parts = [
        (f"{text(model)}: ", streams[model])
        if model in streams
        else (f"{text(model)}: lambda inputs: ", _outputs(model, given))
        for model in steps
    ]
    yield from lay_out(Brackets("{", tuple(parts), "}"), 0, "CHILDREN = ", tall=True)


def _outputs(model: str, given: dict[tuple[str, str], tuple[int, str, Brackets]]) -> Brackets:
    return mapping([(name, array) for (owner, name), (_, _, array) in given.items() if owner == model])


def _sized(dims: Any, batched: bool) -> tuple[int, ...]:
    """Return a shape that fits the dims: one row, and 2 for what varies."""
    return (*((1,) if batched else ()), *(size if size >= 0 else 2 for size in dims))


def _filled(shape: tuple[int, ...], kind: str, number: int) -> Brackets:
    value = "True" if kind == "BOOL" else _value(kind, number)
    return call("np.full", repr(shape), value, NUMPY.get(kind, "np.float32"))


def _value(kind: str, number: int) -> str:
    return {"STRING": f'b"{number}"', "BOOL": "True"}.get(kind, str(number))
