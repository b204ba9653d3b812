"""A mesh of their own, because Ray Serve has one instance per cluster and takes gRPC functions only when it starts."""

from __future__ import annotations

from tests.integration.master.conftest import client, keeper, mesh

__all__ = ["client", "keeper", "mesh"]
