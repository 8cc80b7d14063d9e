"""deploy/kuberay: Serve and KubeRay take it, and what it promises of the configuration holds."""

import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from server.config import Configuration, read
from tests.support import ROOT

FILE = ROOT / "deploy/kuberay/rayservice.yaml"
DOCUMENTS: dict[str, Any] = {each["kind"]: each for each in yaml.safe_load_all(FILE.read_text())}
SERVICE: dict[str, Any] = DOCUMENTS["RayService"]["spec"]
SERVE: dict[str, Any] = yaml.safe_load(SERVICE["serveConfigV2"])
CLUSTER: dict[str, Any] = SERVICE["rayClusterConfig"]
# The path of the definition of rayservices.ray.io, which no package here ships: of https://github.com/ray-project/kuberay
# it is ray-operator/config/crd/bases/ray.io_rayservices.yaml.
CRD = "KUBERAY_CRD"
END_SECONDS = 15.0


@pytest.fixture
def configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Configuration:
    """The configuration that the pods have."""
    file = tmp_path / "config.toml"
    file.write_text(DOCUMENTS["ConfigMap"]["data"]["config.toml"])
    for each in _containers()[0]["env"]:
        if each["name"].startswith("LOQUENT"):
            secret = {"database": "postgresql://loquent:p@db/loquent", "keys": f'["sha256:{"0" * 64}"]'}
            key = each.get("valueFrom", {}).get("secretKeyRef", {}).get("key")
            monkeypatch.setenv(each["name"], secret[key] if key else each["value"])
    return read(str(file))


def _containers() -> list[dict[str, Any]]:
    groups = [CLUSTER["headGroupSpec"], *CLUSTER["workerGroupSpecs"]]
    return [container for group in groups for container in group["template"]["spec"]["containers"]]


def test_the_pods_read_the_configuration_and_keep_secrets_out_of_it(configured: Configuration) -> None:
    settings = configured.settings
    assert (settings.history.store, len(settings.server.keys)) == ("postgresql://loquent:p@db/loquent", 1)
    assert "postgresql" not in DOCUMENTS["ConfigMap"]["data"]["config.toml"]
    for container in _containers():
        assert container["env"] == _containers()[0]["env"]
        mounts = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
        assert SERVE["applications"][0]["args"] == {"config": f"{mounts['config']}/config.toml"}


def test_there_is_time_to_drain_and_room_for_what_runs(configured: Configuration) -> None:
    replicas, drain = configured.settings.ray, configured.settings.server.drain
    (workers,) = CLUSTER["workerGroupSpecs"]
    for group in (CLUSTER["headGroupSpec"], workers):
        assert group["template"]["spec"]["terminationGracePeriodSeconds"] >= drain + END_SECONDS
    cores = float(workers["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"])
    for count, pods in ((0, workers["minReplicas"]), (1, workers["maxReplicas"])):
        wanted = replicas.gateways[count] * replicas.gateway_cpus + replicas.engines[count] * replicas.engine_cpus
        assert wanted <= pods * cores


def test_nothing_runs_with_rights_and_only_the_proxies_are_open() -> None:
    for container in _containers():
        assert container["securityContext"]["readOnlyRootFilesystem"]
        assert {"name": "RAY_USAGE_STATS_ENABLED", "value": "0"} in container["env"]
    everywhere = [rule for rule in DOCUMENTS["NetworkPolicy"]["spec"]["ingress"] if "from" not in rule]
    assert everywhere == [{"ports": [{"port": SERVE["http_options"]["port"]}]}]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Ray's own models
def test_serve_takes_the_application(configured: Configuration) -> None:
    pytest.importorskip("ray", reason="Ray Serve is not installed: pip install 'loquent[ray]'")
    from ray.serve._private.utils import import_attr
    from ray.serve.schema import ServeDeploySchema

    (application,) = ServeDeploySchema.model_validate(SERVE).applications
    build = import_attr(application.import_path)
    assert build({"config": str(configured.file)})._bound_deployment.name == "gateway"


@pytest.mark.skipif(CRD not in os.environ, reason=f"{CRD} names no definition of rayservices.ray.io")
def test_kuberay_takes_the_service() -> None:
    definition = yaml.safe_load(Path(os.environ[CRD]).read_text())
    version = next(each for each in definition["spec"]["versions"] if each["name"] == "v1")
    schema = _strict(version["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    problems = [
        f"{'.'.join(map(str, error.absolute_path))}: {error.message:.200}"
        for error in Draft202012Validator(schema).iter_errors(DOCUMENTS["RayService"])
    ]
    assert problems == []


def _strict(schema: Any) -> Any:
    """The schema as an API server applies it: what it does not know is dropped, which is an error here."""
    if isinstance(schema, list):
        return [_strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    made = {key: _strict(value) for key, value in schema.items()}
    open_ended = made.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in made
    if made.get("type") == "object" and isinstance(made.get("properties"), dict) and not open_ended:
        made["additionalProperties"] = False
    return made
