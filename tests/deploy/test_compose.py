"""The files of deploy/compose belong together: the configuration is right, nginx takes its own, the names agree."""

import hashlib
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from configure import PLACE, configure

from server.config.check import check

FOLDER = Path(__file__).parent.parent.parent / "deploy" / "compose"
COMPOSE = (FOLDER / "compose.yaml").read_text()


@pytest.mark.parametrize("folder", ["compose", "kubernetes"])
def test_the_configuration_is_right(tmp_path, folder):
    """`sluiceway check` finds only warnings in it, once a key has been made for it."""
    configure(FOLDER.parent / folder / "sluiceway.toml", tmp_path)
    environ = {"OPENAI_API_KEY": "x", "REDIS_URL": "redis://:x@redis:6379/0"}
    problems = check(tmp_path / "sluiceway.toml", environ)
    assert [problem for problem in problems if not problem.warning] == []


def test_the_key_is_made_once_and_only_its_hash_is_kept(tmp_path):
    """A second run takes a changed template and keeps the key. No file has the key itself."""
    template = tmp_path / "template.toml"
    template.write_text(f'sha256 = "{PLACE}"')
    key = configure(template, tmp_path / "made")
    digest = hashlib.sha256(key.encode()).hexdigest()
    template.write_text(f'name = "web"\nsha256 = "{PLACE}"')
    assert configure(template, tmp_path / "made") is None
    assert (tmp_path / "made" / "sluiceway.toml").read_text() == f'name = "web"\nsha256 = "{digest}"'
    assert not [file for file in (tmp_path / "made").iterdir() if key in file.read_text()]
    template.write_text("no place")
    with pytest.raises(SystemExit):
        configure(template, tmp_path / "made")


def test_no_key_is_known_before_the_first_start():
    """No file of deploy/ has the hash of a key."""
    assert not [
        path for path in FOLDER.parent.rglob("*.toml") if re.search(r"[0-9a-f]{64}", path.read_text())
        and "generated" not in path.parts
    ]  # fmt: skip


def test_the_names_agree():
    """nginx asks the gateways that compose starts, and these use the Redis that compose starts."""
    asked = set(re.findall(r"server (\S+):8080", (FOLDER / "nginx.conf").read_text()))
    assert asked == set(re.findall(r"^  (gateway-\w+):", COMPOSE, re.MULTILINE))
    url = tomllib.loads((FOLDER / "sluiceway.toml").read_text())["store"]["url"]
    assert url == "redis://redis:6379/0"
    assert re.search(r"^  redis:", COMPOSE, re.MULTILINE)
    assert '--appendonly, "yes"' in COMPOSE


def test_nginx_takes_its_configuration(tmp_path):
    """The real nginx finds no mistake in its file if the names of compose's network resolve."""
    config = re.sub(r"gateway-\w+:8080", "127.0.0.1:9", (FOLDER / "nginx.conf").read_text())
    path = tmp_path / "nginx.conf"
    path.write_text("pid nginx.pid; error_log stderr;\n" + config)
    nginx = shutil.which("nginx") or "/usr/sbin/nginx"
    command = [nginx, "-t", "-p", f"{tmp_path}/", "-c", str(path), "-e", "stderr"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert ran.returncode == 0, ran.stderr
