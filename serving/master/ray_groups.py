"""Placement groups of replicas whose code starts actors of its own. Ray's calls; blocking, milliseconds.

A group bears the name of its replica, behind the mesh's Ray namespace, by which a master that was started since finds
it: Ray looks names up in the namespace of the calling job only. Checked with Ray 2.60: an actor for a group that has no
room yet waits for it; its row then names resources by the group ("CPU_group_0_<id>"); removing the group ends what
runs in it, but an actor that still waits stays, so actors are ended before.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final

from ray import PlacementGroupID
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table, remove_placement_group

from serving.master.replica_config import Launch

_LOG: Final = logging.getLogger(__name__)
_REMOVED: Final = "REMOVED"
_MARK: Final = "bundle_group_"
_BEHIND: Final = "|"
_STRATEGY: Final = {"": "PACK"}


class Groups:
    """The groups of one application's replicas. Ray's table is read once, as it keeps those that were removed, too.

    A group that lacks its replica at two looks in a row is removed: an earlier master may have left it, or another one
    may be about to create the replica.
    """

    def __init__(self, namespace: str, mine: Callable[[str], bool]) -> None:
        """`mine`: whether a replica is of this application, by its name."""
        self._namespace = namespace
        self._mine = mine
        self._replicas: dict[str, str] | None = None  # by the ids of their groups; None: not read yet
        self._unused: frozenset[str] = frozenset()

    def of(self, launch: Launch) -> PlacementGroup:
        """The group of a replica: its own resources first, then its bundles. Made when it is not there."""
        replica = str(launch.name)
        self._replicas = self._read()  # another master may have made it
        for key, name in self._replicas.items():
            if name == replica:
                return _group(key)
        group = _made(f"{self._namespace}{_BEHIND}{replica}", launch)
        self._replicas[group.id.hex()] = replica
        return group

    def remove(self, replica: str) -> None:
        """The group of a replica that was ended, if it has one."""
        self._remove([key for key, name in self._known().items() if name == replica])

    def lacks(self, living: Collection[str]) -> bool:
        """Whether some group's replica is not among `living`, the names of those that live or are being created."""
        lacking = any(name not in living for name in self._known().values())
        self._unused = self._unused if lacking else frozenset()
        return lacking

    def look(self, living: Collection[str]) -> None:
        """Removes what was unused at the last look, too."""
        unused = frozenset(key for key, name in self._known().items() if name not in living)
        self._remove(unused & self._unused)
        self._unused = unused

    def _known(self) -> dict[str, str]:
        if self._replicas is None:
            self._replicas = self._read()
        return self._replicas

    def _read(self) -> dict[str, str]:
        found = {}
        for key, row in placement_group_table().items():
            place, _, name = row["name"].partition(_BEHIND)
            if row["state"] != _REMOVED and place == self._namespace and self._mine(name):
                found[key] = name
        return found

    def _remove(self, keys: Iterable[str]) -> None:
        for key in keys:
            _LOG.info("placement group is removed", extra={"group": key, "replica": self._known().pop(key)})
            remove_placement_group(_group(key))


def _made(name: str, launch: Launch) -> PlacementGroup:
    bundles = [dict(bundle) or {"CPU": 0.001} for bundle in launch.bundles]  # Ray refuses a bundle of nothing
    return placement_group(
        bundles,
        strategy=_STRATEGY.get(launch.bundle_strategy, launch.bundle_strategy.upper()),
        name=name,
        lifetime="detached",
        bundle_label_selector=[dict(launch.node_labels)] * len(bundles) if launch.node_labels else None,
    )


def _group(key: str) -> PlacementGroup:
    return PlacementGroup(PlacementGroupID.from_hex(key))


def without_groups(required: Mapping[str, float]) -> dict[str, float]:
    """What an actor requires; of one in a group, all that the group reserves. Asks Ray for that group."""
    marks = [name.removeprefix(_MARK) for name in required if name.startswith(_MARK)]
    key = next((mark for mark in marks if "_" not in mark), None)
    if key is None:
        return dict(required)
    total: dict[str, float] = {}
    for bundle in placement_group_table(_group(key)).get("bundles", {}).values():
        for name, amount in bundle.items():
            total[name] = total.get(name, 0.0) + amount
    return total
