"""cuML's forest for machines without a GPU: scikit-learn under cuML's names, every call noted as `fake_rapids` does."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
from fake_rapids import Call


class FakeCuml:
    """Answers as the modules `cuml` and `cupy`.

    Attributes:
        calls: what was called so far.
        n_gpus: how many GPUs it pretends to find.
        bias: what `predict` adds, so that it differs from the Treelite model.
    """

    def __init__(self, n_gpus: int = 1, bias: float = 0) -> None:
        self.calls: set[Call] = set()
        self.n_gpus, self.bias = n_gpus, bias
        self.ensemble = SimpleNamespace(RandomForestRegressor=self._forest)

    def is_available(self) -> bool:
        self.calls.add(Call("cupy", "is_available", 0))
        return self.n_gpus > 0

    def _forest(self, **parameters: Any) -> _Forest:
        self.calls.add(Call("cuml.ensemble", "RandomForestRegressor", 0, tuple(sorted(parameters))))
        return _Forest(self, parameters)


class _Forest:
    def __init__(self, fake: FakeCuml, parameters: dict[str, Any]) -> None:
        from sklearn.ensemble import RandomForestRegressor

        self._fake, self.parameters = fake, parameters
        known = {name: value for name, value in parameters.items() if name != "n_streams"}
        self._forest = RandomForestRegressor(**known | {"n_estimators": 10})

    def _note(self, name: str, n_positional: int) -> None:
        self._fake.calls.add(Call("cuml.ensemble.RandomForestRegressor", name, n_positional))

    def fit(self, table: np.ndarray, targets: np.ndarray) -> _Forest:
        self._note("fit", 2)
        assert table.dtype == targets.dtype == np.float32
        self._forest.fit(table, targets)
        return self

    def predict(self, table: np.ndarray) -> np.ndarray:
        self._note("predict", 1)
        return (self._forest.predict(table) + self._fake.bias).astype(np.float32)

    def as_treelite(self) -> Any:
        import treelite

        self._note("as_treelite", 0)
        return treelite.sklearn.import_model(self._forest)
