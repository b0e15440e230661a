"""Random acyclic ensembles over a pool of stand-in models, as configs."""

import shutil
from dataclasses import dataclass

from foreign import STAND_IN

DTYPES = ("FP32", "INT32", "STRING", "BOOL", "FP16", "INT8")
BATCHED, WHOLE, SINGLE = "batched", "whole", "single"
"""What a model takes: rows of a batch; all rows, as a dimension of its own; one row without a batch dimension."""
DIMS = {BATCHED: (4,), WHOLE: (-1, 4), SINGLE: (4,)}
MAX_STEPS = 20


@dataclass(frozen=True)
class Port:
    name: str
    dtype: str
    optional: bool = False
    left_out: bool = False  # an output that some answers lack


@dataclass(frozen=True)
class Part:
    """A model that a random ensemble may use: a stand-in, or an ensemble."""

    name: str
    kind: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    max_batch_size: int = 8
    is_ensemble: bool = False


def write_pool(repository, random, n_models):
    """Write stand-ins into a repository and return them."""
    pool = []
    for i in range(n_models):
        kind = random.choice([BATCHED, BATCHED, BATCHED, WHOLE, SINGLE])
        n_inputs, n_outputs = random.randint(1, 3), random.randint(1, 3)
        inputs = tuple(Port(f"i{k}", _dtype(random), k > 0 and random.random() < 0.3) for k in range(n_inputs))
        leaves_out = n_outputs > 1 and random.random() < 0.4
        outputs = tuple(Port(f"o{k}", _dtype(random), left_out=leaves_out and k == 1) for k in range(n_outputs))
        part = Part(f"part{i}", kind, inputs, outputs, 8 if kind == BATCHED else 0)
        pool.append(part)
        lines = [f'name: "{part.name}"', 'backend: "python"', f"max_batch_size: {part.max_batch_size}"]
        lines += [_tensor("input", p.name, p.dtype, DIMS[kind], p.optional) for p in inputs]
        lines += [_tensor("output", p.name, p.dtype, DIMS[kind]) for p in outputs]
        if leaves_out:
            lines.append('parameters { key: "leaves_out" value { string_value: "o1" } }')
        _write(repository, part.name, lines)
        shutil.copy(STAND_IN, repository / part.name / "1" / "model.py")
    return pool


def write_ensemble(repository, name, pool, random):
    """Write a random ensemble over the pool and return it as a part."""
    max_batch_size = random.choice([0, 4, 8])
    home = BATCHED if max_batch_size else random.choice([WHOLE, SINGLE])
    parts = [
        part
        for part in pool
        if (part.max_batch_size == 0 or part.max_batch_size >= max_batch_size)
        and (not part.is_ensemble or fits(part.kind, home))
    ]
    inputs: dict[str, tuple[str, bool]] = {}
    there: list[tuple[str, str, str, bool]] = []  # tensor, dtype, kind, may be missing
    steps: list[tuple[Part, dict[str, str], dict[str, str]]] = []
    kinds: dict[str, set[str]] = {}  # what the ends of a tensor are: Triton compares all of them with each other
    for s in range(random.randint(1, MAX_STEPS)):
        part = random.choice(parts)
        taken = {}
        for port in part.inputs:
            if port.optional and random.random() < 0.4:
                continue
            fitting = [
                tensor
                for tensor, dtype, kind, maybe in there
                if dtype == port.dtype
                and fits(kind, part.kind)
                and (port.optional or not maybe)
                and not {WHOLE, SINGLE} <= {kind, part.kind, *kinds.get(tensor, ())}
            ]
            if fitting and random.random() < 0.8:
                taken[port.name] = random.choice(fitting)
            elif fits(home, part.kind):
                tensor = f"in{len(inputs)}"
                optional = port.optional and random.random() < 0.5
                inputs[tensor] = port.dtype, optional
                there.append((tensor, port.dtype, home, optional))
                taken[port.name] = tensor
            elif not port.optional:
                break
        else:
            if not taken:
                continue
            for tensor in taken.values():
                kinds.setdefault(tensor, {home} if tensor in inputs else set()).add(part.kind)
            given = {port.name: f"t{s}{port.name}" for port in part.outputs}
            steps.append((part, taken, given))
            if part.is_ensemble:
                kinds.update((tensor, {home}) for tensor in given.values())
            there += [(given[port.name], port.dtype, part.kind, port.left_out) for port in part.outputs]
    if not steps:
        return write_ensemble(repository, name, pool, random)
    return _finish(repository, name, random, max_batch_size, home, inputs, there, steps, kinds)


