"""Which loads a reload asks of a server, in which order, and when it refuses. tests/server has the real one."""

import shutil
from types import SimpleNamespace

import pytest
from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2 as proto
from tritonclient.utils import InferenceServerException

from dualpath.errors import UserError
from dualpath.serving import reload
from dualpath.serving.loader import Loader, ReloadFailed
from dualpath.serving.reload import Reloaded, reload_release

STEPS = ("preprocess", "bert-large", "cuml", "postprocess")
MEMBERS = ("bert-large", "cuml", "orchestrator", "preprocess")
READERS = ("orchestrator", "preprocess")
ALONE = r"{}: expected a release that changes this model alone, got release 2, which changes bert-large\. Run"
READER = "".join(
    f'parameters {{ key: "{name}" value {{ string_value: "../{name}/{{version}}/a" }} }}'
    for name in ("bert-large", "cuml")
)


class Triton:
    """What a reload sees of a server, by the rules that serving/reload.py states of Triton."""

    def __init__(self, repository, refuses=None, busy=()):
        self.repository, self.refuses, self.busy = repository, refuses, busy
        self.explicit = True
        self.loads = []  # model and versions, or the versions that an ensemble's steps name
        self.ready = {name: {1} for name in (*MEMBERS, "postprocess", "ensemble_all")}
        self.unloading = {}
        self.loading, self.n_looks = {}, 0  # a load that ends after some looks
        self.configs = {name: proto.ModelConfig(name=name) for name in self.ready}
        for name in STEPS:
            self.configs["ensemble_all"].ensemble_scheduling.step.add(model_name=name, model_version=-1)

    def get_model_repository_index(self):
        entries = [(name, version, "READY") for name, versions in self.ready.items() for version in versions]
        entries += [(name, version, "UNLOADING") for name, versions in self.unloading.items() for version in versions]
        self.n_looks -= 1
        if self.n_looks == 0:
            for name, version in self.loading.items():
                self.ready[name].add(version)
            self.loading = {}
        entries += [(name, version, "LOADING") for name, version in self.loading.items()]
        return SimpleNamespace(models=[SimpleNamespace(name=n, version=str(v), state=s) for n, v, s in entries])

    def get_model_config(self, name):
        config = proto.ModelConfig()
        config.CopyFrom(self.configs[name])
        return SimpleNamespace(config=config)

    def load_model(self, name, config=None):
        if not self.explicit:
            raise InferenceServerException("explicit model load / unload is not allowed if polling is enabled")
        assert not self.loading, "two loads at once"
        if config is None:
            self.loads.append((name, None))
            return
        parsed = json_format.Parse(config, proto.ModelConfig())
        steps = [(step.model_name, step.model_version) for step in parsed.ensemble_scheduling.step]
        wanted = set(parsed.version_policy.specific.versions) or {version for _, version in steps}
        self.loads.append((name, wanted))
        if (name, max(wanted)) == self.refuses:
            raise InferenceServerException(
                f"load failed for model '{name}': version {max(wanted)}: Internal: broken;\n"
            )
        assert all(version in (-1, *self.ready[step]) for step, version in steps), "the ensemble would be taken down"
        self.configs[name] = parsed
        if not steps:
            present = {version for version in wanted if (self.repository / name / str(version)).exists()}
            if name in self.busy:
                self.unloading[name] = self.ready[name] - present
            self.ready[name] = present
        named = {step.model_name: step.model_version for step in self.configs["ensemble_all"].ensemble_scheduling.step}
        for member in MEMBERS:
            assert named.get(member, -1) in (-1, *self.ready[member]), "the ensemble would be taken down"
        if -1 in [named[step] for step in STEPS[:3]]:
            assert all(len(self.ready[step]) == 1 for step in STEPS[:3]), "the ensemble would mix"
        for reader in READERS:
            busy = self.ready[reader] | self.unloading.get(reader, set())
            assert all(busy <= self.ready[child] for child in MEMBERS[:2]), "a reader would miss its children"


