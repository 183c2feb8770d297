"""The report of real records in a real browser: Debian's Chromium, without a screen and without a network."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from nxm_sweep.report.comparison import compare_sweeps
from nxm_sweep.report.content import Content
from nxm_sweep.report.formats.write import write, write_comparison
from nxm_sweep.report.frames import read_report
from nxm_sweep.report.statistics import compare
from nxm_sweep.report.table import make_table
from tests.report.corpus import CORPUS, shown, write_hostile_reports

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra: dev)")

EXAMPLE = Path(__file__).resolve().parents[2] / "outputs/examples/rte-mrpc"
PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "chrome")
HOSTILE = "</script><script>window.broken = 1</script>\"><img src=x onerror='window.broken = 2'>"
SMALLEST_CONTRAST = 4.5  # WCAG 2.2, level AA, for text of any size

CONTRAST = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgb = (text) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = text; canvas.fillRect(0, 0, 1, 1);
    const pixel = canvas.getImageData(0, 0, 1, 1).data;
    return [pixel[0], pixel[1], pixel[2], pixel[3]];
  };
  const light = ([red, green, blue]) => {
    const part = (value) => (value / 255 <= 0.03928 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4);
    return 0.2126 * part(red) + 0.7152 * part(green) + 0.0722 * part(blue);
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const color = rgb(getComputedStyle(at).backgroundColor);
      if (color[3] > 0) return color;
    }
    return [255, 255, 255, 255];
  };
  const found = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = Array.from(element.childNodes).some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || element.closest("script") || !element.getClientRects().length) continue;
    const style = getComputedStyle(element);
    const svg = element instanceof SVGElement;
    if (svg && !/currentcolor/i.test(element.getAttribute("style"))) continue;  // the number on a tile has the tile's ink
    const [first, second] = [light(rgb(svg ? style.fill : style.color)), light(behind(element))];
    const ratio = (Math.max(first, second) + 0.05) / (Math.min(first, second) + 0.05);
    found.push([ratio, element.tagName + " " + element.textContent.slice(0, 40)]);
  }
  return found.sort((first, second) => first[0] - second[0]);
}"""

OUTSIDE = """() => Array.from(document.querySelectorAll(".panels svg")).flatMap((svg) => {
  const frame = svg.getBoundingClientRect();
  return Array.from(svg.querySelectorAll("text")).filter((text) => {
    const box = text.getBoundingClientRect();
    return box.left < frame.left - 3 || box.right > frame.right + 3 || box.top < frame.top - 3 || box.bottom > frame.bottom + 3;
  }).map((text) => svg.getAttribute("aria-label").slice(0, 60) + ": " + text.textContent);
})"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium refuses root its sandbox
    with sync_api.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=program, args=arguments)
        yield running
        running.close()


def make_content(folder: Path, **options: Any) -> Content:
    report = read_report([folder])
    return Content(report, make_table(report), compare(report), **options)


def make_page(folder: Path, target: Path, watch: float | None = None) -> Path:
    list(write(make_content(folder, target=target, watch=watch), target, ["html"]))
    return target / "index.html"


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of the committed records."""
    return make_page(EXAMPLE, tmp_path_factory.mktemp("real") / "reports")


