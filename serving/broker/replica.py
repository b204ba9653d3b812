"""One broker: the life of its process.

States as those of a Python replica; "loading" is reading what its journals hold.
"""

from __future__ import annotations

import sys
from typing import Final

from serving.broker.parts import BrokerParts
from serving.python_deployment.replica import Parts, Replica

# Python's default of 5 ms is what the thread that commits may wait for the event loop after each statement, and the
# loop for it: as long as an item takes to get through the whole broker.
SWITCH_S: Final = 0.0005


class BrokerReplica(Replica):
    """All methods may be called from any thread and answer at once, but for `stop`. Nothing raises."""

    async def _load(self) -> Parts:
        sys.setswitchinterval(SWITCH_S)
        self._step("loading", "reads its journals")
        return self._hold(BrokerParts(self._config, self._node_address))
