"""The page: its answer, its parts, its links, and that foreign text stays text."""

import re
from base64 import b64encode
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from pytest_longctx import cli, read_results
from pytest_longctx.reports import html
from pytest_longctx.reports.html import MOST_CARDS
from tests.unit.factories import booted, results, verdict

REAL = Path(__file__).parents[3] / "docs/results"
SELF_CLOSING = ("li", "tr", "td", "option")
VOID = ("meta", "link", "input", "br", "hr", "img", "rect", "path")


class Strict(HTMLParser):
    """Records unclosed elements, ids, and everything that a browser would load."""

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.fetched = [], [], []

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.ids += [found["id"]] if "id" in found else []
        self.fetched += [found[name] for name in ("src", "href", "data", "srcset") if name in found]
        if tag not in (*VOID, *SELF_CLOSING):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        if tag not in SELF_CLOSING:
            assert self.open.pop() == tag


def read(page):
    parser = Strict()
    parser.feed(page)
    assert not parser.open
    assert len(parser.ids) == len(set(parser.ids))
    return parser


@pytest.mark.parametrize("path", sorted(REAL.rglob("results.jsonl")), ids=lambda path: path.parent.name)
def test_the_pages_of_real_runs_are_whole_and_fetch_nothing(path):
    run = read_results(path)
    page = html.page(run)
    fetched = read(page).fetched
    assert all(address.startswith(("#", "data:")) for address in fetched)
    assert not re.search(r"@import|url\(|\bfetch\(|XMLHttpRequest", page)
    assert all(row["finding"] in page for row in run.verdicts)
    assert all(boot["deployment"] in page for boot in run.boots)


@pytest.mark.parametrize("path", sorted(REAL.rglob("results.jsonl")), ids=lambda path: path.parent.name)
def test_every_link_of_a_real_page_has_its_target(path):
    parser = read(html.page(read_results(path)))
    assert {address[1:] for address in parser.fetched if address.startswith("#")} <= set(parser.ids)


def test_the_committed_report_is_the_one_of_its_results():
    """After a change of the page: ``longctx report docs/results/vllm-0.32.0-cpu/results.jsonl -o .../report.html``."""
    folder = REAL / "vllm-0.32.0-cpu"
    same = (folder / "report.html").read_text(encoding="utf-8") == html.page(read_results(folder / "results.jsonl"))
    assert same  # the difference would be long, and slow to show


def test_nothing_in_a_result_becomes_markup():
    evil = '<script>alert("x")</script></noscript><b onclick=x>'
    row = {
        **verdict(word="broken", ttft_s=1.0),
        **dict.fromkeys(("why", "said", "title", "source", "explained", "markers", "status"), evil),
    }
    row["explained"] = f"x\n  because  {evil}"
    row["server"] = {"deployment": evil}
    boots = [booted(evil, outcome="dies", said=evil, explained=f"x\n  because  {evil}", figures={"concurrency": 1.0})]
    for run in (results(row), results(row, boots=boots), results(row, verdict("<i>", word="out of scope"))):
        page = html.page(run, run)
        assert evil not in page
        assert "</noscript><b" not in page
        assert page.count("<script>") == 1
        assert "<i>" not in page
        read(page)


def test_only_the_script_of_the_page_may_run():
    page = html.page(results(verdict()))
    (script,) = re.findall("<script>(.*?)</script>", page, re.DOTALL)
    assert f"script-src 'sha256-{b64encode(sha256(script.encode()).digest()).decode()}'" in page


def headline(page):
    return re.findall("<h1>(.*?)</h1>", page)[0]


def test_a_green_run_is_answered_in_one_sentence():
    run = results(verdict(), verdict("TT-0002"), boots=[booted()])
    run.header["machine"] = {"host_cores": "2"}
    assert headline(html.page(run)) == "2 of 2 findings hold on vllm 1.0, 2 CPU cores."
    outside = [{**verdict(f"XX-000{i}", word="out of scope"), "why": "hardware: needs 8xH200"} for i in range(7)]
    run = results(verdict(), *outside, boots=[booted()])
    assert headline(html.page(run, run)) == (
        "1 of 1 finding holds on vllm 1.0, CPU; nothing changed since 2026-01-02; 7 out of scope: needs 8xH200."
    )


def broken(finding, why, deployment="tiny", **more):
    return {**verdict(finding, deployment, "broken"), "why": why, **more}


def test_a_broken_run_is_answered_with_its_cause():
    rows = [broken(f"TT-000{i}", f"prompt_tokens: {i} tokens, wanted exactly 10 tokens") for i in (1, 2, 3)]
    page = html.page(results(*rows, verdict("TT-0009"), boots=[booted()]))
    assert headline(page) == (
        "3 of 4 findings are broken on vllm 1.0, CPU, all for one cause: "
        "tiny counts other prompt tokens than were sent (1 tokens, allowed exactly 10 tokens)."
    )
    assert page.count("<article") == 1
    assert 'Same cause: <a href="#TT-0002">TT-0002</a>, <a href="#TT-0003">TT-0003</a>' in page


