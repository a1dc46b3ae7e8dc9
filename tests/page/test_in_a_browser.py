"""The page in a real Chromium on the whole system. The tests follow a user's session, in order."""

from __future__ import annotations

import itertools
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.page.conftest import ADMIN, READER
from tests.processes import HttpProcess, RedisProcess, service
from tests.store import publish
from tests.tiny import Kind

WORDS = ["forty", "two", "first", "second", "train", "faster", "cheaper", "better", "words", "more"]
SLOW_MS = 60_000
expect.set_options(timeout=20_000)


class Opened:
    """A page, the URLs it requested, and its console messages."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.requested: list[str] = []
        self.messages: list[str] = []
        page.on("request", lambda request: self.requested.append(request.url))
        page.on("console", lambda message: self.messages.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: self.messages.append(f"error: {error}"))
        page.goto(url)

    def give_key(self, key: str) -> None:
        dialog = self.page.locator("#key-dialog")
        expect(dialog).to_be_visible()
        dialog.locator("input").fill(key)
        dialog.get_by_role("button", name="Use it").click()

    def confirm(self, button: str) -> None:
        dialog = self.page.locator("#ask-dialog")
        expect(dialog).to_be_visible()
        dialog.get_by_role("button", name=button).click()

    def console_errors(self) -> list[str]:
        """The errors and warnings, except for the 40x refusals that tests cause on purpose."""
        wrong = [message for message in self.messages if message.startswith(("error", "warning"))]
        return [message for message in wrong if "the server responded with a status of 40" not in message]


@pytest.fixture
def opened(browser: Browser, server: HttpProcess) -> Iterator[Opened]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    try:
        yield Opened(context.new_page(), server.url)
    finally:
        context.close()


class Traffic:
    """An RL worker that scores groups with increasing policy steps until the block ends."""

    def __init__(self, server: HttpProcess) -> None:
        self._server = server
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.error: Exception | None = None

    def __enter__(self) -> Traffic:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._end.set()
        self._thread.join()
        if self.error:
            raise self.error

    def _run(self) -> None:
        try:
            for step in itertools.count():
                groups = [
                    {
                        "prompt": f"Question {step}?",
                        "responses": [f"{word} {WORDS[step % 7]}" for word in WORDS],
                    }
                ]
                policy = {"name": "actor", "step": step // 50}  # few: the server keeps 32
                body = {"groups": groups, "policy": policy}
                self._server.http.post("/score", json=body).raise_for_status()
                if self._end.wait(0.05):
                    return
        except Exception as error:  # noqa: BLE001 (raised when the block ends)
            self.error = error


def path_of(page: Page, chart: str) -> str:
    """The SVG path of a chart's line."""
    drawn = page.locator(f"#{chart} .scatterlayer path.js-line").first.get_attribute("d")
    assert drawn
    return drawn


def test_a_wrong_key_is_refused_with_a_message_and_a_valid_key_is_kept_only_in_memory(opened: Opened) -> None:
    page = opened.page
    opened.give_key("not-the-key")
    expect(page.locator("#key-refused")).to_contain_text("The server refuses this key")
    expect(page.locator("#serving")).to_have_text("–")
    opened.give_key(READER)
    expect(page.locator("#serving")).to_have_text("v000001")
    expect(page.locator("#link")).to_have_text("live")
    kept = page.evaluate("[localStorage.length, sessionStorage.length, document.cookie, location.href]")
    assert kept[:3] == [0, 0, ""]
    assert READER not in kept[3]
    page.reload()
    expect(page.locator("#key-dialog")).to_be_visible()
    assert opened.console_errors() == []


def test_the_charts_update_while_an_rl_worker_scores(opened: Opened, server: HttpProcess) -> None:
    page = opened.page
    opened.give_key(READER)
    expect(page.locator("#chart-spread .empty")).to_contain_text("No group of two or more responses")
    with Traffic(server):
        expect(page.locator("#chart-throughput .js-line")).to_be_visible(timeout=SLOW_MS)
        expect(page.locator("#p50")).to_contain_text("ms")
        page.locator("#chart-latency").scroll_into_view_if_needed()
        before = path_of(page, "chart-latency")
        page.wait_for_function(
            "before => document.querySelector('#chart-latency .js-line').getAttribute('d') !== before",
            arg=before,
        )
        page.locator("#chart-spread").scroll_into_view_if_needed()
        points = page.locator("#chart-spread .scatterlayer .points path")
        expect(points.nth(1)).to_be_visible(timeout=SLOW_MS)
        drawn = points.count()
        expect(points.nth(drawn)).to_be_visible(timeout=SLOW_MS)  # one more policy step
        page.locator("#chart-differences").scroll_into_view_if_needed()
        expect(page.locator("#chart-differences .barlayer .point").first).to_be_attached()
        expect(page.locator("#chart-lengths .scatterlayer .points path").nth(20)).to_be_attached()
        expect(page.locator("#figures tbody th")).to_contain_text("v000001")
    origins = {url.split("/", 3)[2] for url in opened.requested if url.startswith("http")}
    assert origins == {server.url.removeprefix("http://")}
    assert opened.console_errors() == []