@pytest.fixture
def repository(tmp_path):
    for name in (*MEMBERS, "postprocess", "ensemble_all"):
        folder = tmp_path / name / "1"
        folder.mkdir(parents=True)
        (folder / "model.py").write_text(name)
        (tmp_path / name / "config.pbtxt").write_text(READER if name in READERS else f'backend: "{name}"')
    steps = " ".join(f'step {{ model_name: "{name}" model_version: -1 }}' for name in STEPS)
    (tmp_path / "ensemble_all/config.pbtxt").write_text(f'platform: "ensemble" ensemble_scheduling {{ {steps} }}')
    return tmp_path


def publish(repository, version, *names):
    for name in names:
        (repository / name / str(version)).mkdir()
        (repository / name / str(version) / "model.py").write_text(f"{name} {version}")


def assert_serves(triton, release):
    assert {name: triton.ready[name] for name in MEMBERS} == {name: {release} for name in MEMBERS}


def test_a_reload_adds_from_below_changes_over_and_takes_away_from_above(repository):
    publish(repository, 2, "bert-large")
    triton = Triton(repository)
    assert reload_release(triton, repository) == Reloaded(2, (1,))
    assert_serves(triton, 2)
    seen = [(name, versions) for name, versions in triton.loads if len(versions) > 1 or name in MEMBERS]
    both = [name for name, versions in seen if versions == {1, 2}]
    assert both[:4] == list(MEMBERS)
    assert [name for name, versions in seen if versions == {2}] == ["orchestrator", "preprocess", "bert-large", "cuml"]


def test_nothing_new_asks_for_no_load(repository):
    triton = Triton(repository)
    assert reload_release(triton, repository) == Reloaded(1)
    assert triton.loads == []


def test_a_roll_back_goes_the_same_way(repository):
    publish(repository, 2, "bert-large")
    triton = Triton(repository)
    reload_release(triton, repository)
    assert reload_release(triton, repository, to=1) == Reloaded(1, (2,))
    assert_serves(triton, 1)
    assert reload_release(triton, repository, to=1) == Reloaded(1)


@pytest.mark.parametrize("release", [0, 2])
def test_a_release_that_is_not_whole_is_refused(repository, release):
    publish(repository, 3, "orchestrator")
    triton = Triton(repository)
    with pytest.raises(
        UserError, match=rf"release {release}: expected one of 3, 1, which are whole in .*, got another"
    ):
        reload_release(triton, repository, to=release)
    assert triton.loads == []


def test_a_served_version_that_has_lost_its_folder_is_named_before_anything_changes(repository):
    publish(repository, 2, *MEMBERS)
    shutil.rmtree(repository / "cuml/1")
    triton = Triton(repository)
    with pytest.raises(UserError, match=r"cuml: expected the folder of version 1, which is served, at .*/1, got none"):
        reload_release(triton, repository)
    assert triton.loads == []


def test_a_release_without_a_members_code_is_refused_before_triton_would_hang(repository):
    publish(repository, 2, "preprocess")
    (repository / "preprocess/2/model.py").unlink()
    (repository / "preprocess/2/other.py").touch()
    triton = Triton(repository)
    with pytest.raises(UserError, match=r"preprocess: expected its code at .*/2/model\.py, got no such file"):
        reload_release(triton, repository)
    assert triton.loads == []


