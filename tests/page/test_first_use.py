"""What a new user meets on the page, in a real Chromium: dialogs, keys, refusals, focus, figures."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from metarm.store.versions import VersionStore
from tests.page.conftest import ADMIN, READER
from tests.processes import HttpThread, RedisProcess, service_here
from tests.store import publish
from tests.tiny import Kind

PARENTS = {"v000002": "v000001", "v000003": "v000001", "v000004": "v000002"}
JOB: dict[str, Any] = {
    "job": "job-0123456789ab",
    "status": "running",
    "created": 1.0,
    "finished": None,
    "attempts": 1,
    "options": {},
    "progress": {"step": 12, "steps": 40, "loss": 0.0456, "ascent": "sgd", "updates_left_s": 41.2},
    "candidate": None,
    "verdict": None,
    "error": None,
    "trigger": None,
    "curve": {"steps": [1, 12], "loss": [0.06, 0.0456], "difference": [0.1, 0.2]},
}


@pytest.fixture(scope="module")
def redis_server(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisProcess]:
    with RedisProcess(tmp_path_factory.mktemp("redis")) as server:
        server.wait_started()
        yield server


@pytest.fixture(scope="module")
def server(
    redis_server: RedisProcess, checkpoint: Callable[[Kind], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[HttpThread]:
    """Four versions: v000004 was rolled back to v000003."""
    folder = tmp_path_factory.mktemp("first-use")
    verdict = {"accepted": True, "forced": False, "reasons": [], "thresholds": {}}
    for parent in (None, *PARENTS.values()):
        figures = {"held_out_accuracy": 0.875, "parent_accuracy": 0.75}
        judged = {**verdict, "figures": figures} if parent else None
        publish(folder, checkpoint("bert"), parent=parent, method="metarm", verdict=judged)
    VersionStore(folder / "versions").activate("v000003")
    keys = {"METARM_SCORE_KEYS": json.dumps([READER]), "METARM_ADMIN_KEYS": json.dumps([ADMIN])}
    with service_here(folder, redis_server.url, **keys) as running:
        running.wait_ready()
        running.http.headers["Authorization"] = f"Bearer {ADMIN}"
        yield running


@pytest.fixture
def page(browser: Browser, server: HttpThread) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    opened = context.new_page()
    opened.goto(server.url)
    expect(opened.locator("#key-dialog")).to_be_visible()
    yield opened
    opened.unroute_all(behavior="ignoreErrors")  # an answer may be under way
    context.close()


def enter_key(page: Page, key: str) -> None:
    expect(page.locator("#key-input")).to_be_focused()
    page.keyboard.type(key)
    page.keyboard.press("Enter")


def ready(page: Page, key: str = ADMIN) -> None:
    enter_key(page, key)
    expect(page.locator("#version-list .version").first).to_be_visible()


def press(page: Page, name: str) -> None:
    """Press a button by keyboard."""
    page.get_by_role("button", name=name, exact=True).focus()
    page.keyboard.press("Enter")


def answer_with(page: Page, pattern: str, change: Callable[[Any], None]) -> None:
    """Change the server's answers with status 200 to a path."""

    def answer(route: Route) -> None:
        real = route.fetch()
        if not real.ok:
            route.fulfill(response=real)
            return
        body = real.json()
        change(body)
        route.fulfill(response=real, json=body)

    page.route(pattern, answer)


def refuse(status: int, route: Route) -> None:
    route.fulfill(status=status, body="no JSON")


def show_job(page: Page, job: dict[str, Any]) -> None:
    page.route("**/retrain?*", lambda route: route.fulfill(json=[job]))
    page.route("**/retrain/*", lambda route: route.fulfill(json=job))


