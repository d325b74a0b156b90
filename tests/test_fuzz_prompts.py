"""Hostile prompts of a fixed seed through the host's own validation and executor: nothing but sentences comes back."""

from random import Random

import pytest

INPUTS = 30


@pytest.fixture
def scene(comfy, tmp_path, monkeypatch):
    import folder_paths
    import server
    from fuzzing.prompts import Scene

    import nodes as core

    for name in ("output", "input", "temp"):
        monkeypatch.setattr(folder_paths, f"{name}_directory", str(tmp_path / name))
    monkeypatch.setattr(core, "NODE_CLASS_MAPPINGS", dict(core.NODE_CLASS_MAPPINGS))
    monkeypatch.setattr(server.PromptServer, "instance", None, raising=False)
    return Scene(tmp_path)


def test_a_fixed_run_finds_nothing(scene):
    from fuzzing.pool import run_input
    from fuzzing.verdict import FINE

    records = [run_input(scene, Random(f"suite {index}")) for index in range(INPUTS)]
    wrong = [record for record in records if record["outcome"] not in FINE]
    assert not wrong, "\n\n".join(f"{record['outcome']} {record['label']}: {record['words']}" for record in wrong)
    assert sum(record["outcome"] == "refused" for record in records) > 3


def test_what_is_wrong_is_found(scene):
    """A NaN picture with status success, a sentence said twice, and an exception of ours."""
    import torch
    from fuzzing.prompts import _misreported, _odd

    assert _odd(torch.full((1, 2, 2, 3), float("nan"))) and not _odd(torch.zeros(1, 2, 2, 3))
    said = [{"details": f"{name} - twice", "extra_info": {}} for name in ("start", "end")]
    errors = {"1": {"class_type": "GuidanceCFG", "errors": said}}
    assert _misreported(errors) == ["said 2 times: twice"]
    errors["1"]["errors"] = [{"details": "x - " + "y" * 1501, "extra_info": {}}]
    assert _misreported(errors)[0].startswith("1501 characters")
