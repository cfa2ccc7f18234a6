"""Brings the bundle that an MLflow alias names into a folder, and has CURRENT there name it.

This is how serving follows `champion` without knowing MLflow: a process of its own watches the alias,
whatever the store and whoever moves it, and the processes that serve follow CURRENT. One copy serves them
all, and none of them waits for the tracking server.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

from recsys.bundle import MANIFEST, BundleRefused, open_bundle
from recsys.errors import ConfigError
from recsys.pointer import point_to, pointed_to
from training.tracking import BUNDLE, ModelVersion, Tracker

_MODEL_URI = re.compile(r"models:/(?P<name>[^/:@]+)(?:@(?P<alias>[^/:@]+)|/(?P<version>[0-9]+))")


def parse_model_uri(uri: str) -> tuple[str, str]:
    """The model's name, and its alias or version number, of `models:/NAME@ALIAS` or `models:/NAME/NUMBER`.

    Raises:
        ConfigError: the URI is none of these.
    """
    found = _MODEL_URI.fullmatch(uri)
    if found is None:
        raise ConfigError(f"{uri!r}: write models:/NAME@champion, or models:/NAME/3 for one version")
    return found["name"], found["alias"] or found["version"]


def deliver(tracker: Tracker, alias: str, folder: Path, *, keep: int = 3) -> Path | None:
    """The bundle that was brought and is CURRENT now; None where the folder is up to date.

    It is checked before CURRENT names it, and comes under a temporary name: no reader sees a part.

    Args:
        tracker: where the model is registered.
        alias: `champion`, another alias, or a version number.
        folder: holds the bundles and CURRENT; it is made if it is not there.
        keep: bundles that stay; older ones than the last so many are removed.

    Raises:
        ConfigError: there is no such version.
        BundleRefused: its bundle is damaged; CURRENT names the old one still.
        RecsysError: its run has no bundle.
    """
    version = tracker.version(alias)
    folder.mkdir(parents=True, exist_ok=True)
    prefix = f"{tracker.params.model_name}-"
    target = folder / f"{prefix}{version.number}"
    if _is_current(target):
        return None
    if not _is_whole(target):
        shutil.rmtree(target, ignore_errors=True)
        with (
            _bundle_of(tracker, version) as source,
            tempfile.TemporaryDirectory(prefix=".delivery-", dir=folder) as room,
        ):
            copy = Path(shutil.copytree(source, Path(room) / BUNDLE, copy_function=_link_or_copy))
            open_bundle(copy)
            os.replace(copy, target)
    point_to(folder, target.name)
    others = [path for path in folder.iterdir() if _number(path, prefix) and path != target]
    others.sort(key=lambda path: _number(path, prefix))
    for old in others[: max(len(others) - keep + 1, 0)]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def _is_current(target: Path) -> bool:
    try:
        return pointed_to(target.parent) == target.resolve() and target.is_dir()
    except BundleRefused:
        return False


def _is_whole(path: Path) -> bool:
    try:
        open_bundle(path)
    except BundleRefused:
        return False
    return True


def _number(path: Path, prefix: str) -> int:
    """The version that a delivered bundle is; 0 where it is none."""
    name, number = path.name[: len(prefix)], path.name[len(prefix) :]
    return int(number) if name == prefix and number.isdecimal() and path.is_dir() else 0


@contextmanager
def _bundle_of(tracker: Tracker, version: ModelVersion) -> Iterator[Path]:
    """Where the bundle of a version lies: in place if that is on this machine, else downloaded."""
    source = urlsplit(version.source)
    here = Path(unquote(source.path))
    if source.scheme in ("", "file") and (here / MANIFEST).is_file():
        yield here
    else:
        with tracker.files(version.run_id, BUNDLE) as folder:
            yield folder


def _link_or_copy(source: str, target: str) -> None:
    """A bundle is never changed, so that a second name for its bytes is as good as a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
