"""That the manifests are valid to Kubernetes and KServe, agree with each other, and say what `dualpath serve` does."""

import importlib
import inspect
import re
import subprocess
import sys
import types
from importlib.util import find_spec
from pathlib import Path

import kubernetes_validate
import pytest
import typer
import yaml

from dualpath.cli import app
from dualpath.cli.serve import serve
from dualpath.serving.server import TritonServer
from dualpath.serving.triton_process import GRACE_S
from paths import REPOSITORY, ROOT

KUBERNETES = ROOT / "deploy" / "kubernetes"
KUBECTL = str(Path(sys.executable).parent / "kubectl")
KINDS = {"Deployment", "Service", "HorizontalPodAutoscaler", "PodDisruptionBudget", "NetworkPolicy"}
VERSIONS = ("1.30", kubernetes_validate.latest_version())
VARIANTS = ("cpu", "gpu")
DEFAULTS = {name: it.default for name, it in inspect.signature(serve).parameters.items()}
PORTS = {name: DEFAULTS[f"{name}_port"] for name in ("http", "grpc", "metrics", "health")}


def built(variant):
    """The manifests of a variant, by kind."""
    done = subprocess.run([KUBECTL, "kustomize", KUBERNETES / variant], capture_output=True, text=True, check=True)
    documents = list(yaml.safe_load_all(done.stdout))
    kinds = {it["kind"]: it for it in documents}
    assert len(kinds) == len(documents)
    return kinds


@pytest.fixture(scope="module", params=VARIANTS)
def variant(request):
    return request.param


@pytest.fixture(scope="module")
def manifests(variant):
    return built(variant)


@pytest.fixture(scope="module")
def pod(manifests):
    return manifests["Deployment"]["spec"]["template"]


@pytest.fixture(scope="module")
def container(pod):
    [container] = pod["spec"]["containers"]
    return container


@pytest.fixture(scope="module")
def kserve():
    """The manifests for KServe, by kind."""
    return built("kserve")


@pytest.mark.parametrize("version", VERSIONS)
def test_manifests_are_valid_to_kubernetes(manifests, version):
    assert manifests.keys() == KINDS
    for document in manifests.values():
        kubernetes_validate.validate(document, version, strict=True)


def test_a_wrong_manifest_is_not_valid(manifests):
    wrong = {**manifests["Service"], "spec": {**manifests["Service"]["spec"], "clusterIp": "None"}}
    with pytest.raises(kubernetes_validate.ValidationError, match="clusterIp"):
        kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)


def test_ports_are_those_that_serve_listens_on(container):
    assert {port["name"]: port["containerPort"] for port in container["ports"]} == PORTS


def parsed(command):
    """What `dualpath` reads from a container's command."""
    program, name, *arguments = command
    assert program == "dualpath"
    return typer.main.get_command(app).commands[name].make_context(name, arguments).params


def test_the_command_serves_to_other_machines(variant, container):
    options = parsed(container["command"])
    changed = {name: value for name, value in options.items() if value != DEFAULTS[name]}
    assert changed.pop("host") == "0.0.0.0"
    assert changed == ({"config_name": "gpu"} if variant == "gpu" else {})
    if changed:
        assert (REPOSITORY / "bert-large" / "configs" / f"{changed['config_name']}.pbtxt").is_file()


def probes(container):
    return {name: container[f"{name}Probe"] for name in ("startup", "readiness", "liveness")}


def check_probes(container):
    paths = {name: it["httpGet"]["path"] for name, it in probes(container).items()}
    assert paths == {"startup": "/live", "readiness": "/ready", "liveness": "/live"}
    assert {it["httpGet"]["port"] for it in probes(container).values()} <= {"health", PORTS["health"]}
    start = probes(container)["startup"]
    longest_s = inspect.signature(TritonServer).parameters["start_timeout_s"].default
    assert start["periodSeconds"] * start["failureThreshold"] >= longest_s


def test_probes_ask_the_health_endpoint_and_wait_as_long_as_serve_does(container):
    check_probes(container)


def test_a_pod_has_the_time_to_answer_its_last_requests(pod, container):
    [_, pause_s] = container["lifecycle"]["preStop"]["exec"]["command"]
    assert pod["spec"]["terminationGracePeriodSeconds"] >= int(pause_s) + GRACE_S + 10


