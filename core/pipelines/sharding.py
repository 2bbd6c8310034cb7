"""Sharing the translation of many pictures among jobs that know nothing of each other.

The work is a list of outputs, each whole or absent: files, or archives of many. Job ``I/N`` takes every N-th of them
from the I-th on, so any scheduler will do, and a job that was stopped goes on where its outputs end. Every job keeps a
manifest beside the outputs::

    OUT/manifest-3-of-8.jsonl    first what made the outputs: the model, how it translates; then a line an output
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from cyclevar.core.errors import CheckpointError, ConfigError
from cyclevar.core.pipelines.translate_files import Job, Outcome, plan_jobs, require_folder, translate_files
from cyclevar.core.pipelines.translator import Target, Translator
from cyclevar.core.pipelines.webdataset import PER_ARCHIVE, ArchiveJob, is_archive, plan_archives, translate_archives
from cyclevar.core.runtime.files import save_text
from cyclevar.core.weights.shipped import SETTINGS, WEIGHTS

Item = TypeVar("Item")

Facts = Mapping[str, Any]
"""What decides how the outputs look."""


class Shard(NamedTuple):
    """Job ``number`` of ``jobs``, counted from 1."""

    number: int
    jobs: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """``3/8``. Raises `ConfigError`."""
        found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            raise ConfigError(f"the shard is {text!r}", expected="I/N with I from 1 to N, such as 3/8")
        return cls(int(found[1]), int(found[2]))

    def of(self, items: Sequence[Item]) -> Sequence[Item]:
        """This job's part."""
        return items[self.number - 1 :: self.jobs]


WHOLE = Shard(1, 1)


@dataclass(frozen=True)
class Plan:
    """What one job makes: ``files``, or ``archives`` where they are not None. Nothing is read or written yet.

    ``recorded``: whether a manifest is kept; ``facts``: what the plan itself decides of how outputs look.
    """

    out: Path
    shard: Shard
    kind: str | None
    files: Sequence[Job]
    archives: Sequence[ArchiveJob] | None
    recorded: bool
    facts: Facts

    @property
    def total(self) -> int | None:
        """How many pictures there are, where that can be known."""
        return len(self.files) if self.archives is None else None

    def translate(
        self,
        translator: Translator,
        folder: Path,
        target: Target,
        *,
        batch_size: int = 8,
        size: int | None = None,
        overwrite: bool = False,
    ) -> Iterator[Outcome]:
        """Do it, with the translator that was opened from ``folder``, and yield what became of each output.

        Raises what `translate_files`, `translate_archives` and `Manifest` raise.
        """
        if self.archives is None:
            outcomes = translate_files(
                translator, self.files, target, batch_size=batch_size, size=size, overwrite=overwrite
            )
        else:
            outcomes = translate_archives(
                translator,
                self.archives,
                target,
                batch_size=batch_size,
                size=size,
                kind=self.kind,
                overwrite=overwrite,
            )
        if not self.recorded:
            return outcomes
        asked = {"target": target, "size": size, "format": self.kind}
        manifest = Manifest(self.out, self.shard)
        manifest.begin({**describe_translator(folder, translator), **asked, **self.facts}, afresh=overwrite)
        return manifest.keep(outcomes)


def plan_translation(
    source: Path, out: Path, *, kind: str | None = None, per_archive: int = PER_ARCHIVE, shard: str | None = None
) -> Plan:
    """What to make of ``source``: all of it, or the part that ``shard`` (I/N) names.

    Raises what `plan_jobs` and `plan_archives` raise, and `ConfigError` for a shard that is none or writes to one file.
    """
    part = WHOLE if shard is None else Shard.parse(shard)
    if shard is not None:
        if is_archive(out):
            raise ConfigError(f"a shard would write to {out}", expected="a folder that all of them write to")
        require_folder(out)
    archives = plan_archives(source, out, kind=kind, per_archive=per_archive)
    files = plan_jobs(source, out, kind=kind) if archives is None else []
    packed = [one.output.as_posix() for job in archives or () if not isinstance(job.source, Path) for one in job.source]
    names = hashlib.sha256("\n".join(packed).encode()).hexdigest()
    return Plan(
        out,
        part,
        kind,
        part.of(files),
        None if archives is None else part.of(archives),
        recorded=shard is not None or bool(packed),
        facts={"pictures": names, "pictures in an archive": per_archive} if packed else {},
    )


def describe_translator(folder: Path, translator: Translator) -> Facts:
    """The translator in ``folder`` as it was opened."""
    digest = hashlib.sha256()
    for name in (WEIGHTS, SETTINGS):
        with (folder / name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return {"model": digest.hexdigest(), "translation": translator.config.model_dump(mode="json")}


class Manifest:
    """The record of one job in the folder of the outputs."""

    def __init__(self, out: Path, shard: Shard) -> None:
        self.out, self.path = out, out / f"manifest-{shard.number}-of-{shard.jobs}.jsonl"

    def begin(self, facts: Facts, *, afresh: bool) -> None:
        """Write what makes the outputs, or see that it is what made those that are there.

        ``afresh``: all outputs are made anew, and the record begins again.

        Raises:
            ConfigError: another model or other settings made the outputs of this or another job.
            CheckpointError: it cannot be written.
        """
        for path in sorted(self.out.glob("manifest-*-of-*.jsonl")):
            before = _first(path)
            changed = [key for key in facts if before and facts[key] != before.get(key)]
            if changed and not afresh:
                raise ConfigError(
                    f"the outputs in {self.out} were made with another {' and another '.join(changed)} ({path.name})",
                    expected="the same for all of a folder",
                    hint="choose another folder, or make all of them anew by --overwrite",
                )
        if afresh or _first(self.path) is None:
            save_text(self.path, json.dumps(dict(facts)) + "\n")

    def keep(self, outcomes: Iterable[Outcome]) -> Iterator[Outcome]:
        """Note each outcome, and pass it on; what was there already is noted already."""
        for outcome in outcomes:
            if outcome.status != "already there":
                self._note(outcome)
            yield outcome

    def _note(self, outcome: Outcome) -> None:
        job = outcome.job
        line = {"source": str(job.source), "output": str(job.output), "status": outcome.status}
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line | ({"problem": outcome.problem} if outcome.problem else {})) + "\n")
        except OSError as error:
            raise CheckpointError(
                f"{self.path} cannot be written ({error})",
                hint="free some disk space and start the job again: it goes on where it stopped",
            ) from error


def _first(path: Path) -> dict[str, Any] | None:
    """What made the outputs, as the manifest says; None where there is no whole first line."""
    try:
        with path.open(encoding="utf-8") as file:
            found = json.loads(file.readline())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
