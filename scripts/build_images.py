"""Build and push Airsmith's images, and write name → digest and versions into the settings: `make images`.

An image's tag is its commit, but the settings name it by digest: what was tested is what runs.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import httpx
import yaml

from airsmith.contracts.stages import STAGES

REPOSITORY = Path(__file__).resolve().parent.parent
IMAGES = sorted(file.parent.name for file in (REPOSITORY / "containers").glob("*/Dockerfile"))
SECTION = re.compile(r"^  images:(?:\n(?:    .*|\s*))*(?:\n|\Z)", re.MULTILINE)


def main() -> None:
    """Build the images that the command line names, or all."""
    parser = _parser()
    options = parser.parse_args()
    unknown = sorted(set(options.images) - set(IMAGES))
    if unknown:
        parser.error(f"there is no image {', '.join(unknown)}: use {', '.join(IMAGES)}")
    built = {}
    for image in options.images or IMAGES:
        print(f"Building {image} …", flush=True)
        reference = build(image, options)
        built[image] = {"reference": reference, "toolchain": toolchain_of(image)}
        print(f"{image}: {reference}\n{image}: {size_report(reference)}", flush=True)
    write_images(options.settings, built)
    print(f"Wrote {', '.join(built)} into {options.settings}")


def build(image: str, options: argparse.Namespace) -> str:
    """Build and push one image.

    :returns: its name with its digest.
    """
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True).stdout.strip()
    name = f"{options.prefix}{image}:{commit[:12] or 'dev'}"
    what = [str(REPOSITORY), "--file", str(REPOSITORY / "containers" / image / "Dockerfile")]
    what += ["--build-arg", f"COMMIT={commit}"]
    what += [word for argument in options.build_arg for word in ("--build-arg", argument)]
    if options.builder:
        return _run([*shlex.split(options.builder), name, *what]).strip().splitlines()[-1]
    return _with_docker(name, what) if shutil.which("docker") else _with_buildah(name, what)


def toolchain_of(image: str) -> dict[str, str]:
    """Versions, from the image's lock, of the distributions that some stage's digest holds."""
    folder = REPOSITORY / "containers" / image
    pinned = "".join(file.read_text() for file in (folder / "requirements.lock", folder / "torch.txt") if file.exists())
    versions = dict(re.findall(r"^([a-z0-9-]+)==([^\s;]+)", pinned, re.MULTILINE))
    wanted = sorted({name for contract in STAGES.values() for name in contract.toolchain})
    return {name: versions[name] for name in wanted if name in versions}


def write_images(settings: Path, built: dict[str, Any]) -> None:
    """Put the images into the settings' `kubernetes.images`, and leave the rest of the file, comments too, as it is."""
    text = settings.read_text() if settings.exists() else ""
    images = ((yaml.safe_load(text) or {}).get("kubernetes") or {}).get("images") or {}
    section = yaml.safe_dump({"images": {**images, **built}}, sort_keys=True)
    section = "".join(f"  {line}" for line in section.splitlines(keepends=True))
    if SECTION.search(text):
        text = SECTION.sub(lambda _: section, text, count=1)
    elif re.search(r"^kubernetes:", text, re.MULTILINE):
        text = re.sub(
            r"^kubernetes:.*\n?", lambda line: f"{line[0].rstrip()}\n{section}", text, count=1, flags=re.MULTILINE
        )
    else:
        text = f"{text}kubernetes:\n{section}"
    settings.write_text(text)


def size_report(reference: str) -> str:
    """What a node has to pull: the compressed layers, the largest first, as the registry says."""
    name, _, digest = reference.partition("@")
    registry, _, repository = name.partition("/")
    scheme = "http" if registry.startswith("localhost") else "https"
    accepted = "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json"
    try:
        url = f"{scheme}://{registry}/v2/{repository.partition(':')[0]}/manifests/{digest}"
        layers = httpx.get(url, headers={"Accept": accepted}).raise_for_status().json()["layers"]
    except (httpx.HTTPError, KeyError, ValueError):
        return "the registry does not tell its size"
    sizes = sorted((layer["size"] / 1e6 for layer in layers), reverse=True)
    largest = ", ".join(f"{size:.0f}" for size in sizes[:3])
    return f"{sum(sizes):.0f} MB to pull in {len(sizes)} layers, the largest {largest}"


def _with_docker(name: str, what: list[str]) -> str:
    with tempfile.TemporaryDirectory() as folder:
        metadata = Path(folder) / "metadata.json"
        _run(["docker", "buildx", "build", "--push", "--tag", name, "--metadata-file", str(metadata), *what])
        return f"{name}@{json.loads(metadata.read_text())['containerimage.digest']}"


def _with_buildah(name: str, what: list[str]) -> str:
    with tempfile.TemporaryDirectory() as folder:
        digest = Path(folder) / "digest"
        _run(["buildah", "build", "--layers", "--tag", name, *what])
        _run(["buildah", "push", "--digestfile", str(digest), name])
        return f"{name}@{digest.read_text().strip()}"


def _run(command: list[str]) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", nargs="*", metavar="image", help=f"of {', '.join(IMAGES)}")
    parser.add_argument("--prefix", default="localhost:5000/airsmith/", help="registry and folder of the names")
    parser.add_argument("--settings", type=Path, default=Path("airsmith.yaml"), help="file to write into")
    parser.add_argument("--build-arg", action="append", default=[], help="for example BASE_IMAGE=…")
    parser.add_argument(
        "--builder", default="", help="command that builds and pushes NAME CONTEXT --file …, and prints the digest last"
    )
    return parser


if __name__ == "__main__":
    main()
