"""A headless Chromium for the tests, driven through chromedriver's own protocol (W3C WebDriver); no package needed."""

import base64
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the key of an element's id, fixed by the W3C


def find_browser():
    """Return the paths of Chromium and of its driver; None for what is not installed."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    return browser, shutil.which("chromedriver")


class Browser:
    """One browser window; use it in a `with` statement."""

    def __init__(self, width=1200, height=900):
        binary, driver = find_browser()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self._base = f"http://127.0.0.1:{port}"
        self._process = subprocess.Popen(
            [driver, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            self._wait_until_ready()
            self._start(binary, width, height)
        except BaseException:
            self._stop()
            raise

    def _start(self, binary, width, height):
        args = [
            "--headless=new",
            "--no-sandbox",
            "--disable-dev-shm-usage",
            "--disable-gpu",
            f"--window-size={width},{height}",
        ]
        options = {
            "goog:chromeOptions": {"binary": binary, "args": args},
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }
        session = self._ask("POST", "/session", {"capabilities": {"alwaysMatch": options}})
        self._base += f"/session/{session['sessionId']}"

    def _wait_until_ready(self):
        for _ in range(300):
            try:
                self._ask("GET", "/status")
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.1)
            else:
                return
        raise TimeoutError("chromedriver must answer within 30 s, got nothing. Start it by hand to see why.")

    def _ask(self, method, path, body=None):
        data = None if method == "GET" else json.dumps(body or {}).encode()
        request = urllib.request.Request(self._base + path, data, {"Content-Type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["value"]

    def open(self, url):
        """Load a page."""
        self._ask("POST", "/url", {"url": url})

    def click(self, css):
        """Click the first element that a CSS selector finds, as a user would."""
        element = self._ask("POST", "/element", {"using": "css selector", "value": css})[ELEMENT]
        self._ask("POST", f"/element/{element}/click")

    def run(self, script):
        """Return what a JavaScript function body returns."""
        return self._ask("POST", "/execute/sync", {"script": script, "args": []})

    def log(self, kind="browser"):
        """Return what is new on the console; of ``"performance"``, the events, requests among them."""
        return self._ask("POST", "/se/log", {"type": kind})

    def command(self, name, **params):
        """Send a command of the DevTools protocol."""
        return self._ask("POST", "/goog/cdp/execute", {"cmd": name, "params": params})

    def screenshot(self, path):
        """Save a picture of the whole page."""
        picture = self.command("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(picture["data"]))

    def _stop(self):
        self._process.terminate()
        self._process.wait(30)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        try:
            self._ask("DELETE", "")
        finally:
            self._stop()