def test_an_ensemble_whose_author_names_a_version_stays_there(repository):
    (repository / "ens_v1/1").mkdir(parents=True)
    steps = " ".join(f'step {{ model_name: "{name}" model_version: 1 }}' for name in STEPS)
    (repository / "ens_v1/config.pbtxt").write_text(f"platform: 'ensemble' ensemble_scheduling {{ {steps} }}")
    publish(repository, 2, "bert-large")
    triton = Triton(repository)
    triton.ready["ens_v1"] = {1}
    triton.configs["ens_v1"] = text_format.Parse((repository / "ens_v1/config.pbtxt").read_text(), proto.ModelConfig())
    for release, before in ((2, 1), (1, 2), (2, 1)):
        assert reload_release(triton, repository, to=release) == Reloaded(release, (before,))
        served = {name: {release} | ({1} if name in STEPS else set()) for name in MEMBERS}
        assert {name: triton.ready[name] for name in MEMBERS} == served
        assert {step.model_version for step in triton.configs["ens_v1"].ensemble_scheduling.step} == {1}
    assert "ens_v1" not in {name for name, _ in triton.loads}


@pytest.mark.parametrize("name", MEMBERS)
def test_where_a_version_does_not_load_all_is_as_before(repository, name):
    publish(repository, 2, "bert-large", "cuml")
    triton = Triton(repository, refuses=(name, 2))
    with pytest.raises(
        ReloadFailed,
        match=rf"^{name}: expected Triton to load it, got: load failed .*broken.* Nothing has changed: release 1 goes",
    ):
        reload_release(triton, repository)
    assert_serves(triton, 1)


def test_requests_that_do_not_end_keep_their_models_and_the_next_reload_finishes(repository):
    publish(repository, 2, "cuml")
    triton = Triton(repository, busy=["orchestrator"])
    with pytest.raises(
        ReloadFailed, match="orchestrator: expected the requests of release 1 to end within 0 s, got some that have not"
    ):
        reload_release(triton, repository, drain_timeout_s=0)
    assert triton.ready["cuml"] == triton.ready["bert-large"] == {1, 2}
    triton.busy, triton.unloading = (), {}
    assert reload_release(triton, repository) == Reloaded(2, (1,))
    assert_serves(triton, 2)


@pytest.mark.parametrize("n_loads", range(1, 30))
def test_a_reload_that_ends_anywhere_is_finished_by_the_next(repository, n_loads):
    publish(repository, 2, "cuml")
    triton = Triton(repository)
    load, left = triton.load_model, iter(range(n_loads))

    def killed(*arguments, **options):
        if next(left, None) is None:
            raise KeyboardInterrupt
        load(*arguments, **options)

    triton.load_model = killed
    try:
        reload_release(triton, repository)
    except KeyboardInterrupt:
        triton.load_model = load
        publish(repository, 3, "bert-large")
        assert reload_release(triton, repository).release == 3
        assert_serves(triton, 3)
    else:
        assert n_loads > 15
        assert_serves(triton, 2)


def test_a_load_whose_sender_was_killed_is_waited_for(repository):
    publish(repository, 2, "bert-large")
    triton = Triton(repository)
    for step in triton.configs["ensemble_all"].ensemble_scheduling.step:
        step.model_version = 1 if step.model_name in MEMBERS else -1  # as a reload begins
    triton.loading, triton.n_looks = {"bert-large": 2}, 3
    assert reload_release(triton, repository) == Reloaded(2, (1,))
    assert_serves(triton, 2)


def test_a_load_that_does_not_end_is_named_and_nothing_changes(repository, monkeypatch):
    publish(repository, 2, "bert-large")
    triton = Triton(repository)
    triton.loading = {"bert-large": 2}
    monkeypatch.setattr(reload, "LOAD_S", 0)
    said = []
    message = (
        r"^bert-large: expected the load under way to end within 0 s, got one that goes on\. Run `dualpath reload`"
    )
    with pytest.raises(ReloadFailed, match=message):
        reload_release(triton, repository, report=said.append)
    assert said == ["bert-large: waiting for a load that is under way"]
    assert triton.loads == []


