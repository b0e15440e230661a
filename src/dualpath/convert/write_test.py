"""Write a unit test for the BLS model of an ensemble: children that each give a number of their own."""

from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any

from dualpath.convert.code import RESERVED, Brackets, Code, call, identifiers, lay_out, mapping, text
from dualpath.convert.graph import Graph, dtype

_NUMPY = {"BOOL": "bool", "STRING": "object", "FP16": "np.float16", "FP32": "np.float32", "FP64": "np.float64"}
_NUMPY |= {f"{kind}{bits}": f"np.{kind.lower()}{bits}" for kind in ("UINT", "INT") for bits in (8, 16, 32, 64)}
_NUMPY["BF16"] = "np.uint16"  # its bits


Given = dict[str, tuple[str, Brackets]]
"""By the tensor's name, a value of its own and an array filled with it, as code."""


def unit_test(graph: Graph, config: Any, name: str) -> str:
    """Return the text of a test file.

    Args:
        graph: the ensemble's.
        config: its `ModelConfig`.
        name: the BLS model's name.
    """
    numbers = count(1)

    def filled(dims: Sequence[int], batched: bool, kind: str) -> tuple[str, Brackets]:
        number = next(numbers)
        value = {"STRING": f'b"{number}"', "BOOL": "True"}.get(kind, str(number))
        shape = (*((1,) if batched else ()), *(size if size >= 0 else 2 for size in dims))
        return value, call("np.full", repr(shape), value, _NUMPY.get(kind, "np.float32"))

    batched = graph.max_batch_size > 0
    inputs: Given = {it.name: filled(it.dims, batched, dtype(it)) for it in config.input if not it.optional}
    given: dict[str, Given] = {}
    values = {key: value for key, (value, _) in inputs.items()}
    for step, out in graph.outputs_of_steps():
        outputs = given.setdefault(step.model, {})
        if out.name not in outputs:
            outputs[out.name] = filled(out.dims or (1,), out.batched, out.dtype or "FP32")
        values[out.tensor] = outputs[out.name][0]
    checks = [
        f"assert set(answer[{text(output.name)}].ravel().tolist()) == {{{values[output.tensor]}}}"
        for output in graph.outputs
        if output.tensor in values  # else an optional input is passed straight through
    ]
    called = Brackets("[", tuple(("", text(model)) for model in sorted(step.model for step in graph.steps)), "]")
    ask = ["        answer = model.infer(inputs)"]
    if graph.decoupled:
        ask = [
            "        answers = list(model.stream(inputs))",
            "    assert len(answers) == 1",
            "    for answer in answers:",
        ]
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
        *lay_out(_arrays(inputs), 4, "inputs = "),
        "    with testing.serve(Path(__file__).parent, children=CHILDREN) as model:",
        *ask,
        *(f"{' ' * (8 if graph.decoupled else 4)}{check}" for check in checks),
        *lay_out(called, 4, "called = "),
        "    assert sorted(call.model_name for call in model.calls) == called",
    ]
    return "\n".join(lines) + "\n"


def _children(graph: Graph, given: dict[str, Given]) -> Iterator[str]:
    streams = identifiers([step.model for step in graph.steps if step.decoupled], RESERVED | {"np", "testing", "model"})
    for model, name in streams.items():
        yield ""
        yield f"def {name}(inputs: dict[str, Any]) -> Iterator[dict[str, Any]]:"
        yield from lay_out(_arrays(given[model]), 4, "yield ")
        yield ""
        yield ""
    parts: list[tuple[str, Code]] = []
    for model, outputs in given.items():
        if model in streams:
            parts.append((f"{text(model)}: ", streams[model]))
        else:
            parts.append((f"{text(model)}: lambda inputs: ", _arrays(outputs)))
    yield from lay_out(Brackets("{", tuple(parts), "}"), 0, "CHILDREN = ", tall=True)


def _arrays(given: Given) -> Brackets:
    return mapping([(name, array) for name, (_, array) in given.items()])
