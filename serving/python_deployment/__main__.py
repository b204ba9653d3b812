"""`python -m serving.python_deployment CONFIG.json`: one replica as a process of its own, without Ray.

Prints a `ReplicaReport` as a line of JSON whenever more than its load changes. SIGTERM and SIGINT drain it, and end it.
"""

from __future__ import annotations

import sys

from serving.python_deployment.replica import Replica
from serving.python_deployment.standalone import run_standalone

if __name__ == "__main__":
    sys.exit(run_standalone(sys.argv[1:], str(__doc__), "python", Replica))
