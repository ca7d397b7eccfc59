"""
Complete the JUnit XML that pytest has written: stable class names, the explanation of a failure, and properties of a
suite.

A dashboard that groups by class name would otherwise start anew wherever the suites are installed.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree as ET

from pytest_longctx import paths


class Test(NamedTuple):
    """The address of a test in a JUnit file."""

    classname: str
    name: str


def address(nodeid: str, prefix: str = "") -> Test:
    """
    Return the address of a test in pytest's JUnit XML.

    >>> address("suites/limits/test_hang.py::test_hang[LC-0001-a.b]")
    Test(classname='suites.limits.test_hang', name='test_hang[LC-0001-a.b]')
    """
    plain, bracket, parameters = nodeid.partition("[")
    names = plain.split("::")
    names[0] = re.sub(r"\.py$", "", names[0].replace("/", "."))
    names[-1] += bracket + parameters
    return Test(".".join([*([prefix] if prefix else []), *names[:-1]]), names[-1])


def complete(path: Path, notes: Mapping[Test, str], *, of_suite: bool) -> None:
    """
    Complete the JUnit XML file at *path*: *notes* become ``system-out``, and tests of the suites get the
    class ``longctx.FOLDER``.

    With *of_suite*, the properties of every test move to its suite, as ``CLASS::TEST::NAME``.
    """
    tree = ET.parse(path)  # noqa: S314 - what pytest has just written
    for case in tree.iter("testcase"):
        test = Test(case.get("classname", ""), case.get("name", ""))
        if note := notes.get(test):
            _tell(case, note)
        case.set("classname", stable(test.classname))
    if of_suite:
        for suite in tree.iter("testsuite"):
            _lift(suite)
    tree.write(path, encoding="utf-8", xml_declaration=True)


def stable(classname: str) -> str:
    """
    Return a class name of JUnit XML that is stable wherever the suites are installed. Class names of other tests stay
    unchanged.

    >>> stable("site-packages.pytest_longctx.suites.limits.test_hang"), stable("tests.test_mine")
    ('longctx.limits', 'tests.test_mine')
    """
    folder, _, module = ".".join(classname.split(".")[-2:]).rpartition(".")
    ours = folder and (paths.suites() / folder / f"{module}.py").is_file()
    return f"longctx.{folder}" if ours else classname


def _tell(case: ET.Element, note: str) -> None:
    out = case.find("system-out")
    if out is None:
        out = ET.SubElement(case, "system-out")
    out.text = f"{note}\n{out.text}" if out.text else note


def _lift(suite: ET.Element) -> None:
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
