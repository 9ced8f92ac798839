"""The pages in Chromium: what only a browser can show – keys, streams, and that nothing is fetched from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.dashboard.conftest import Dashboard
from tests.dashboard.fake_records import Records

pytestmark = pytest.mark.browser

CHROMIUM = "/usr/bin/chromium"
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
PATIENCE = 60_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    opened = browser.new_page(viewport={"width": 1280, "height": 1000})
    opened.set_default_timeout(PATIENCE)
    yield opened
    opened.close()


def wait_for_pair(page: Page, pair_id: str) -> None:
    """Until the pair's last button is on the screen and the script is at rest: a key finds its button from then on."""
    expect(page.locator(f".st-key-verdict-neither-{pair_id} button")).to_be_visible()
    expect(page.get_by_test_id("stApp")).to_have_attribute("data-test-script-state", "notRunning")


def press_until_heard(page: Page, records: Records, keys: str) -> None:
    """Press them without a gap; again where nothing at all came of it, since a busy machine binds keys late."""
    for _ in range(6):
        for key in keys:
            page.keyboard.press(key)
        for _ in range(50):
            if records.received:
                return
            page.wait_for_timeout(100)


def test_pairs_are_judged_with_keys_alone(page: Page, dashboard: Dashboard, records: Records) -> None:
    page.goto(f"{dashboard.url}/review?name=Mira")
    for key, pair in zip("213", records.pairs, strict=True):
        wait_for_pair(page, pair["id"])
        expect(page.get_by_text(pair["question"], exact=True)).to_be_visible()
        page.keyboard.press(key)
    expect(page.get_by_text("Nothing is waiting")).to_be_visible()
    judged = [(body["pair_id"], body["verdict"], body["reviewer"]) for kind, body in records.received]
    assert judged == [("pair-1", "b", "Mira"), ("pair-2", "a", "Mira"), ("pair-3", "tie", "Mira")]


def test_key_pressed_many_times_never_judges_a_pair_nobody_saw(
    page: Page, dashboard: Dashboard, records: Records
) -> None:
    page.goto(f"{dashboard.url}/review?name=Mira")
    wait_for_pair(page, "pair-1")
    press_until_heard(page, records, "1111")
    wait_for_pair(page, "pair-2")
    assert {body["pair_id"] for _, body in records.received} == {"pair-1"}


def test_digits_typed_into_the_name_are_no_verdicts(page: Page, dashboard: Dashboard, records: Records) -> None:
    page.goto(f"{dashboard.url}/review?name=Mira")
    wait_for_pair(page, "pair-1")
    page.get_by_role("textbox", name="Your name").press("End")
    page.keyboard.type("12")
    page.keyboard.press("Enter")
    page.wait_for_url("**/review?name=Mira12")
    assert records.received == []


def test_words_of_others_load_nothing_and_link_nowhere(page: Page, dashboard: Dashboard, records: Records) -> None:
    hostile = "![p](http://tracker.invalid/p.png) <b>x</b> http://tracker.invalid :material/delete:"
    records.promotions[0]["reason"] = hostile
    records.experiment["evidence"]["sentence"] = hostile
    foreign: list[str] = []
    page.on("request", lambda request: foreign.append(request.url) if "127.0.0.1" not in request.url else None)
    for path in ("", "review", "experiment", "promote"):
        page.goto(f"{dashboard.url}/{path}?name=Mira")
        expect(page.get_by_text("Connected to")).to_be_visible()
    expect(page.get_by_text("tracker.invalid").first).to_be_visible()
    page.get_by_role("tab", name="Ledger").click()
    expect(page.get_by_role("cell", name="tracker").first).to_be_visible()
    assert page.locator("a[href*='tracker'], img[src*='tracker']").count() == 0
    assert [url for url in foreign if not url.startswith(("data:", "blob:"))] == []


def test_question_is_answered_and_rated_in_the_browser(page: Page, dashboard: Dashboard, records: Records) -> None:
    page.goto(f"{dashboard.url}/?name=Mira")
    page.get_by_test_id("stChatInputTextArea").fill("What does a late book cost?")
    page.keyboard.press("Enter")
    expect(page.get_by_text("20 cents a day [1].", exact=True)).to_be_visible()
    page.get_by_test_id("stFeedback").nth(1).locator("button").nth(4).click()
    expect(page.get_by_text("Kept, thank you.")).to_be_visible()
    assert records.received[-1][1]["value"] == 5
