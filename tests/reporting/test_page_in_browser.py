"""The report as a reader meets it: opened from disk in a real browser that has no network."""

import json
import shutil

import pytest

import compare
import report
from prunus.reporting.charts import figures
from prunus.study import layout

playwright = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no Chromium on the path")

METHODS = ["one_shot", "lth", "sap", "incop_if", "incop_gf", "mipp", "iter_snip"]
NAMES = ["One-shot", "LTH", "SAP", "InCoP-IF", "InCoP-GF", "MIPP", "IterSNIP"]
ITERATIONS = 5
WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 375, "height": 800}


@pytest.fixture(scope="module")
def made(builder, tmp_path_factory):
    """The path of a report and its tables; PNG files, which need no browser, are left out."""
    root = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        builder(root, patch)(methods=METHODS, iterations=ITERATIONS)
        patch.setattr("sys.argv", ["report.py"])
        patch.setattr(report, "png", lambda name, chart: b"")
        compare.main()
        report.main()
        yield root / layout.REPORT


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-quic"]
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def opened(browser, made):
    """The page, drawn, with what the browser said and asked for meanwhile."""
    page = browser.new_page(viewport=WIDE, color_scheme="light")
    page.messages, page.requests = [], []
    page.on("console", lambda message: page.messages.append(message.text))
    page.on("pageerror", lambda error: page.messages.append(str(error)))
    page.on("request", lambda request: page.requests.append(request.url))
    page.goto(made.as_uri())
    page.wait_for_selector("html[data-drawn]", state="attached", timeout=120_000)
    return page


@pytest.fixture
def page(opened):
    opened.set_viewport_size(WIDE)
    opened.emulate_media(color_scheme="light", media="screen")
    opened.keyboard.press("Escape")
    return opened


def test_all_charts_are_drawn(page):
    marks = page.evaluate(
        """() => Object.fromEntries([...document.querySelectorAll(".chart")].map((chart) => [chart.dataset.chart,
            [...chart.querySelectorAll(".panel")].map((panel) =>
                panel.querySelectorAll("svg .role-mark path, svg .role-mark line, svg .role-legend path").length)]))"""
    )
    assert set(marks) == set(figures.CHARTS) - {"transfer", "information"}  # this study did not ask for them
    assert all(count > 0 for panels in marks.values() for count in panels), marks
    points = page.evaluate(
        """() => [...document.querySelectorAll("[data-chart=accuracy_against_density] .mark-symbol.role-mark path")]
            .map((point) => point.__data__.datum).filter((datum) => datum.std !== undefined).length"""
    )
    assert points == len(METHODS) * ITERATIONS


def test_nothing_is_asked_for_and_nothing_goes_wrong(page, made):
    assert page.requests == [made.as_uri()]
    assert page.messages == []


def test_charts_are_images_with_words(page):
    for chart in page.locator(".chart").all():
        assert chart.get_attribute("role") == "img"
        assert len(chart.get_attribute("aria-label")) > 40
    assert page.locator(".chart svg:not([aria-hidden=true])").count() == 0


def _column(page, label, column):
    return page.locator(f"[aria-label='{label}'] tbody tr :nth-child({column})").all_inner_texts()


def test_tables_sort_by_click_and_by_keyboard(page):
    label = "Summary per method"
    methods = _column(page, label, 1)
    assert methods == NAMES
    heads = page.locator(f"[aria-label='{label}'] thead th")
    epochs = heads.nth(5)
    assert epochs.inner_text() == "epochs"
    epochs.get_by_role("button").click()
    assert epochs.get_attribute("aria-sort") == "ascending"
    ordered = [float(text) for text in _column(page, label, 6)]
    assert ordered == sorted(ordered) and ordered[0] < ordered[-1]
    epochs.get_by_role("button").focus()
    page.keyboard.press("Enter")
    assert epochs.get_attribute("aria-sort") == "descending"
    assert [float(text) for text in _column(page, label, 6)] == ordered[::-1]
    heads.first.get_by_role("button").focus()
    page.keyboard.press("Space")
    assert _column(page, label, 1) == sorted(NAMES, key=str.lower)
    assert page.locator(f"[aria-label='{label}'] th[aria-sort]").count() == 1


def test_cells_sort_by_what_they_mean_and_unknown_ones_last(page):
    label = "Parameters, multiply-accumulates and latency, dense and compacted"
    button = page.locator(f"[aria-label='{label}'] thead th").nth(2).get_by_role("button")
    for order in (1, -1):
        button.click()
        left = [int(text.split("→")[1].replace(",", "")) for text in _column(page, label, 3)]
        assert left == sorted(left)[::order]
    button = page.locator(f"[aria-label='{label}'] thead th").nth(4).get_by_role("button")
    for _ in range(2):
        button.click()
        times = _column(page, label, 5)
        assert times[-5:] == ["–"] * 5 and "–" not in times[:-5]  # five methods removed no channel


BRIGHT = """([chart, names]) => {
    const points = [...document.querySelectorAll(`[data-chart=${chart}] .mark-symbol.role-mark path`)];
    const bright = points.filter((point) => Number(point.getAttribute("opacity") ?? 1) > 0.3);
    const shown = new Set(bright.map((point) => point.__data__.datum.method).filter(Boolean));
    return shown.size === names.length && names.every((name) => shown.has(name));
}"""


