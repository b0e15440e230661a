"""Models of the folders in tests/pipelines, written into a model repository."""

from paths import ROOT

PIPELINES = ROOT / "tests" / "pipelines"


def write(repository, name, pipeline, more="", **words):
    """Write a model; `words` of its config stand for values, `more` is added to it."""
    folder = PIPELINES / pipeline
    config = (folder / "config.pbtxt").read_text().replace("NAME", name)
    for word, value in words.items():
        config = config.replace(word, value)
    (repository / name / "1").mkdir(parents=True)
    (repository / name / "config.pbtxt").write_text(config + more)
    (repository / name / "1" / "model.py").write_text((folder / "model.py").read_text())
