"""What the tests in a browser, and the screenshots, start: services of `tests.browser.site`, and Chromium."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from playwright.async_api import Browser, async_playwright

from commontrip._transition import FIELDS
from tests.support.servers import Server, Started, free_port
from tests.support.waiting import wait_until

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_OPTIONS = [
    *("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"),
    *("--disable-component-update", "--disable-sync"),
]
TOKEN = "correct horse"  # noqa: S105 - opens nothing


def find() -> str:
    """Return the machine's Chromium: COMMONTRIP_CHROMIUM, or the first on the PATH."""
    found = os.environ.get("COMMONTRIP_CHROMIUM") or next(filter(None, map(shutil.which, _NAMES)), None)
    if not found:
        raise RuntimeError("Chromium is missing: install the package chromium, or say COMMONTRIP_CHROMIUM=/path/to/it")
    return found


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """Start a headless Chromium."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=find(), args=_OPTIONS)
        yield browser
        await browser.close()


class Service(Started):
    """One replica of the site, as a process of its own."""

    def __init__(self, url: str, prefix: str, **settings: Any) -> None:
        """Prepare it; further settings are those of `Site`."""
        given = {"replica": "r1", "names": ["auth"], "token": TOKEN}
        self.port = free_port()
        self.settings = {"url": url, "prefix": prefix, "port": self.port} | given | settings
        self._process: subprocess.Popen[bytes] | None = None
        self._client = httpx.Client(timeout=10, trust_env=False)

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def console(self) -> str:
        """The page's address."""
        return f"{self.url}{self.settings.get('mount', '')}/console/"

    @property
    def pid(self) -> int:
        """Its process."""
        assert self._process
        return self._process.pid

    def start(self) -> "Service":
        """Start it, also again, and return when it answers."""
        command = [sys.executable, "-m", "tests.browser.site", json.dumps(self.settings)]
        self._process = subprocess.Popen(command, cwd=Path(__file__).parents[2])
        wait_until(self._answers, f"the service on port {self.port}", within=20)
        return self

    def kill(self) -> None:
        """End it at once."""
        if self._process:
            self._process.kill()
            self._process.wait(10)

    def close(self) -> None:
        """End it in order, or else at once."""
        self._client.close()
        if self._process and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self.kill()

    def get(self, path: str) -> Any:
        """Return the JSON of one of its pages."""
        return self._client.get(self.url + path).raise_for_status().json()

    def post(self, path: str, body: Any = None, token: str = "") -> Any:
        """Post something and return the answer's JSON."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return self._client.post(self.url + path, json=body, headers=headers).raise_for_status().json()

    def call(self, outcome: str, times: int = 1, name: str = "auth") -> Any:
        """Have it make calls under a breaker."""
        return self.post(f"/call/{name}?outcome={outcome}&times={times}")

    def order(self, override: str | None, name: str = "auth", **order: Any) -> Any:
        """Give it an order."""
        given = {"override": override, "author": "ann", "reason": "drill"} | order
        mount = self.settings.get("mount", "")
        return self.post(f"{mount}/breakers/{name}/override", given, TOKEN)

    def _answers(self) -> bool:
        assert self._process
        if self._process.poll() is not None:
            raise RuntimeError(f"the service ended at its start with status {self._process.returncode}")
        try:
            return self._client.get(f"{self.url}/ping").is_success
        except httpx.TransportError:
            return False


def write_past(server: Server, prefix: str, name: str, count: int, minutes: float = 59.0) -> None:
    """Write a past of `count` transitions into the store, evenly over so many minutes; open for 40 s at most."""
    epoch, stream = f"{prefix}:{name}:v1:epoch", f"{prefix}:{name}:transitions"
    found = dict(zip(FIELDS, str(server.cli("GET", epoch)).split(" "), strict=True))
    incarnation, _, token = found["epoch"].split(".")
    apart = round(minutes * 60_000 / count)
    server.cli("DEL", stream)
    for number in range(count + 1):
        opens = number % 2 == 1
        before = (count - number) * apart if opens or not number else (count - number + 1) * apart - min(apart, 40_000)
        made = {
            "epoch": f"{incarnation}.{number}.{token}",
            "state": "OPEN" if opens else "CLOSED",
            "since": str(int(found["since"]) - before),
            "previous_state": "HALF_OPEN" if number and not opens else "CLOSED",
            "reason": "tripped" if opens else "probes_succeeded",
            "failures": "19",
            "calls": "20",
            "error": "AuthTimeoutError",
        }
        entry = found | made | {"note": ""}
        server.cli("XADD", stream, "*", *(word for pair in entry.items() for word in pair))
    server.cli("SET", epoch, " ".join(entry[field] for field in FIELDS))
