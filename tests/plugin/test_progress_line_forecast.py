"""Progress before and during boots: the number of servers, and the server that is booting."""

import re

from tests.conftest import FAULTY


def test_a_run_says_how_many_boots_it_will_take_and_which_it_is_in(run, pytester):
    for name in ("one", "two"):
        text = FAULTY.format(fault="hangs-at-boot", boot_s=12, answer_s=5, stall_s=5).replace(
            'name = "faulty"', f'name = "{name}"', 1
        )
        (pytester.path / f"{name}.toml").write_text(text)
    chosen = ("--longctx-deployment=one.toml,two.toml",)
    done = run("--backend=miniature", *chosen, "-k", "LC-0001")
    assert "longctx: 2 boots\n" in done.text  # the boot time of a miniature is unknown, so it is not printed
    assert done.text.index("longctx: 2 boots") < done.text.index("longctx boot")
    assert re.findall(r"longctx boot (\d of \d: \w+): ", done.text) == ["1 of 2: one", "2 of 2: two"]


def test_a_run_that_boots_nothing_and_a_plan_do_not_speak_of_boots(run):
    assert " boot" not in run("--backend=miniature", "-m", "claims").text.partition("collected")[2].partition("[")[0]
    planned = run("--backend=miniature", "-m", "smoke", "--longctx-plan").text
    assert not re.search(r"longctx: \d+ boot", planned)
    assert "deployments on cpu" in planned
