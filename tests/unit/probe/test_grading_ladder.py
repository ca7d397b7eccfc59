import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_longctx.errors import PromptError
from pytest_longctx.probe import codes, grading
from pytest_longctx.probe.codes import RUNGS
from pytest_longctx.prompts import PromptFactory


def words(kept):
    return " ".join(f"{'kept' if each else 'erased'}{bits:02d}" for bits, each in enumerate(kept, 1))


@given(st.integers(1, RUNGS))
def test_the_highest_rung_kept_is_the_number_of_bits(bits):
    found = grading.ladder_text(words(each < bits for each in range(RUNGS)))
    assert found.mantissa_bits == bits
    assert found.relative_step == 2.0**-bits
    assert str(found).endswith(f": {bits} mantissa bits")


@given(st.lists(st.booleans(), min_size=RUNGS, max_size=RUNGS))
def test_a_rung_kept_above_one_that_is_not_or_none_kept_at_all_is_no_ladder(kept):
    found = grading.ladder_text(words(kept))
    assert (found.mantissa_bits is None) == (not any(kept) or kept != sorted(kept, reverse=True))
    assert (found.relative_step is None) == (found.mantissa_bits is None)
    assert (found.breaks == 0) == (kept == sorted(kept, reverse=True))


@pytest.mark.parametrize(("kept", "breaks"), [("-+" + 9 * "-", 1), ("++-+" + 7 * "+", 8), (11 * "-", 0), (11 * "+", 0)])
def test_rungs_above_one_that_was_lost_are_counted(kept, breaks):
    assert grading.ladder_text(words(rung == "+" for rung in kept)).breaks == breaks


@given(st.integers(0, RUNGS - 1))
def test_a_rung_that_was_not_answered_is_not_erased(answered):
    found = grading.ladder_text(words([True] * answered))
    assert found.kept == (True,) * answered + (None,) * (RUNGS - answered)
    assert (found.mantissa_bits, found.breaks) == (None, None)
    assert str(found).endswith("not a ladder")


@given(st.integers(12, 5000))
def test_every_rung_lies_where_it_says(tokens):
    rungs = grading.plant(PromptFactory(1, "ladder", codes.FILLER_IDS)(tokens))
    assert len(set(rungs.places)) == RUNGS
    assert all(rungs.prompt.ids[place] == codes.RUNG + index for index, place in enumerate(rungs.places))
    assert rungs.prompt.ids[-1] == codes.ASK_RUNG
    assert (rungs.prompt.ids < codes.FILLER).sum() == RUNGS + 1
    assert rungs.places[:2] == (0, tokens - 2)


def test_a_prompt_that_is_too_short_for_a_ladder_is_refused():
    with pytest.raises(PromptError, match="11 to 11 different places are needed in a prompt of 11 tokens; found 10"):
        grading.plant(PromptFactory(1, "ladder", codes.FILLER_IDS)(11))
