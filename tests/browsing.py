"""A headless Chromium for tests that look at pages; skips with a reason where there is none, unless CLSUITE_BROWSER=required."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

WIDE, PHONE = (1280, 900), (390, 844)
NAMES = ("chromium", "chromium-browser", "google-chrome")


def binary() -> str:
    """The browser; fails or skips without one."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None or shutil.which("chromedriver") is None:
        reason = "no browser here (Debian: apt-get install chromium chromium-driver)"
        if os.environ.get("CLSUITE_BROWSER") == "required":
            pytest.fail(reason)
        pytest.skip(reason)
    return found


@contextmanager
def browser(size: tuple[int, int] = WIDE, dark: bool = False, downloads: Path | None = None) -> Iterator[Any]:
    """A driver with its console and its network traffic recorded; `downloads` is where exported files go."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = binary()
    for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars", f"--window-size={size[0]},{size[1]}"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    if downloads is not None:
        several = {"profile.default_content_setting_values.automatic_downloads": 1}
        options.add_experimental_option("prefs", {"download.default_directory": str(downloads), "download.prompt_for_download": False, **several})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        driver.set_page_load_timeout(60)
        driver.set_script_timeout(120)
        if dark:
            driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark"}]})
        yield driver
    finally:
        driver.quit()


def opened(driver: Any, page: Path) -> Any:
    """The page with every figure drawn."""
    driver.get(page.resolve().as_uri())
    driver.execute_async_script("const done = arguments[arguments.length - 1]; clsuiteDrawAll().then(() => done(true), (e) => done(String(e)));")
    return driver


def complaints(driver: Any) -> list[str]:
    """What the console said since it was last asked: errors and warnings."""
    return [entry["message"] for entry in driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]


def requests(driver: Any) -> list[str]:
    """Addresses that were asked for since this was last called."""
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    return [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]


def picture(driver: Any, file: Path, height: int | None = None) -> None:
    """A screenshot of the page from its top, as high as it is or as `height`."""
    whole = driver.execute_script("return document.documentElement.scrollHeight")
    width = driver.execute_script("return window.innerWidth")
    metrics = {"width": width, "height": min(whole, height or whole), "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    file.parent.mkdir(parents=True, exist_ok=True)
    driver.save_screenshot(str(file))
    driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
