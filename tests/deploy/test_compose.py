"""The files of deploy/compose belong together: the configuration is right, nginx takes its own, the names agree."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

from server.config.check import check

FOLDER = Path(__file__).parent.parent.parent / "deploy" / "compose"
COMPOSE = (FOLDER / "compose.yaml").read_text()


def test_the_configuration_is_right():
    """`sluiceway check` finds only warnings in it."""
    problems = check(FOLDER / "sluiceway.toml", {"OPENAI_API_KEY": "x"})
    assert [problem for problem in problems if not problem.warning] == []


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