def test_enter_confirms_what_a_dialog_proposes_and_escape_cancels_it(page: Page, server: HttpThread) -> None:
    ready(page)
    asked = page.locator("#ask-dialog")
    press(page, "Pin v000003")
    expect(page.locator("#pin-label")).to_be_focused()
    page.keyboard.press("Escape")
    expect(asked).to_be_hidden()
    expect(page.get_by_role("button", name="Pin v000003")).to_be_focused()
    assert server.http.get("/labels").json() == []
    page.keyboard.press("Enter")
    page.locator("#pin-label").fill("Not a label")
    page.keyboard.press("Enter")
    expect(asked).to_be_visible()  # it says what is wrong with the field
    page.locator("#pin-label").fill("kept")
    page.keyboard.press("Enter")
    expect(page.locator("#labels")).to_contain_text("kept → v000003")

    press(page, "Remove the label kept")
    expect(asked.get_by_role("button", name="Cancel")).to_be_focused()  # what is lost needs a choice
    page.keyboard.press("Enter")
    expect(asked).to_be_hidden()
    expect(page.locator("#labels")).to_contain_text("kept")
    press(page, "Remove the label kept")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#labels")).to_be_empty()
    expect(page.locator("#v000003")).to_be_focused()  # the button has gone with its label


def test_a_held_enter_key_opens_a_dialog_and_does_not_confirm_it(page: Page) -> None:
    ready(page)
    page.get_by_role("button", name="Roll back to v000001").focus()
    page.keyboard.down("Enter")
    for _ in range(3):
        page.keyboard.down("Enter")  # repeats
    page.keyboard.up("Enter")
    expect(page.locator("#ask-go")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator("#ask-dialog")).to_be_hidden()


def test_after_a_roll_back_the_focus_is_on_the_version_that_serves(page: Page, server: HttpThread) -> None:
    ready(page)
    press(page, "Roll back to v000001")
    expect(page.locator("#ask-go")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#toast")).to_have_text("v000001 is serving.")
    expect(page.locator("#v000001 .chip.good")).to_have_text("serving")
    expect(page.locator("#v000001")).to_be_focused()
    expect(page.locator("#v000003")).to_contain_text("rolled back")
    assert server.http.get("/versions").json()["versions"][2]["rolled_back"] is True
    press(page, "Activate v000003")
    page.keyboard.press("Enter")
    expect(page.locator("#v000003 .chip.good")).to_have_text("serving")
    expect(page.locator("#v000003")).to_be_focused()
    expect(page.locator("#v000003")).not_to_contain_text("rolled back")
    expect(page.locator("#v000004")).to_contain_text("rolled back")
    expect(page.locator("#v000004")).not_to_contain_text("accepted")


def test_a_redraw_of_the_versions_keeps_the_focus(page: Page, server: HttpThread) -> None:
    ready(page)
    pin = page.get_by_role("button", name="Pin v000002")
    pin.focus()
    server.http.put("/labels/other", json={"version": "v000001"}).raise_for_status()
    expect(page.locator("#version-list .label")).to_be_visible()
    expect(pin).to_be_focused()
    server.http.delete("/labels/other").raise_for_status()
    expect(page.locator("#version-list .label")).to_have_count(0)
    expect(pin).to_be_focused()


def test_a_removed_response_and_a_finished_run_pass_the_focus_on(page: Page) -> None:
    show_job(page, JOB)
    ready(page)
    page.get_by_role("button", name="Remove this response").first.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_label("Response 1")).to_be_focused()
    page.locator("#try-score").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#try-result table")).to_be_visible()
    expect(page.locator("#try-score")).to_be_focused()
    page.locator("#job-cancel").focus()
    page.unroute("**/retrain/*")
    show_job(page, {**JOB, "status": "cancelled"})
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")  # every section reads again
    expect(page.locator("#job-cancel")).to_be_hidden()
    expect(page.locator("#job")).to_be_focused()


