"""Build the site of docs/ and check it: `make site`.

Zensical's strict mode fails on broken links and anchors. It accepts a page that no menu leads to and a page that loads
files from another server, so this module checks both.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

REPOSITORY = Path(__file__).parents[2]
LOADED_BY = {"img": "src", "script": "src", "source": "srcset", "iframe": "src", "link": "href"}
"""Tags whose attribute makes a browser load a file."""
LINKS_THAT_LOAD_NOTHING = {"canonical", "next", "prev"}


def read_project() -> dict[str, Any]:
    """The configuration of the site."""
    project: dict[str, Any] = tomllib.loads((REPOSITORY / "zensical.toml").read_text(encoding="utf-8"))["project"]
    return project


def nav_pages(entries: list[Any]) -> Iterator[str]:
    """The pages of a `nav`, which nests lists in tables with one key."""
    for entry in entries:
        if isinstance(entry, str):
            yield entry
        else:
            for value in entry.values():
                yield from nav_pages(value if isinstance(value, list) else [value])


def nav_problems(project: dict[str, Any], docs: Path) -> list[str]:
    """Pages without an entry in the menu, and entries without a page."""
    pages = {path.relative_to(docs).as_posix() for path in docs.rglob("*.md")}
    named = list(nav_pages(project["nav"]))
    return [
        *(f"zensical.toml: nav lacks {page}" for page in sorted(pages - set(named))),
        *(f"zensical.toml: nav names {page}, which does not exist" for page in sorted(set(named) - pages)),
        *(f"zensical.toml: nav names {page} twice" for page in sorted({p for p in named if named.count(p) > 1})),
    ]


class LoadedFiles(HTMLParser):
    """Collects the addresses of the files that a browser loads with a page."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """Keep the address that `tag` loads, if any."""
        found = dict(attributes)
        address = found.get(LOADED_BY.get(tag, ""))
        if address and found.get("rel") not in LINKS_THAT_LOAD_NOTHING:
            self.addresses.append(address)


def external_files(site: Path) -> list[str]:
    """Files of other servers that a page of the site loads."""
    problems = []
    for page in sorted(site.rglob("*.html")):
        loaded = LoadedFiles()
        loaded.feed(page.read_text(encoding="utf-8"))
        problems += [
            f"{page.relative_to(site)} loads {address}"
            for address in loaded.addresses
            if address.startswith(("http:", "https:", "//"))
        ]
    return problems


def main() -> int:
    """Build and check; returns the exit code."""
    project = read_project()
    problems = nav_problems(project, REPOSITORY / project["docs_dir"])
    built = subprocess.run(["zensical", "build", "--strict", "--clean"], cwd=REPOSITORY, check=False)
    if built.returncode == 0:
        problems += external_files(REPOSITORY / project["site_dir"])
        print(f"{project['site_dir']}/index.html")
    print("".join(f"error: {problem}\n" for problem in problems), end="", file=sys.stderr)
    return built.returncode or bool(problems)


if __name__ == "__main__":
    sys.exit(main())
