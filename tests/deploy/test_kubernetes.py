"""The manifests of deploy/kubernetes are valid, and what they say agrees with the configuration; so does the image."""

import fnmatch
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from server.config.settings import Settings

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"
MANIFESTS = [FOLDER / "gateway.yaml", FOLDER / "redis.yaml"]
DOCKERFILE = ROOT / "deploy" / "Dockerfile"
RULES = "{extends: default, rules: {line-length: {max: 120}}}"


def linter(name: str, *arguments: str | Path) -> str:
    """Run a linter; return what it says. Raises AssertionError if it is not content."""
    program = shutil.which(name, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert program, f"{name} is not installed: setup.cfg names it for dev"
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def objects() -> dict[tuple[str, str], dict]:
    """The objects of the manifests, by kind and name."""
    documents = [one for path in MANIFESTS for one in yaml.safe_load_all(path.read_text())]
    return {(one["kind"], one["metadata"]["name"]): one for one in documents}


def pod(kind: str, name: str) -> tuple[dict, dict]:
    """The specification of a pod, and its one container."""
    specification = objects()[kind, name]["spec"]["template"]["spec"]
    [container] = specification["containers"]
    return specification, container


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_a_manifest_is_what_kubernetes_takes(path) -> None:
    """Every object has the fields of its schema and no others."""
    assert "passed" in linter("kubernetes-validate", "--strict", path)


def test_a_mistake_is_found(tmp_path) -> None:
    """The same linter refuses a manifest with a probe that is misspelt."""
    wrong = tmp_path / "gateway.yaml"
    wrong.write_text(MANIFESTS[0].read_text().replace("readinessProbe:", "readynessProbe:"))
    with pytest.raises(AssertionError, match="readynessProbe"):
        linter("kubernetes-validate", "--strict", wrong)


def test_the_style_of_yaml() -> None:
    """yamllint finds nothing in the manifests and in compose.yaml."""
    linter("yamllint", "--strict", "-d", RULES, *FOLDER.glob("*.yaml"), ROOT / "deploy/compose/compose.yaml")


def test_the_dockerfile() -> None:
    """hadolint finds nothing. The image runs without root, and its health check is there."""
    linter("hadolint", DOCKERFILE)
    lines = DOCKERFILE.read_text().splitlines()
    assert len([line for line in lines if line.startswith("FROM ")]) == 2
    assert "USER 10001" in lines
    assert any(line.startswith("HEALTHCHECK ") for line in lines)


def test_what_the_image_is_built_of() -> None:
    """Every source that the Dockerfile copies is there, and .dockerignore lets it through."""
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line]
    for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE.read_text(), re.MULTILINE):
        for source in line.split()[:-1]:
            assert (ROOT / source).exists()
            assert f"!{source}" in rules
    assert rules[0] == "*"
    assert not fnmatch.filter(rules, "!.*")


def test_a_drain_is_noticed_in_time() -> None:
    """The readiness probe fails before the gateway refuses generations, and the grace of the pod is the longer one."""
    server = Settings.model_fields["server"].annotation(
        **tomllib.loads((FOLDER / "sluiceway.toml").read_text())["server"]
    )
    specification, container = pod("Deployment", "sluiceway")
    probe = container["readinessProbe"]
    assert probe["httpGet"]["path"] == "/readyz"
    slowest = probe["failureThreshold"] * probe["periodSeconds"] + probe["timeoutSeconds"]
    assert slowest < server.drain_notice
    assert specification["terminationGracePeriodSeconds"] > server.shutdown_grace
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert container["startupProbe"]["httpGet"]["path"] == "/healthz"


@pytest.mark.parametrize(("kind", "name"), [("Deployment", "sluiceway"), ("StatefulSet", "redis")])
def test_nothing_runs_as_root(kind: str, name: str) -> None:
    """Pods have no root, no capability, no token, and a file system that is read-only."""
    specification, container = pod(kind, name)
    assert specification["securityContext"]["runAsNonRoot"] is True
    assert specification["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip


def test_the_names_agree() -> None:
    """Services select the pods, Redis keeps what it confirms, and the page writes every secret that is asked for."""
    found = objects()
    for kind, name in (("Deployment", "sluiceway"), ("StatefulSet", "redis")):
        labels = found[kind, name]["spec"]["template"]["metadata"]["labels"]
        assert found[kind, name]["spec"]["selector"]["matchLabels"] == labels
        assert found["Service", name]["spec"]["selector"] == labels
    assert found["PodDisruptionBudget", "sluiceway"]["spec"]["selector"]["matchLabels"] == {
        "app.kubernetes.io/name": "sluiceway"
    }
    [command] = pod("StatefulSet", "redis")[1]["args"]
    assert "--appendonly yes --maxmemory-policy noeviction" in command
    written = re.findall(r"^([A-Z_]+)=", (FOLDER / "README.md").read_text(), re.MULTILINE)
    assert set(written) == {"OPENAI_API_KEY", "REDIS_PASSWORD", "REDIS_URL"}
    assert "redis:6379" in (FOLDER / "README.md").read_text()


def test_kustomize_builds_it(tmp_path) -> None:
    """Where kubectl is installed, it makes the objects with the generated configuration and secrets."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed")
    folder = shutil.copytree(FOLDER, tmp_path / "kubernetes", ignore=shutil.ignore_patterns("generated"))
    (folder / "generated").mkdir()
    (folder / "generated" / "sluiceway.toml").write_text("x = 1\n")
    (folder / "generated" / "secrets.env").write_text("REDIS_URL=redis://redis:6379/0\n")
    done = subprocess.run(
        [kubectl, "kustomize", folder], capture_output=True, text=True, check=False, timeout=60, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    made = {one["kind"]: one for one in yaml.safe_load_all(done.stdout)}
    assert {"ConfigMap", "Secret", "Deployment", "StatefulSet", "Service", "PodDisruptionBudget"} == made.keys()
    assert made["ConfigMap"]["metadata"]["name"].startswith("sluiceway-")
