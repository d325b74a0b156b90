"""The fuzz command's prompts: what is judged a fault."""

import torch
from fuzzing.prompts import _misreported, _odd


def test_what_is_wrong_is_found():
    """A NaN picture with status success, a sentence said twice, and an exception of ours."""
    assert _odd(torch.full((1, 2, 2, 3), float("nan"))) and not _odd(torch.zeros(1, 2, 2, 3))
    said = [{"details": f"{name} - twice", "extra_info": {}} for name in ("start", "end")]
    errors = {"1": {"class_type": "GuidanceCFG", "errors": said}}
    assert _misreported(errors) == ["said 2 times: twice"]
    errors["1"]["errors"] = [{"details": "x - " + "y" * 1501, "extra_info": {}}]
    assert _misreported(errors)[0].startswith("1501 characters")
