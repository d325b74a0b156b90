"""The real page in a real browser: a `Page` opens workflows, queues them and looks at our nodes, in either renderer.

Give module-scoped fixtures only: while Playwright runs, nothing else in the process can start an event loop.
"""

import contextlib
import json
import os
import re
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parent.parent
RENDERERS = ("classic", "vue")
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
READY = "() => window.app?.extensionManager?.workflow?.activeWorkflow && app.graph && app.vueAppReady"
SETTINGS = {"Comfy.TutorialCompleted": True, "Comfy.Workflow.Persist": False, "Comfy.Locale": "en"}
DRAWN = """() => app.canvas.graph.nodes.every(({ widgets, flags }) => {
    const one = widgets?.find((widget) => widget.name === "curve")?.element;
    const drawn = () => one.querySelector("svg").childElementCount || !one.querySelector("[hidden]");
    return !one || flags.collapsed || (one.isConnected && drawn());
})"""
RUN = """async () => {
    const ended = new Promise((resolve) => {
        app.api.addEventListener("execution_success", () => resolve("success"), { once: true });
        app.api.addEventListener("execution_error", ({ detail }) => resolve(detail.exception_message), { once: true });
    });
    const queued = await app.queuePrompt(0);
    return queued === false ? "not accepted" : ended;
}"""
RED = """(renderer) => {
    const ringed = ({ id }) => document.querySelector(`[data-node-id="${id}"] .ring-destructive-background`);
    const stroked = (node) => ["error", "executionError"].some((name) => node.strokeStyles[name].call(node));
    const red = app.canvas.graph.nodes.filter(renderer === "vue" ? ringed : stroked);
    return red.map(({ comfyClass, id }) => [comfyClass, Number(id)]);
}"""
WIDGETS = """([kind, renderer]) => {
    const { id, widgets } = app.canvas.graph.nodes.filter((n) => n.comfyClass === kind).sort((a, b) => a.id - b.id)[0];
    const named = widgets.filter((widget) => !widget.hidden).map(({ name }) => name);
    if (renderer === "classic") return named;
    const rows = document.querySelectorAll(`[data-node-id="${id}"] [data-testid="node-widget"]`);
    return rows.length === named.length ? named : [...rows].map((row) => row.innerText);
}"""
BOXES = """(renderer) => {
    const { ds, canvas, graph } = app.canvas;
    const origin = canvas.getBoundingClientRect();
    return graph.nodes.map(({ id, title, boundingRect: [left, top, width, height] }) => {
        if (renderer === "classic") return [`${id} ${title}`, left, top, left + width, top + height];
        const box = document.querySelector(`[data-node-id="${id}"]`).getBoundingClientRect();
        const x = (left) => (left - origin.left) / ds.scale - ds.offset[0];
        const y = (top) => (top - origin.top) / ds.scale - ds.offset[1];
        return [`${id} ${title}`, x(box.left), y(box.top), x(box.right), y(box.bottom)];
    });
}"""
PICTURES = """(renderer) => {
    const file = (source) => new URL(source).searchParams.get("filename");
    const drawn = ({ id, imgs }) => {
        const elements = document.querySelectorAll(`[data-node-id="${id}"] img`);
        return renderer === "classic" ? (imgs ?? []) : [...elements];
    };
    const open = app.rootGraph.nodes.filter(({ flags }) => !flags.collapsed);
    return open.filter(({ id }) => app.nodeOutputs[id]?.images).map((node) => ({
        kind: node.comfyClass, made: app.nodeOutputs[node.id].images.map(({ filename }) => filename),
        shown: drawn(node).map(({ src }) => src.startsWith("blob:") ? "a preview" : file(src)),
    }));
}"""
CURVES = """() => {
    const away = (dot, element) => {  // pixels from a step to its line
        const line = element.querySelector(`path.line.${dot.classList[1]}`);
        const points = line.getAttribute("d").slice(1).split("L").map((point) => point.split(" ").map(Number));
        const [x, y] = ["cx", "cy"].map((name) => Number(dot.getAttribute(name)));
        return Math.min(...points.map(([px, py]) => Math.hypot(px - x, py - y)));
    };
    const graphs = [app.rootGraph, ...app.rootGraph.subgraphs.values()];
    const nodes = graphs.flatMap((graph) => graph.nodes).sort((a, b) => a.id - b.id);
    return nodes.filter(({ widgets }) => widgets?.some((w) => w.name === "curve")).map((node) => {
        const element = node.widgets.find((w) => w.name === "curve").element;
        const words = element.querySelector(".guidance-curve-words");
        const box = element.getBoundingClientRect();
        return {
            kind: node.comfyClass, id: node.id, shown: element.isConnected && box.width > 0,
            lines: [...element.querySelectorAll("path.line")].map((path) => path.getAttribute("d")),
            bands: element.querySelectorAll("path.band").length,
            dots: element.querySelectorAll("circle.dot").length,
            far: Math.max(0, ...[...element.querySelectorAll("circle.dot")].map((dot) => away(dot, element))),
            words: words.hidden ? "" : words.textContent,
            done: element.querySelector(".guidance-curve-done").textContent,
            axis: element.querySelector(".guidance-curve-axis").textContent,
            names: [...element.querySelectorAll(".guidance-curve-names span")].map((span) => span.textContent),
        };
    });
}"""