def test_a_retrain_is_started_followed_and_rolled_back_from_the_page(
    opened: Opened, server: HttpProcess
) -> None:
    page = opened.page
    opened.give_key(READER)
    with Traffic(server):
        expect(page.locator("#responses")).not_to_have_text("–")
        page.get_by_role("button", name="Retrain").click()
        page.locator("#retrain-steps").fill("12")
        opened.confirm("Start")
        opened.give_key("neither")
        expect(page.locator("#key-refused")).to_contain_text("refuses")
        opened.give_key(READER)  # a key, but not an admin's
        expect(page.locator("#key-refused")).to_contain_text("an admin key is needed")
        opened.give_key(ADMIN)
        job = page.locator("#job")
        expect(job).to_be_visible()
        expect(job).to_have_attribute("data-status", "published", timeout=4 * SLOW_MS)
    expect(page.locator("#serving")).to_have_text("v000002", timeout=SLOW_MS)
    expect(page.locator("#job-line")).to_contain_text("update 12 of 12")
    page.locator("#chart-loss").scroll_into_view_if_needed()
    assert path_of(page, "chart-loss").count("L") + path_of(page, "chart-loss").count(",") >= 11
    assert len(server.http.get("/versions/v000002/curve").json()["loss"]) == 12

    page.get_by_role("button", name="Roll back to v000001").click()
    opened.confirm("Roll back")  # with the admin key that is still in memory
    expect(page.locator("#serving")).to_have_text("v000001", timeout=SLOW_MS)
    assert server.http.get("/versions").json()["current"] == "v000001"
    page.get_by_role("button", name="Activate v000002").click()
    opened.confirm("Activate")
    expect(page.locator("#serving")).to_have_text("v000002", timeout=SLOW_MS)

    page.get_by_role("button", name="Pin v000001").click()
    opened.confirm("Pin it")
    expect(page.locator("#labels")).to_contain_text("stable → v000001")
    assert server.http.get("/labels").json()[0]["version"] == "v000001"
    page.get_by_role("button", name="Remove the label stable").click()
    opened.confirm("Remove it")
    expect(page.locator("#labels")).to_be_empty()
    assert opened.console_errors() == []


def test_two_versions_are_compared_on_the_same_responses_without_logging_samples(
    opened: Opened, server: HttpProcess
) -> None:
    page = opened.page
    opened.give_key(READER)
    logged = "rm_samples_logged_total"
    before = [line for line in server.http.get("/metrics").text.splitlines() if line.startswith(logged)]
    page.locator("#try-other option[value=v000001]").wait_for(state="attached")
    page.locator("#try-version").select_option("v000002")
    page.locator("#try-other").select_option("v000001")
    page.get_by_role("button", name="Add a response").click()
    page.get_by_label("Response 3").fill("The first train is faster.")
    page.get_by_role("button", name="Score", exact=True).click()
    table = page.locator("#try-result table")
    expect(table.locator("thead")).to_contain_text("v000002")
    expect(table.locator("tbody tr")).to_have_count(3)
    texts = ["17 + 25 is 42.", "It is 41, I am absolutely certain!", "The first train is faster."]
    body = {"groups": [{"prompt": "What is 17 + 25?", "responses": texts}], "log": False}
    for column, version in enumerate(["v000002", "v000001"]):
        answer = server.http.post("/score", json={**body, "version": version}).json()
        shown = [table.locator(f"tbody tr:nth-child({row + 1}) .number").nth(column) for row in range(3)]
        for cell, score in zip(shown, answer["groups"][0]["scores"], strict=True):
            assert float(cell.inner_text()) == pytest.approx(score, abs=6e-4)
    after = [line for line in server.http.get("/metrics").text.splitlines() if line.startswith(logged)]
    assert after == before
    assert opened.console_errors() == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_fits_the_viewport_and_its_controls_are_reachable_by_keyboard(
    browser: Browser, server: HttpProcess, width: int, scheme: str
) -> None:
    context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)  # type: ignore[arg-type]
    try:
        opened = Opened(context.new_page(), server.url)
        page = opened.page
        opened.give_key(READER)
        expect(page.locator("#version-list .version").first).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") == width
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        page.keyboard.press("Tab")
        expect(page.get_by_text("Skip to the figures")).to_be_focused()
        reached = set()
        for _ in range(40):
            page.keyboard.press("Tab")
            reached.add(page.evaluate("document.activeElement.id || document.activeElement.textContent"))
        assert {"keys", "theme", "retrain", "try-prompt", "try-score", "Drift", "Try it"} <= reached
        page.locator("#theme").click()
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") != ground
        assert opened.console_errors() == []
    finally:
        context.close()


def test_the_page_reports_a_lost_server_and_reconnects_when_it_returns(
    browser: Browser, tmp_path: Path, redis_process: RedisProcess, checkpoint: Callable[[Kind], Path]
) -> None:
    publish(tmp_path, checkpoint("bert"))
    context = browser.new_context()
    with service(tmp_path, redis_process.url) as process:
        process.wait_ready()
        page = context.new_page()
        page.goto(process.url)
        expect(page.locator("#serving")).to_have_text("v000001")
        expect(page.locator("#degraded")).to_contain_text("no trainer is running")
        process.kill(signal.SIGKILL)
        process.wait()
        expect(page.locator("#unreachable")).to_contain_text("the server does not answer")
        expect(page.locator("#link")).to_have_text("no answer")
        process.start()
        process.wait_ready()
        expect(page.locator("#unreachable")).to_be_hidden(timeout=SLOW_MS)
        expect(page.locator("#link")).to_have_text("live")
        page.goto("about:blank")  # no connection is left for the server to wait for
    context.close()
