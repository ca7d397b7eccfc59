"""A run records the conditions under which its figures can be compared with another backend's."""

from pytest_longctx.reports.compare import RECORDED


def test_every_term_is_recorded_with_a_verdict(run):
    done = run("--backend=miniature", "-k", "LC-0001-miniature", "--longctx-seed=7")
    (row,) = done.results.verdicts
    assert [name for name in RECORDED if not row["server"].get(name)] == []
    assert row["server"]["ordinary_ids"] == "1000-30000"
    assert row["server"]["decoding"] == "temperature=0, ignore_eos=True"
