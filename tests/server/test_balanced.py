"""Two servers behind the balancer of deploy/haproxy.cfg: nothing that happens to one of them reaches a caller."""

import re
import subprocess

import pytest
import yaml

from balanced import DUALPATH, HAPROXY, Balancer, Clients, Served, serving, until
from made_up_releases import TEXT, WEIGHTS, made_up, publish, scores_of
from paths import ROOT

pytestmark = pytest.mark.skipif(not HAPROXY, reason="needs HAProxy: `apt-get install haproxy`")

N_CLIENTS = 8
REQUEST = [TEXT] * len(WEIGHTS), WEIGHTS


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("balanced")
    both = [Served(made_up(folder / name), folder / f"{name}.log") for name in ("one", "two")]
    with serving(*both):
        yield both


@pytest.fixture(scope="module")
def balancer(servers, tmp_path_factory):
    it = Balancer(tmp_path_factory.mktemp("haproxy"), *servers)
    with it.running():
        yield it


def answered(clients, n):
    """Wait for some more answers."""
    before = len(clients.answers)
    until(lambda: len(clients.answers) >= before + n, "answers")


def test_a_server_answers_what_the_manifests_ask(servers):
    base = ROOT / "deploy" / "kubernetes" / "base"
    deployment, autoscaler = (yaml.safe_load((base / f"{it}.yaml").read_text()) for it in ("deployment", "autoscaler"))
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        it = container[probe]["httpGet"]
        assert servers[0].get(it["path"], it["port"])[0] == 200
    [metric] = autoscaler["spec"]["metrics"]
    said = deployment["spec"]["template"]["metadata"]["annotations"]
    status, text = servers[0].get(said["prometheus.io/path"], "metrics")
    assert status == 200
    name = metric["pods"]["metric"]["name"]
    assert f"# TYPE {name} gauge" in text
    assert re.search(rf'^{name}{{model="orchestrator"}} \d+$', text, re.MULTILINE)


def test_a_server_is_killed_and_comes_back_without_its_callers_noticing(servers, balancer):
    with Clients(balancer.url, [REQUEST], N_CLIENTS, pause_s=0.05) as clients:
        answered(clients, 50)
        until(lambda: min(int(balancer.stat(name)["stot"]) for name in ("one", "two")) > 10, "both servers' answers")
        servers[0].kill_triton()
        until(lambda: balancer.status("one").startswith("DOWN"), "the balancer to see it")
        answered(clients, 50)
        until(lambda: balancer.status("one") == "UP", "the watchdog to bring it back")
        before = int(balancer.stat("one")["stot"])
        answered(clients, 50)
        assert int(balancer.stat("one")["stot"]) > before
    assert {scores for _, scores, _ in clients.answers} == {scores_of(1)}
    assert len(clients.errors) <= clients.n_sent // 1000, clients.errors


def test_servers_change_release_one_after_the_other_without_an_error_or_a_mixed_answer(servers, balancer):
    one, two = servers
    with Clients(balancer.url, [REQUEST], N_CLIENTS, pause_s=0.05) as clients:
        answered(clients, 20)
        for server in servers:
            publish(server.repository, 2)
        balancer.drain("one")
        one.stop()
        answered(clients, 20)
        one.start()
        one.await_ready()
        balancer.bring_back("one")
        answered(clients, 20)
        reload = [*DUALPATH, "reload", "--url", two.url, "--model-repository", str(two.repository)]
        done = subprocess.run(reload, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        n_before = len(clients.answers) + N_CLIENTS  # those under way may be of either
        answered(clients, 100)
    assert clients.errors == []
    assert {scores for _, scores, _ in clients.answers} == {scores_of(1), scores_of(2)}
    assert {scores for _, scores, _ in clients.answers[n_before:]} == {scores_of(2)}
