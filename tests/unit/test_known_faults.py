"""Configs that a release of Triton answers wrongly are refused, with the reason and the release that fixes it."""

from pathlib import Path

import pytest

from dualpath.errors import UserError
from dualpath.serving.installation import EMBEDDED, Installation
from dualpath.serving.preflight import check_known_faults
from paths import REPOSITORY

ENSEMBLE = 'platform: "ensemble"\nensemble_scheduling { step [{ model_name: "child" model_version: -1 }] }\n'
BOUNDED = 'backend: "python"\ndynamic_batching { %s }\n'
QUEUE = "default_queue_policy { max_queue_size: 3 }"
BY_PRIORITY = "priority_queue_policy [{ key: 1 value: { max_queue_size: 3 } }]"


@pytest.fixture
def models(tmp_path):
    """models(child=..., caller=...) -> the folders of models with these configs."""

    def models(**texts):
        for name, text in texts.items():
            (tmp_path / name).mkdir()
            (tmp_path / name / "config.pbtxt").write_text(text)
        return sorted(tmp_path.iterdir())

    return models


@pytest.mark.parametrize("release", [EMBEDDED, (26, 6), None])
def test_a_response_cache_is_refused_by_every_release(models, release):
    found = models(child='backend: "python"\nresponse_cache { enable: true }\n')
    with pytest.raises(UserError, match=r"child: expected no response_cache.*success without outputs"):
        check_known_faults(found, None, release)


@pytest.mark.parametrize("queue", [QUEUE, BY_PRIORITY])
def test_a_bounded_queue_of_an_ensembles_step_is_refused_until_it_is_fixed(models, queue):
    found = models(child=BOUNDED % queue, caller=ENSEMBLE)
    with pytest.raises(
        UserError, match=r"child: expected no max_queue_size, got 3 on a step of caller.*24\.10.*26\.02 fixes"
    ):
        check_known_faults(found, None, EMBEDDED)
    check_known_faults(found, None, (26, 2))


def test_a_bounded_queue_outside_an_ensemble_is_served(models):
    check_known_faults(models(child=BOUNDED % QUEUE), None, EMBEDDED)


def test_the_projects_own_models_are_served():
    check_known_faults(sorted(path.parent for path in REPOSITORY.glob("*/config.pbtxt")), None, EMBEDDED)


def test_a_server_names_its_release(monkeypatch):
    nowhere = Path("/nowhere")
    monkeypatch.delenv("NVIDIA_TRITON_SERVER_VERSION", raising=False)
    assert Installation(nowhere, nowhere, nowhere, embedded=True).release == (24, 10)
    assert Installation(nowhere, nowhere, nowhere).release is None
    monkeypatch.setenv("NVIDIA_TRITON_SERVER_VERSION", "26.06")
    assert Installation(nowhere, nowhere, nowhere).release == (26, 6)
