"""Where a model or a dataset comes from: a repository on the Hub, or a folder in a store."""

from __future__ import annotations

from dataclasses import dataclass

from airsmith.artifacts.listing import list_source, listing_digest
from airsmith.artifacts.store import Store
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.hub import RepoType
from airsmith.recipe.sources import source_kind
from airsmith_stages.mirroring.hub_source import hub_files
from airsmith_stages.mirroring.source_file import SourceFile, object_stream


@dataclass(frozen=True)
class Source:
    """Where a model or a dataset comes from.

    :param revision: the commit, or for a folder in a store its listing digest at the time the run was resolved.
    """

    repo_type: RepoType
    id: str
    revision: str

    @property
    def is_store(self) -> bool:
        """Whether the source is a folder in a store rather than a repository on the Hub."""
        return source_kind(self.id) == "store"

    def files(self) -> list[SourceFile]:
        """All files of the source.

        :raises AirsmithError: `bad_data` if a store's folder changed after the run was resolved, or the Hub's error.
        """
        if self.is_store:
            self.refuse_changed()
            store = Store.open(self.id)
            return [
                SourceFile(info.path, info.size_bytes, object_stream(store, info.path)) for info in list_source(self.id)
            ]
        return hub_files(self.repo_type, self.id, self.revision)

    def refuse_changed(self) -> None:
        """Reject a store's folder that has changed since the run was resolved; a commit never changes.

        :raises AirsmithError: `bad_data`.
        """
        if self.is_store and listing_digest(self.id) != self.revision:
            raise AirsmithError(
                ErrorKind.BAD_DATA,
                f"{self.id} has changed since this run was resolved.",
                "Start a new run, and do not write to the folder while it runs.",
            )