def test_the_reason_of_a_refusal_stays_until_it_is_dismissed_or_the_next_attempt(page: Page) -> None:
    ready(page)
    why = page.locator("#action-error")
    for _ in range(2):
        press(page, "Retrain")
        page.locator("#retrain-steps").fill("3")
        with page.expect_response("**/labels"):  # the versions are read again after the attempt
            page.keyboard.press("Enter")
            expect(why).to_contain_text("Retrain: no trainer is running")
        with page.expect_response("**/overview*"):
            pass
        expect(why).to_be_visible()
    press(page, "Dismiss")
    expect(why).to_be_hidden()
    expect(page.locator("#versions")).to_be_focused()


@pytest.mark.parametrize("wrong", ["not-the-key", "ключ", "two words"])
def test_a_wrong_key_is_called_wrong_in_the_terms_of_the_page(page: Page, wrong: str) -> None:
    enter_key(page, wrong)
    expect(page.locator("#key-refused")).to_have_text("The server refuses this key: this key is wrong.")
    page.keyboard.press("Escape")
    expect(page.locator("#link")).to_have_text("key needed")
    expect(page.locator("#unreachable")).to_contain_text("requires an API key")
    expect(page.locator("#drift-error, #versions-error").first).to_be_hidden()
    expect(page.locator("body")).not_to_contain_text("Authorization")
    page.locator("#try-score").click()
    expect(page.locator("#try-error")).to_have_text("No scores: a key is needed")


def test_a_key_that_is_no_longer_valid_is_called_wrong_and_a_forbidden_one_not_allowed(page: Page) -> None:
    ready(page, READER)
    for status, word, why in [(401, "wrong key", "is wrong"), (403, "not allowed", "may not do that")]:
        page.route("**/overview*", partial(refuse, status))
        expect(page.locator("#key-refused")).to_contain_text(why)
        page.keyboard.press("Escape")
        expect(page.locator("#link")).to_have_text(word)
        expect(page.locator("#unreachable")).to_contain_text(why)
        page.unroute("**/overview*")
        page.locator("#keys").click()
        ready(page, READER)
        expect(page.locator("#link")).to_have_text("live")


def test_the_page_shows_the_rights_of_the_key_in_use_and_forgets_it(page: Page) -> None:
    ready(page, READER)
    expect(page.locator("#keys")).to_have_text("Key: score")
    press(page, "Retrain")
    page.keyboard.press("Enter")  # not on the list of ascents, which it would open
    enter_key(page, READER)
    expect(page.locator("#key-refused")).to_contain_text("an admin key is needed")
    enter_key(page, ADMIN)
    expect(page.locator("#keys")).to_have_text("Key: admin")
    press(page, "Key: admin")
    rights = page.locator("#key-rights")
    expect(rights).to_have_text("A key is in use: it may read, score and change what is served.")
    press(page, "Forget")
    expect(rights).to_have_text("The key is forgotten.")
    expect(page.locator("#key-forget")).to_be_hidden()
    expect(page.locator("#key-input")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator("#link")).to_have_text("key needed")
    expect(page.locator("#key-dialog")).to_be_hidden()
    expect(page.locator("#keys")).to_have_text("API key")


def test_without_keys_the_page_says_that_none_is_needed_and_why_nothing_is_loaded(
    browser: Browser, tmp_path: Path, redis_server: RedisProcess
) -> None:
    context = browser.new_context()
    with service_here(tmp_path, redis_server.url) as process:
        page = context.new_page()
        page.goto(process.url)
        reason = "there is no version yet, and no trainer runs that makes one"
        for place in ("#chart-spread", "#chart-differences", "#chart-lengths", "#figures", "#version-list"):
            page.locator(place).scroll_into_view_if_needed()
            expect(page.locator(place)).to_contain_text(reason)
        page.locator("#keys").click()
        expect(page.locator("#key-rights")).to_contain_text("this server asks for none")
        page.keyboard.press("Escape")
        page.goto("about:blank")
    context.close()


