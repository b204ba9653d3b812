"""One Pull stream: a replica says what it runs and how many more items it takes, the broker sends work."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Final

import grpc.aio

from serving._proto import broker_pb2 as pb
from serving.broker import messages, tickets
from serving.broker.home import Home
from serving.broker.pulls import MOST_CREDITS, Puller, stop_bytes
from serving.broker.settings import BrokerSettings
from serving.broker.stream_writing import write
from serving.errors import Conflict, InvalidArgument, MeshError, Unavailable
from serving.problems import shown
from serving.python_deployment.codec import parse
from serving.timeouts import cancel_and_wait, wait_for

_HELLO_S: Final = 30.0
_NOT_YOURS: Final = "its lease has ended"
_MAX_NAME: Final = 256
_MAX_HELD: Final = 100_000
_MAX_REASON: Final = 1000  # characters
_UNWRITTEN: Final = 64 << 20  # bytes of results that wait for the disk; no more are read while there are more


class PullStream:
    """From `run` to the end of the connection."""

    def __init__(self, home: Home, settings: BrokerSettings, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        self._home = home
        self._settings = settings
        self._context = context

    async def run(self) -> None:
        """Returns when the replica has said everything. Raises errors of the mesh for what ends it otherwise."""
        puller, hello = await self._hello()
        puller.send(self._welcome(puller, hello))
        self._home.pulls.open(puller)
        reading = asyncio.create_task(self._read(puller))
        writing = asyncio.create_task(self._write(puller))
        try:
            await asyncio.wait((reading, writing), return_when=asyncio.FIRST_COMPLETED)
            if writing.done():
                writing.result()
                raise self._why_closed(puller)
            reading.result()
        finally:
            self._home.pulls.close(puller)
            await cancel_and_wait(reading, writing)

    def _why_closed(self, puller: Puller) -> MeshError:
        if self._home.pulls.refusing:
            return Unavailable("this broker is draining: pull from whoever serves its journals next")
        return Conflict(f"replica {puller.replica} has connected again")

    async def _hello(self) -> tuple[Puller, pb.Hello]:
        try:
            data = await wait_for(self._context.read(), _HELLO_S)
        except asyncio.TimeoutError as error:
            raise InvalidArgument(f"the replica has not said hello for {_HELLO_S:g} s") from error
        if not isinstance(data, bytes):
            raise InvalidArgument("the stream ended before the replica said hello")
        message = parse(data, pb.PullRequest)
        if not message.HasField("hello"):
            raise InvalidArgument("the first message of a Pull must be `hello`")
        hello = message.hello
        for name in ("replica", "process"):
            if not 0 < len(getattr(hello, name)) <= _MAX_NAME:
                raise InvalidArgument(f"hello.{name}: 1 to {_MAX_NAME} characters are wanted")
        if hello.deployment not in self._settings.deployments:
            raise InvalidArgument(f"hello.deployment: this broker has no work for {shown(hello.deployment)}")
        if len(hello.held) > _MAX_HELD:
            raise InvalidArgument(f"hello.held: {len(hello.held)} items are more than {_MAX_HELD}")
        return Puller(hello.replica, hello.process, hello.deployment, hello.generation), hello

    def _welcome(self, puller: Puller, hello: pb.Hello) -> bytes:
        """What it holds of journals that are not served here is not lost: it may be welcome where they are."""
        held: dict[str, set[tuple[int, int]]] = {name: set() for name in self._home.shards}
        for each in hello.held:
            journal, number = tickets.read_id(each.item)
            if journal in held:
                held[journal].add((number, each.attempt))
        welcome = pb.Welcome(lease_s=self._settings.lease_s, max_result_bytes=self._settings.max_result_bytes)
        for name, shard in self._home.shards.items():
            lost = shard.hold(hello.replica, hello.process, held[name])
            puller.held.update((shard.id_of(number), attempt) for number, attempt in held[name] - lost)
            for number, attempt in sorted(lost):
                welcome.lost.add(item=shard.id_of(number), attempt=attempt)
        return pb.PullReply(welcome=welcome).SerializeToString()

    async def _write(self, puller: Puller) -> None:
        """Until the puller is closed."""
        while not puller.closed:
            puller.wake.clear()
            while puller.outbox and not puller.closed:
                together = puller.next_messages()
                await write(self._context, together, f"replica {puller.replica}")
                puller.sent(together)
            if not puller.closed:
                if puller.credits > 0:
                    self._home.pulls.waiting()
                await puller.wake.wait()

    async def _read(self, puller: Puller) -> None:
        while True:
            data = await self._context.read()
            if not isinstance(data, bytes):  # the end
                return
            self._home.pulls.heard(puller)
            first = parse(data, pb.PullRequest)
            for message in (first, *first.more):
                await self._heard(puller, message)

    async def _heard(self, puller: Puller, message: pb.PullRequest) -> None:
        kind = message.WhichOneof("message")
        if kind == "done":
            await self._done(puller, message.done)
        elif kind == "credits":
            puller.ahead = min(max(message.credits.ahead, 0), MOST_CREDITS)
            self._home.pulls.add_credits(puller, message.credits.more)
        elif kind == "progress":
            self._progress(puller, message.progress)
        else:
            raise InvalidArgument("a Pull message after the first must be credits, progress or done")

    def _progress(self, puller: Puller, said: pb.Progress) -> None:
        journal, number = tickets.read_id(said.item)
        shard = self._home.shards.get(journal)
        if shard is None:  # it is on its way to another broker, where the replica will say it again
            return
        parts = [(part.number, part.body) for part in said.parts]
        if not shard.progress(number, said.attempt, said.progress, parts):
            puller.let_go((said.item, said.attempt))
            puller.send(stop_bytes(said.item, said.attempt, _NOT_YOURS))

    async def _done(self, puller: Puller, said: pb.Done) -> None:
        journal, number = tickets.read_id(said.item)
        shard = self._home.shards.get(journal)
        if shard is None:
            return
        told = partial(self._stored, puller, said.item, said.attempt)
        running = shard.find(number, said.attempt)
        if running is None:
            told(False)
            return
        kind = said.WhichOneof("outcome")
        if kind == "result":
            state, body = messages.read_result(said.result, self._settings.max_result_bytes)
            shard.done(number, said.attempt, state, body, told)
            while shard.journal.unwritten_bytes > _UNWRITTEN:  # no more is read meanwhile
                await shard.journal.written()
        elif kind == "again":
            reason = said.again.message[:_MAX_REASON].replace("\0", "") or "its replica gave it back"
            shard.again(number, said.attempt, reason, told, untouched=said.untouched)
        else:
            raise InvalidArgument("done: neither `result` nor `again` is set")

    def _stored(self, puller: Puller, item: str, attempt: int, wanted: bool) -> None:
        puller.let_go((item, attempt))
        reply = pb.PullReply(stored=pb.Stored(item=item, attempt=attempt, wanted=wanted))
        puller.send(reply.SerializeToString())