def _finish(repository, name, random, max_batch_size, home, inputs, there, steps, kinds):
    """Publish some tensors, and map no output that nothing takes."""
    left_out = {tensor for tensor, _, _, maybe in there if maybe}
    published = {}
    for _ in range(len(steps)):  # a step whose outputs all go away needs none of its inputs any more
        needed = {tensor for _, taken, _ in steps for tensor in taken.values()}
        for part, _, given in reversed(steps):
            for port in part.outputs:
                tensor = given.get(port.name)
                if tensor is None or tensor in needed | set(published):
                    continue
                is_clear = not {WHOLE, SINGLE} <= {part.kind, home, *kinds.get(tensor, ())}
                # Triton 24.10 fails with "unexpected deadlock" if some outputs of an ensemble are not asked for.
                if part.is_ensemble or (
                    is_clear
                    and tensor not in left_out
                    and fits(part.kind, home)
                    and (len(published) < 2 or random.random() < 0.5)
                ):
                    published[tensor] = port.dtype
                else:
                    del given[port.name]
        steps = [step for step in steps if step[2]]
    used = {tensor for _, taken, _ in steps for tensor in taken.values()}
    inputs = {tensor: what for tensor, what in inputs.items() if tensor in used}
    if not published or not inputs:
        return None
    lines = [f'name: "{name}"', 'platform: "ensemble"', f"max_batch_size: {max_batch_size}"]
    lines += [_tensor("input", tensor, dtype, DIMS[home], optional) for tensor, (dtype, optional) in inputs.items()]
    lines += [_tensor("output", tensor, dtype, DIMS[home]) for tensor, dtype in published.items()]
    random.shuffle(steps)
    lines.append("ensemble_scheduling {")
    for part, taken, given in steps:
        lines.append(f'  step {{ model_name: "{part.name}" model_version: -1')
        lines += [f'    input_map {{ key: "{key}" value: "{tensor}" }}' for key, tensor in taken.items()]
        lines += [f'    output_map {{ key: "{key}" value: "{tensor}" }}' for key, tensor in given.items()]
        lines.append("  }")
    lines.append("}")
    _write(repository, name, lines)
    ports_in = tuple(Port(tensor, dtype, optional) for tensor, (dtype, optional) in inputs.items())
    return Part(name, home, ports_in, tuple(Port(t, dtype) for t, dtype in published.items()), max_batch_size, True)


def fits(made, taken):
    """Tell whether Triton lets a tensor of one kind go to a model of another."""
    return made == taken or (made, taken) in {
        (BATCHED, WHOLE),
        (WHOLE, BATCHED),
        (BATCHED, SINGLE),
        (SINGLE, BATCHED),
    }


def _dtype(random):
    return random.choice(DTYPES)


def _tensor(which, name, dtype, dims, optional=False):
    more = ", optional: true" if optional else ""
    return f'{which} [ {{ name: "{name}", data_type: TYPE_{dtype}, dims: {list(dims)}{more} }} ]'


def _write(repository, name, lines):
    (repository / name / "1").mkdir(parents=True)
    (repository / name / "config.pbtxt").write_text("\n".join(lines) + "\n")


def write_graphs(repository, random, n_models, n_graphs):
    """Write a pool and ensembles over it, of which the later ones may contain the earlier; return their names."""
    pool = write_pool(repository, random, n_models)
    graphs = []
    while len(graphs) < n_graphs:
        # Small ones only: an ensemble that is contained shows its inputs and outputs in the one around it.
        small = [graph for graph in graphs if len(graph.inputs) <= 5 and len(graph.outputs) <= 4]
        if graph := write_ensemble(repository, f"graph{len(graphs)}", [*pool, *small[-4:]], random):
            graphs.append(graph)
    return [graph.name for graph in graphs]
