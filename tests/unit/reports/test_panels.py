"""What the panels of a page draw, and what they leave out."""

from pytest_longctx.reports.panels import panels
from tests.unit.factories import booted, results, verdict


def panel(run, key):
    (found,) = (each for each in panels(run) if each.key == key)
    return found


def lengths(*points):
    return results(*(verdict(f"TT-{i:04}", ttft_s=t, prompt_tokens=n) for i, (n, t) in enumerate(points)))


def drawn(chart):
    return [one.name for part in chart.parts for one in part.series if one.points]


def test_time_over_length_has_the_law_the_roofline_the_spread_and_what_was_documented():
    rows = [
        verdict("TT-0001", ttft_s=1.0, prompt_tokens=1_000, peak_share=0.5),
        {**verdict("TT-0002", ttft_s=2.0, prompt_tokens=2_000), "bounds": {"ttft_s": {"reference": 5.0}}},
        verdict("TT-0003", ttft_s=3.9, prompt_tokens=4_000),
        verdict("TT-0003", ttft_s=4.1, prompt_tokens=4_000),
    ]
    found = panel(results(*rows), "lengths")
    (chart,) = found.plots
    assert drawn(chart) == ["TTFT, measured", "law fitted to it", "least at hardware peak", "TTFT, documented"]
    assert chart.parts[0].series[0].spread == ((4_000, 3.9, 4.1),)
    assert (chart.x.log, chart.parts[0].y.log) == (True, True)
    assert [row[3:7] for row in found.table.rows] == [
        ("1 s", "1 s", "0.5 s", ""),
        ("2 s", "2 s", "", "5 s"),
        ("4 s", "4 s", "", ""),
    ]


def test_no_law_is_drawn_through_two_lengths_or_through_three_that_are_two():
    for points in ([(1_000, 1.0), (2_000, 2.0)], [(1_000, 1.0), (1_100, 1.1), (2_000, 2.0)]):
        assert "law fitted to it" not in drawn(panel(lengths(*points), "lengths").plots[0])
    assert "law fitted to it" in drawn(panel(lengths((1_000, 1.0), (2_000, 2.0), (4_000, 4.0)), "lengths").plots[0])


def test_no_law_is_drawn_where_it_describes_the_lengths_badly():
    jump = lengths((1_000, 0.006), (8_000, 0.01), (24_000, 0.015), (45_000, 0.42), (60_000, 0.42))
    assert "law fitted to it" not in drawn(panel(jump, "lengths").plots[0])


def test_memory_is_one_bar_of_its_terms_predicted_beside_logged():
    terms = [
        {"name": "weights", "size_bytes": 2**31, "host": False},
        {"name": "KV pool", "size_bytes": 2**30, "host": False},
        {"name": "KV cache of one request", "size_bytes": 2**29, "host": False},
        {"name": "tables", "size_bytes": 2**30, "host": True},
    ]
    boots = [
        booted("close", figures={"weights_gib": 2.0, "kv_available_gib": 1.0}, predicted={"terms": terms}),
        booted("far", figures={"weights_gib": 2.0, "kv_available_gib": 3.0}, predicted={"terms": terms}),
    ]
    found = panel(results(boots=boots), "memory")
    (plot,) = found.plots
    assert [bar.label for bar in plot.rows] == ["far", "close"]
    assert plot.rows[0].text == "predicted 3.00, logged 5.00 GiB"
    assert [(one.start, one.length, plot.kinds[one.kind]) for one in plot.rows[0].segments] == [
        (0.0, 2.0, "weights"),
        (2.0, 1.0, "KV pool"),
    ]
    assert [one.length for one in plot.rows[0].below] == [2.0, 3.0]
    assert ("far", "KV cache of one request", "predicted", "0.50 GiB") in found.table.rows
    assert ("far", "tables, host", "predicted", "1.00 GiB") in found.table.rows


def test_needles_are_counted_for_each_prompt():
    places = [
        {"deployment": "tiny", "prompt_tokens": n, "depth": i / 63, "score": float(n < 2_000 or i < 60)}
        for n in (1_000, 2_000)
        for i in range(64)
    ]
    found = panel(results(retrievals=places), "needles")
    (grid,) = found.plots
    assert dict(zip(grid.rows, grid.texts, strict=True)) == {
        "tiny, 1,000 tokens": "64 of 64",
        "tiny, 2,000 tokens": "60 of 64",
    }
    assert set(grid.cells[0]) == {1.0}
    assert grid.cells[1][-1] == 0.0
    assert found.note == "124 of 128 hidden facts were found."


def test_idle_time_is_what_neither_boots_nor_requests_cover():
    asked = [(10.0, 14.0), (12.0, 15.0), (20.0, 21.0)]
    requests = [{"deployment": "tiny", "started_s": start, "ended_s": end} for start, end in asked]
    found = panel(results(boots=[booted(started_s=1.0, seconds=4.0)], requests=requests), "timeline")
    assert found.note == "20.0 s from the first boot to the last request, 10.0 s of it idle."
    assert found.table.rows == [("tiny", "0.0 s", "4.00 s", "3", "6.00 s")]


def test_vitals_are_one_small_chart_for_each_gauge_and_listed_device_by_device():
    rows = [
        {"deployment": "tiny", "at_s": 100.0, "figures": {"device_power_w": [90.0, None, 70.0], "running": 1}},
        {"deployment": "tiny", "at_s": 101.0, "figures": {"device_power_w": [500.0, 80.0, 600.0]}},
        {"deployment": "next", "at_s": 102.0, "figures": {"running": 3}, "said": "its memory is not back: device 0"},
        {"deployment": "next", "at_s": 103.0, "figures": {}, "said": "its memory is not back: device 0"},
    ]
    found = panel(results(vitals=rows), "vitals")
    power, running = found.plots
    assert found.folded
    assert power.small
    assert [(one.name, one.points) for one in power.parts[0].series] == [
        ("highest device", ((0.0, 90.0), (1.0, 600.0))),
        ("lowest device", ((0.0, 70.0), (1.0, 80.0))),
    ]
    assert [one.points for one in running.parts[0].series] == [((0.0, 1),), ((2.0, 3),)]
    assert [row[1:] for row in found.table.rows][:3] == [
        ("device_power_w", "0", "2", "90", "500", "500"),
        ("device_power_w", "1", "1", "80", "80", "80"),
        ("device_power_w", "2", "2", "70", "600", "600"),
    ]
    assert found.note.count("its memory is not back: device 0.") == 1


def test_a_drift_is_one_curve_beside_its_noise_for_each_pair():
    rows = [
        {
            "finding": "TT-0001",
            "deployment": name,
            "against": "auto",
            "from_tokens": begin,
            "to_tokens": end,
            "drift_nats": begin * 1e-3,
            "noise_nats": 0.0,
            "argmax_changed": 0.0125,
        }
        for name in ("fp8", "int8")
        for begin, end in ((16, 100), (1, 16))
    ]
    found = panel(results(drifts=rows), "drift")
    first, second = found.plots
    assert first.title == "Drift over the distance from the start, fp8 against auto"
    assert drawn(second) == ["drift", "noise of the reference"]
    drifted, noise = first.parts[0].series
    assert drifted.points == ((15**0.5, 1e-3), ((16 * 99) ** 0.5, 0.016))
    assert {y for _, y in noise.points} == {1e-12}
    assert (first.x.log, first.parts[0].y.log) == (True, True)
    assert found.table.rows[0] == ("fp8", "auto", "1 to 15", "0.001", "0", "1.25%")
    assert found.table.rows[1] == ("fp8", "auto", "16 to 99", "0.016", "0", "1.25%")
