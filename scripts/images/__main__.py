"""`make images`: build and push images, write what came of it into the settings, and report their sizes.

An image's tag is its commit; the settings name it by digest, so that what was tested is what runs.
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
"""What can go into an image: the same as in .dockerignore."""


def main() -> int:
    """Build the images that the command line names; the settings get each as soon as it is pushed."""
    options = _parser().parse_args()
    try:
        builder = builder_of(options.build)
        commit = commit_of_context()
        for image in options.images:
            begun = time.monotonic()
            print(f"Building {image} …", flush=True)
            name = f"{options.registry.rstrip('/')}/{image}:{_tag(commit)}"
            dockerfile = dict(options.stand_in).get(image, f"containers/{image}/Dockerfile")
            reference = builder.build(name, _arguments(dockerfile, commit, options.build_arg))
            write_images(options.settings, {image: Image(reference=reference, toolchain=toolchain_of(builder, name))})
            print(f"{image}: {reference}\n{image}: {time.monotonic() - begun:.0f} s, {options.settings} names it.")
            print(report(image, builder.layers(name)), flush=True)
    except AirsmithError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def commit_of_context() -> str:
    """The last commit that changed what images are made of; with `-dirty` where something is not committed.

    A commit that touches nothing of it leaves every image, digest included, as it is.
    """
    commit = _git("log", "-1", "--format=%H", "--", *CONTEXT) or "unknown"
    return f"{commit}-dirty" if _git("status", "--porcelain", "--", *CONTEXT) else commit


def _tag(commit: str) -> str:
    sha, *dirty = commit.split("-")
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
    parser.add_argument("--registry", required=True, help="registry and folder that the images are pushed to")
    parser.add_argument("--settings", required=True, type=Path, help="YAML file whose kubernetes.images is written")
    parser.add_argument("--build", default="", help="what builds: docker, buildah, or a command of one's own")
    parser.add_argument("--build-arg", action="append", default=[], help="for example BASE_IMAGE=…")
    parser.add_argument(
        "--stand-in", action="append", default=[], type=_stand_in, metavar="IMAGE=FILE",
        help="another Dockerfile for an image, where tests run what its own base would not let them",
    )  # fmt: skip
    return parser


def _stand_in(words: str) -> tuple[str, str]:
    image, _, dockerfile = words.partition("=")
    if image not in IMAGES or not (REPOSITORY / dockerfile).is_file():
        raise argparse.ArgumentTypeError(f"{words!r} is not IMAGE=FILE with an image and a Dockerfile that exist here")
    return image, dockerfile


if __name__ == "__main__":
    sys.exit(main())
