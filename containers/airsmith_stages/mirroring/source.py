"""Where a model or a dataset comes from: a repository on the Hub, or a folder in a store."""

from __future__ import annotations

from dataclasses import dataclass

from airsmith.artifacts.listing import list_source, listing_digest
from airsmith.artifacts.store import Store
from airsmith.contracts.errors import AirsmithError, ErrorKind
from airsmith.hub import RepoType
from airsmith.recipe.sources import source_kind
from airsmith_stages.mirroring.hub_source import hub_files
from airsmith_stages.mirroring.source_file import SourceFile, streaming


@dataclass(frozen=True)
class Source:
    """Where a model or a dataset comes from.

    :param revision: the commit, or the listing digest of a store's folder when the run was resolved.
    """

    repo_type: RepoType
    id: str
    revision: str

    @property
    def is_store(self) -> bool:
        """Whether it is a folder in a store, not a repository of the Hub."""
        return source_kind(self.id) == "store"

    def files(self) -> list[SourceFile]:
        """All that it holds.

        :raises AirsmithError: `bad_data` for a store's folder that has changed since; what the Hub refuses.
        """
        if self.is_store:
            self.refuse_changed()
            store = Store.open(self.id)
            return [
                SourceFile(info.path, info.size_bytes, streaming(store, info.path)) for info in list_source(self.id)
            ]
        return hub_files(self.repo_type, self.id, self.revision)

    def refuse_changed(self) -> None:
        """Refuse a folder that somebody has written to since the run was resolved; a commit never changes.

        :raises AirsmithError: `bad_data`.
        """
        if self.is_store and listing_digest(self.id) != self.revision:
            raise AirsmithError(
                ErrorKind.BAD_DATA,
                f"{self.id} has changed since this run was resolved.",
                "Start a new run, and let nobody write there meanwhile.",
            )
