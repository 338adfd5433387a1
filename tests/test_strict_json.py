"""JSON that strict parsers read."""

import json

from hypothesis import given
from hypothesis import strategies as st

from dynvid import strict_json

TEXT = st.text(st.characters(exclude_categories=())) | st.text(st.characters(categories=["Cs", "Cc", "Cf"]))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(TEXT, inside, max_size=3),
    max_leaves=8,
)


def refuse(token):
    raise ValueError(f"{token} is no JSON")


@given(VALUES, st.sampled_from([None, 2]))
def test_any_plain_data_is_valid_and_comes_back(value, indent):
    text = strict_json.dumps(value, indent)
    assert text.isascii()
    assert "\n" not in text or indent
    assert json.loads(text, parse_constant=refuse) == json.loads(json.dumps(value), parse_constant=lambda _: None)


def test_numbers_that_json_lacks_are_null():
    assert strict_json.dumps({"a": [float("nan"), 1.5], "b": (float("inf"), -float("inf"))}) == (
        '{"a": [null, 1.5], "b": [null, null]}'
    )
