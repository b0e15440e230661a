"""In which order to call the steps of a graph, and what to call at the same time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dualpath.convert.graph import EnsembleStep


@dataclass(frozen=True)
class Together:
    """Follow some branches at the same time, and wait for all."""

    branches: tuple[tuple[Item, ...], ...]


@dataclass(frozen=True)
class Stream:
    """Go on with each answer of a step that has any number of them."""

    step: EnsembleStep
    body: tuple[Item, ...]


Item = EnsembleStep | Together | Stream
"""What to do next; a step by itself is called and waited for."""


def plan(steps: Sequence[EnsembleStep]) -> tuple[Item, ...]:
    """Return what to do one after the other.

    Steps wait for what they need and for little else: if a part of the graph falls into independent branches, each
    branch goes its own way. Only a part that cannot be written as branches, such as a -> c, a -> d, b -> d, goes stage
    by stage.

    Raises:
        ValueError: the steps stand in a circle, or in different streams.
    """
    if not steps:
        return ()
    for step in steps:
        if step.decoupled and not any(other.decoupled for other in _before(step, steps)):
            body = [other for other in steps if step in _before(other, steps)]
            before = _without(steps, [step, *body])
            if any(other.decoupled for other in before) or _without(before, _before(step, steps)):
                raise ValueError(
                    f"step {step.index} ({step.model}) streams beside steps that do not belong to its stream"
                )
            return (*plan(before), Stream(step, plan(body)))
    branches = _branches(steps)
    if len(branches) > 1:
        return (Together(tuple(plan(branch) for branch in branches)),)
    given = {tensor for step in steps for tensor in step.gives}
    needed = {tensor for step in steps for tensor in step.needs}
    first = [step for step in steps if not step.needs & given]
    last = [step for step in steps if not step.gives & needed]
    if not first:
        raise ValueError(f"steps {', '.join(step.model for step in steps)} stand in a circle")
    if len(first) == 1:
        return (*first, *plan(_without(steps, first)))
    if len(last) == 1:
        return (*plan(_without(steps, last)), *last)
    return (Together(tuple((step,) for step in first)), *plan(_without(steps, first)))


def steps_of(items: Sequence[Item]) -> list[EnsembleStep]:
    """Return the steps in the order of a plan."""
    found: list[EnsembleStep] = []
    for item in items:
        if isinstance(item, Together):
            found += [step for branch in item.branches for step in steps_of(branch)]
        elif isinstance(item, Stream):
            found += [item.step, *steps_of(item.body)]
        else:
            found.append(item)
    return found


def _branches(steps: Sequence[EnsembleStep]) -> list[list[EnsembleStep]]:
    """Split into parts that share no tensor which one of the steps gives, in the order of their first steps."""
    branches: list[list[EnsembleStep]] = []
    for step in steps:
        linked = [branch for branch in branches if any(_linked(step, other) for other in branch)]
        merged = sorted([step, *(other for branch in linked for other in branch)], key=lambda step: step.index)
        branches = [branch for branch in branches if branch not in linked]
        branches.append(merged)
    return sorted(branches, key=lambda branch: branch[0].index)


def _linked(a: EnsembleStep, b: EnsembleStep) -> bool:
    return bool(a.gives & b.needs or b.gives & a.needs)


def _before(step: EnsembleStep, steps: Sequence[EnsembleStep]) -> list[EnsembleStep]:
    """Return the steps that this one depends on."""
    needed, found = set(step.needs), list[EnsembleStep]()
    while more := [other for other in steps if other.gives & needed and other not in found]:
        found += more
        needed.update(*(other.needs for other in more))
    return found


def _without(steps: Sequence[EnsembleStep], gone: Sequence[EnsembleStep]) -> list[EnsembleStep]:
    indices = {step.index for step in gone}
    return [step for step in steps if step.index not in indices]
