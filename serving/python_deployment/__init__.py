"""What the class of a Python deployment is written with, and the replica that runs it.

    from serving.python_deployment import Handle, Request, Tensor, batch

Design: docs/design/0010-python-deployments.md; how to use it: docs/guides/python.md.
"""

from __future__ import annotations

from serving.python_deployment.batching import batch
from serving.python_deployment.handle import Handle
from serving.python_deployment.request import Request, Response, Tensor, current_request

__all__ = ["Handle", "Request", "Response", "Tensor", "batch", "current_request"]
