from __future__ import annotations

from cli_fakes import fake, run

__all__ = ["fake", "run"]
