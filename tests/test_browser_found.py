"""Where the browser for the tests of the page comes from: what is there is taken, what is missing is said in words."""

import sys
from pathlib import Path

import pytest

from devtools import browser
from devtools.terminal import DevError


def program(folder, name, does):
    """A program that does this when it is asked for its version."""
    folder.mkdir(parents=True, exist_ok=True)
    made = folder / name
    made.write_text(f"#!/bin/sh\n{does}\n")
    made.chmod(0o755)
    return made


@pytest.fixture
def nothing(monkeypatch, tmp_path):
    """A machine without any browser; the calls of installers are kept."""
    calls = []
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv("GUIDANCE_BROWSER", raising=False)
    monkeypatch.setattr(browser, "PLACES", ())
    monkeypatch.setattr(browser, "run_logged", lambda command, *_, **settings: calls.append((command, settings)))
    return calls


def provide(tmp_path):
    return browser.provide(Path(sys.executable), tmp_path / "cache", tmp_path / "logs")


def test_an_installed_browser_is_used_as_it_is(nothing, tmp_path):
    there = program(tmp_path / "bin", "chromium", "echo Chromium 1")
    assert provide(tmp_path) == there and nothing == []


def test_a_package_that_is_an_empty_shell_is_passed_over(nothing, tmp_path):
    program(tmp_path / "bin", "chromium", "echo 'install the snap' >&2; exit 1")
    there = program(tmp_path / "cache" / "chromium-1" / "chrome-linux", "chrome", "echo Chromium 1")
    assert provide(tmp_path) == there


def test_the_download_goes_into_the_cache(nothing, tmp_path):
    with pytest.raises(DevError):
        provide(tmp_path)
    command, settings = nothing[-1]
    assert command[1:] == ["-m", "playwright", "install", "--no-shell", "chromium"]
    assert settings == {"PLAYWRIGHT_BROWSERS_PATH": str(tmp_path / "cache")}


def test_apt_is_asked_where_it_may_be(nothing, tmp_path, monkeypatch):
    program(tmp_path / "bin", "apt-get", "exit 0")
    for user, asked in ((0, True), (1000, False)):
        nothing.clear()
        monkeypatch.setattr(browser.os, "geteuid", lambda user=user: user)
        with pytest.raises(DevError):
            provide(tmp_path)
        assert any(command[:2] == ["apt-get", "install"] for command, _ in nothing) == asked


def test_what_is_missing_is_said_in_words(nothing, tmp_path):
    broken = program(tmp_path / "bin", "google-chrome", "echo 'cannot open libnss3.so' >&2; exit 127")
    with pytest.raises(DevError, match="need a Chromium.*cannot open libnss3.so.*GUIDANCE_BROWSER") as caught:
        provide(tmp_path)
    assert str(caught.value).count(str(broken)) == 1 and "\n" not in str(caught.value)


def test_ones_own_browser_must_run(nothing, tmp_path, monkeypatch):
    there = program(tmp_path / "own", "browser", "echo Chromium 1")
    monkeypatch.setenv("GUIDANCE_BROWSER", str(there))
    assert provide(tmp_path) == there
    monkeypatch.setenv("GUIDANCE_BROWSER", str(tmp_path / "absent"))
    with pytest.raises(DevError, match="GUIDANCE_BROWSER=.*absent does not run.*unset it"):
        provide(tmp_path)