def test_a_card_has_the_rows_that_the_test_told_and_its_command():
    told = (
        "TT-0001 broken: it\n  asked    a boot\n  seen     it dies\n  because  no memory\n  do       less\n  again    x"
    )
    page = html.page(results(broken("TT-0001", "outcome: dies, wanted serves", explained=told)))
    for name, text in (("asked", "a boot"), ("seen", "it dies"), ("because", "no memory"), ("do", "less")):
        assert f"<dt>{name}</dt><dd>{text}</dd>" in page
    command = "pytest &#39;test_x.py::test_x[TT-0001-tiny]&#39; --backend=vllm --longctx-hardware=cpu --longctx-seed=7"
    assert f'<pre tabindex="0" role="group" aria-label="Command that repeats the test">{command}</pre>' in page


def test_a_boot_that_fails_as_documented_is_no_failure():
    boot = booted(outcome="refuses", signature="kv-cache-too-small", explained="x\n  because  too small")
    page = html.page(results(verdict(), boots=[boot]))
    assert "<article" not in page
    assert "Failed as expected: 1" in page
    assert "tiny does not boot: it refuses (kv-cache-too-small)" in html.page(
        results(verdict(word="broken"), boots=[boot])
    )


def test_published_claims_are_apart_from_the_headline():
    claim = {**verdict("XX-0001"), "server": {}}
    page = html.page(results(verdict(), claim))
    assert headline(page).startswith("1 of 1 finding holds")
    assert "Published claims, judged by arithmetic alone: 1" in page


def test_a_finding_on_several_deployments_has_an_anchor_for_each():
    rows = [verdict(deployment="a"), verdict(deployment="b"), verdict(deployment="b")]
    assert {"TT-0001", "TT-0001.b", "TT-0001.b.2"} <= set(read(html.page(results(*rows))).ids)


def test_what_changed_since_the_baseline_is_on_the_page():
    before, after = results(verdict(ttft_s=1.0)), results(verdict(ttft_s=2.0, word="holds"))
    page = html.page(after, before)
    assert "1 figure changed since 2026-01-02" in headline(page)
    assert "<td>TT-0001<td>tiny<td>`ttft_s`<td>changed<td>1 s<td>2 s<td>+100 %" in page


def test_a_page_of_many_causes_stays_readable():
    rows = [broken(f"TT-{i:04}", f"ttft_s: {i} s, wanted <= 1 s", f"d{i}") for i in range(1000)]
    page = html.page(results(*rows))
    assert page.count("<article") == MOST_CARDS
    assert "and 700 more causes" in page
    read(page)


def test_the_parts_of_a_page_are_shown_where_their_rows_are():
    assert 'id="lengths"' not in html.page(results(verdict()))
    boots = [booted(started_s=100.0, figures={"concurrency": 2.0, "weights_gib": 1.0})]
    lengths = [verdict("TT-0001", ttft_s=1.0, prompt_tokens=10), verdict("TT-0002", ttft_s=3.0, prompt_tokens=20)]
    vitals = [{"deployment": "tiny", "at_s": 100.0 + i, "figures": {"running": i, "waiting": None}} for i in range(3)]
    found = [{"deployment": "tiny", "prompt_tokens": 10, "depth": depth, "score": 1.0} for depth in (0.0, 0.5)]
    parser = read(html.page(results(*lengths, boots=boots, vitals=vitals, retrievals=found)))
    assert {"verdicts", "lengths", "memory", "needles", "timeline", "vitals", "servers"} <= set(parser.ids)


def test_a_run_without_a_verdict_is_a_page():
    page = html.page(results())
    assert "No finding was judged on vllm, CPU" in page
    read(page)


def test_ten_thousand_verdicts_stay_below_three_megabytes():
    figures: dict[str, Any] = dict.fromkeys(
        ("ttft_s", "e2e_s", "tpot_s", "prompt_tokens", "upload_s", "itl_p50_s"), 1.23456789
    )
    rows = [verdict(f"TT-{i:04}", f"deployment-{i % 20}", **figures) for i in range(10_000)]
    page = html.page(results(*rows))
    assert len(page.encode()) < 3_000_000
    assert "For each of 10000 verdicts" in page
    assert page.count("<tr id=") == 10_000
    assert "tpot_s" not in page
    assert "tpot_s" in html.page(results(*rows[:10]))


def test_the_console_writes_the_page_and_the_plots(tmp_path, capsys):
    source = str(REAL / "vllm-0.32.0-cpu/results.jsonl")
    page = tmp_path / "r.html"
    assert cli.main(["report", source, "-o", str(page), "--baseline", source, "--plots", str(tmp_path / "plots")]) == 0
    assert "nothing changed since 2026-11-21" in page.read_text(encoding="utf-8")
    assert {path.name for path in (tmp_path / "plots").iterdir()} >= {
        "lengths-cpu-tiny-64k.svg",
        "memory.svg",
        "needles.svg",
        "timeline.svg",
    }
    assert cli.main(["report", source, "--png"]) == 2
    assert "--plots DIR" in capsys.readouterr().err
