"""Start a gateway under a fault, and again when that is over, with one import: twice.py OVER FOLDER COMMAND….

COMMAND is that of `python -m server`. OVER is of the shell, with FOLDER as its `$0`. The status of the first start is a
line on standard error.
"""

import os
import subprocess
import sys

import server.cli.serve  # noqa: F401  # both starts need all of it
from server.cli import main

over, folder, _python, _m, _server, *arguments = sys.argv[1:]
if child := os.fork():
    _, status = os.waitpid(child, 0)
    sys.stderr.write(f"status {os.waitstatus_to_exitcode(status)}\n")
    sys.stderr.flush()
    subprocess.run(["sh", "-c", over, folder], check=True)
sys.exit(main(arguments))
