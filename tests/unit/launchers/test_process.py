"""Problems of the machine or of the installation: no finding is judged."""

import os
import socket
import sys
from dataclasses import replace

import pytest

from pytest_longctx.backends.miniature import Miniature
from pytest_longctx.errors import LaunchError
from pytest_longctx.launchers import Launch
from pytest_longctx.launchers.process import ProcessLauncher
from pytest_longctx.launchers.readiness import await_ready
from pytest_longctx.processes import Process, environment
from tests.unit import factories


def test_a_port_that_was_taken_meanwhile_judges_nothing(tmp_path):
    """The port was free when the launcher checked it. Another process took it before the server started."""
    one = factories.deployment(backend="miniature", max_model_len=4096, flags={"fault": "honest"})
    launch = Launch(Miniature(), one, "m", tmp_path)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        recipe = launch.backend.recipe(one, "m", port, sys.executable)
        process = Process(recipe, environment(recipe, os.environ), tmp_path / "log")
        try:
            hoped = launch.server_at(f"http://127.0.0.1:{port}", ProcessLauncher())
            with pytest.raises(LaunchError, match="Address already in use") as raised:
                await_ready(process, launch, hoped, boot_s=30)
        finally:
            process.stop()
    assert "port-taken" in str(raised.value)
    assert "  try      another port in the deployment's [flags], or none: a free one is chosen" in str(raised.value)


def test_an_engine_whose_installation_lacks_a_package_judges_nothing(tmp_path):
    """A package that is imported late may be missed at the first request, as FlashInfer was by vLLM 0.33 on an H200."""
    one = factories.deployment(backend="miniature", max_model_len=4096, flags={"fault": "honest"})
    launch = Launch(Miniature(), one, "m", tmp_path)
    command = (sys.executable, "-c", "import a_package_that_nothing_has")
    recipe = replace(launch.backend.recipe(one, "m", 1, sys.executable), argv=command)
    process = Process(recipe, environment(recipe, os.environ), tmp_path / "log")
    try:
        hoped = launch.server_at("http://127.0.0.1:1", ProcessLauncher())
        with pytest.raises(LaunchError, match="No module named 'a_package_that_nothing_has'") as raised:
            await_ready(process, launch, hoped, boot_s=30)
    finally:
        process.stop()
    assert "environment" in str(raised.value)
