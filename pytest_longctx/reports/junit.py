"""JUnit XML for readers that hold it to the xunit2 schema, which knows properties of a suite and none of a test."""

from pathlib import Path
from xml.etree import ElementTree as ET

PLACES = ("test", "suite")


def lift(path: Path) -> None:
    """Move the properties of every test in the file at *path* to its suite, as ``CLASS::TEST::NAME``."""
    tree = ET.parse(path)  # noqa: S314 - what pytest has just written
    for suite in tree.iter("testsuite"):
        known = suite.find("properties")
        lifted = ET.Element("properties") if known is None else known
        for case in suite.iter("testcase"):
            for group in case.findall("properties"):
                case.remove(group)
                for each in group:
                    test = f"{case.get('classname', '')}::{case.get('name', '')}"
                    each.set("name", f"{test}::{each.get('name', '')}")
                    lifted.append(each)
        if known is None and len(lifted):
            suite.insert(0, lifted)
    tree.write(path, encoding="utf-8", xml_declaration=True)
