"""Score Pictures: the verdict is the guide's own, each picture has its mark, and wrong uses are told in words."""

import pytest
import torch
from world import LABELS, render


@pytest.fixture(scope="module")
def pictures():
    """Twenty rendered pictures as an IMAGE, with their classes and maps."""
    made = render(20, seed=77)
    return (made.images.movedim(1, -1) + 1) / 2, made


@pytest.fixture(scope="module")
def guides(comfy):
    from guidance_pack.host.models.guides import load_guide

    return {task: load_guide(f"shapes-{task}") for task in ("classifier", "noisy-classifier", "depth", "segmentation")}


@pytest.fixture(scope="module")
def judge(comfy, guides):
    from guidance_pack.host.compare.score import score

    return lambda images, task, label="", target=None: score(images, guides[task], label, target)


@pytest.mark.parametrize("task", ["classifier", "noisy-classifier"])
def test_says_which_pictures_are_as_asked(judge, pictures, task):
    images, made = pictures
    names = [LABELS[index] for index in made.labels]
    said = judge(images, task, ", ".join(names))
    agree = [mark == name for mark, name in zip(said.marks, names, strict=True)]
    assert list(said.right) == agree and said.value == sum(agree) / 20 and sum(agree) >= 18
    assert said.words.startswith(f"{sum(agree)} of 20 are as asked")


def test_labels_are_dealt_in_turn(judge, pictures):
    images, made = pictures
    said = judge(images, "classifier", "circle, 1, cat:0 + triangle:1".replace("cat", "star"))
    wanted = ("circle", "square", "triangle")
    assert said.right == tuple(mark == wanted[index % 3] for index, mark in enumerate(said.marks))


def test_without_a_label_nothing_is_right_or_wrong(judge, pictures):
    said = judge(pictures[0], "classifier")
    assert set(said.right) == {None} and 0 < said.value <= 1 and "sure" in said.words


@pytest.mark.parametrize(("task", "least"), [("depth", 0.999), ("segmentation", 1.0)])
def test_a_picture_agrees_with_itself_and_less_with_another(judge, pictures, task, least):
    images, _ = pictures
    itself, other = judge(images, task, target=images), judge(images, task, target=images.flip(0))
    assert itself.value >= least and other.value < 0.9 * itself.value
    assert len(itself.marks) == 20 and set(itself.right) == {None}


def test_the_share_of_pixels_is_that_of_the_guides_own_maps(judge, pictures, guides):
    images, made = pictures
    network = guides["segmentation"].patchers[0].model
    with torch.no_grad():
        maps = network(made.images, None).argmax(1)
    share = (maps == maps[:1]).double().mean().item()
    assert judge(images, "segmentation", target=images[:1]).value == pytest.approx(share, abs=1e-3)


def test_a_target_may_be_of_another_size(judge, pictures):
    images, _ = pictures
    larger = torch.nn.functional.interpolate(images.movedim(-1, 1), scale_factor=2, mode="bilinear").movedim(1, -1)
    assert judge(images, "segmentation", target=larger).value > 0.9


def test_a_target_is_looked_at_once_for_many_pictures(comfy, guides, pictures, monkeypatch):
    from guidance_pack.host.compare import score

    images, asked, output = pictures[0], [], score._output
    monkeypatch.setattr(score, "_output", lambda seen, guide: (asked.append(len(seen)), output(seen, guide))[1])
    wanted, said = score.Wanted(target=images[:2]), {}
    kept = [score.agreement(images[:4], guides["depth"], wanted, said) for _ in range(2)]
    assert asked == [2, 4, 4] and torch.equal(*kept)
    assert torch.equal(kept[0], score.agreement(images[:4], guides["depth"], wanted))


@pytest.mark.parametrize(
    ("task", "label", "words"),
    [("classifier", "sqare", "did you mean 'square'"), ("depth", "star", "names no classes"),
     ("depth", "", "connect target"), ("segmentation", "", "connect target")],
)
def test_wrong_uses_are_told_in_words(judge, pictures, task, label, words):
    with pytest.raises(ValueError, match=words):
        judge(pictures[0], task, label)


@pytest.mark.parametrize(("columns", "size"), [(4, 64), (64, 16), (3, 100), (4, 20)])
def test_the_sheet_holds_every_picture_whole(comfy, judge, pictures, columns, size):
    from guidance_pack.host.compare.score_sheet import GAP, score_sheet

    red = torch.tensor([1.0, 0.0, 0.0]).expand(7, 32, 24, 3)
    sheet = score_sheet(red, judge(pictures[0][:7], "classifier", "star"), "CFG 4", columns, size)[0]
    scale = size // 32 if size >= 32 else size / 32
    tile = round(24 * scale) * round(32 * scale)
    assert int((sheet == torch.tensor([1.0, 0.0, 0.0])).all(-1).sum()) == 7 * tile
    across = min(columns, 7)
    assert sheet.shape[1] == GAP + across * (round(24 * scale) + GAP)


def test_off_marks_have_no_frame_and_wrong_ones_a_red_one(comfy, judge, pictures):
    from guidance_pack.host.compare.score_sheet import RIGHT, WRONG, score_sheet

    def has(sheet, colour):
        wanted = torch.tensor([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        return bool(((sheet - wanted).abs().amax(-1) < 1e-3).any())

    images = pictures[0][:4]
    asked = score_sheet(images, judge(images, "classifier", "circle"), "", 4, 64)[0]
    assert has(asked, RIGHT) and has(asked, WRONG)
    free = score_sheet(images, judge(images, "classifier"), "", 4, 64)[0]
    assert not has(free, RIGHT) and not has(free, WRONG)
