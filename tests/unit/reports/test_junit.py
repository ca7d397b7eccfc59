from xml.etree import ElementTree as ET

from pytest_longctx.reports import junit

REPORT = """<?xml version="1.0" encoding="utf-8"?>
<testsuites><testsuite name="pytest" tests="2">
<testcase classname="a.b" name="test_x[1]"><properties><property name="longctx.T" value="&lt;1&#8230;"/></properties><failure/></testcase>
<testcase classname="a.b" name="test_y"/>
</testsuite></testsuites>"""


def test_properties_of_tests_become_properties_of_their_suite(tmp_path):
    path = tmp_path / "report.xml"
    path.write_text(REPORT, encoding="utf-8")
    junit.complete(path, {}, of_suite=True)
    (suite,) = ET.parse(path).getroot()
    assert [child.tag for child in suite] == ["properties", "testcase", "testcase"]
    assert [(each.get("name"), each.get("value")) for each in suite[0]] == [("a.b::test_x[1]::longctx.T", "<1…")]
    assert [child.tag for child in suite[1]] == ["failure"]


def test_a_report_without_properties_stays_without(tmp_path):
    path = tmp_path / "report.xml"
    path.write_text(
        '<testsuites><testsuite name="pytest"><testcase name="t"/></testsuite></testsuites>', encoding="utf-8"
    )
    junit.complete(path, {}, of_suite=True)
    assert ET.parse(path).find(".//properties") is None


def test_a_suites_test_has_one_class_wherever_it_is_installed_and_its_explanation(tmp_path):
    names = [
        "suites.limits.test_hang",
        "site-packages.pytest_longctx.suites.limits.test_hang",
        "limits.test_hang",
        "tests.limits.test_mine",
        "test_hang",
    ]
    cases = "".join(f'<testcase classname="{name}" name="t"><failure>x</failure></testcase>' for name in names)
    path = tmp_path / "report.xml"
    path.write_text(f"<testsuites><testsuite>{cases}</testsuite></testsuites>", encoding="utf-8")
    notes = {junit.address("suites/limits/test_hang.py::t"): "TT-0001 broken: <it>"}
    junit.complete(path, notes, of_suite=False)
    written = list(ET.parse(path).iter("testcase"))
    assert [case.get("classname") for case in written] == ["longctx.limits"] * 3 + [
        "tests.limits.test_mine",
        "test_hang",
    ]
    assert [case.findtext("system-out") for case in written] == ["TT-0001 broken: <it>"] + [None] * 4
    assert [child.tag for child in written[0]] == ["failure", "system-out"]


def test_what_a_test_printed_stays_below_its_explanation(tmp_path):
    path = tmp_path / "report.xml"
    path.write_text(
        '<testsuites><testsuite><testcase classname="a" name="t"><system-out>mine</system-out></testcase></testsuite></testsuites>',
        encoding="utf-8",
    )
    junit.complete(path, {junit.Test("a", "t"): "ours"}, of_suite=False)
    assert ET.parse(path).findtext(".//system-out") == "ours\nmine"


def test_an_address_is_the_one_that_pytest_writes():
    assert junit.address("a/test_x.py::C::test[a/b::c.py]", "p") == ("p.a.test_x.C", "test[a/b::c.py]")