def test_nothing_is_said_to_be_unscored_before_the_figures_are_read(page: Page) -> None:
    for chart in ("#chart-spread", "#chart-differences", "#chart-lengths"):
        expect(page.locator(chart)).to_have_text("Waiting for the first figures.")


def test_a_run_shows_the_time_left_its_objective_and_a_remedy_under_each_reason(page: Page) -> None:
    show_job(page, JOB)
    ready(page)
    line = page.locator("#job-line")
    expect(line).to_contain_text("update 12 of 40 · loss 0.0456 · about 40 s left, then the gate")
    axis = page.locator("#chart-objective .ytitle")
    page.locator("#chart-objective").scroll_into_view_if_needed()
    expect(axis).to_have_text("reward differences")
    page.unroute("**/retrain/*")
    verdict = {"accepted": False, "reasons": ["worse", "odd"], "remedies": ["train less", "log more"]}
    progress = {"step": 40, "steps": 40, "ascent": "conservative"}
    show_job(page, {**JOB, "status": "rejected", "finished": 2.0, "verdict": verdict, "progress": progress})
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    expect(page.locator("#job-reasons li")).to_have_text(["worsetrain less", "oddlog more"])
    expect(line).not_to_contain_text("left")
    expect(axis).to_have_text("lead over samples")


def test_each_version_is_joined_to_its_parent(page: Page) -> None:
    ready(page)
    drawn = page.evaluate(
        """async () => (await import("/page/lineage.js")).rows([
            {name: "v5", parent: "v1"}, {name: "v4", parent: "v2"}, {name: "v3", parent: "v1"},
            {name: "v2", parent: "v1"}, {name: "v1", parent: null}, {name: "v0", parent: "older"}])"""
    )
    assert [(row["lane"], row["child"], row["pass"], row["down"]) for row in drawn] == [
        (0, False, [], 0),
        (1, False, [0], 1),
        (2, False, [0, 1], 0),  # joins the line to v1
        (1, True, [0], 0),
        (0, True, [], None),
        (0, False, [], 0),
    ]
    shown = page.evaluate(
        """[...document.querySelectorAll(".version")].map((item) =>
            [item.id, item.querySelector("path") !== null, item.querySelector("circle").getAttribute("cx")])"""
    )
    # v000004 comes from v000002, and v000003 from v000001: two lines, joined at v000002
    columns = {name: column for name, _, column in shown}
    assert columns["v000004"] == columns["v000002"] != columns["v000003"] == columns["v000001"]
    assert {name for name, bent, _ in shown if bent} == {"v000002"}


def test_accuracies_on_different_held_out_pairs_are_told_apart(page: Page) -> None:
    sets = {"v000002": 150, "v000003": 150, "v000004": 220}

    def with_sets(body: dict[str, Any]) -> None:
        for entry in body["versions"]:
            if entry["name"] in sets:
                pairs = sets[entry["name"]]
                entry["held_out"] = {
                    "source": "data/mine.jsonl",
                    "sha256": "ab",
                    "pairs": pairs,
                    "share": pairs / 1500,
                }

    answer_with(page, "**/versions", with_sets)
    ready(page)
    legend = page.locator("#held-out")
    expect(legend).to_contain_text("a: mine.jsonl, 150 pairs; b: mine.jsonl, 220 pairs")
    marks = {name: page.locator(f"#{name} sup").all_inner_texts() for name in ("v000001", *sets)}
    assert marks == {"v000001": [], "v000002": ["a"], "v000003": ["a"], "v000004": ["b"]}
    sets["v000004"] = 150
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    expect(legend).to_have_text("Held-out accuracy measured on mine.jsonl, 150 pairs")
    expect(page.locator("#version-list sup")).to_have_count(0)
    del sets["v000004"]
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    expect(legend).to_contain_text("without a letter: unknown pairs")
    assert page.locator("#version-list sup").all_inner_texts() == ["a", "a"]


