"""The half of tools/check_rapids.py that needs no RAPIDS: the calls that it finds, and that one which misfits fails."""

import importlib.util
from types import SimpleNamespace

import pytest
from fake_rapids import Call

from paths import ROOT


@pytest.fixture(scope="module")
def tool():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAPIDS_NO_INITIALIZE", "1")  # as the tool itself does, for good
        spec = importlib.util.spec_from_file_location("check_rapids", ROOT / "tools" / "check_rapids.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module


@pytest.fixture
def cudf():
    class Series:
        def __init__(self, data=None): ...
        def where(self, cond, other=None): ...

    class Base:
        def __init__(self, *, n_estimators=100): ...

    class Forest(Base):
        def __init__(self, *, verbose=False, **kwargs): ...

    return SimpleNamespace(__name__="cudf", Series=Series, Forest=Forest, values=1)


def test_every_part_of_the_device_code_is_among_the_calls(tool, model_repository):
    calls = {(call.owner, call.name) for call in {*tool.noted_calls(), *tool.training_calls(), *tool.written_calls()}}
    assert calls >= {
        ("cudf.CharacterNormalizer", "normalize"),
        ("cudf.WordPieceVocabulary", "tokenize"),
        ("cudf.DataFrame", "merge"),
        ("cudf.Series.str", "translate"),
        ("cupy", "bincount"),
        ("cupy", "from_dlpack"),  # the toolkit
        ("cupy.cuda.Device", "synchronize"),
        ("cupy", "where"),  # the combination
        ("cupy.ndarray", "get"),
        ("cuml.ensemble", "RandomForestRegressor"),  # training
        ("cuml.ensemble.RandomForestRegressor", "as_treelite"),
        ("cupy", "is_available"),
        ("nvforest", "load_model"),  # the stand-in for fil
        ("cuml.fil.ForestInference", "load"),
        ("cupti.cupti", "activity_enable"),  # tests/gpu
    }


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (Call("cudf", "Series", 1), "(data=None)"),
        (Call("cudf.Series", "where", 2), "(self, cond, other=None)"),
        (Call("cudf", "values", -1), "is there"),
        (Call("cudf.Series", "where", 3), "NO: too many positional arguments"),
        (Call("cudf.Series", "where", 1, ("others",)), "NO: got an unexpected keyword argument 'others'"),
        (Call("cudf.Series", "explode", 0), "NO: "),
        (Call("cudf", "Forest", 0, ("n_estimators",)), "(*, verbose=False, **kwargs)"),
        (Call("cudf", "Forest", 0, ("n_trees",)), "NO: got an unexpected keyword argument 'n_trees'"),
    ],
)
def test_a_call_that_misfits_is_told_from_one_that_fits(tool, cudf, monkeypatch, call, words):
    monkeypatch.setattr(tool.importlib, "import_module", lambda name: {"cudf": cudf}[name])
    assert tool.verdict(call, SimpleNamespace()).startswith(words)


@pytest.mark.parametrize(("n_misfits", "code"), [(0, 0), (1, 1)])
def test_a_misfit_is_an_exit_code(tool, cudf, monkeypatch, capsys, n_misfits, code):
    versions = {name: SimpleNamespace(__version__="1") for name in ("cuml", "cupy")}
    cudf.__version__ = "1"
    monkeypatch.setattr(tool.importlib, "import_module", lambda name: {"cudf": cudf, **versions}[name])
    monkeypatch.setattr(tool.device, "load_rapids", SimpleNamespace)
    misfits = {Call("cudf.Series", "where", 9 + number) for number in range(n_misfits)}
    monkeypatch.setattr(tool, "noted_calls", lambda: {Call("cudf", "Series", 1), *misfits})
    monkeypatch.setattr(tool, "training_calls", set)
    monkeypatch.setattr(tool, "written_calls", set)
    assert tool.main() == code
    assert f"{1 + n_misfits} calls, {n_misfits} of them do not fit" in capsys.readouterr().out
