"""Tables of Iceberg, through PyIceberg, which only those need who use them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from serving.errors import FailedPrecondition, InvalidArgument, NotFound


@dataclass(frozen=True)
class IcebergTable:
    """`name`: "namespace.table". `catalog`: as PyIceberg's configuration names it; `properties` add to that."""

    name: str
    catalog: str = "default"
    properties: Mapping[str, str] = field(default_factory=dict, repr=False)  # may hold credentials

    def load(self) -> Any:
        """The table as it is now, a `pyiceberg.table.Table`."""
        try:
            from pyiceberg.catalog import load_catalog
            from pyiceberg.exceptions import NoSuchTableError
        except ImportError:
            raise FailedPrecondition(
                "Iceberg needs the package `pyiceberg`: pip install 'pyiceberg', on the driver and in clusters"
            ) from None
        try:
            return load_catalog(self.catalog, **self.properties).load_table(self.name)
        except NoSuchTableError:
            raise NotFound(f"catalog {self.catalog} has no table {self.name}") from None
        except ValueError as error:
            raise InvalidArgument(f"catalog {self.catalog} cannot be used: {error}") from None
