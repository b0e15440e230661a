"""How far two answers may be apart, by output."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dualpath.errors import UserError
from dualpath.readability.contract import Tensor

ULPS = {
    "TYPE_FP16": (4, 2.0**-10),
    "TYPE_BF16": (4, 2.0**-7),
    "TYPE_FP32": (128, 2.0**-23),
    "TYPE_FP64": (2**22, 2.0**-52),
}
"""By default a float may be off by so many units in its last place, of which one is that share of the value.

FP32 leaves room for sums in another order: 128 units are 1.5e-5 of the value. FP64 has to agree within 1e-9, as
its models are often computed in FP32 in part.
"""


@dataclass(frozen=True)
class Tolerance:
    """The largest difference that counts as equal: `atol` + `rtol` * |baseline|, or a share of the usual size.

    Attributes:
        ulps: of which `rtol` is made, if nobody asked for it.
    """

    atol: float = 0.0
    rtol: float = 0.0
    ulps: int = 0

    def allowed(self, baseline: npt.NDArray[Any], usual: npt.NDArray[Any] | float) -> npt.NDArray[Any]:
        """Return the largest difference for each element; noise does not shrink with a value below its usual size."""
        size = np.abs(baseline)
        if self.ulps:
            size = np.maximum(size, np.asarray(usual))
        with np.errstate(invalid="ignore"):
            return np.asarray(np.where(np.isfinite(size), self.atol + self.rtol * size, 0.0))

    def __str__(self) -> str:
        if self.ulps:
            return f"{self.ulps} ulp"
        parts = [f"{self.atol:g}"] * (self.atol > 0) + [f"{self.rtol:g} relative"] * (self.rtol > 0)
        return " + ".join(parts) or "exact"


EXACT = Tolerance()


def tolerances(
    outputs: Sequence[Tensor], atol: Mapping[str, float], rtol: Mapping[str, float], known: float | None = None
) -> dict[str, Tolerance]:
    """Return each output's tolerance. Integers, booleans and texts are compared exactly unless named.

    Args:
        atol, rtol: by output; under "" those of all float outputs.
        known: the absolute tolerance of float32 outputs if the precision of the computation is known.
    Raises:
        UserError: an output is named that the models do not have in common, or is a text.
    """
    found = {}
    names = {tensor.name: tensor for tensor in outputs}
    for option, given in (("--atol", atol), ("--rtol", rtol)):
        for name, value in given.items():
            if not value >= 0:
                raise UserError(f"{option}: expected a number of 0 or more, got {value:g}. Give another.")
            if name and name not in names:
                raise UserError(
                    f"{option}: expected one of the outputs {', '.join(names)}, got {name!r}. Name another."
                )
            if name and names[name].dtype == "TYPE_STRING":
                raise UserError(f"{option}: expected an output of numbers, got {name!r} of texts. Use --ignore {name}.")
    for name, tensor in names.items():
        is_float = tensor.dtype in ULPS
        wanted = [given.get(name, given.get("") if is_float else None) for given in (atol, rtol)]
        if wanted != [None, None]:
            found[name] = Tolerance(wanted[0] or 0.0, wanted[1] or 0.0)
        elif known is not None and tensor.dtype == "TYPE_FP32":
            found[name] = Tolerance(known)
        elif is_float:
            ulps, unit = ULPS[tensor.dtype]
            found[name] = Tolerance(0.0, ulps * unit, ulps)
        else:
            found[name] = EXACT
    return found
