"""`python -m tests.browser.screenshots`: pictures of the console for the documentation, in docs/images."""

import asyncio
import random
from pathlib import Path
from typing import Any

from playwright.async_api import Browser, Page

from tests.browser.running import Service, chromium, write_past
from tests.support.servers import Server

IMAGES = Path(__file__).parents[2] / "docs" / "images"
DESK = {"width": 1180, "height": 720}
PHONE = {"width": 390, "height": 780}


class Story:
    """Three replicas of a service, their traffic, and pages that look at the first of them."""

    def __init__(self, services: list[Service], browser: Browser) -> None:
        self._services = services
        self._browser = browser
        self.failing = 0.02
        """The share of the calls that fail."""

    async def run(self) -> None:
        """Make calls until cancelled."""
        random.seed(3)
        while True:
            for service in self._services:
                for _ in range(random.randrange(2, 5)):
                    failed = random.random() < self.failing
                    await asyncio.to_thread(service.call, "fail" if failed else "ok")
            await asyncio.sleep(0.15)

    async def page(self, size: dict[str, int], **options: Any) -> Page:
        """Open the console."""
        page = await self._browser.new_page(viewport=size, **options)  # type: ignore[arg-type] # it is one
        await page.goto(self._services[0].console)
        await page.wait_for_selector(".card")
        return page


async def until(page: Page, state: str) -> None:
    """Wait for a state, and for what the store says of it."""
    await page.wait_for_selector(f'#circuit-auth[data-state="{state}"]', timeout=60_000)
    await page.wait_for_timeout(1500)


async def save(page: Page, name: str) -> None:
    """Write one picture."""
    await page.screenshot(path=IMAGES / f"console-{name}.png")


async def tell(story: Story) -> None:
    """Take the pictures in the order in which things happen."""
    light, dark = await story.page(DESK), await story.page(DESK, color_scheme="dark")
    phone = await story.page(PHONE, device_scale_factor=2, is_mobile=True)
    pages = {"": light, "-dark": dark, "-phone": phone}
    calls = asyncio.create_task(story.run())
    try:
        await asyncio.sleep(25)
        for suffix, page in pages.items():
            await save(page, f"closed{suffix}")
        story.failing = 0.95
        await until(light, "OPEN")
        for suffix, page in pages.items():
            await save(page, f"open{suffix}")
    finally:
        calls.cancel()
        await asyncio.gather(calls, return_exceptions=True)


async def probe(story: Story, service: Service) -> None:
    """Show the probes, and the form of an order."""
    page = await story.page(DESK)
    await page.get_by_text("Tries again with the next call").wait_for(timeout=60_000)
    await asyncio.to_thread(service.call, "hold", 2)
    await asyncio.to_thread(service.call, "ok")
    await until(page, "HALF_OPEN")
    await save(page, "half-open")
    await asyncio.to_thread(service.post, "/release")
    await page.click("#circuit-auth header button")
    await page.check("#order input[value=FORCED_OPEN]")
    await page.fill("#order-author", "ada")
    await page.fill("#order-reason", "auth is being moved")
    await save(page, "order")


async def main() -> None:
    """Start the services, tell the story, and write the pictures."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    with Server() as redis:
        services = [Service(redis.url, "cb", replica=f"profile-{number}", cooldown=12.0) for number in range(3)]
        try:
            services[0].start()
            write_past(redis, "cb", "auth", 6, minutes=47)
            for service in services[1:]:
                service.start()
            async with chromium() as browser:
                story = Story(services, browser)
                await tell(story)
                await probe(story, services[1])
        finally:
            for service in services:
                service.close()


if __name__ == "__main__":
    asyncio.run(main())
