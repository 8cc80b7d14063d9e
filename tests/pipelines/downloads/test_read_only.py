"""Models in a folder that is only read, and a cache that can't be written."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.downloads.catalogue import PACKAGES
from tests.support import ROOT

SMALL = PACKAGES["smart-turn-v3.2"]
NAMESPACE = ["unshare", "--mount", "--map-root-user"]
# Mounts the folder in front of the others read-only, and runs the program there.
SCRIPT = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && shift && exec "$@"'

CAN = shutil.which("unshare") and subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode == 0
needs_namespaces = pytest.mark.skipif(not CAN, reason="this machine allows no mount namespace")


def read_only(cache: Path, program: str) -> "subprocess.CompletedProcess[str]":
    """Run a program whose cache is mounted read-only."""
    command = [*NAMESPACE, "sh", "-c", SCRIPT, "sh", str(cache), sys.executable, "-c", program]
    env = {"XDG_CACHE_HOME": str(cache), "PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=env, timeout=60)


def test_a_model_of_the_folder_that_is_only_read_is_taken_and_the_cache_has_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_cache = SMALL.folder
    provided = tmp_path / in_cache.name
    provided.mkdir()
    (provided / SMALL.path.name).write_bytes(b"a model")
    monkeypatch.setenv("LOQUENT_MODELS", str(tmp_path))
    assert SMALL.installed
    assert SMALL.folder == provided
    (provided / SMALL.path.name).unlink()
    assert SMALL.folder == in_cache


@needs_namespaces
def test_a_missing_model_in_a_cache_that_is_only_read_is_named(tmp_path: Path) -> None:
    program = f"""
import threading
from pipelines.downloads.catalogue import PACKAGES
from pipelines.downloads.fetch import PackageError, install
try:
    list(install(PACKAGES[{SMALL.name!r}], threading.Event()))
except PackageError as error:
    print(error)
"""
    done = read_only(tmp_path, program)
    assert done.stdout.startswith(f"{SMALL.name} is not installed, and "), done.stderr
    assert "can't be written (Read-only file system)" in done.stdout


@needs_namespaces
def test_what_is_made_for_a_cache_that_is_only_read_is_made_elsewhere_and_goes_with_the_process(tmp_path: Path) -> None:
    program = """
import json, threading
from pipelines.downloads.cache import cache_folder, made_once
from pipelines.downloads.progress import finish
made = finish(made_once(cache_folder() / "voices" / "joe", "making", lambda f: (f / "x").touch(), threading.Event()))
print(json.dumps([str(made), (made / "x").exists()]))
"""
    done = read_only(tmp_path, program)
    folder, there = json.loads(done.stdout or "null")
    assert there
    assert tmp_path not in Path(folder).parents
    assert not Path(folder).exists()


@needs_namespaces
def test_kernels_that_were_compiled_are_loaded_from_a_cache_that_is_only_read() -> None:
    from pipelines import kernels
    from pipelines.downloads.cache import cache_folder

    if not kernels.load():
        pytest.skip("there is no C++ compiler")
    program = "from pipelines import kernels; print(kernels.load(), kernels.forms())"
    done = read_only(cache_folder().parent, program)
    assert done.stdout.startswith("True"), done.stderr
