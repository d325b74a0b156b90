"""A models/guides as a user's may look, lent to the real host."""

from pathlib import Path

from guide_files import resnet, resnet18, squeezenet, tiny

EMBEDDED = "shapes-random"


def write_guides(root: Path) -> Path:
    """A nested folder, files, a clean guide, and things that are no guides."""
    resnet(root / "someone" / "resnet")
    squeezenet(root / "squeeze")
    resnet18(root / "noisy" / "resnet18")
    tiny(root / "own", timestep=False)
    (root / "someone" / "readme.txt").write_text("no guide")
    (root / "empty").mkdir()
    (root / "pickled").mkdir()
    (root / "pickled" / "config.json").write_text("{}")
    (root / "pickled" / "pytorch_model.bin").write_bytes(b"never opened")
    (root / "old.ckpt").write_bytes(b"never opened")
    (root / "old.pt").write_bytes(b"no tensors")
    return root


def write_assets(root: Path) -> Path:
    """One random embedded guide, EMBEDDED."""
    tiny(root / EMBEDDED)
    return root


def lend(monkeypatch, *folders: Path) -> None:
    """Make these the folders in which the host looks for guides."""
    import folder_paths

    monkeypatch.setitem(folder_paths.folder_names_and_paths, "guides", ([str(folder) for folder in folders], set()))


def lent(monkeypatch, root: Path, assets: Path):
    """`host.guides` with the folder `root`, and the embedded guides of `assets` instead of its own."""
    from guidance_pack.host.models import guides

    lend(monkeypatch, root)
    monkeypatch.setattr(guides, "ASSETS", assets)
    return guides
