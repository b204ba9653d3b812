"""`python -m serving.embedding CONFIG.json`: one replica of an embedding model as a process of its own, without Ray.

Prints a `ReplicaReport` as a line of JSON whenever more than its load changes: `address` speaks OpenAI's protocol,
`health_address` KServe v2 over gRPC. SIGTERM and SIGINT drain it, and end it.
"""

from __future__ import annotations

import sys

from serving.embedding.replica import EmbeddingReplica
from serving.python_deployment.standalone import run_standalone

if __name__ == "__main__":
    sys.exit(run_standalone(sys.argv[1:], str(__doc__), "embedding", EmbeddingReplica))
