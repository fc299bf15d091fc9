"""`make images`: build and push images, write their digests into the settings, and report their sizes.

An image's tag is its commit. The settings name it by digest, so the tested image is the one that runs.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from airsmith.errors import AirsmithError
from airsmith.settings import Image
from scripts.images.builders import builder_of
from scripts.images.settings_file import write_images
from scripts.images.sizes import report
from scripts.images.toolchain import toolchain_of

REPOSITORY = Path(__file__).resolve().parents[2]
IMAGES = sorted(file.parent.name for file in REPOSITORY.glob("containers/*/Dockerfile"))
CONTEXT = (
    "containers", "plugins", "scripts/install-torch", "tests/neuron",
    "LICENSE", "README.md", "pyproject.toml", "setup.cfg",
)  # fmt: skip
"""The paths that images may copy, as in .dockerignore."""


def main() -> int:
    """Build the images given on the command line; write each to the settings as soon as it is pushed."""
    options = _parser().parse_args()
    try:
        builder = builder_of(options.build)
        commit = commit_of_context()
        for image in options.images:
            started_at = time.monotonic()
            print(f"Building {image} …", flush=True)
            name = f"{options.registry.rstrip('/')}/{image}:{tag_of_context()}"
            dockerfile = dict(options.stand_in).get(image, f"containers/{image}/Dockerfile")
            reference = builder.build(name, _arguments(dockerfile, commit, options.build_arg))
            write_images(options.settings, {image: Image(reference=reference, toolchain=toolchain_of(builder, name))})
            print(f"{image}: {reference}\n{image}: {time.monotonic() - started_at:.0f} s, {options.settings} updated.")
            print(report(image, builder.layers(name)), flush=True)
    except AirsmithError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def commit_of_context() -> str:
    """The last commit that changed a path in `CONTEXT`, with `-dirty` if such a path has uncommitted changes.

    Other commits leave every image, digest included, unchanged.
    """
    commit = _git("log", "-1", "--format=%H", "--", *CONTEXT) or "unknown"
    return f"{commit}-dirty" if _git("status", "--porcelain", "--", *CONTEXT) else commit


def tag_of_context() -> str:
    """The tag of images built now: a short `commit_of_context`."""
    sha, *dirty = commit_of_context().split("-")
    return "-".join([sha[:12], *dirty])


def _arguments(dockerfile: str, commit: str, build_arguments: list[str]) -> list[str]:
    given = [f"COMMIT={commit}", *build_arguments]
    return [
        str(REPOSITORY),
        *("--file", str(REPOSITORY / dockerfile)),
        *(word for argument in given for word in ("--build-arg", argument)),
    ]


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=REPOSITORY, capture_output=True, text=True).stdout.strip()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make images", description=__doc__)
    parser.add_argument("images", nargs="+", choices=IMAGES, metavar="IMAGE", help=f"of {', '.join(IMAGES)}")
    parser.add_argument("--registry", required=True, help="registry and path to push the images to")
    parser.add_argument("--settings", required=True, type=Path, help="YAML file to write kubernetes.images to")
    parser.add_argument("--build", default="", help="builder: docker, buildah, or a custom command")
    parser.add_argument("--build-arg", action="append", default=[], help="for example BASE_IMAGE=…")
    parser.add_argument(
        "--stand-in", action="append", default=[], type=_stand_in, metavar="IMAGE=FILE",
        help="another Dockerfile for an image, for tests that cannot use its base image",
    )  # fmt: skip
    return parser


def _stand_in(words: str) -> tuple[str, str]:
    image, _, dockerfile = words.partition("=")
    if image not in IMAGES or not (REPOSITORY / dockerfile).is_file():
        raise argparse.ArgumentTypeError(f"{words!r} is not IMAGE=FILE with an image and a Dockerfile that exist")
    return image, dockerfile


if __name__ == "__main__":
    sys.exit(main())
