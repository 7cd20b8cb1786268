import pytest

from ganctl.errors import UsageError
from ganctl.io.seeds import MAX_SEED, MAX_SEEDS, parse_seeds, seed_text


def test_lists_ranges_and_spaces_keep_their_order():
    assert parse_seeds("0-3,85") == [0, 1, 2, 3, 85]
    assert parse_seeds(" 7 , 2 - 4,7") == [7, 2, 3, 4, 7]
    assert parse_seeds(str(MAX_SEED)) == [MAX_SEED]
    assert len(parse_seeds(f"0-{MAX_SEEDS - 1}")) == MAX_SEEDS


def test_a_list_is_written_as_it_is_read():
    for text in ("7", "0-3,85", "7,2-4,7", "3,2,1"):
        assert parse_seeds(seed_text(parse_seeds(text))) == parse_seeds(text)
    assert seed_text([0, 1, 2, 85]) == "0-2,85" and seed_text([]) == ""
    assert seed_text(range(1_000_000)) == "0-999999"
    # Too long for a file's request: a digest, which differs where the seeds do.
    even, odd = seed_text(range(0, 9000, 2)), seed_text(range(1, 9000, 2))
    assert even.startswith("sha256:") and len(even) == 71 and even != odd


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "empty"),
        (" ", "empty"),
        ("1,,2", "neither"),
        ("-1", "neither"),
        ("a-b", "neither"),
        ("1.5", "neither"),
        ("1-2-3", "neither"),
        ("٣", "neither"),
        ("5-2", "backwards"),
        (str(MAX_SEED + 1), "largest"),
        ("0-4000000000", "1,000,000"),
        ("0-999999,5", "1,000,000"),
        ("9" * 100_000, "neither"),
        ("1\x1b[31m", "neither"),
    ],
)
def test_a_wrong_list_is_refused_in_a_sentence(text: str, why: str):
    with pytest.raises(UsageError) as e:
        parse_seeds(text)
    assert why in e.value.why and "--seeds" in e.value.what and e.value.hint
    assert "\x1b" not in str(e.value) and len(str(e.value)) < 300
