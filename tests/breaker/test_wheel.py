"""The wheel: built here, installed alone in an empty environment, it works."""

import json
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.support.servers import Server

ROOT = Path(__file__).parents[2]
EXTRAS = {"redis": "redis", "httpx": "httpx", "starlette": "starlette", "opentelemetry": "opentelemetry"}
"""Adapter → the package that it needs."""

pytestmark = pytest.mark.timeout(120)


def run(*words: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a program."""
    return subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=100, **options)  # noqa: PLW1510


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built without a download."""
    folder = tmp_path_factory.mktemp("dist")
    built = run(sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder, cwd=ROOT)
    assert built.returncode == 0, built.stderr
    [found] = folder.iterdir()
    return found


@pytest.fixture(scope="module")
def alone(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that holds the wheel and nothing else."""
    folder = tmp_path_factory.mktemp("empty")
    venv.create(folder)
    python = folder / "bin" / "python"
    installed = run(
        *(sys.executable, "-m", "pip", "--python", python, "install"), *("--no-deps", "--no-index", "--quiet", wheel)
    )
    assert installed.returncode == 0, installed.stderr
    return python


def execute(python: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Run code where nothing of the checkout is in sight; warnings are errors."""
    return run(python, "-I", "-W", "error", "-c", code, cwd=python.parent)


def test_the_wheel_holds_the_library_and_nothing_else(wheel: Path) -> None:
    """The scripts, the typing marker and the licence are in it; tests, apps and caches are not."""
    names = set(zipfile.ZipFile(wheel).namelist())
    folder = ROOT / "src" / "commontrip"
    sources = [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    library = {f"commontrip/{path.relative_to(folder).as_posix()}" for path in sources}
    assert {"commontrip/py.typed", "commontrip/lua/record.lua", "commontrip/lua/common.lua"} <= library
    assert {name for name in names if ".dist-info/" not in name} == library
    assert any(name.endswith("/licenses/LICENSE") for name in names)


def test_it_needs_nothing_but_what_an_extra_names(alone: Path) -> None:
    """Without an extra nothing is required, and each adapter's extra names its package."""
    code = "import importlib.metadata as m, json; print(json.dumps(m.requires('commontrip')))"
    required = json.loads(execute(alone, code).stdout)
    assert [line for line in required if "extra ==" not in line] == []
    for extra, package in EXTRAS.items():
        assert [line for line in required if f"extra == '{extra}'" in line and line.startswith(package)], extra


def test_it_imports_and_works_without_any_extra(alone: Path) -> None:
    """The core and the testing aids need the standard library only."""
    code = """
import asyncio, commontrip, commontrip.testing, sys
from commontrip import Breakers, MemoryStore
async def main():
    async with Breakers(MemoryStore()) as breakers:
        return await breakers.get("auth").call(asyncio.sleep, 0, "through")
print(asyncio.run(main()), commontrip.__file__)
"""
    done = execute(alone, code)
    assert done.returncode == 0, done.stderr
    word, place = done.stdout.split()
    assert word == "through"
    assert Path(place).is_relative_to(alone.parents[1])


@pytest.mark.parametrize("adapter", EXTRAS)
def test_a_missing_package_is_named(alone: Path, adapter: str) -> None:
    """An adapter without its package says which one is missing."""
    failed = execute(alone, f"import commontrip.{adapter}")
    last = failed.stderr.strip().splitlines()[-1]
    assert failed.returncode == 1
    assert last.startswith(("ImportError: ", "ModuleNotFoundError: "))
    assert f"'{EXTRAS[adapter]}'" in last or f" {EXTRAS[adapter]} " in last


def test_the_redis_extra_works(alone: Path, server: Server, prefix: str) -> None:
    """With redis-py beside it the installed wheel finds its scripts and a fleet."""
    code = f"""
import asyncio, site, sys
site.addsitedir({sysconfig.get_path("purelib")!r})
import commontrip
from commontrip import Breakers
from commontrip.redis import RedisStore
async def main():
    async with Breakers(RedisStore.from_url({server.url!r}, prefix={prefix!r}), store_budget=5) as breakers:
        await breakers.get("auth").call(asyncio.sleep, 0)
        return (await breakers.get("auth").read()).epoch
print(asyncio.run(main()), commontrip.__file__)
"""
    done = execute(alone, code)
    assert done.returncode == 0, done.stderr
    epoch, place = done.stdout.split()
    assert Path(place).is_relative_to(alone.parents[1])
    assert str(server.cli("GET", f"{prefix}:auth:v1:epoch")).startswith(epoch)
