"""Keypoint schemas: names, mirror pairs, lines."""

import pytest

from common.keypoints import COCO_17, FIVE_POINT_FACE, OPENPOSE_18, SCHEMAS, KeypointSchema, matching_order


def test_coco_names_are_in_coco_order():
    parts = ["eye", "ear", "shoulder", "elbow", "wrist", "hip", "knee", "ankle"]
    assert list(COCO_17.names) == ["nose", *(f"{side}_{part}" for part in parts for side in ("left", "right"))]
    assert len(COCO_17) == 17
    assert len(FIVE_POINT_FACE) == 5


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=lambda schema: schema.name)
def test_a_mirror_swaps_left_and_right_and_nothing_else(schema):
    for name, index in zip(schema.names, schema.flip_order, strict=True):
        swapped = name.replace("left", "*").replace("right", "left").replace("*", "right")
        assert schema.names[index] == swapped
    assert [schema.flip_order[index] for index in schema.flip_order] == list(range(len(schema)))


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=lambda schema: schema.name)
def test_lines_connect_every_keypoint_and_mirror_onto_lines(schema):
    reached = {0}
    for _ in schema.names:
        reached |= {end for edge in schema.edges if reached & set(edge) for end in edge}
    body = set(range(len(schema)))
    if schema is COCO_17:  # the head and the body are two drawings: COCO joins no neck
        assert reached == {0, 1, 2, 3, 4}
        body -= reached
        reached = {5}
        for _ in schema.names:
            reached |= {end for edge in schema.edges if reached & set(edge) for end in edge}
    assert reached == body
    lines = {frozenset(edge) for edge in schema.edges}
    assert {frozenset(schema.flip_order[end] for end in edge) for edge in schema.edges} == lines
    assert len(lines) == len(schema.edges)


def test_schemas_are_found_by_name():
    assert SCHEMAS == {"coco17": COCO_17, "openpose18": OPENPOSE_18, "face5": FIVE_POINT_FACE}


def test_openpose_to_coco_is_the_order_that_ou_mvlp_is_converted_by():
    order = matching_order(OPENPOSE_18, COCO_17)
    assert order == [0, 15, 14, 17, 16, 5, 2, 6, 3, 7, 4, 11, 8, 12, 9, 13, 10]  # OpenGait's datasets/OUMVLP
    assert [OPENPOSE_18.names[index] for index in order] == list(COCO_17.names)
    with pytest.raises(ValueError, match="schema coco17 has no neck, which openpose18 needs"):
        matching_order(COCO_17, OPENPOSE_18)


@pytest.mark.parametrize(
    ("pairs", "edges", "message"),
    [
        (((0, 3),), (), r"schema s: keypoint 3 is not one of 0\.\.2"),
        ((), ((-1, 0),), r"schema s: keypoint -1 is not one of 0\.\.2"),
        (((0, 1), (1, 2)), (), "schema s: a keypoint is in two flip pairs"),
        (((1, 1),), (), "schema s: a keypoint is in two flip pairs"),
    ],
)
def test_bad_schemas(pairs, edges, message):
    with pytest.raises(ValueError, match=message):
        KeypointSchema(name="s", names=("a", "b", "c"), flip_pairs=pairs, edges=edges)
