"""A page in a headless Chromium driven through its debugging pipe: what is asked, pointed at, clicked and seen."""

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)


def browse(folder: Path, page: Path, *options: str) -> str:
    """What Chromium prints for ``page``, with a profile of its own."""
    command = [str(CHROMIUM), *QUIET, f"--user-data-dir={folder / 'profile'}", *options, page.as_uri()]
    return subprocess.run(command, capture_output=True, timeout=600, check=True).stdout.decode("utf-8", "replace")


class Browser:
    """One open page. Commands go as JSON texts, each ended by a zero byte, as do the answers."""

    def __init__(self, to: int, back: int) -> None:
        self.to, self.back = to, back
        self.held = b""
        self.count = 0
        self.session: str | None = None
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The answer to one command; what happens meanwhile is kept in ``events``."""
        self.count += 1
        message = {"id": self.count, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.to, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self.count:
            self.events.append(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self.held:
            more = os.read(self.back, 1 << 20)
            if not more:
                raise RuntimeError("Chromium has gone")
            self.held += more
        message, _, self.held = self.held.partition(b"\0")
        return json.loads(message)

    def open(self, page: Path, width: int = 1280, height: int = 900) -> None:
        """Show a page in a window of that size, and wait until it has been loaded."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        self.resize(width, height)
        self.events.clear()
        self.call("Page.navigate", url=page.as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._next())

    def resize(self, width: int, height: int) -> None:
        """Give the window another size, in CSS pixels."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )

    def ask(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"]["exception"]["description"])
        return answer["result"].get("value")

    def settle(self) -> None:
        """Wait until the page has drawn what it was asked for."""
        self.ask(
            "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 50))))"
        )

    def show(self, selector: str) -> None:
        """Scroll until an element is in the middle of the window."""
        self.ask(f"document.querySelector({json.dumps(selector)}).scrollIntoView({{block: 'center'}})")
        self.settle()

    def point(self, selector: str, x: float, y: float, *, click: bool = False) -> None:
        """Move the mouse to a place of an element, counted from its corner, and press it where asked."""
        left, top = self.ask(
            f"(({{left, top}}) => [left, top])(document.querySelector({json.dumps(selector)}).getBoundingClientRect())"
        )
        place = {"x": left + x, "y": top + y}
        self.call("Input.dispatchMouseEvent", type="mouseMoved", **place)
        for kind in ("mousePressed", "mouseReleased") if click else ():
            self.call("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **place)
        self.settle()

    def write(self, selector: str, words: str) -> None:
        """Type words into an empty field."""
        self.ask(f"document.querySelector({json.dumps(selector)}).focus()")
        self.call("Input.insertText", text=words)
        self.settle()

    def screenshot(self, path: Path, *, whole: bool = False) -> Path:
        """A picture of the window, or of the whole page, as PNG."""
        data = self.call("Page.captureScreenshot", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(data))
        return path

    def complaints(self) -> list[str]:
        """What the browser reports of the page: errors of its script, what its policy has refused."""
        told = [event["params"] for event in self.events if event.get("method") == "Log.entryAdded"]
        thrown = [event["params"] for event in self.events if event.get("method") == "Runtime.exceptionThrown"]
        return [entry["entry"]["text"] for entry in told] + [str(entry["exceptionDetails"]) for entry in thrown]


@contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """A Chromium with a profile of its own, which ends with the block."""
    theirs, to = os.pipe()
    back, from_it = os.pipe()
    # Chromium reads commands from descriptor 3 and writes answers to descriptor 4.
    shell = f'exec "$0" "$@" 3<&{theirs} 4>&{from_it}'
    options = (*QUIET, "--remote-debugging-pipe", f"--user-data-dir={folder / 'driven'}", "about:blank")
    with subprocess.Popen(
        ["bash", "-c", shell, str(CHROMIUM), *options], pass_fds=(theirs, from_it), stderr=subprocess.DEVNULL
    ) as process:
        os.close(theirs)
        os.close(from_it)
        driven = Browser(to, back)
        try:
            yield driven
        finally:
            os.close(to)
            os.close(back)
            process.terminate()
            process.wait(30)
