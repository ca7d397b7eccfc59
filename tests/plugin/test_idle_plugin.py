"""The installed but unused plugin does not affect a run."""

import subprocess
import sys

HEAVY = (
    "httpx",
    "numpy",
    "pydantic",
    "prometheus_client",
    "packaging.specifiers",
    "pytest_longctx.plugin.session",
    "asyncio",
)


def test_the_door_imports_nothing_heavy():
    code = f"import sys; import pytest; before = set(sys.modules); import pytest_longctx.plugin; \
print([name for name in {HEAVY!r} if name in sys.modules and name not in before])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_unused_plugin_stays_at_the_door(pytester):
    pytester.makepyfile("def test_it(): pass")
    pytester.makeconftest(
        f"""
        import sys
        before = set(sys.modules)
        def pytest_unconfigure():
            found = [name for name in {HEAVY!r} if name in sys.modules and name not in before]
            print("HEAVY", found)
        """
    )
    done = pytester.runpytest_subprocess("-c", "/dev/null", "--rootdir=.", "-s")
    done.stdout.fnmatch_lines(["HEAVY [[]]"])
