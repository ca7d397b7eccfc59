"""What pytest allows only here: a plugin for the plugin's own tests, and what is collected where no path is named."""

import pytest

pytest_plugins = ["pytester"]


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """
    ``pytest --backend=NAME`` asks what a server is like: the suites answer that, and the plugin's own tests do not.

    They take a backend from the ini file, so that ``pytest`` alone runs them and the suites.
    """
    if config.args_source is pytest.Config.ArgsSource.TESTPATHS and config.getoption("longctx_backend") is not None:
        config.args[:] = ["suites"]
