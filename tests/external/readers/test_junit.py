"""
JUnit XML in other tools: Jenkins' schema, and the readers junitparser and junit2json.

Needs the package index for the schema, which is in pytest's source distribution, and npm, so it is not part of a bare ``pytest``.
"""

import json
import shutil
import subprocess
import sys
import tarfile

import junitparser
import pytest

from tests.plugin.test_option_results import properties

SCHEMA = "testing/example_scripts/junit-10.xsd"
READ = """
import { parse } from 'junit2json'; import fs from 'fs';
const suites = await parse(fs.readFileSync(process.argv[2]));
console.log(JSON.stringify(suites.testsuite));
"""


@pytest.fixture(scope="session")
def schema(tmp_path_factory):
    """The schema junit-10.xsd, which pytest uses to test its own reports."""
    import xmlschema

    folder = tmp_path_factory.mktemp("schema")
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "-q",
        "--no-deps",
        "--no-binary=pytest",
        f"pytest=={pytest.__version__}",
    ]
    subprocess.run(command, cwd=folder, check=True)
    (source,) = folder.glob("pytest-*.tar.gz")
    with tarfile.open(source) as packed:
        member = next(name for name in packed.getnames() if name.endswith(SCHEMA))
        file = packed.extractfile(member)
        assert file is not None
        (folder / "junit-10.xsd").write_bytes(file.read())
    return xmlschema.XMLSchema(str(folder / "junit-10.xsd"))


@pytest.fixture(scope="session")
def junit2json(tmp_path_factory):
    """Return the properties of each test as read by an npm package."""
    if shutil.which("npm") is None:
        pytest.fail("no npm: apt-get install nodejs npm")
    folder = tmp_path_factory.mktemp("npm")
    (folder / "read.mjs").write_text(READ)
    subprocess.run(
        ["npm", "install", "--silent", "--no-save", "junit2json@4"], cwd=folder, check=True, capture_output=True
    )

    def read(path):
        done = subprocess.run(["node", "read.mjs", str(path)], cwd=folder, check=True, capture_output=True)
        return json.loads(done.stdout)

    return read


@pytest.fixture(params=[(), ("-n2",)], ids=["alone", "xdist"])
def written(run, faulty, request):
    """Write a report with every outcome, with properties at the tests or at the suite."""

    def write(where):
        options = (f"--longctx-junit-properties={where}", "--junitxml=report.xml", *request.param)
        done = run("--backend=miniature", faulty("late-first-token"), *options)
        assert {row["verdict"] for row in done.results.verdicts} >= {"holds", "broken", "out of scope"}
        return done.folder / "report.xml", done.results

    return write


def test_properties_of_suites_are_valid(schema, written):
    path, results = written("suite")
    schema.validate(str(path))
    (suite,) = junitparser.JUnitXml.fromfile(str(path))
    found = {each.name: each.value for each in suite.properties()}
    assert len(found) > 100
    for row in results.verdicts:
        module, _, test = row["test"].removesuffix("]").partition(".py::")
        folder = module.split("/")[-2]
        verdict = found[f"longctx.{folder}::{test}]::longctx.{row['finding']}.verdict"]
        assert verdict == row["verdict"]


def test_properties_of_tests_break_the_schema_and_nothing_else_does(schema, written):
    """If this fails because the schema now allows the properties, the option is no longer needed."""
    path, _ = written("test")
    reasons = {str(error.reason) for error in schema.iter_errors(str(path))}
    assert reasons
    assert all("properties" in reason for reason in reasons)


def test_two_readers_find_every_verdict_and_figure(written, junit2json):
    path, results = written("test")
    one = properties(path)
    (suite,) = junit2json(path)
    other = {
        case["name"]: {each["name"]: each["value"] for each in case.get("properties", ())} for case in suite["testcase"]
    }
    assert {name: list(its) for name, its in one.items()} == {name: list(its) for name, its in other.items()}
    for name, its in one.items():  # this reader converts numeric text to numbers
        strays = [key for key, value in its.items() if other[name][key] not in (value, _number(value))]
        assert strays == []
    for row in results.verdicts:
        reported = one[row["test"].partition("::")[2]]
        assert reported[f"longctx.{row['finding']}.verdict"] == row["verdict"]
        for name, value in row["measured"].items():
            assert float(reported[f"longctx.{row['finding']}.{name}"]) == value
        assert (reported.get("longctx.server.deployment") or "") == row["server"].get("deployment", "")


def _number(text):
    try:
        return float(text)
    except ValueError:
        return None
