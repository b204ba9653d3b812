"""`python -m serving.serve_deployment.driver`: a Ray job that deploys one application in Ray Serve and watches it.

Started by a Serve replica, it reads an `Order` and then words from standard input, and says on standard output what it
sees. It leaves its parent, so that Ray, which ends the children of an actor with it, does not end it: when its input
ends, the replica's process is gone, and if Ray does not start that again, somebody must take the application away.
It stays in the session, by which a local cluster is ended.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from typing import Final

from serving.errors import MeshError, Unavailable
from serving.master.model import ActorRow, ActorState
from serving.observe import configure_logging
from serving.python_deployment.failure import described
from serving.serve_deployment import names, orders, verdict
from serving.serve_deployment.orders import Order

_LOG: Final = logging.getLogger("serving.serve_deployment.driver")
_LOOK_S: Final = 0.5
_SWEEP_S: Final = 30.0
_ORPHAN_LOOK_S: Final = 0.2
_STUCK_S: Final = 150.0  # for a module that is imported without end; Serve itself waits for 60 s at most
_ORPHAN_PATIENCE_S: Final = 600.0  # for a cluster that does not say what became of the replica


class Words:
    """What the replica says after its order, read on a thread. `ended`: it says nothing any more."""

    def __init__(self) -> None:
        self.wake = threading.Event()
        self.delete = False
        self.end = False
        self.ended = False
        self.heeded = threading.Event()  # by the driver: it has come to its end

    def read(self) -> None:
        for line in sys.stdin.buffer:
            word = line.strip().decode(errors="replace")
            self.delete = self.delete or word == orders.DELETE
            self.end = self.end or word == orders.END
            self.wake.set()
        self.ended = True
        self.wake.set()
        if not self.heeded.wait(_STUCK_S):
            _LOG.error("ended: the user's code or Ray does not come back")
            logging.shutdown()
            os._exit(1)

    @property
    def over(self) -> bool:
        return self.end or self.ended


class Driver:
    """One application, from its deployment to its end."""

    def __init__(self, order: Order, words: Words, output: int) -> None:
        self._order = order
        self._words = words
        self._output = output
        self._joined = False
        self._deleting = False
        self._swept_at = time.monotonic()
        self._suspects: frozenset[str] = frozenset()

    def run(self) -> None:
        from serving.serve_deployment import serve_instance as instance

        try:
            instance.join(self._order)
            self._joined = True
            self._bring_up()
            self._watch()
        except MeshError as error:
            self._say(orders.failure_line(error.message))
        except Exception as error:  # noqa: BLE001 - the edge of the process: the replica says it
            _LOG.exception("the driver ended with an error")
            self._say(orders.failure_line(f"Ray Serve cannot be used: {described(error)}"))
        self._wait_for_the_end()

    def _bring_up(self) -> None:
        """Again and again while Serve does not answer: its controller may be starting just now."""
        from serving.serve_deployment import serve_instance as instance

        while not self._words.delete and not self._words.over:
            try:
                instance.start(self._order)
                self._deploy_unless_there()
                return
            except Unavailable as error:
                _LOG.warning("Ray Serve does not answer", extra={"error": error.message})
                self._say(orders.waiting_line(error.message))
                self._words.wake.wait(_LOOK_S)

    def _deploy_unless_there(self) -> None:
        """A replica that was started again finds what the process before it has deployed."""
        from serving.serve_deployment import serve_instance as instance

        seen = instance.look(self._order)
        if verdict.adoptable(seen, self._order.route_prefix):
            _LOG.info("application found in Ray Serve", extra={"serve_application": self._order.application})
            return
        while seen.status != verdict.GONE and not self._words.over:
            if seen.status != "DELETING":
                instance.delete(self._order.application)
            time.sleep(_LOOK_S)
            seen = instance.look(self._order)
        application = instance.build(self._order)
        if self._words.delete or self._words.over:
            return
        instance.deploy(self._order, application)
        _LOG.info("application deployed in Ray Serve", extra={"serve_application": self._order.application})

    def _watch(self) -> None:
        from serving.serve_deployment import serve_instance as instance

        while not self._words.over:
            self._words.wake.clear()
            try:
                if self._words.delete and not self._deleting:
                    instance.delete(self._order.application)
                    self._deleting = True
                self._say(orders.sight_line(instance.look(self._order)))
                self._sweep()
            except Unavailable as error:  # Serve heals its controller; what runs keeps running
                _LOG.warning("Ray Serve does not answer", extra={"error": error.message})
            self._words.wake.wait(_LOOK_S)

    def _sweep(self) -> None:
        """Takes away applications of replicas of this mesh that are gone, and whose drivers could not do it."""
        from serving.serve_deployment import serve_instance as instance

        if time.monotonic() - self._swept_at < _SWEEP_S:
            return
        self._swept_at = time.monotonic()
        suspects = set()
        for application in instance.applications():
            replica = names.actor_name(self._order.ray_namespace, application)
            if replica is not None and self._row(str(replica)) is None:
                suspects.add(application)
        for application in suspects & self._suspects:  # seen twice
            _LOG.warning("an application without a replica is deleted", extra={"serve_application": application})
            instance.delete(application)
        self._suspects = frozenset(suspects)

    def _wait_for_the_end(self) -> None:
        while not self._words.over:
            self._words.wake.wait()
            self._words.wake.clear()
        self._words.heeded.set()
        if self._joined and not self._words.end and self._replica_is_gone():
            _LOG.warning("the replica is gone: its application is deleted")
            self._delete_in_the_end()

    def _delete_in_the_end(self) -> None:
        from serving.serve_deployment import serve_instance as instance

        until = time.monotonic() + _ORPHAN_PATIENCE_S
        while time.monotonic() < until:
            try:
                instance.delete(self._order.application)
                return
            except Unavailable as error:
                _LOG.warning("Ray Serve does not answer", extra={"error": error.message})
                time.sleep(_LOOK_S)

    def _replica_is_gone(self) -> bool:
        """False when Ray has started its process again, which has a driver of its own, or cannot be asked."""
        heard_at = time.monotonic()
        while time.monotonic() - heard_at < _ORPHAN_PATIENCE_S:
            try:
                row = self._row(self._order.actor)
            except Unavailable as error:
                _LOG.warning("Ray does not say what became of the replica", extra={"error": error.message})
                time.sleep(_LOOK_S)
                continue
            if row is None:
                return True
            if row.state is ActorState.ALIVE and row.pid != self._order.pid:
                return False
            heard_at = time.monotonic()
            time.sleep(_ORPHAN_LOOK_S)
        return False

    def _row(self, name: str) -> ActorRow | None:
        """Of a replica that lives or will live again. Raises `Unavailable`."""
        from serving.master.ray_actors import read_actors

        return next(iter(read_actors(self._order.ray_namespace, lambda other: other == name, dead=False)), None)

    def _say(self, line: bytes) -> None:
        """To a replica that may be gone."""
        try:
            os.write(self._output, line)
        except BrokenPipeError:
            self._words.ended = True


def main() -> None:
    if os.fork():
        os._exit(0)
    os.setpgid(0, 0)
    output = os.dup(1)
    os.dup2(2, 1)  # what the user's code prints goes to the log
    words = Words()
    order = Order.from_line(sys.stdin.buffer.readline())
    configure_logging(level="info", style="json", serve_application=order.application)
    threading.Thread(target=words.read, name="words", daemon=True).start()
    Driver(order, words, output).run()
    logging.shutdown()
    os._exit(0)  # threads of Ray and of the user's code need not be waited for


if __name__ == "__main__":
    main()
