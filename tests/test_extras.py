"""Packages of extras are asked for when they are needed, and a missing one is a command to type."""

import sys

import pytest

from dynvid.errors import InputError
from dynvid.extras import EXTRA_OF, require


@pytest.mark.parametrize(("module", "extra"), EXTRA_OF.items())
def test_what_is_missing_is_named_with_the_command_that_installs_it(module, extra, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=rf"^{module} is not installed: pip install 'dynvid\[{extra}\]'$"):
        require(module)


def test_what_is_missing_of_a_package_that_is_there_is_not_blamed_on_it(tmp_path, monkeypatch):
    (tmp_path / "gradio.py").write_text("import nowhere_to_be_found")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "gradio", raising=False)
    with pytest.raises(ModuleNotFoundError, match="nowhere_to_be_found"):
        require("gradio")