# Where on the screen a handle (by its number) or a place of a plot is, and how large the plot is there.
PLACE = """([kind, handle]) => {
    const node = app.rootGraph.nodes.filter((n) => n.comfyClass === kind).sort((a, b) => a.id - b.id)[0];
    const svg = node.widgets.find((w) => w.name === "curve").element.querySelector("svg");
    const plot = svg.getBoundingClientRect();
    if (Array.isArray(handle)) {
        const [x, y] = handle;
        return [plot.left + x * plot.width, plot.top + y * plot.height, plot.width, plot.height];
    }
    const box = svg.querySelectorAll(".handle, .grip")[handle].getBoundingClientRect();
    return [box.left + box.width / 2, box.top + box.height / 2, plot.width, plot.height];
}"""


def workflow(name):
    """workflows/<name>.json as a dictionary."""
    return json.loads((ROOT / "workflows" / f"{name}.json").read_text("utf-8"))


@contextlib.contextmanager
def chromium():
    """The browser that `tools/dev.py test` provided."""
    program = os.environ.get("GUIDANCE_BROWSER", "")
    if not program:
        pytest.fail("no browser: run `python3 tools/dev.py test`, which provides one", pytrace=False)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


class Page:
    """One tab on the server's page, with everything that it complained of in `complaints`."""

    def __init__(self, browser, server, renderer):
        self.renderer = renderer
        self.complaints: list[str] = []
        self.tab = browser.new_context(viewport={"width": 1600, "height": 1000}).new_page()
        self.tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.tab.on("console", self._hear)
        self.server = server
        server.post("/settings", SETTINGS)
        self.load()
        asked = server.get("/system_stats")["system"]["required_frontend_version"].split(".")[:2]
        self.under = 25 if renderer == "vue" and [int(part) for part in asked] < [1, 47] else 1

    def _hear(self, message):
        """Keep errors that name us. No error of ours: a help page is asked for in the page's language first, and the
        panel of errors asks the registry, which is out of reach, who made a node."""
        about = f"{message.text} {message.location.get('url', '')}".lower()
        if message.type == "error" and "guidance" in about and not any(f in about for f in ("/docs/", "api.comfy.org")):
            self.complaints.append(about)

    def load(self):
        """(Re)load the page and wait until it can be worked with. It reads now which renderer it has."""
        self.server.post("/settings", {"Comfy.VueNodes.Enabled": self.renderer == "vue"})
        self.tab.goto(self.server.address, wait_until="domcontentloaded")
        self.tab.wait_for_function(READY, timeout=120_000)

    def do(self, script, *arguments):
        return self.tab.evaluate(script, *arguments)

    def open(self, name):
        """Open workflows/<name>.json (or a workflow given as a dictionary), seen whole."""
        opened = workflow(name) if isinstance(name, str) else name
        self.do("async (workflow) => { await app.loadGraphData(workflow); }", opened)
        self.frames()
        self.command("Comfy.Canvas.FitView")
        self.frames(30)

    def frames(self, count=4):
        """Let the page draw so many frames."""
        self.do("async (n) => { while (n--) await new Promise((next) => requestAnimationFrame(next)); }", count)

    def missing(self):
        """The kinds of the open workflow that the page does not know."""
        return self.do(
            "() => app.rootGraph.nodes.map((n) => n.type).filter((t) => !(t in LiteGraph.registered_node_types))"
        )

    def run(self):
        """Queue the open workflow; "success" or the error's words."""
        return self.do(RUN)

    def curves(self):
        """Every curve of the open workflow, once each that is to be seen is drawn."""
        self.frames()
        self.tab.wait_for_function(DRAWN, timeout=20_000)
        return self.do(CURVES)

    def curve(self, kind):
        return next(curve for curve in self.curves() if curve["kind"] == kind)

    def drag(self, kind, handle, by, button="left"):
        """Press a handle of the first plot of a kind of node, or a place [x, y] in parts of the plot, and let go `by`
        parts of the plot further."""
        x, y, width, height = self.do(PLACE, [kind, handle])
        self.tab.mouse.move(x, y)
        self.tab.mouse.down(button=button)
        for part in (0.5, 1.0):
            self.tab.mouse.move(x + part * by[0] * width, y + part * by[1] * height)
            self.frames(2)
        self.tab.mouse.up(button=button)
        self.frames(5)

    def value(self, kind, name):
        """A widget's value of the first node of a kind."""
        return self.do(
            """([kind, name]) => app.rootGraph.nodes.filter((n) => n.comfyClass === kind)
                .sort((a, b) => a.id - b.id)[0].widgets.find((w) => w.name === name).value""",
            [kind, name],
        )

    def set(self, kind, name, value):
        """Set a widget of the first node of a kind, or of a node by its number, as when a person edits it."""
        self.do(
            """([kind, name, value]) => {
                const node = app.rootGraph.nodes.filter((n) => [n.comfyClass, String(n.id)].includes(String(kind)))
                    .sort((a, b) => a.id - b.id)[0];
                const widget = node.widgets.find((w) => w.name === name);
                widget.value = value; widget.callback?.(value);
            }""",
            [kind, name, value],
        )

    def overlaps(self):
        """The pairs of nodes that lie on each other, by number and title; a pixel's touch is none, nor the row with a
        pack's name that pages before 1.47 have below each node of the Vue renderer."""
        boxes = self.do(BOXES, self.renderer)
        return [
            (one, other)
            for i, (one, left, top, right, bottom) in enumerate(boxes)
            for other, x0, y0, x1, y1 in boxes[i + 1 :]
            if min(right, x1) - max(left, x0) > 1 and min(bottom, y1) - max(top, y0) > self.under
        ]

    def pictures(self):
        """Of every node that is open and whose run gave pictures: its kind, their files, and what it shows of them."""
        loaded = f"(renderer) => ({PICTURES})(renderer).every(({{ made, shown }}) => shown.length === made.length)"
        self.tab.wait_for_function(loaded, arg=self.renderer, timeout=20_000)
        self.frames(10)
        return self.do(PICTURES, self.renderer)

    def widgets(self, kind):
        """The names of the widgets that the first node of a kind, in the graph that is open, shows."""
        self.frames(10)
        return self.do(WIDGETS, [kind, self.renderer])

    def set_all(self, values):
        """Set widgets of every node of some kinds: {kind: {name: value}}."""
        self.do(
            """(values) => {
                for (const node of app.rootGraph.nodes)
                    for (const [name, value] of Object.entries(values[node.comfyClass] ?? {}))
                        node.widgets.find((w) => w.name === name).value = value;
            }""",
            values,
        )

    def connect(self, source, output, target, name):
        """Draw a wire between two nodes, each given by its id or its kind, from an output's name to an input's."""
        self.do(
            """([source, output, target, name]) => {
                const [from, to] = [source, target].map(
                    (which) => app.rootGraph.nodes.find(({ id, comfyClass }) => id == which || comfyClass === which));
                from.connect(from.findOutputSlot(output), to, to.findInputSlot(name));
            }""",
            [source, output, target, name],
        )

    def disconnect(self, target, name):
        """Take the wire of an input away; its node is given by its id."""
        self.do(
            """([target, name]) => {
                const to = app.rootGraph.getNodeById(target);
                to.disconnectInput(to.findInputSlot(name));
            }""",
            [target, name],
        )

    def add(self, kind, place, **wires):
        """Put a new node at a place [x, y] and wire its inputs, each (id or kind, output's name)."""
        made = self.do(
            """([kind, place]) => {
                const node = LiteGraph.createNode(kind);
                node.pos = place;
                app.rootGraph.add(node);
                return Number(node.id);
            }""",
            [kind, place],
        )
        for name, (source, output) in wires.items():
            self.connect(source, output, made, name)

    def red(self):
        """The nodes that are framed in red: (kind, id) of each."""
        self.frames(10)
        return [tuple(node) for node in self.do(RED, self.renderer)]

    def problem(self):
        """What the page says of a run that failed, once its details are unfolded; without tracebacks and logs."""
        self.tab.get_by_test_id("error-overlay-see-errors").click(timeout=20_000)
        group = self.tab.get_by_test_id("properties-panel")
        reported = group.filter(has_text="Exception Message")  # by a node that ran
        refused = group.get_by_role("button", name="Info for").first  # by a node that did not; unfolded in old pages
        unfolded = group.filter(has=self.tab.get_by_test_id("error-card-copy")).filter(has_not_text="Node threw")
        reported.or_(refused).or_(unfolded).first.wait_for(timeout=20_000)  # a report comes after its error's log
        if refused.count():
            refused.click()
            self.frames()
        said = group.inner_text().partition("## Stack Trace")[0]
        return re.sub(r"&(amp;)*apos;", "'", said)  # as pages before 1.47 show a quotation mark

    def saved(self):
        return self.do("() => app.rootGraph.serialize()")

    def prompt(self):
        return self.do("async () => (await app.graphToPrompt()).output")

    def click_title(self, kind):
        """Click on the title of the first node of a kind, as a person does to select it."""
        place = self.do(
            """(kind) => {
                const node = app.rootGraph.nodes.find((one) => one.comfyClass === kind);
                const { ds, canvas } = app.canvas;
                ds.scale = 1;
                ds.offset = [500 - node.pos[0], 300 - node.pos[1]];
                app.canvas.setDirty(true, true);
                const { left, top } = canvas.getBoundingClientRect();
                return [left + 500 + 130, top + 300 - 15];
            }""",
            kind,
        )
        self.frames(10)
        self.tab.mouse.click(*place)
        self.frames(10)

    def command(self, name):
        self.do("(name) => app.extensionManager.command.execute(name)", name)

    def setting(self, name, value):
        self.do("([name, value]) => app.extensionManager.setting.set(name, value)", [name, value])

    def remember(self):
        """Let the page note a state that it can come back to, as it does when a person lets go of the mouse."""
        self.do("() => app.extensionManager.workflow.activeWorkflow.changeTracker.captureCanvasState()")

    def picture(self, file):
        self.tab.screenshot(path=str(file))
