"""The class names that the page offers at a text: each means its class, and loaders tell those of what they loaded."""

import json

import pytest

IMAGENET = ["tench, Tinca tinca", "crane", "crane, hoist", "crane", "black + white", "maillot, tank suit", "maillot"]


@pytest.fixture(scope="module")
def labels(comfy):
    from guidance_pack.host.common import labels

    return labels


def test_every_word_that_is_offered_means_its_class(labels):
    words = labels.offered(IMAGENET)["words"]
    assert words == ["tench", "crane", "hoist", "3", "4", "maillot", "6"]
    assert [labels.index_of(word, tuple(IMAGENET)) for word in words] == [*range(len(IMAGENET))]


def test_numbers_are_not_offered_and_attributes_make_phrases(labels):
    assert labels.offered(["0", "1"]) == {"words": [], "phrases": False}
    assert labels.offered(["star"], [["red", "blue"]]) == {"words": ["star", "red", "blue"], "phrases": True}


def test_loaders_tell_the_classes_of_what_they_loaded_and_embedded_ones_are_known_before(labels):
    from guidance_pack.nodes.guides import GuidanceLoadGuide

    (name,) = [one for one in GuidanceLoadGuide.define_schema().inputs if one.id == "name"]
    known = name.as_dict()[labels.CLASSES]
    for guide, some in (("shapes-classifier", 10), ("shapes-experts", 10), ("shapes-depth", 0)):
        told = json.loads(GuidanceLoadGuide.execute(guide).ui[labels.CLASSES][0])
        assert told == {"name": guide, **known[guide]} and len(told["words"]) == some
