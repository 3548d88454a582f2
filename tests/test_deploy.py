"""The files under deploy/: read strictly, and held against one another and against the program that they start.

No engine and no cluster is asked: that an image builds and that a cluster takes the manifests is not shown here.
"""

import re
import shlex
import tomllib
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from holdfast.cli.app import VERBS, program
from holdfast.gateway.config import load
from holdfast.gateway.settings import Gateway

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
CLUSTER = DEPLOY / "kubernetes"
GROUPS = {
    "Namespace": "v1", "Service": "v1", "StatefulSet": "apps/v1", "Deployment": "apps/v1",
    "PodDisruptionBudget": "policy/v1", "NetworkPolicy": "networking.k8s.io/v1",
    "Kustomization": "kustomize.config.k8s.io/v1beta1",
}  # fmt: skip
OF_A_CONTAINER = set(
    "name image args env envFrom ports startupProbe readinessProbe livenessProbe lifecycle resources securityContext"
    " volumeMounts".split()
)
OF_A_POD = set(
    "automountServiceAccountToken enableServiceLinks terminationGracePeriodSeconds securityContext containers volumes"
    " topologySpreadConstraints".split()
)


class Strict(yaml.SafeLoader):
    """A key that stands twice is an error, as it is to Kubernetes."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        assert len(keys) == len(set(keys)), f"a key stands twice: {node.start_mark}"
        return super().construct_mapping(node, deep)


def documents(path: Path) -> list[Any]:
    return list(yaml.load_all(path.read_text(), Strict))


def manifests() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in sorted(CLUSTER.glob("*.yaml")):
        for found in documents(path):
            yield f"{path.name}: {found['kind']}", found


def of_kind(kind: str) -> dict[str, dict[str, Any]]:
    return {found["metadata"]["name"]: found for _, found in manifests() if found["kind"] == kind}


def workloads() -> dict[str, dict[str, Any]]:
    return of_kind("Deployment") | of_kind("StatefulSet")


def container(workload: dict[str, Any]) -> dict[str, Any]:
    (found,) = workload["spec"]["template"]["spec"]["containers"]
    assert isinstance(found, dict)
    return found


COMPOSE = documents(DEPLOY / "compose.yaml")[0]
CONTAINERFILE = (DEPLOY / "Containerfile").read_text().replace("\\\n", " ")


def instructions(word: str, text: str = CONTAINERFILE) -> list[str]:
    return re.findall(rf"^{word} (.+)$", text, re.MULTILINE)


# --- the image ---


def test_the_image_is_made_of_what_the_lock_says_and_runs_as_nobody_in_particular() -> None:
    installs = [line for line in instructions("RUN") if "uv sync" in line]
    assert len(installs) == 2
    assert all("--locked" in line for line in installs)
    last = CONTAINERFILE[CONTAINERFILE.rindex("\nFROM ") :]
    assert instructions("USER", last) == ["10001:10001"]
    assert last.index("USER") < last.index("ENTRYPOINT")
    assert "RUN pip" not in last, "nothing is fetched for the image that is shipped"
    assert "STOPSIGNAL SIGTERM" in last


def test_the_image_has_every_extra_that_its_verbs_need_and_they_exist() -> None:
    named = [set(re.findall(r"--extra (\S+)", line)) for line in instructions("RUN") if "uv sync" in line]
    assert named[0] == named[1]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {"gateway", "postgres", "s3"} <= named[0] <= project["optional-dependencies"].keys()


def test_what_the_image_copies_is_there_and_is_not_ignored() -> None:
    allowed = {line[1:] for line in (ROOT / ".containerignore").read_text().splitlines() if line.startswith("!")}
    copied = {name for line in instructions("COPY") if "--from" not in line for name in line.split()[:-1]}
    assert copied == allowed
    assert all((ROOT / name).exists() for name in copied)
    assert (ROOT / ".dockerignore").read_text() == (ROOT / ".containerignore").read_text()


# --- images, configurations and commands, wherever they are named ---


def test_no_image_is_whatever_is_newest() -> None:
    images = [service["image"] for service in COMPOSE["services"].values()]
    images += [f"{each['newName']}:{each['newTag']}" for each in documents(CLUSTER / "kustomization.yaml")[0]["images"]]
    images += instructions("ARG PYTHON=")
    for image in images:
        tag = image.rpartition("/")[2].partition(":")[2]
        assert tag, image
        assert tag != "latest", image


@pytest.mark.parametrize("place", [DEPLOY, CLUSTER], ids=["compose", "kubernetes"])
def test_each_configuration_has_no_fault_and_tells_its_health_where_it_is_asked(place: Path) -> None:
    found = load(place / "holdfast.toml")
    assert found.gateway.health == "0.0.0.0:9090"
    assert found.gateway.remote is not None
    assert found.gateway.remote.listen == "0.0.0.0:8443"
    assert "blobs=s3://" in found.gateway.store
    assert (place / "policy.cedar").read_text() == (DEPLOY / "policy.cedar").read_text()
    assert set(Gateway.model_fields) >= {"health", "remote"}


def commands() -> list[list[str]]:
    found = [list(map(str, container(each)["args"])) for each in workloads().values()]
    return found + [COMPOSE["services"][name]["command"] for name in ("gateway", "worker")]


@pytest.mark.parametrize("words", commands(), ids=shlex.join)
def test_what_is_started_is_a_verb_with_these_options(words: list[str]) -> None:
    assert words[0] in VERBS
    command = typer.main.get_command(program([words[0]]))
    verb = command.commands[words[0]] if hasattr(command, "commands") else command
    known = {option for parameter in verb.params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= known


# --- compose ---


def test_compose_names_only_what_it_declares() -> None:
    for name, service in COMPOSE["services"].items():
        assert set(service["networks"]) <= COMPOSE["networks"].keys(), name
        volumes = [each.partition(":")[0] for each in service.get("volumes", [])]
        assert {each for each in volumes if not each.startswith(".")} <= COMPOSE["volumes"].keys(), name
        assert set(service.get("depends_on", [])) <= COMPOSE["services"].keys(), name
        for each in volumes:
            if each in ("./holdfast.toml", "./policy.cedar"):
                assert (DEPLOY / each).exists()


def test_in_compose_nobody_but_the_gateway_is_where_agents_are_and_no_secret_is_written_down() -> None:
    services = COMPOSE["services"]
    assert [name for name, each in services.items() if "agents" in each["networks"]] == ["gateway"]
    assert COMPOSE["networks"]["agents"]["internal"]
    assert COMPOSE["networks"]["inside"]["internal"]
    for name, service in services.items():
        assert "ports" not in service, name
        for variable, value in service.get("environment", {}).items():
            if re.search("PASSWORD|SECRET", variable):
                assert re.fullmatch(r"\$\{[A-Z0-9_]+:\?[^}]+\}", value), f"{name}: {variable}"


@pytest.mark.parametrize("name", ["gateway", "worker"])
def test_in_compose_ours_may_write_only_where_they_must(name: str) -> None:
    service = COMPOSE["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert int(service["stop_grace_period"].removesuffix("s")) >= 60


# --- Kubernetes ---


@pytest.mark.parametrize(("place", "found"), list(manifests()), ids=[place for place, _ in manifests()])
def test_each_manifest_is_of_a_known_kind_and_form(place: str, found: dict[str, Any]) -> None:
    assert found["apiVersion"] == GROUPS[found["kind"]], place
    listed = documents(CLUSTER / "kustomization.yaml")[0]["resources"]
    assert place.partition(":")[0] in [*listed, "kustomization.yaml"]


@pytest.mark.parametrize("name", ["gateway", "worker"])
def test_a_pod_is_confined(name: str) -> None:
    pod = workloads()[name]["spec"]["template"]["spec"]
    assert pod.keys() <= OF_A_POD
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 10001
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    inside = container(workloads()[name])
    assert inside.keys() <= OF_A_CONTAINER
    assert inside["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip
    assert "memory" in inside["resources"]["limits"]
    assert inside["resources"]["requests"].keys() == {"cpu", "memory"}


@pytest.mark.parametrize("name", ["gateway", "worker"])
def test_probes_ask_what_is_told_and_leave_time_for_the_answer(name: str) -> None:
    inside = container(workloads()[name])
    ports = {port["name"] for port in inside["ports"]}
    for probe, path in (("readinessProbe", "/readyz"), ("livenessProbe", "/healthz")):
        asked = inside[probe]
        assert asked["httpGet"]["path"] == path
        assert asked["httpGet"]["port"] in ports
        assert asked["timeoutSeconds"] > 5, "a check has five seconds"
    assert workloads()[name]["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] >= 60


@pytest.mark.parametrize("name", ["gateway", "worker"])
def test_a_pod_mounts_only_what_it_has_and_is_selected_by_its_labels(name: str) -> None:
    workload = workloads()[name]
    template = workload["spec"]["template"]
    claims = {each["metadata"]["name"] for each in workload["spec"].get("volumeClaimTemplates", [])}
    assert {mount["name"] for mount in container(workload)["volumeMounts"]} == claims | {
        volume["name"] for volume in template["spec"]["volumes"]
    }
    labels = template["metadata"]["labels"]
    budget = of_kind("PodDisruptionBudget")[name]["spec"]
    for selector in (workload["spec"]["selector"], budget["selector"]):
        assert selector["matchLabels"].items() <= labels.items()
    assert budget.get("minAvailable", 0) < workload["spec"]["replicas"], "else no node could ever be drained"


def test_the_service_leads_to_the_port_of_agents_and_not_to_that_of_health() -> None:
    service = of_kind("Service")["gateway"]["spec"]
    assert service["selector"].items() <= workloads()["gateway"]["spec"]["template"]["metadata"]["labels"].items()
    assert [port["targetPort"] for port in service["ports"]] == ["agents"]


def test_agents_reach_the_gateway_and_nothing_else() -> None:
    policies = of_kind("NetworkPolicy")
    assert policies["everybody"]["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    agents = policies["agents"]["spec"]
    labels = workloads()["gateway"]["spec"]["template"]["metadata"]["labels"]
    assert agents == {
        "podSelector": {"matchLabels": {"holdfast/role": "agent"}},
        "policyTypes": ["Ingress", "Egress"],
        "egress": [{"to": [{"podSelector": {"matchLabels": labels}}], "ports": [{"protocol": "TCP", "port": 8443}]}],
    }
    admitted = [
        (rule["from"], [port["port"] for port in rule["ports"]]) for rule in policies["gateway"]["spec"]["ingress"]
    ]
    assert ([{"podSelector": {"matchLabels": {"holdfast/role": "agent"}}}], [8443]) in admitted
    assert all("namespaceSelector" in peer for peers, ports in admitted if ports != [8443] for peer in peers)
    for policy in policies.values():
        for rule in policy["spec"].get("egress", []):
            for peer in rule["to"]:
                block = peer.get("ipBlock", {})
                assert block.get("cidr") != "0.0.0.0/0" or "169.254.0.0/16" in block["except"]
