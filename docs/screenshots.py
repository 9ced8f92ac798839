"""Pictures of the pages for the README, taken from an appliance that is running.

    python docs/screenshots.py [--dashboard http://127.0.0.1:8501] [--question "…"] [--name Mira]

Asks one question on the Chat page (so it leaves one interaction behind) and only looks at the others. Writes
docs/images/{chat,review,experiment,promote}.png, each under 200 kB. Needs Chromium and the development packages.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from urllib.parse import urlencode

from PIL import Image
from playwright.sync_api import Error, Page, expect, sync_playwright

IMAGES = Path(__file__).parent / "images"
CHROMIUM = "/usr/bin/chromium"
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
WIDTH, HEIGHT = 1280, 900
TALLEST = 1500
LARGEST_BYTES = 200_000
PATIENCE = 180_000


def settled(page: Page) -> None:
    """Until the script has run, and everything it sent is drawn."""
    expect(page.get_by_test_id("stApp")).to_have_attribute("data-test-script-state", "notRunning")
    expect(page.get_by_text("Connected to")).to_be_visible()
    expect(page.get_by_test_id("stSkeleton")).to_have_count(0)
    page.wait_for_timeout(1500)  # charts and the chat's scrolling have no sign of their own


def ask(page: Page, question: str) -> None:
    page.get_by_test_id("stChatInputTextArea").fill(question)
    page.keyboard.press("Enter")
    page.get_by_text("Where this comes from").click()


def picture(page: Page, name: str) -> None:
    """The whole page, as high as what it shows, in few colours."""
    settled(page)
    page.set_viewport_size({"width": WIDTH, "height": HEIGHT})
    content = int(page.evaluate("document.querySelector('[data-testid=stMainBlockContainer]').scrollHeight"))
    page.set_viewport_size({"width": WIDTH, "height": max(HEIGHT, min(content, TALLEST))})
    settled(page)
    image = Image.open(io.BytesIO(page.screenshot())).quantize(128)
    target = IMAGES / f"{name}.png"
    image.save(target, optimize=True)
    size = target.stat().st_size
    print(f"{target}: {image.width} × {image.height}, {size / 1000:.0f} kB")
    if size > LARGEST_BYTES:
        raise SystemExit(f"{target} is larger than {LARGEST_BYTES} bytes: shorten what the page shows.")


def take_all(page: Page, *, dashboard: str, name: str, question: str) -> None:
    for view in ("chat", "review", "experiment", "promote"):
        path = "" if view == "chat" else view
        page.goto(f"{dashboard}/{path}?{urlencode({'name': name})}")
        settled(page)
        if view == "chat":
            ask(page, question)
        picture(page, view)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dashboard", default="http://127.0.0.1:8501")
    parser.add_argument("--name", default="Mira")
    parser.add_argument("--question", default="How much is a day ticket?")
    given = parser.parse_args()
    IMAGES.mkdir(exist_ok=True)
    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        page.set_default_timeout(PATIENCE)
        try:
            take_all(page, dashboard=given.dashboard, name=given.name, question=given.question)
        except Error as error:
            raise SystemExit(f"No pictures from {given.dashboard}: {str(error).splitlines()[0]}") from error


if __name__ == "__main__":
    main()