@pytest.fixture(scope="module")
def rich(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of the committed records and of changed copies, with every picture, a hostile name and a damaged record."""
    folder = tmp_path_factory.mktemp("rich")
    shutil.copytree(EXAMPLE / "trials", folder / "trials")
    for number, path in enumerate(sorted(folder.glob("trials/*/result.json"))):
        record = json.loads(path.read_text())
        record["seconds"]["train_cpu"] = record["seconds"]["train"]
        residuals = {"primal": 0.1, "dual": 0.1, "support_flips": 0.02}
        for step in record["iterations"]:
            names = ("attention.self.query", "attention.output.dense", "output.dense")
            step["groups"] = [
                {"group": f"bert.encoder.layer.*.{name}", "distance": 0.1 + place / 10, **residuals}
                for place, name in enumerate(names)
            ]
        path.write_text(json.dumps(record))
        record["identity"] = f"changed{number}"
        record["hashed"]["training"]["batch_size"] = 16
        record["best"]["value"] += 0.01
        if record["method"] == "nxm":
            record["method"] = "gradual" if number % 2 else HOSTILE
            for layer, check in enumerate(record["sparsity"]["checked"]):
                check["zeros"] = check["zeros"] * (100 - layer) // 100
            of_targets = [place / 100 for place, _ in enumerate(record["sparsity"]["targets"])]
            record["last_prune"] = {"relative_residual": 0.2, "cost": 0.01, "advice": "", "residuals": of_targets}
        copy = folder / "trials" / record["identity"] / "result.json"
        copy.parent.mkdir()
        copy.write_text(json.dumps(record))
    (folder / "trials/changed0/result.json").write_text('{"schema": 1, <script>')
    return make_page(folder, folder / "reports")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Reports of records whose names, values and paths mean something to a format."""
    return write_hostile_reports(tmp_path_factory.mktemp("hostile"))


@pytest.fixture(scope="module")
def compared(real: Path, rich: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of the committed records beside their changed copies."""
    sides = [make_content(folder) for folder in (EXAMPLE, rich.parents[1])]
    target = tmp_path_factory.mktemp("compared")
    list(write_comparison(compare_sweeps(sides[0], sides[1], ("1: first", f"2: {HOSTILE}")), target, ["html"]))
    return target / "comparison.html"


class Tab:
    """A page that is open, with what its browser complained of and asked for."""

    def __init__(self, browser: Any, path: Path, width: int = 1400, **options: Any) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()

    def choice(self, name: str) -> Any:
        """A filter of the table of trials."""
        return self.page.locator("#filters label").filter(has_text=re.compile(f"^{name}")).locator("select")

    def column(self, name: str) -> list[str]:
        """The shown texts of a column of the table that sorts."""
        heads = self.page.locator("[data-sorts] thead th").all_inner_texts()
        place = [head.strip() for head in heads].index(name) + 1
        texts = self.page.locator(f"[data-sorts] tbody tr:visible td:nth-child({place})").all_inner_texts()
        return [text.strip() for text in texts]


@pytest.fixture(params=["real", "rich"])
def path(request: pytest.FixtureRequest) -> Path:
    found: Path = request.getfixturevalue(request.param)
    return found


@pytest.mark.parametrize("width", [390, 1400])
def test_every_picture_is_drawn_inside_its_frame_and_nothing_is_complained_of(
    browser: Any, path: Path, width: int
) -> None:
    with Tab(browser, path, width) as tab:
        boxes = [svg.bounding_box() for svg in tab.page.locator(".panels svg").all()]
        assert len(boxes) >= 10
        assert all(box["width"] > 250 and box["height"] > 50 for box in boxes)
        assert all(box["x"] >= 0 and box["x"] + box["width"] <= width for box in boxes)
        assert tab.page.evaluate(OUTSIDE) == []
        assert tab.page.evaluate("window.broken") is None
        assert tab.complaints == []
        assert tab.requests == [path.as_uri()]


def test_every_kind_of_picture_is_there(browser: Any, rich: Path) -> None:
    with Tab(browser, rich) as tab:
        drawn = tab.page.locator("figure:has(svg)").evaluate_all("all => all.map((one) => one.id)")
        assert len(drawn) == len(set(drawn)) == tab.page.locator("figure").count() == 11
        assert drawn[:2] == ["picture-verdict", "picture-scores"]
        assert tab.page.locator("#without").count() == 0
        names = tab.page.locator(".panels svg").evaluate_all("all => all.map((one) => one.getAttribute('aria-label'))")
        assert all(len(name) > 30 for name in names)
        ids = tab.page.evaluate("Array.from(document.querySelectorAll('[id]')).map((one) => one.id)")
        assert len(ids) == len(set(ids))


def test_a_phone_scrolls_tables_in_their_box_and_never_the_page(browser: Any, path: Path) -> None:
    with Tab(browser, path, 390, has_touch=True, is_mobile=True) as tab:
        assert tab.page.evaluate("[document.scrollingElement.scrollWidth, innerWidth]") == [390, 390]
        box = tab.page.locator(".scroll:has(#trial-table)")
        assert box.evaluate("box => box.scrollWidth > box.clientWidth && box.clientWidth <= 390")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_is_legible(browser: Any, path: Path, scheme: str) -> None:
    with Tab(browser, path, color_scheme=scheme) as tab:
        found = tab.page.evaluate(CONTRAST)
        assert len(found) > 200
        assert [row for row in found if row[0] < SMALLEST_CONTRAST] == []
        paper = tab.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert paper == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 27)"}[scheme]


def test_a_click_sorts_by_number_and_another_turns_it_round(browser: Any, path: Path) -> None:
    with Tab(browser, path) as tab:
        for name in ("score", "seconds", "unpruned"):
            head = tab.page.locator("#trial-table").get_by_role("columnheader", name=name, exact=True)
            for direction in ("descending", "ascending"):
                head.get_by_role("button").click()
                assert head.get_attribute("aria-sort") == direction
                shown = tab.column(name)
                numbers = [float(text) for text in shown if text]
                assert numbers == sorted(numbers, reverse=direction == "descending")
                assert not any(shown[len(numbers) :])  # what is missing comes last
        assert tab.page.locator("[aria-sort]").count() == 1
        assert len(tab.column("score")) > 15


def test_names_sort_as_names_and_from_the_keyboard(browser: Any, real: Path) -> None:
    with Tab(browser, real) as tab:
        button = tab.page.locator("#trial-table th button").get_by_text("task", exact=True)
        button.focus()
        tab.page.keyboard.press("Enter")
        assert tab.column("task") == ["MRPC"] * 8 + ["RTE"] * 8
        tab.page.keyboard.press("Enter")
        assert tab.column("task") == ["RTE"] * 8 + ["MRPC"] * 8


def test_filters_narrow_the_trials_together_and_are_counted(browser: Any, real: Path) -> None:
    with Tab(browser, real) as tab:
        said = tab.page.locator("#shown")
        assert said.inner_text() == "16 of 16 trials shown"
        tab.choice("method").select_option("NxM")
        assert tab.column("method") == ["NxM"] * 8
        tab.choice("task").select_option("RTE")
        assert said.inner_text() == "4 of 16 trials shown"
        tab.page.locator("#filters input").fill("751b4bff 2e-4")
        assert tab.column("trial") == ["751b4bff"]
        tab.page.locator("#filters input").fill("nothing like it")
        assert said.inner_text() == "0 of 16 trials shown"


def test_a_hostile_name_is_a_choice_like_any_other(browser: Any, rich: Path) -> None:
    with Tab(browser, rich) as tab:
        tab.choice("method").select_option(HOSTILE)
        assert set(tab.column("method")) == {HOSTILE}
        assert tab.page.evaluate("window.broken") is None
        assert "changed0" in tab.page.locator("table:has-text('unreadable')").first.inner_text()


@pytest.mark.fault(
    "security",
    "names, values and paths in records that are HTML, scripts, or change the direction of text",
    "a browser shows them as text; no script of theirs runs, nothing is loaded, no direction is changed",
)
@pytest.mark.parametrize("name", ["index.html", "comparison.html"])
def test_the_corpus_is_text_in_the_page(browser: Any, hostile: Path, name: str) -> None:
    with Tab(browser, hostile / name) as tab:
        assert tab.page.evaluate("window.broken") is None
        assert tab.complaints == []
        assert tab.requests == [(hostile / name).as_uri()]
        assert tab.page.locator("img, iframe, object, embed, base, i, b").count() == 0
        assert tab.page.locator("script").count() == 1
        handlers = "Array.from(document.querySelectorAll('*')).flatMap((one) => one.getAttributeNames())"
        assert not [name for name in tab.page.evaluate(handlers) if name.startswith("on")]
        links = tab.page.locator("a").evaluate_all("all => all.map((one) => one.protocol)")
        assert set(links) <= {"file:"}
        texts = tab.page.evaluate("document.body.innerText")
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]", texts)
        if name == "index.html":
            models = {" ".join(text.split()) for text in tab.column("model")}
            assert models == {shown(text) for text in CORPUS}


def test_without_javascript_the_trials_are_a_plain_table(browser: Any, real: Path) -> None:
    with Tab(browser, real, java_script_enabled=False) as tab:
        assert len(tab.column("score")) == 16
        assert not tab.page.locator("#filters").is_visible()
        assert tab.page.locator("#trial-table button").count() == 0


def test_links_open_the_trial_its_record_and_the_report_again(browser: Any, real: Path) -> None:
    with Tab(browser, real) as tab:
        tab.page.locator("#results-table a").first.click()
        tab.page.wait_for_url("**/trials/*.html")
        assert tab.page.locator("h1").inner_text() == "Dense on MRPC"
        tab.page.get_by_role("link", name="The whole report").click()
        tab.page.wait_for_url("**/index.html")
        tab.page.locator("#trial-table a").get_by_text("JSON", exact=True).first.click()
        tab.page.wait_for_url("**/result.json")
        assert json.loads(tab.page.locator("pre").first.inner_text())["task"] == "glue/mrpc"


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1400, "light")])
def test_a_trial_has_a_page_with_its_curves_and_where_its_weights_lie(
    browser: Any, rich: Path, width: int, scheme: str
) -> None:
    pages = sorted((rich.parent / "trials").glob("*.html"))
    address = next(page for page in pages if "<h1>Gradual on RTE</h1>" in page.read_text())
    with Tab(browser, address, width, color_scheme=scheme) as tab:
        assert tab.page.locator("h1").inner_text() == "Gradual on RTE"
        assert tab.page.locator("#picture-epochs svg").count() >= 3
        assert tab.page.locator("#picture-residuals .panels svg").count() >= 2
        assert tab.page.locator("#epochs tr.selected").count() == 1
        for table in ("#kept", "#layer-residuals"):
            assert tab.page.locator(f"{table} tbody tr").count() == 6  # layers of MiniLM
        shown = tab.page.locator("#layer-residuals td").all_inner_texts()
        assert sorted(shown) == [f"{place / 100:.4f}" for place in range(36)]
        assert tab.page.evaluate("document.scrollingElement.scrollWidth") <= width
        assert tab.page.evaluate(OUTSIDE) == []
        assert [row for row in tab.page.evaluate(CONTRAST) if row[0] < SMALLEST_CONTRAST] == []
        assert tab.complaints == []
        assert tab.requests == [address.as_uri()]


def test_a_phone_shows_the_verdict_and_the_table_on_its_first_screen(browser: Any, real: Path) -> None:
    with Tab(browser, real, 390, has_touch=True, is_mobile=True) as tab:
        tab.page.set_viewport_size({"width": 390, "height": 844})
        assert "has the highest score of 2 sparse methods" in tab.page.locator(".verdict").inner_text()
        box = tab.page.locator("#results-table tbody").bounding_box()
        assert box["y"] + box["height"] <= 844
        scroll = tab.page.locator(".scroll:has(#results-table)")
        assert scroll.evaluate("box => box.scrollWidth <= box.clientWidth")  # no score is off the screen


def test_the_verdict_comes_first_then_the_table_then_the_evidence(browser: Any, real: Path) -> None:
    with Tab(browser, real) as tab:
        parts = (".verdict", "#results-table", "#differences", "#pictures", "#trials", "#run")
        tops = [tab.page.locator(part).bounding_box()["y"] for part in parts]
        assert tops == sorted(tops)
        assert tab.page.locator("#results-table").bounding_box()["y"] < 300
        bold = tab.page.locator("#results-table td.best").all_inner_texts()
        assert [text[:4] for text in bold] == ["79.5", "54.5", "67.0"]
        assert bold[0].endswith("-2.4")  # the dense score is 82.0
        assert tab.page.locator("#results-table tr.reference th").inner_text() == "Dense"


def test_fourteen_trials_fit_below_4000_pixels(browser: Any, tmp_path: Path) -> None:
    page = make_page(EXAMPLE.parent / "methods", tmp_path / "reports")
    with Tab(browser, page) as tab:
        assert tab.page.locator("#trial-table tbody tr").count() == 14
        assert tab.page.evaluate("document.documentElement.scrollHeight") < 4000
        assert tab.page.locator("#without").inner_text().startswith("Not drawn: ")
        assert "Left out" not in tab.page.locator("body").inner_text()
    with Tab(browser, page, 390, has_touch=True, is_mobile=True) as tab:
        box = tab.page.locator(".scroll:has(.differences)")
        assert box.evaluate("box => box.scrollWidth <= box.clientWidth")  # no difference is off a phone's screen


def test_dark_mode_has_colours_of_its_own(browser: Any, real: Path) -> None:
    def colors(scheme: str) -> list[str]:
        with Tab(browser, real, color_scheme=scheme) as tab:
            marks = "#picture-scores svg g[style*='--nxm'], #picture-scores svg [style*='--asp']"
            found = tab.page.locator(marks).evaluate_all("all => all.map((one) => getComputedStyle(one).fill)")
            return [str(color) for color in found]

    light, dark = colors("light"), colors("dark")
    assert len(light) == len(dark) > 3
    assert not set(light) & set(dark)


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1400, "dark")])
def test_two_sweeps_side_by_side_are_such_a_page_too(browser: Any, compared: Path, width: int, scheme: str) -> None:
    with Tab(browser, compared, width, color_scheme=scheme) as tab:
        assert tab.page.evaluate("document.scrollingElement.scrollWidth") <= width
        assert tab.page.evaluate(OUTSIDE) == []
        assert [row for row in tab.page.evaluate(CONTRAST) if row[0] < SMALLEST_CONTRAST] == []
        head = tab.page.locator("#entry-table").get_by_role("columnheader", name="difference", exact=True)
        head.get_by_role("button").click()
        shown = tab.column("difference")
        assert (
            shown[:6] == ["+1.0"] * 4 + ["+0.0"] * 2
        )  # the copies of dense and ASP are better, those of NxM have another name
        assert set(shown[6:]) == {"-"}
        tab.choice("task").select_option("RTE")
        assert tab.page.locator("#shown").inner_text().endswith(" entries shown")
        assert set(tab.column("task")) == {"RTE"}
        assert tab.page.evaluate("window.broken") is None
        assert tab.complaints == []
        assert tab.requests == [compared.as_uri()]


def test_printing_gives_pages_on_white_without_controls(browser: Any, path: Path) -> None:
    with Tab(browser, path, color_scheme="dark") as tab:
        printed = tab.page.pdf(format="A4")
        pages = len(re.findall(rb"/Type\s*/Page\b", printed))
        assert 3 <= pages <= 20
        tab.page.emulate_media(media="print")
        assert not tab.page.locator("#filters").is_visible()
        assert tab.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        tab.page.set_viewport_size({"width": 688, "height": 900})  # A4 within its margins, at 96 dots an inch
        assert tab.page.evaluate("document.scrollingElement.scrollWidth") <= 688


def test_a_watched_page_reloads_itself_and_keeps_its_filters(browser: Any, tmp_path: Path) -> None:
    with Tab(browser, make_page(EXAMPLE, tmp_path, watch=2.0)) as tab:
        with tab.page.expect_event("load", timeout=60_000):
            tab.choice("method").select_option("ASP")
        assert tab.choice("method").input_value() == "ASP"
        assert tab.column("method") == ["ASP"] * 4
        assert tab.complaints == []
