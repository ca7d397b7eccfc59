from xml.etree import ElementTree as ET

from pytest_longctx.reports import properties

REPORT = """<?xml version="1.0" encoding="utf-8"?>
<testsuites><testsuite name="pytest" tests="2">
<testcase classname="a.b" name="test_x[1]"><properties><property name="longctx.T" value="&lt;1&#8230;"/></properties><failure/></testcase>
<testcase classname="a.b" name="test_y"/>
</testsuite></testsuites>"""


def test_properties_of_tests_become_properties_of_their_suite(tmp_path):
    path = tmp_path / "report.xml"
    path.write_text(REPORT, encoding="utf-8")
    properties.lift(path)
    (suite,) = ET.parse(path).getroot()
    assert [child.tag for child in suite] == ["properties", "testcase", "testcase"]
    assert [(each.get("name"), each.get("value")) for each in suite[0]] == [("a.b::test_x[1]::longctx.T", "<1…")]
    assert [child.tag for child in suite[1]] == ["failure"]


def test_a_report_without_properties_stays_without(tmp_path):
    path = tmp_path / "report.xml"
    path.write_text(
        '<testsuites><testsuite name="pytest"><testcase name="t"/></testsuite></testsuites>', encoding="utf-8"
    )
    properties.lift(path)
    assert ET.parse(path).find(".//properties") is None