def test_names_and_labels_fit_together(manifests, pod, container):
    labels = pod["metadata"]["labels"].items()
    selectors = [
        manifests["Service"]["spec"]["selector"],
        manifests["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
        *(manifests[kind]["spec"]["selector"]["matchLabels"] for kind in ("Deployment", "PodDisruptionBudget")),
    ]
    assert all(selector and selector.items() <= labels for selector in selectors)
    scaled = manifests["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    deployment = manifests["Deployment"]
    assert scaled == {
        "apiVersion": deployment["apiVersion"],
        "kind": "Deployment",
        "name": deployment["metadata"]["name"],
    }
    assert {mount["name"] for mount in container["volumeMounts"]} == {it["name"] for it in pod["spec"]["volumes"]}
    assert [(port["port"], port["targetPort"]) for port in manifests["Service"]["spec"]["ports"]] == [
        (PORTS["grpc"], "grpc")
    ]


def test_clients_reach_grpc_alone_and_what_watches_reaches_metrics_and_health_alone(manifests):
    policy = manifests["NetworkPolicy"]["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert policy["egress"] == []
    opened = {next(iter(rule["from"][0])): {port["port"] for port in rule["ports"]} for rule in policy["ingress"]}
    assert opened == {"podSelector": {"grpc"}, "namespaceSelector": {"metrics", "health"}}


def test_metrics_are_scraped_where_serve_gives_them(pod):
    said = pod["metadata"]["annotations"]
    assert said["prometheus.io/port"] == str(PORTS["metrics"])
    assert said["prometheus.io/path"] == "/metrics"


def test_prometheus_adapter_offers_the_metric_that_counts_the_pods(manifests):
    [metric] = manifests["HorizontalPodAutoscaler"]["spec"]["metrics"]
    [rule] = yaml.safe_load((KUBERNETES / "prometheus-adapter.yaml").read_text())["rules"]["custom"]
    assert rule["seriesQuery"].partition("{")[0] == metric["pods"]["metric"]["name"]


@pytest.mark.parametrize("dockerfile", ["Dockerfile", "Dockerfile.cpu"])
def test_images_name_the_ports(dockerfile):
    text = (ROOT / "deploy" / dockerfile).read_text()
    assert re.findall(r"^EXPOSE (.+)$", text, re.MULTILINE) == [" ".join(map(str, PORTS.values()))]


@pytest.fixture(scope="module")
def models():
    """KServe's models of its resources, without the rest of the package, which needs other versions than this one."""
    spec = find_spec("kserve")
    if spec is None:
        pytest.skip("needs KServe's models: `make setup` installs them")
    stub = types.ModuleType("kserve")
    stub.__path__ = list(spec.submodule_search_locations)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "kserve", stub)
        yield importlib.import_module("kserve.models")


def check(models, value, kind, where):
    """Compare a value with the type that KServe's models state for it; types of Kubernetes itself are left out."""
    scalars = {"str": str, "int": int, "bool": bool, "float": float}
    if item := re.fullmatch(r"list\[(.+)\]", kind):
        assert isinstance(value, list), where
        for i, it in enumerate(value):
            check(models, it, item[1], f"{where}[{i}]")
    elif item := re.fullmatch(r"dict\(str, (.+)\)", kind):
        assert isinstance(value, dict), where
        for name, it in value.items():
            check(models, it, item[1], f"{where}.{name}")
    elif kind in scalars:
        assert type(value) is scalars[kind], where
    elif model := getattr(models, kind, None):
        names = {key: name for name, key in model.attribute_map.items()}
        assert value.keys() <= names.keys(), f"{where}: {value.keys() - names.keys()}"
        for key, it in value.items():
            check(models, it, model.openapi_types[names[key]], f"{where}.{key}")
        model(**{names[key]: it for key, it in value.items()})  # refuses if a required one is missing
    else:
        assert kind.startswith(("V1", "K8s", "object", "ResourceQuantity")), f"{where}: {kind}"


def test_the_runtime_and_its_service_are_valid_to_kserve(kserve, models):
    assert kserve.keys() == {"ServingRuntime", "InferenceService"}
    check(models, kserve["ServingRuntime"], "V1alpha1ServingRuntime", "runtime")
    check(models, kserve["InferenceService"], "V1beta1InferenceService", "service")


@pytest.mark.parametrize("change", [{"protocolVersion": ["v2"]}, {"multiModel": "no"}, {"containers": 1}])
def test_a_wrong_runtime_is_not_valid_to_kserve(kserve, models, change):
    runtime = {**kserve["ServingRuntime"], "spec": {**kserve["ServingRuntime"]["spec"], **change}}
    with pytest.raises(AssertionError, match=next(iter(change))):
        check(models, runtime, "V1alpha1ServingRuntime", "runtime")


def test_the_runtime_s_container_is_valid_to_kubernetes_and_like_the_deployment_s(kserve):
    spec = kserve["ServingRuntime"]["spec"]
    [container] = spec["containers"]
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}}
    for version in VERSIONS:
        kubernetes_validate.validate(
            {**pod, "spec": {name: spec[name] for name in ("containers", "volumes")}}, version, strict=True
        )
    [other] = built("cpu")["Deployment"]["spec"]["template"]["spec"]["containers"]
    same = ("image", "command", "resources", "volumeMounts", "lifecycle", "securityContext")
    assert {name: container[name] for name in same} == {name: other[name] for name in same}
    check_probes(container)
    assert container["name"] == "kserve-container"
    assert container["ports"] == [{"name": "h2c", "containerPort": PORTS["grpc"], "protocol": "TCP"}]
    assert spec["annotations"]["prometheus.kserve.io/port"] == str(PORTS["metrics"])


def test_the_service_names_the_runtime_and_a_format_and_a_protocol_that_it_has(kserve):
    runtime, service = kserve["ServingRuntime"], kserve["InferenceService"]
    model = service["spec"]["predictor"]["model"]
    assert model["runtime"] == runtime["metadata"]["name"]
    assert model["protocolVersion"] in runtime["spec"]["protocolVersions"]
    formats = [(it["name"], it["version"]) for it in runtime["spec"]["supportedModelFormats"]]
    assert (model["modelFormat"]["name"], model["modelFormat"]["version"]) in formats
