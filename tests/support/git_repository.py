"""A Git repository that Airflow reads DAGs from."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml


@dataclass(frozen=True)
class GitRepository:
    """A bare repository, and the working copy that pushes to it."""

    bare: Path
    working_copy: Path

    def git(self, *arguments: str) -> str:
        """Run git in the working copy.

        :returns: its output without surrounding white space.
        """
        identity = ("-c", "user.name=tests", "-c", "user.email=tests@example.invalid")
        command = ["git", *identity, *arguments]
        return subprocess.run(command, cwd=self.working_copy, check=True, capture_output=True, text=True).stdout.strip()

    def push(self, message: str, **recipes: dict[str, Any]) -> str:
        """Commit all changes with these recipes, and push them.

        :returns: the commit's hash.
        """
        for name, recipe in recipes.items():
            (self.working_copy / "dags" / "recipes" / f"{name}.yaml").write_text(yaml.safe_dump(recipe))
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", message)
        self.git("push", "--quiet", "origin", "main")
        return self.git("rev-parse", "HEAD")


def make_git_repository(folder: Path) -> GitRepository:
    """An empty repository whose branch is `main`."""
    repository = GitRepository(folder / "recipes.git", folder / "copy")
    subprocess.run(["git", "init", "--quiet", "--bare", "--initial-branch=main", repository.bare], check=True)
    subprocess.run(["git", "clone", "--quiet", repository.bare, repository.working_copy], check=True)
    repository.git("checkout", "--quiet", "-B", "main")
    return repository
