"""Triton's log, in excerpts of Triton 2.51's: which model did not load, and why."""

import pytest

from dualpath.serving.log import LoadFailure, LogFollower, last_words, load_failure, parse

# Two instances of `broken`, and the ensemble `all` on it.
BROKEN = r"""
I1122 14:53:26.122319 3599 model_lifecycle.cc:472] "loading: broken:1"
I1122 14:53:27.876625 3599 model_lifecycle.cc:839] "successfully loaded 'echo'"
I1122 14:53:27.957978 3599 pb_stub.cc:366] "Failed to initialize Python stub: ValueError: the weights are of\nanother model: 12\n\nAt:\n  /srv/broken/1/model.py(6): load\n  /srv/broken/1/model.py(4): initialize\n"
E1122 14:53:28.087517 3599 backend_model.cc:692] "ERROR: Failed to create instance: ValueError: the weights are of\nanother model: 12\n\nAt:\n  /srv/broken/1/model.py(6): load\n  /srv/broken/1/model.py(4): initialize\n"
E1122 14:53:28.087718 3599 model_lifecycle.cc:642] "failed to load 'broken' version 1: Internal: ValueError: the weights are of\nanother model: 12\n\nAt:\n  /srv/broken/1/model.py(6): load\n  /srv/broken/1/model.py(4): initialize\n"
I1122 14:53:28.087739 3599 model_lifecycle.cc:777] "failed to load 'broken'"
E1122 14:53:28.087853 3599 model_repository_manager.cc:703] "Invalid argument: ensemble 'all' depends on 'broken' which has no loaded version. Model 'broken' loading failed with error: version 1 is at UNAVAILABLE state: Internal: ValueError: the weights are of\nanother model: 12\n\nAt:\n  /srv/broken/1/model.py(6): load\n  /srv/broken/1/model.py(4): initialize\n;"
I1122 14:53:28.088242 3599 server.cc:674]
+--------+---------+-------------------------------------------------------+
| Model  | Version | Status                                                |
+--------+---------+-------------------------------------------------------+
| broken | 1       | UNAVAILABLE: Internal: ValueError: the weights are of |
|        |         | another model: 12                                     |
+--------+---------+-------------------------------------------------------+

Error: Failed to initialize NVML
W1122 14:53:28.091226 3599 metrics.cc:798] "DCGM unable to start: DCGM initialization error"
error: creating server: Internal - failed to load all models
"""  # noqa: E501

SYNTAX = """
E1122 14:53:31.124354 3685 server.cc:241] "CudaDriverHelper has not been initialized."
[libprotobuf ERROR /build/text_format.cc:337] Error parsing text-format inference.ModelConfig: 1:35: Expected integer, got: what
E1122 14:53:31.125924 3685 model_repository_manager.cc:1460] "Poll failed for model directory 'cuml': failed to read text proto from /srv/cuml/config.pbtxt"
"""  # noqa: E501

# The stub's own records are not quoted.
UNQUOTED = """
I1122 14:53:31.180733 3704 pb_stub.cc:298]  Failed to initialize Python stub for auto-complete: KeyError: 1

At:
  /srv/nomod/1/model.py(1): <module>

I1122 14:53:32.426074 3685 python_be.cc:2249] "TRITONBACKEND_ModelInstanceInitialize: echo_0_0 (CPU device 0)"
W1122 14:57:14.626591 4359 model.py:4] "a warning\\nwith a \\"second\\" line"
"""


def records(excerpt: str):
    return parse(excerpt.strip().splitlines())


LOADER_FAILED = (
    "/tmp/b/python/triton_python_backend_stub: error while loading shared libraries: libpython3.11.so.1.0: "
    "cannot open shared object file: No such file or directory"
)


