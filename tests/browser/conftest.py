"""Services with a console, and a real Chromium to look at it."""

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, Page, Request

from tests.browser.running import Service, chromium
from tests.support.servers import Server

Services = Callable[..., Service]
Pages = Callable[..., Awaitable[Page]]

_WATCH = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) => window.violations.push(event.violatedDirective));
window.states = [];
new MutationObserver((changes) => {
  for (const { target } of changes) {
    const { id, dataset: { state } } = target;
    if (id.startsWith("circuit-")) requestAnimationFrame(() => window.states.push([id, state, Date.now() / 1000]));
  }
}).observe(document, { subtree: true, attributes: true, attributeFilter: ["data-state"] });
"""


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    """One Chromium for all tests; each page has a context of its own."""
    async with chromium() as started:
        yield started


@pytest.fixture(scope="session")
def store() -> Iterator[Server]:
    """A Redis for all tests; not `server`, as a page need not be looked at again on every kind of server."""
    with Server() as started:
        yield started


@pytest.fixture
def services(store: Server) -> Iterator[Services]:
    """Start replicas of the site, all of one fleet unless they say otherwise."""
    started: list[Service] = []
    prefix = f"test-{secrets.token_hex(4)}"

    def start(**settings: Any) -> Service:
        given = {"url": store.url, "prefix": prefix, "replica": f"r{len(started) + 1}"} | settings
        started.append(Service(**given))
        return started[-1].start()

    yield start
    for service in started:
        service.close()


@pytest_asyncio.fixture(loop_scope="session")
async def pages(browser: Browser) -> AsyncIterator[Pages]:
    """Open pages. At the end none has raised, broken its policy, or asked anybody but its own origin."""
    opened: list[Page] = []
    contexts: list[BrowserContext] = []
    wrong: list[str] = []

    async def start(url: str, before: str = "", **options: Any) -> Page:
        context = await browser.new_context(**options)
        contexts.append(context)
        page = await context.new_page()
        opened.append(page)
        await page.add_init_script(_WATCH + before)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        origin = "/".join(url.split("/")[:3])

        def check(request: Request) -> None:
            if not request.url.startswith(f"{origin}/"):
                wrong.append(request.url)

        page.on("request", check)
        await page.goto(url)
        await page.wait_for_selector(".card, #empty:not([hidden])")
        return page

    yield start
    violations = [await page.evaluate("window.violations") for page in opened if not page.is_closed()]
    for context in contexts:
        await context.close()
    assert not wrong
    assert not any(violations), "the Content-Security-Policy was broken"
