"""The page in a real browser, opened from disk: works by mouse and by keyboard, asks for nothing, runs no data."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from msgspec import structs
from PIL import Image

from bench.tables import TABLES
from reports.paired_differences import differences_table
from reports.render.html.document import page_html
from reports.rows import rows_of
from reports.table import Cell, Group, Header, Table
from reports.tables import make_table

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, Page

    from bench.records.results import RunRecord
    from reports.figures.gallery import Gallery

REQUIRED = os.environ.get("FASTFLUX_REQUIRE_TOOLS") == "1"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARGUMENTS = (
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
#: Numbers of which the order as text would be another one, a gap, something that is no number, and two groups.
SORTED = Table(
    "sorted", "Sorted",
    (Header("Model", align="left"), Header("Score", "up"), Header("Cost", "down", ".0f")),
    (
        Group(((Cell(text="b"), Cell(9.0), Cell(100.0)), (Cell(text="a"), Cell(footnote="gone"), Cell(20.0)))),
        Group(((Cell(text="c"), Cell(10.5), Cell(float("nan"))), (Cell(text="d"), Cell(-1.0), Cell(3.0))), "More"),
    ),
)  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        if REQUIRED:
            pytest.fail("FASTFLUX_REQUIRE_TOOLS is set, but there is no chromium on the path")
        pytest.skip("chromium is not installed")
    if not REQUIRED:
        pytest.importorskip("playwright", reason="playwright is not installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        yield chromium
        chromium.close()


@pytest.fixture
def text(judged_records: tuple[RunRecord, ...], gallery: Gallery) -> str:
    rows = rows_of(judged_records)
    tables = {"sorted": (SORTED,), "table6": (make_table("table6", TABLES["table6"], rows),)}
    return page_html(rows, {**tables, "differences": (differences_table(rows),)}, gallery)


class Seen:
    """What the browser was told and asked for while a page was open."""

    def __init__(self, page: Page) -> None:
        self.messages: list[str] = []
        self.requests: list[str] = []
        page.on("console", lambda message: self.messages.append(message.text))
        page.on("pageerror", lambda error: self.messages.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url))


def opened(browser: Browser, path: Path, text: str, width: int = 1280, scheme: str = "light") -> tuple[Page, Seen]:
    path.write_text(text, encoding="utf-8", newline="\n")
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce")
    page.set_default_timeout(15_000)
    seen = Seen(page)
    page.goto(path.as_uri())
    return page, seen


@pytest.fixture
def page(browser: Browser, tmp_path: Path, text: str) -> Iterator[Page]:
    """The open page; afterwards nothing was told, nothing but the file and its own data asked for, nothing injected."""
    page, seen = opened(browser, tmp_path / "page.html", text)
    yield page
    assert page.evaluate("window.hacked") is None
    assert seen.messages == []
    assert [url for url in seen.requests if not url.startswith("data:")] == [(tmp_path / "page.html").as_uri()]
    page.close()


def column(page: Page, index: int) -> list[str]:
    script = """(index) => [...document.querySelectorAll('#sorted tbody tr')].map(
        (row) => row.cells[Math.min(index, row.cells.length - 1)].firstChild.textContent)"""
    found: list[str] = page.evaluate(script, index)
    return found


def show_images(page: Page) -> None:
    page.locator("#images").scroll_into_view_if_needed()
    page.locator(".frame .over[data-painted]").wait_for()


def settled(page: Page) -> None:
    """Wait until every canvas shows what it was last asked to."""
    page.wait_for_function(
        "[...document.querySelectorAll('canvas')]"
        ".every((canvas) => !canvas.offsetParent || canvas.dataset.wanted === canvas.dataset.painted)"
    )


def pixel(page: Page, selector: str) -> list[int]:
    # Read from a copy: Chromium tells the console of canvases that are read again and again.
    script = """(selector) => { const c = document.querySelector(selector), copy = new OffscreenCanvas(1, 1);
        const context = copy.getContext('2d', { willReadFrequently: true });
        context.drawImage(c, c.width >> 1, c.height >> 1, 1, 1, 0, 0, 1, 1);
        return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3); }"""
    found: list[int] = page.evaluate(script, selector)
    return found


def test_sorting_is_by_number_with_gaps_last_and_the_third_click_restores(page: Page) -> None:
    head = page.locator("#sorted thead th").nth(1)
    orders = []
    for _ in range(3):
        head.get_by_role("button").click()
        orders.append((head.get_attribute("aria-sort"), column(page, 0)))
    assert orders == [
        ("descending", ["c", "b", "d", "a"]),
        ("ascending", ["d", "b", "c", "a"]),
        ("none", ["b", "a", "More", "c", "d"]),
    ]
    page.locator("#sorted thead th").nth(2).get_by_role("button").click()  # less is better, so it comes first
    assert column(page, 2) == ["3", "20", "100", "nan"]
    page.locator("#sorted thead th").nth(0).get_by_role("button").click()
    assert column(page, 0) == ["a", "b", "c", "d"]
    assert page.locator("#sorted thead th").nth(2).get_attribute("aria-sort") == "none"


def test_keyboard_alone_sorts_reads_a_record_and_leaves_it(page: Page) -> None:
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.closest('#sorted thead') !== null"):
            break
    page.keyboard.press("Enter")
    assert column(page, 0) == ["a", "b", "c", "d"]
    while not page.evaluate("document.activeElement.matches('#table6 [data-record]')"):
        page.keyboard.press("Tab")
    tip = page.locator("#tip")
    assert tip.is_visible()
    first = tip.inner_text()
    page.keyboard.press("ArrowDown")
    assert tip.inner_text() != first
    for expected in ("FastFLUX-10%", "nox -s reproduce_tables", "test device", "steps 4", "2026-01-01"):
        assert expected in tip.inner_text()
    page.keyboard.press("Enter")
    assert tip.get_by_role("button", name="Close").is_visible()
    page.keyboard.press("Escape")
    assert not tip.is_visible()


def test_pointing_shows_a_record_at_full_precision_and_its_link_opens_it(page: Page) -> None:
    cell = page.locator('#table6 td[data-record="record-1"][data-key="hps.averaged"]')
    cell.hover()
    tip = page.locator("#tip")
    tip.wait_for()
    assert "63.0 95% interval 54.0 to 67.5" in tip.inner_text()
    assert "hps (version 1), hand-made hps" in tip.inner_text()
    cell.click()
    page.mouse.move(5, 5)
    page.wait_for_timeout(400)
    assert tip.is_visible()  # kept by the click
    tip.get_by_role("link", name="All of the record of FastFLUX-10%").click()
    assert page.locator("#record-1").evaluate("(record) => record.open")


def test_a_difference_leads_to_both_records(page: Page) -> None:
    page.locator('#differences td[data-record="record-1"]').first.click()
    shown = page.locator("#tip").inner_text()
    assert "FastFLUX-10%, hps.averaged: 63.0" in shown
    assert "FLUX-Shapes, hps.averaged: 70.0" in shown
    page.locator("#tip").get_by_role("link", name="All of the record of FLUX-Shapes").click()
    assert page.locator("#record-0").evaluate("(record) => record.open")


def test_the_plot_shows_points_front_and_tips_and_changes_its_axes(page: Page) -> None:
    points = page.locator("#plot .point")
    assert points.count() == 3
    labels = [points.nth(index).get_attribute("aria-label") or "" for index in range(3)]
    assert labels[0].startswith("FastFLUX-30%: Latency, ratio to dense 0.700, HPS averaged 49.00 [42.00, 52.50]")
    assert page.locator("#plot .ring").count() == 3
    points.nth(0).focus()
    page.keyboard.press("ArrowRight")
    assert "FastFLUX-10%" in page.locator("#tip").inner_text()
    before = page.locator("#plot svg[role=group]").inner_html()
    page.get_by_label("Score").select_option("GenEval overall")
    assert page.locator("#plot svg[role=group]").inner_html() != before
    assert page.locator("#plot .ring").count() == 2  # dense scores no more than FastFLUX-10%, and is slower
    page.get_by_role("button", name="FastFLUX", exact=True).click()
    assert page.locator("#plot .point").count() == 1


def test_the_slider_shows_more_of_the_other_picture(page: Page) -> None:
    show_images(page)
    assert pixel(page, ".frame .over")[0] == 60  # dense
    assert pixel(page, ".frame canvas:not(.over)")[0] == 220  # the most pruned FastFLUX
    frame, slider = page.locator(".frame"), page.locator("#images input[type=range]")
    middle = frame.screenshot()
    slider.focus()
    page.keyboard.press("Home")
    right = frame.screenshot()
    page.keyboard.press("End")
    left = frame.screenshot()
    assert len({middle, left, right}) == 3
    page.keyboard.press("ArrowLeft")
    assert slider.input_value() == "99"
    assert page.get_by_role("button", name="Previous").is_disabled()  # the key moved the slider, not the picture
    box = frame.bounding_box()
    page.mouse.click(box["x"] + box["width"] / 4, box["y"] + 20)
    assert slider.input_value() == "25"


def test_filters_count_and_show_what_is_left(page: Page) -> None:
    show_images(page)
    count = page.locator("#images [role=status]")
    assert count.inner_text() == "5 of 5 pictures"
    for name, expected in (
        ("GenEval verdict changed", "3 of 5 pictures"),
        ("Left correct, right wrong", "2 of 5 pictures"),
        ("Left wrong, right correct", "1 of 5 pictures"),
    ):
        page.get_by_label("Verdict").select_option(name)
        assert count.inner_text() == expected
    assert "\u2717 wrong" in page.locator(".compared").inner_text()
    assert "\u2713 correct" in page.locator(".compared").inner_text()
    page.get_by_label("Verdict").select_option("All verdicts")
    page.get_by_label("Kind").select_option("hps paintings")
    assert count.inner_text() == "1 of 5 pictures"
    assert "HPS 49.00" in page.locator(".compared").inner_text()
    page.locator(".compared").get_by_role("link", name="FastFLUX-30%").click()
    assert page.locator("#record-2").evaluate("(record) => record.open")
    page.get_by_label("Kind").select_option("All kinds")
    page.get_by_label("Search").fill("RED star")
    assert count.inner_text() == "2 of 5 pictures"
    page.get_by_label("Search").fill("nothing like it")
    assert count.inner_text() == "0 of 5 pictures"
    assert page.get_by_text("No picture is left").is_visible()
    assert not page.locator(".stage").is_visible()


def test_other_variants_can_be_chosen_in_the_boxes_and_in_the_strip(page: Page) -> None:
    show_images(page)
    page.get_by_label("Right", exact=True).select_option("FastFLUX-10%")
    settled(page)
    assert pixel(page, ".frame canvas:not(.over)")[0] == 140
    strip = page.locator(".strip").first
    strip.get_by_role("button").nth(0).click()
    settled(page)
    assert pixel(page, ".frame canvas:not(.over)")[0] == 60
    page.get_by_text("Choose variants").click()
    page.locator(".chosen").get_by_label("FastFLUX-30%").uncheck()
    assert strip.locator("button:visible").count() == 2


def test_arrow_keys_change_the_picture_but_not_in_a_box_to_write_in(page: Page) -> None:
    show_images(page)
    prompt = page.locator("blockquote")
    page.locator(".stage").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    settled(page)
    assert prompt.inner_text() == "two </script><script>window.hacked = 1</script> rings"
    assert pixel(page, ".frame .over") == [60, 110, 90]
    page.keyboard.press("ArrowLeft")
    assert prompt.inner_text() == "a photo of a red star"
    page.get_by_label("Search").focus()
    page.keyboard.press("ArrowRight")
    assert prompt.inner_text() == "a photo of a red star"
    page.get_by_role("button", name="Next").click()
    page.get_by_role("button", name="Next").click()
    assert prompt.inner_text().startswith("<img src=x onerror='window.hacked = 1'> ]]>")
    assert prompt.inner_text().endswith("星形 🎨")
    page.keyboard.press("End")
    page.get_by_role("button", name="Next").click()
    assert page.get_by_role("button", name="Next").is_disabled()
    assert "⟨U+0000⟩⟨U+0007⟩ moon" in prompt.inner_text()


def test_dark_and_light_follow_the_system_until_the_button_is_pressed(
    browser: Browser, tmp_path: Path, text: str, page: Page
) -> None:
    script = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(script)
    page.get_by_role("button", name="Dark").click()
    dark = page.evaluate(script)
    assert light != dark
    page.get_by_role("button", name="Light").click()
    assert page.evaluate(script) == light
    other, _ = opened(browser, tmp_path / "other.html", text, scheme="dark")
    assert other.evaluate(script) == dark
    other.close()


def test_the_choice_of_dark_or_light_is_kept_where_the_browser_keeps_anything(
    browser: Browser, tmp_path: Path, text: str
) -> None:
    page, _ = opened(browser, tmp_path / "page.html", text)
    page.get_by_role("button", name="Dark").click()
    page.reload()
    assert page.get_by_role("button", name="Light").is_visible()
    page.add_init_script("Object.defineProperty(window, 'localStorage', { get() { throw new Error('denied'); } })")
    seen = Seen(page)
    page.reload()
    page.get_by_role("button", name="Dark").click()
    assert page.get_by_role("button", name="Light").is_visible()
    assert seen.messages == []
    page.close()


def test_a_sheet_the_browser_cannot_show_is_told(
    browser: Browser, tmp_path: Path, judged_records: tuple[RunRecord, ...], gallery: Gallery
) -> None:
    (gallery.folder / "fastflux-30.png").write_bytes(b"no image")
    page, seen = opened(browser, tmp_path / "page.html", page_html(rows_of(judged_records), {}, gallery))
    show_images(page)
    page.get_by_role("alert").wait_for()
    assert page.get_by_role("alert").inner_text() == "This browser cannot show the images of FastFLUX-30%."
    settled(page)
    assert pixel(page, ".frame .over")[0] == 60
    assert seen.messages == []
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(browser: Browser, tmp_path: Path, text: str, scheme: str) -> None:
    """At least 4.5 to 1, the contrast that WCAG 2.2 asks of text (1.4.3)."""
    page, _ = opened(browser, tmp_path / "page.html", text, scheme=scheme)
    script = """() => { const probe = document.body.appendChild(document.createElement('p')), found = {};
        const luminance = (name) => { probe.style.color = `var(--${name})`;
          const parts = getComputedStyle(probe).color.match(/[\\d.]+/g).slice(0, 3).map((part) => part / 255);
          const [r, g, b] = parts.map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
          return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
        for (const [ink, ground] of %s) { const [a, b] = [luminance(ink), luminance(ground)];
          found[`${ink} on ${ground}`] = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05); }
        return found; }"""
    inks = ("ink", "soft", "link", "warn-ink", "right", "wrong", "dense", "fastflux", "other")
    pairs = [[ink, ground] for ink in inks for ground in ("paper", "raised")]
    pairs += [[ink, "tint"] for ink in ("ink", "soft", "right", "wrong")] + [["warn-ink", "warn-paper"]]
    found = page.evaluate(script % pairs)
    assert {name: round(ratio, 2) for name, ratio in found.items() if ratio < 4.5} == {}
    page.close()


@pytest.mark.parametrize("width", [1280, 768, 390])
def test_the_body_never_scrolls_sideways(browser: Browser, tmp_path: Path, text: str, width: int) -> None:
    page, seen = opened(browser, tmp_path / "page.html", text, width)
    show_images(page)
    page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert seen.messages == []
    page.close()


def test_a_script_that_got_in_would_not_run(browser: Browser, tmp_path: Path, text: str) -> None:
    planted = text.replace(
        "</main>", "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'></main>"
    )
    assert planted != text
    page, seen = opened(browser, tmp_path / "page.html", planted)
    page.wait_for_timeout(300)
    assert page.evaluate("window.hacked") is None
    assert any("Content Security Policy" in message for message in seen.messages)
    page.close()


def test_thousands_of_pictures_open_and_can_be_gone_through(
    browser: Browser, tmp_path: Path, judged_records: tuple[RunRecord, ...], gallery: Gallery
) -> None:
    sheets = {"dense": "large.png", "fastflux-30": "large.png"}
    Image.new("RGB", (800, 400), (10, 200, 30)).save(gallery.folder / "large.png")
    shots = tuple(replace(gallery.shots[index % 5], prompt_id=f"p{index}") for index in range(5000))
    text = page_html(rows_of(judged_records), {}, structs.replace(gallery, columns=100, shots=shots, sheets=sheets))
    page, seen = opened(browser, tmp_path / "page.html", text)
    show_images(page)
    assert page.locator(".list canvas").count() == 60
    page.get_by_role("button", name="Later").click()
    assert "61 to 120 of 5000" in page.locator("#images").inner_text()
    page.get_by_label("Search").fill("p4999")
    assert page.locator("#images [role=status]").inner_text() == "1 of 5000 pictures"
    settled(page)
    assert pixel(page, ".frame .over") == [10, 200, 30]
    assert seen.messages == []
    page.close()