@pytest.mark.parametrize(
    ("excerpt", "model", "reason"),
    [
        (BROKEN, "broken", "ValueError: the weights are of another model: 12"),
        (
            SYNTAX,
            "cuml",
            "failed to read text proto from /srv/cuml/config.pbtxt "
            "(Error parsing text-format inference.ModelConfig: 1:35: Expected integer, got: what)",
        ),
        (
            "E1122 14:53:31.126686 3685 model_repository_manager.cc:703] "
            '"Invalid argument: ensemble all2 contains models that are not available or ambiguous: nosuch"',
            "all2",
            "contains models that are not available or ambiguous: nosuch",
        ),
        (
            "E1122 15:02:11.846260 6943 model_repository_manager.cc:703] "
            '"Invalid argument: in ensemble ens, ensemble tensor X is mapping to non-existing input Q in model echo"',
            "ens",
            "ensemble tensor X is mapping to non-existing input Q in model echo",
        ),
        (
            "E1122 14:53:31.127424 3685 model_repository_manager.cc:724] \"failed to load model 'nover': "
            "at least one version must be available under the version policy of model 'nover'\"",
            "nover",
            "at least one version must be available under the version policy of model 'nover'",
        ),
        (
            "E1122 14:53:32.825882 3685 model_lifecycle.cc:642] \"failed to load 'cuml' version 1: Internal: "
            'TritonModelException: cuml: expected model_type.\\n\\nAt:\\n  /srv/cuml/1/model.py(4): initialize\\n"',
            "cuml",
            "cuml: expected model_type.",
        ),
        (
            "I1122 14:57:32.711629 4500 pb_stub.cc:2105]  Failed to preinitialize Python stub: "
            "Python model file not found in '/srv/missing/1/model.py'",
            "missing",
            "Python model file not found in '/srv/missing/1/model.py'",
        ),
        (
            f"I1125 21:28:22.893829 19395 python_be.cc:1845] Loading\n{LOADER_FAILED}",
            "",
            LOADER_FAILED,
        ),
        (
            "bash: line 1: /tmp/b/python/triton_python_backend_stub: cannot execute binary file: Exec format error",
            "",
            "/tmp/b/python/triton_python_backend_stub: cannot execute binary file: Exec format error",
        ),
    ],
)
def test_load_failure_names_the_first_model_and_its_reason_in_one_line(excerpt, model, reason):
    assert load_failure(records(excerpt)) == LoadFailure(model, reason)


def test_load_failure_is_none_when_all_models_loaded():
    assert load_failure(records(UNQUOTED)) is None


def test_parse_keeps_what_is_written_over_several_lines_together():
    stub, _, warning = records(UNQUOTED)
    assert stub.source == "pb_stub.cc:298"
    assert stub.message.endswith("KeyError: 1\n\nAt:\n  /srv/nomod/1/model.py(1): <module>\n")
    assert (warning.severity, warning.source) == ("W", "model.py:4")
    assert warning.message == 'a warning\nwith a "second" line'


def test_last_words_are_the_last_error():
    assert last_words(records(BROKEN)) == "error: creating server: Internal - failed to load all models"
    assert last_words(records("tritonserver: error while loading shared libraries: libb64.so.0d")).endswith(
        "libb64.so.0d"
    )
    assert last_words([]) == "it said nothing"


def test_follower_gives_every_record_once_however_the_log_grows(tmp_path):
    path = tmp_path / "log"
    path.touch()
    follower = LogFollower(path)
    seen = []
    with path.open("a", encoding="utf-8") as log:
        for start in range(0, len(BROKEN), 97):
            log.write(BROKEN[start : start + 97])
            log.flush()
            seen += follower.read()
    seen += follower.read() + follower.read()
    follower.close()
    assert [record.text for record in seen] == [record.text for record in parse(BROKEN.splitlines())]


def test_a_missing_library_is_named_with_the_next_step():
    assert str(load_failure(records(LOADER_FAILED))) == (
        f"a Python model did not load: {LOADER_FAILED}. Put the library's folder on LD_LIBRARY_PATH."
    )
    assert str(LoadFailure("cuml", "no")) == "model 'cuml' did not load: no"
