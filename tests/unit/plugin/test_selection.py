"""Requirements of a selection on the machine, checked before the run."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from pytest_longctx.errors import UsageError
from pytest_longctx.plugin.selection import check_writable


def test_workers_that_look_at_the_same_time_do_not_disturb_each_other(tmp_path):
    """One worker removed the folder of another, which failed and was replaced by xdist."""
    with ThreadPoolExecutor(8) as workers:
        list(workers.map(check_writable, [tmp_path / "kept" / "results"] * 2000))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("where", ["file", "file/results", "file/more/results"])
def test_where_no_folder_can_be_is_said(tmp_path, where):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=f"{where} cannot be written: Not a directory"):
        check_writable(tmp_path / where)
