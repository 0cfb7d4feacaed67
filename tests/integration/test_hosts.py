"""Which gRPC server can run here, and the message if one cannot."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

WITHOUT = """
import sys
from authz.cli import main as cli
from authz.hosts import pyvoy_launch
{fault}
sys.argv[1:] = ["serve", "--config", {config!r}, "--server", "pyvoy", {flags}]
cli.main()
"""
INSTALLED = "sys.modules['pyvoy'] = type(sys)('pyvoy')"  # whether it is or not

NEEDS_MORE = """
def lacks(name): raise ImportError("libX.so: cannot open")
pyvoy_launch.import_module = lacks
"""


@pytest.mark.parametrize(
    ("fault", "flags", "says"),
    [
        ("sys.modules['pyvoy'] = None", "", "server pyvoy: not installed. In a clone, pip install '.[fast]'"),
        (NEEDS_MORE, "", "server pyvoy: cannot be loaded: libX.so: cannot open; --server grpcio runs everywhere"),
        (INSTALLED + "; pyvoy_launch._envoy_environ = dict", "", "server pyvoy: needs a Python with a shared library"),
        ("", '"--reflection", "true"', "reflection: expected false: only the server grpcio serves it"),
    ],
    ids=["no pyvoy", "no library", "no libpython", "reflection"],
)
def test_where_it_cannot_run_it_says_why(fault: str, flags: str, says: str, tmp_path: Path) -> None:
    config = tmp_path / "plans.yaml"
    config.write_text("apis: []\n")
    code = WITHOUT.format(fault=fault, flags=flags, config=str(config))
    ended = subprocess.run((sys.executable, "-c", code), capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert ended.stderr.startswith(says)
    assert len(ended.stderr.splitlines()) == 1
