"""The real ComfyUI server as a context manager: started, waited for, asked over HTTP, always stopped."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

from .terminal import HEARTBEAT_SECONDS, DevError, clean_environment, last_line, say, tail

ROOT = Path(__file__).resolve().parent.parent.parent
PACK = "guidance-components"
HOST = "127.0.0.1"
START_SECONDS = 300.0
STOP_SECONDS = 10.0

# Local requests must not go through a proxy that the environment names for the outside world.
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def free_port() -> int:
    """A port that nobody uses at this moment."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


def require_free(port: int) -> None:
    """DevError when something listens on `port`."""
    with socket.socket() as probe:
        if os.name != "nt":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a server that just stopped is not in the way
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise DevError(
                f"port {port} is in use, perhaps by another ComfyUI: stop that program or choose another with --port"
            ) from error


def link_pack(base: Path, pack: Path = ROOT) -> Path:
    """Show the repository to a ComfyUI base directory as custom_nodes/guidance-components; returns that path.

    A symbolic link, so that edits count at the next start; a copy on systems that forbid links.
    """
    for name in ("custom_nodes", "models", "input", "output", "user"):
        (base / name).mkdir(parents=True, exist_ok=True)
    link = base / "custom_nodes" / PACK
    if link.is_symlink():
        if link.resolve() == pack.resolve():
            return link
        link.unlink()
    elif link.exists():
        shutil.rmtree(link)
    try:
        link.symlink_to(pack, target_is_directory=True)
    except OSError:
        shutil.copytree(pack, link, ignore=shutil.ignore_patterns(".*", "output", "__pycache__"))
    return link


class Server:
    """One ComfyUI process with this pack; use with `with`, then `get`, `post` and `fetch`.

    Entering raises DevError when the port is in use, the server dies or does not answer in five minutes, or the pack
    fails to import. Leaving stops the whole process group.
    """

    def __init__(self, python: Path, comfyui: Path, base: Path, port: int, cpu: bool, page: Path | None = None):
        """page: the folder of another web page than ComfyUI's own."""
        self.python, self.comfyui, self.base, self.port, self.cpu = python, comfyui, base, port, cpu
        self.page = page
        self.log = base / "server.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.ready = False

    @property
    def address(self) -> str:
        return f"http://{HOST}:{self.port}"

    def command(self) -> list[str]:
        """The command line, database included, so that two servers never share one."""
        database = f"sqlite:///{(self.base / 'user' / 'comfyui.db').as_posix()}"
        options = ["--base-directory", str(self.base), "--port", str(self.port), "--listen", HOST]
        options += ["--disable-api-nodes", "--disable-auto-launch", "--database-url", database]
        options += ["--cpu"] if self.cpu else []
        options += [] if self.page is None else ["--front-end-root", str(self.page)]
        return [str(self.python), str(self.comfyui / "main.py"), *options]

    def __enter__(self) -> Server:
        require_free(self.port)
        self.base.mkdir(parents=True, exist_ok=True)
        say(f"Starting ComfyUI on {'the CPU' if self.cpu else 'the GPU'} (usually 10-20 s) ...")
        started = time.monotonic()
        with self.log.open("wb") as sink:
            self.process = subprocess.Popen(
                self.command(),
                stdout=sink,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                cwd=self.base,
                env=clean_environment(),
                start_new_session=True,
            )
        try:
            self._wait_until_ready(started)
            self._require_pack()
        except BaseException:
            self.stop()
            raise
        say(f"  ComfyUI answers on {self.address} after {time.monotonic() - started:.0f} s")
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def log_text(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def require_alive(self) -> None:
        """DevError when the process has died: one sentence before its first answer, then with the end of the log."""
        if self.process is None or self.process.poll() is None:
            return
        code = self.process.returncode
        if self.ready:
            raise DevError(f"ComfyUI stopped with code {code}; its last words:\n{tail(self.log_text())}")
        raise DevError(
            f"ComfyUI in {self.comfyui} does not start with {self.python} (code {code}): "
            f"{last_line(self.log_text())}; its whole log is {self.log}"
        )

    def _wait_until_ready(self, started: float) -> None:
        said = started
        while True:
            self.require_alive()
            with contextlib.suppress(OSError):
                self.get("/system_stats")
                self.ready = True
                return
            now = time.monotonic()
            if now - started > START_SECONDS:
                words = tail(self.log_text())
                raise DevError(f"ComfyUI gave no answer in {START_SECONDS:.0f} s; its last words:\n{words}")
            if now - said > HEARTBEAT_SECONDS:
                said = now
                say(f"  still starting: {now - started:.0f} s")
            time.sleep(0.2)

    def _require_pack(self) -> None:
        """ComfyUI starts even when a pack does not import, and says so only in its log."""
        text = self.log_text()
        if any("IMPORT FAILED" in line and line.rstrip().endswith(PACK) for line in text.splitlines()):
            raise DevError(f"ComfyUI could not import {PACK}; the end of its log:\n{tail(text, 40)}")

    def get(self, path: str) -> dict:
        """The JSON answer to GET `path`; OSError when the server does not answer."""
        return json.loads(self.fetch(path))

    def fetch(self, path: str) -> bytes:
        """The raw answer to GET `path`; DevError when the server has died, another OSError when it does not answer."""
        try:
            with _direct.open(self.address + path, timeout=60) as answer:
                return answer.read()
        except OSError:
            self.require_alive()
            raise

    def post(self, path: str, body: dict) -> tuple[int, dict]:
        """POST `body` as JSON; the status and the JSON answer, errors (400) included."""
        request = urllib.request.Request(
            self.address + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        try:
            with _direct.open(request, timeout=60) as answer:
                return answer.status, json.loads(answer.read() or b"{}")
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read() or b"{}")

    def stop(self) -> None:
        """End the process group: first politely, after ten seconds by force."""
        if self.process is None or self.process.poll() is not None:
            return
        self._signal(force=False)
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._signal(force=True)
            self.process.wait()

    def _signal(self, force: bool) -> None:
        assert self.process is not None
        if os.name == "nt":
            self.process.kill() if force else self.process.terminate()
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL if force else signal.SIGTERM)
