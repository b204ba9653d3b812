"""Who an agent is: new for each start, and telling enough that a successor on the same machine sees it is dead."""

from __future__ import annotations

import os
import socket
import uuid
from dataclasses import dataclass

from serving.errors import InvalidArgument
from serving.process_id import ProcessId


@dataclass(frozen=True, slots=True)
class AgentId:
    host: str
    process: ProcessId
    nonce: str

    @staticmethod
    def mine() -> AgentId:
        return AgentId(socket.gethostname(), ProcessId.of(os.getpid()), uuid.uuid4().hex[:8])

    def __str__(self) -> str:
        return f"{self.host}/{self.process.boot_id}/{self.process.pid}/{self.process.start_ticks}/{self.nonce}"

    @staticmethod
    def parse(text: str) -> AgentId:
        """The inverse of `str`. Raises `InvalidArgument`."""
        try:
            host, boot_id, pid, ticks, nonce = text.split("/")
            return AgentId(host, ProcessId(int(pid), int(ticks), boot_id, ""), nonce)
        except ValueError as error:
            raise InvalidArgument(f"{text!r} is no agent's id") from error


def is_dead(agent_id: str) -> bool:
    """True only for an agent of this machine, of this boot, whose process is gone for sure."""
    try:
        other = AgentId.parse(agent_id)
    except InvalidArgument:
        return False
    mine = AgentId.mine()
    here = other.host == mine.host and other.process.boot_id == mine.process.boot_id
    return here and not other.process.alive()
