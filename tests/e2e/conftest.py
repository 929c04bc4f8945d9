"""The chart on a real cluster: `make e2e`. Most tests share a release, and leave it closed, healed and at its size."""

import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Generator, Iterator

import pytest

from tests.e2e import neighbours as beside
from tests.e2e.kubernetes import Done, Namespace
from tests.e2e.release import ROOT, Release

_REPORT = ROOT / "e2e-report.md"
_seen = pytest.StashKey[list[tuple[float, str, str]]]()
_namespaces = pytest.StashKey[list[Namespace]]()
_began = time.monotonic()
_Wrapper = Generator[None, pytest.TestReport, pytest.TestReport]


def pytest_configure(config: pytest.Config) -> None:
    """End a terminated run as Ctrl-C does, so that it leaves nothing in the cluster."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    config.stash[_seen] = []
    config.stash[_namespaces] = []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Write the list of what was seen, here and to e2e-report.md."""
    lines = [f"| {at:.1f} | {where} | {_cell(what)} |" for at, where, what in config.stash[_seen]]
    if not lines:
        return
    terminalreporter.section("seen on the cluster")
    for at, where, what in config.stash[_seen]:
        terminalreporter.line(f"{at:6.1f} s  {where}: {what}")
    _REPORT.write_text("\n".join(["| s | test | what it saw |", "|---|---|---|", *lines, ""]))


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> _Wrapper:
    """Add to a failure how things stood in the cluster then."""
    report = yield
    if call.excinfo and isinstance(item, pytest.Function):
        for each in item.config.stash[_namespaces]:
            report.sections.append((f"namespace {each.name}", each.describe()))
    return report


@pytest.fixture(scope="session")
def context() -> str:
    """The cluster: the current context, if it is kind's, or the one that CONTEXT names."""
    missing = [program for program in ("kubectl", "helm") if not shutil.which(program)]
    if missing:
        pytest.exit(f"not on the PATH: {', '.join(missing)}", returncode=1)
    wanted = os.environ.get("CONTEXT", "")
    asked = ("kubectl", "config", "current-context")
    found = wanted or subprocess.run(asked, capture_output=True, text=True, timeout=30, check=False).stdout.strip()
    if not wanted and not found.startswith("kind-"):
        now = f"the current context is {found}, which is not kind's" if found else "kubectl has no current context"
        pytest.exit(f"{now}: name the one to use, make e2e CONTEXT=…", returncode=1)
    words = ("kubectl", "--context", found, "version", "--request-timeout=10s")
    asked_version = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)
    if asked_version.returncode:
        pytest.exit(f"the cluster of the context {found} does not answer: {asked_version.stderr}", returncode=1)
    return found


@pytest.fixture
def seen(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Put a line on the list of what was seen."""

    def add(what: str) -> None:
        request.config.stash[_seen].append((time.monotonic() - _began, request.node.name, what))

    return add


@pytest.fixture(scope="session")
def make_namespace(context: str, pytestconfig: pytest.Config) -> Iterator[Callable[[], Namespace]]:
    """Make namespaces, and remove them in the end."""
    made = pytestconfig.stash[_namespaces]

    def make() -> Namespace:
        made.append(Namespace(context, f"e2e-{secrets.token_hex(3)}"))
        made[-1].create()
        return made[-1]

    yield make
    for namespace in made:
        namespace.delete()


@pytest.fixture(scope="session")
def namespace(make_namespace: Callable[[], Namespace]) -> Namespace:
    """Where most releases go."""
    return make_namespace()


@pytest.fixture(scope="session")
def make_release() -> Iterator[Callable[[Release], Done]]:
    """Install releases, and remove them in the end."""
    made: list[Release] = []

    def make(release: Release) -> Done:
        made.append(release)
        return release.install()

    yield make
    for release in made:
        release.close_caller()
        release.uninstall()


@pytest.fixture(scope="session")
def installed(namespace: Namespace, make_release: Callable[[Release], Done]) -> tuple[Release, Done]:
    """The release of most tests, and how its install went."""
    release = Release(namespace, "demo")
    return release, make_release(release)


@pytest.fixture
def release(installed: tuple[Release, Done]) -> Release:
    """The release of most tests."""
    return installed[0]


@pytest.fixture(scope="session")
def neighbours(
    installed: tuple[Release, Done],
    make_namespace: Callable[[], Namespace],
    make_release: Callable[[Release], Done],
) -> tuple[Release, Release]:
    """Two further releases, one beside the first and one elsewhere, which share a Redis under two prefixes."""
    return beside.install(installed[0].namespace, make_namespace(), make_release)