def _shows(page, names, *charts):
    """Wait until the methods whose points are not dimmed are ``names``; drawing follows a click some frames later."""
    for chart in charts:
        page.wait_for_function(BRIGHT, arg=[chart, list(names)], timeout=10_000)


def test_a_legend_singles_methods_out_in_all_charts(page):
    chart = "accuracy_against_density"
    legend = page.locator(f"[data-chart={chart}] .role-legend-label text")
    _shows(page, NAMES, chart)
    legend.get_by_text("SAP", exact=True).click()
    _shows(page, ["SAP"], chart, "pq_dynamics")
    legend.get_by_text("LTH", exact=True).click(modifiers=["Shift"])
    _shows(page, ["SAP", "LTH"], chart, "trade_off")
    legend.get_by_text("SAP", exact=True).click(modifiers=["Shift"])
    _shows(page, ["LTH"], chart)
    key = page.locator("[data-chart=pq_dynamics] .role-legend-label text")
    key.get_by_text("InCoP-IF", exact=True).click()
    _shows(page, ["InCoP-IF"], chart, "pq_dynamics")
    page.keyboard.press("Escape")
    _shows(page, NAMES, chart, "pq_dynamics")


def test_methods_are_singled_out_by_keyboard_too(page):
    button = page.locator(".methods button", has_text="InCoP-GF")
    button.focus()
    page.keyboard.press("Enter")
    assert button.get_attribute("aria-pressed") == "true"
    _shows(page, ["InCoP-GF"], "accuracy_against_density")
    page.keyboard.press("Enter")
    assert button.get_attribute("aria-pressed") == "false"
    _shows(page, NAMES, "accuracy_against_density")


def test_pointing_at_a_mark_shows_its_numbers(page):
    bar = page.locator("[data-chart=epochs_per_iteration] .mark-rect.role-mark path").first
    bar.scroll_into_view_if_needed()
    bar.hover()
    shown = page.locator("#vg-tooltip-element.visible")
    shown.wait_for(state="visible")
    assert shown.inner_text().split() == ["method", "One-shot", "iteration", "1", "epochs", "15"]
    page.mouse.move(0, 0)


def test_numbers_of_a_chart_are_a_table(page):
    details = page.locator("#chart-epochs_per_iteration details")
    details.locator("summary").focus()
    page.keyboard.press("Enter")
    rows = details.locator("tbody tr")
    rows.first.wait_for()
    assert rows.count() == len(METHODS) * ITERATIONS
    assert rows.first.locator("th, td").all_inner_texts() == ["One-shot", "1", "15"]
    details.locator("thead th").nth(2).get_by_role("button").click()
    assert rows.first.locator("th, td").all_inner_texts() == ["InCoP-IF", "1", "1"]


def _colors(page):
    return page.evaluate(
        """() => [getComputedStyle(document.body).backgroundColor, ...["role-axis-label", "role-legend-label"].map(
            (role) => getComputedStyle(document.querySelector(`.chart .${role} text`)).fill)]"""
    )


def test_dark_mode_applies_at_once_and_print_is_light(page):
    light = _colors(page)
    page.emulate_media(color_scheme="dark")
    dark = _colors(page)
    assert all(one != other for one, other in zip(light, dark, strict=True))
    assert light[0] == "rgb(255, 255, 255)" and dark[1] == dark[2] == "rgb(230, 231, 232)"
    page.emulate_media(color_scheme="dark", media="print")
    assert _colors(page) == light


CLIPPED = """() => [...document.querySelectorAll(".chart .panel")].flatMap((panel) => {
    const frame = panel.getBoundingClientRect();
    return [...panel.querySelectorAll("svg text")].filter((text) => {
        const box = text.getBoundingClientRect();
        const shown = Number(text.getAttribute("opacity") ?? 1) > 0 && text.textContent.trim() !== "";
        return shown && (box.left < frame.left - 1 || box.right > frame.right + 1
            || box.top < frame.top - 1 || box.bottom > frame.bottom + 1);
    }).map((text) => `${panel.closest(".chart").dataset.chart}: ${text.textContent}`);
})"""


@pytest.mark.parametrize("viewport", [WIDE, PHONE], ids=["wide", "phone"])
def test_page_fits_the_window_and_no_word_is_clipped(browser, made, viewport):
    page = browser.new_page(viewport=viewport)
    page.goto(made.as_uri())
    page.wait_for_selector("html[data-drawn]", state="attached", timeout=120_000)
    assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
    assert page.evaluate(CLIPPED) == []
    for chart in ("accuracy_against_density", "headline", "pq_dynamics"):
        assert page.locator(f"[data-chart={chart}] .role-legend-label text").all_text_contents() == NAMES
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(page, scheme):
    page.emulate_media(color_scheme=scheme)
    violations = axe.Axe().run(page).response["violations"]
    serious = [
        (violation["id"], node["target"], node.get("failureSummary"))
        for violation in violations
        if violation["impact"] in ("serious", "critical")
        for node in violation["nodes"]
    ]
    assert serious == [], json.dumps(serious, indent=1)