def test_a_load_that_was_left_waiting_and_comes_late_is_undone(repository):
    publish(repository, 2, "bert-large")
    triton = Triton(repository)
    load = triton.load_model

    def late(name, config=None):
        load(name, config=config)
        if name == "cuml" and triton.ready[name] == {1, 2} and triton.load_model is late:
            triton.load_model = load
            triton.ready[name] = {1}

    triton.load_model = late
    assert reload_release(triton, repository) == Reloaded(2, (1,))
    assert_serves(triton, 2)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("cuml", ALONE.format("cuml")),
        ("preprocess", ALONE.format("preprocess")),
        ("ensemble_all", ALONE.format("ensemble_all")),
        ("postprocess", r"postprocess: expected release 2 to be served, got others\. Run `dualpath reload` first\."),
        (
            "nobody",
            r"nobody: expected a model that is served, got none\. Name one of bert-large, cuml, ensemble_all, orch",
        ),
    ],
)
def test_one_model_is_refused_where_it_would_not_fit(repository, model, message):
    publish(repository, 2, "bert-large")
    triton = Triton(repository)
    with pytest.raises(UserError, match=message):
        reload_release(triton, repository, model=model)
    assert triton.loads == []


def test_one_model_changes_alone_where_the_others_are_the_same_files(repository):
    publish(repository, 2, "bert-large")
    triton = Triton(repository)
    assert reload_release(triton, repository, model="bert-large") == Reloaded(2, (1,))


def test_a_model_whose_code_has_changed_is_loaded_where_the_newest_release_is_served(repository):
    triton = Triton(repository)
    assert reload_release(triton, repository, model="orchestrator") == Reloaded(1, loaded="orchestrator")
    assert triton.loads == [("orchestrator", None)]


def test_a_model_whose_config_has_changed_is_loaded_if_it_is_an_artifact_too(repository):
    triton = Triton(repository)
    assert reload_release(triton, repository, model="cuml") == Reloaded(1, loaded="cuml")
    assert triton.loads == [("cuml", None)]


@pytest.mark.parametrize("model", MEMBERS[:2])
def test_an_artifact_is_not_loaded_again_if_triton_would_take_another_version_by_its_config(repository, model):
    publish(repository, 2, *MEMBERS)
    triton = Triton(repository)
    with pytest.raises(UserError, match=f"{model}: expected version 2 alone to be served, .*, got 1. Restart"):
        reload_release(triton, repository, model=model, to=1)
    assert triton.loads == []


def test_code_is_loaded_again_in_the_release_that_was_rolled_back_to(repository):
    publish(repository, 2, *MEMBERS)
    triton = Triton(repository)
    assert reload_release(triton, repository, model="orchestrator", to=1) == Reloaded(1, loaded="orchestrator")
    assert triton.loads == [("orchestrator", {1})]


def test_a_server_that_loads_by_itself_is_refused(repository):
    publish(repository, 2, "bert-large")
    triton = Triton(repository)
    triton.explicit = False
    with pytest.raises(UserError, match="expected a server with explicit model control"):
        reload_release(triton, repository)


def test_an_ensemble_that_is_down_is_loaded_again(repository):
    triton = Triton(repository)
    del triton.ready["ensemble_all"]
    assert reload_release(triton, repository) == Reloaded(1, loaded="ensemble_all")
    assert triton.loads == [("ensemble_all", None)]


def test_a_model_that_is_not_ready_is_named(repository):
    triton = Triton(repository)
    del triton.ready["cuml"]
    with pytest.raises(UserError, match=r"cuml: expected a version that is ready, got none\. See `dualpath models`"):
        reload_release(triton, repository)


def test_a_version_that_is_being_unloaded_is_waited_for(repository):
    triton, said = Triton(repository), []
    triton.unloading = {"cuml": {2}}

    class Client:
        n_looks = 0

        def get_model_repository_index(self):
            self.n_looks += 1
            if self.n_looks == 3:
                triton.unloading = {}
            return triton.get_model_repository_index()

    server = Loader(Client())
    server.await_unloaded(10, said.append)
    assert server.present()["cuml"] == {1}
    assert said == ["cuml: waiting until a version is unloaded"]