def test_the_last_evaluation_of_a_version_is_shown(page: Page) -> None:
    def evaluated(body: dict[str, Any]) -> None:
        for entry in body["versions"]:
            if entry["name"] == "v000002":
                entry["evaluations"] = [
                    {
                        "preferences": {"source": "/p/fresh.jsonl", "sha256": "ab", "pairs": 100},
                        "accuracy": 0.7,
                        "interval": [0.604, 0.781],
                        "parent": "v000001",
                        "change": {"mean": -0.02, "low": -0.09, "high": 0.05, "lost": 5, "won": 3, "p": 0.727},
                        "longer_wins": 0.61,
                    }
                ]

    answer_with(page, "**/versions", evaluated)
    ready(page)
    expect(page.locator("#v000002 .evaluation")).to_have_text(
        "evaluated on fresh.jsonl, 100 pairs: 0.700 (95%: 0.604 to 0.781) · "
        "−0.020 from v000001 (95%: −0.090 to +0.050; p 0.727) · longer wins 0.610"
    )
    expect(page.locator(".evaluation")).to_have_count(1)


@pytest.mark.parametrize("width", [1280, 390])
def test_names_of_versions_swapped_close_together_do_not_overlap(page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    now, count = time.time(), 290
    serving = [f"v{1 + place // 3:06d}" if 150 <= place < 180 else "v000001" for place in range(count)]
    serving[2:6] = ["v000002", "v000002", "v000003", "v000003"]

    def crowded(body: dict[str, Any]) -> None:
        at = [now - 2 * (count - place) for place in range(count)]
        body["history"] = {**dict.fromkeys(body["history"], [1.0] * count), "at": at, "serving": serving}

    answer_with(page, "**/overview?since=0", crowded)
    ready(page)
    for chart in ("chart-throughput", "chart-latency"):
        expect(page.locator(f"#{chart} .annotation-text").nth(3)).to_be_visible()
        boxes = [each.bounding_box() for each in page.locator(f"#{chart} .annotation-text").all()]
        for one, other in combinations([box for box in boxes if box], 2):
            beside = one["x"] + one["width"] <= other["x"] or other["x"] + other["width"] <= one["x"]
            apart = one["y"] + one["height"] <= other["y"] or other["y"] + other["height"] <= one["y"]
            assert beside or apart, (one, other)


FIGURES = [
    ("significant", 0.05, "0.0500"),
    ("significant", 0.0004567, "0.000457"),
    ("significant", 3.1e-6, "3.10e-6"),
    ("significant", 12.5, "12.50"),
    ("significant", 0, "0.00"),
    ("significant", None, "–"),
    ("fixed", -0.001, "0.00"),
    ("percent", 0.0004, "0.04%"),
    ("percent", 0.124, "12%"),
    ("percent", 0, "0%"),
    ("about", 3, "a few seconds"),
    ("about", 41.2, "about 40 s"),
    ("about", 58, "about 1 min"),
    ("about", 5400, "about 1.5 h"),
]


def test_small_figures_keep_significant_digits(page: Page) -> None:
    ready(page)
    shown = page.evaluate(
        """async (cases) => {
          const format = await import("/page/format.js");
          return cases.map(([name, value]) => format[name](value));
        }""",
        [case[:2] for case in FIGURES],
    )
    assert shown == [text for *_, text in FIGURES]


def test_scores_that_differ_are_shown_as_different(page: Page) -> None:
    ready(page)
    group = {"version": "v000003", "tokens": [3, 3], "truncated": [False] * 2, "scores": [0.0512345, 0.0512399]}
    page.route("**/score", lambda route: route.fulfill(json={"version": "v000003", "groups": [group]}))
    page.locator("#try-score").click()
    shown = page.locator("#try-result .number")
    expect(shown).to_have_count(2)
    assert all(one != other for one, other in pairwise(shown.all_inner_texts()))
