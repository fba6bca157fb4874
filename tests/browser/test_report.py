"""The report in a real browser: its figures, their captions, and its pages."""

import pytest
from chromium import errors, is_blank
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

pytestmark = pytest.mark.browser
# Draw all images of the report; return their widths, 0 for an invalid image.
WIDTHS = """
const done = arguments[arguments.length - 1];
const pictures = Object.entries(results).filter(([_, r]) => r.mime_type.startsWith("image/"));
Promise.all(pictures.map(([path, result]) => new Promise((resolve) => {
    const image = new Image();
    image.onload = image.onerror = () => resolve([path, image.naturalWidth]);
    image.src = result.data_uri;
}))).then((widths) => done(Object.fromEntries(widths)));
"""


@pytest.fixture
def page(browser, finished):
    browser.get((finished.folder / "report.html").resolve().as_uri())
    yield browser
    # Errors of all pages that the test opened.
    assert errors(browser) == []


def click(page, text):
    """Click the element of the navigation with this text, as soon as it exists."""
    path = f"//nav//*[normalize-space(text())='{text}']"
    WebDriverWait(page, 10).until(lambda page: page.find_elements(By.XPATH, path))[0].click()


def test_first_page(page, finished):
    assert (finished.folder / "results/report.html").stat().st_size < 20e6
    text = page.find_element(By.TAG_NAME, "body").text
    assert "submission.zip contains" in text and "How good it is" in text
    assert "This page describes one run of the cellmap-pipeline workflow" in text
    # The head of the page can be reached.
    assert page.find_element(By.CSS_SELECTOR, ".opening h1").location["y"] >= 0
    assert "5 Test crops" in text and "7 Resources" in text
    # The rule graph.
    graph = WebDriverWait(page, 10).until(lambda page: page.find_elements(By.TAG_NAME, "canvas"))
    assert graph[0].size["height"] > 300
    assert not is_blank(page.get_screenshot_as_png())


def test_all_figures_have_captions(page, finished):
    figures = finished.folder / "results/figures"
    drawn = {path.name for suffix in ("png", "jpg") for path in figures.rglob(f"*.{suffix}")}
    drawn = {name for name in drawn if not name.endswith("_preview.jpg")}
    widths = page.execute_async_script(WIDTHS)
    assert {path.rpartition("/")[2] for path in widths} == drawn
    assert min(widths.values()) > 300
    captions = page.execute_script(
        "return Object.values(results).map((result) => result.caption || '')"
    )
    assert len(captions) == len(widths) + 1
    assert all(len(caption) > 100 for caption in captions)
    # Docutils marks mistakes like this.
    assert not any("system-message" in caption for caption in captions)


def test_picture_of_a_crop_opens_its_figure(page):
    previews = page.find_elements(By.CSS_SELECTOR, ".opening figure img")
    assert all(preview.get_property("naturalWidth") > 100 for preview in previews)
    page.find_element(By.CSS_SELECTOR, ".opening figure a").click()
    wait = WebDriverWait(page, 10)
    picture = wait.until(lambda page: page.find_elements(By.CSS_SELECTOR, "div.p-3 > img"))[0]
    assert picture.get_property("naturalWidth") > 1000


def test_menu_opens_the_figure_of_a_crop(page):
    click(page, "5 Test crops")
    button = "//nav//tr[td='5 of demo_cell-1']//a"

    def opened(page):
        found = page.find_elements(By.CSS_SELECTOR, "div.p-3 > img")
        # A click is lost if the page draws its menu anew at the same moment.
        for element in page.find_elements(By.XPATH, button)[: 0 if found else 1]:
            element.click()
        return found

    wait = WebDriverWait(page, 20, 2, ignored_exceptions=[StaleElementReferenceException])
    picture = wait.until(opened)[0]
    assert picture.get_property("naturalWidth") > 1000
    assert not is_blank(picture.screenshot_as_png)


def test_page_about_the_run(page):
    path = page.execute_script(
        "return Object.keys(results).find((path) => results[path].mime_type == 'text/html')"
    )
    page.execute_script(
        "app.setView({content: 'html', contentPath: results[arguments[0]].data_uri})", path
    )
    frame = WebDriverWait(page, 10).until(lambda page: page.find_elements(By.TAG_NAME, "iframe"))[0]
    page.switch_to.frame(frame)
    WebDriverWait(page, 10).until(
        lambda page: "learning_rate" in page.find_element(By.TAG_NAME, "body").text
    )
    page.switch_to.default_content()
