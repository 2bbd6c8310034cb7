"""Translating pictures in WebDataset archives, from archive to archive or from files to archives.

Such an archive is a tar file in which members that follow each other and have one name up to the first dot of the file
name are a sample: ``0001.jpg 0001.json 0002.jpg ...``. Pictures are translated, all else of a sample is kept as it is.
A sample with a picture that cannot be read is left out. Nothing is unpacked, and what is no plain file, or has a name
that leads out of the archive's folder, does not get into the output.
"""

from __future__ import annotations

import functools
import io
import itertools
import lzma
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from PIL import Image

from cyclevar.core.data.fitting import Fitted, fit, unfit
from cyclevar.core.data.images import (
    LARGEST_FILE,
    PICTURE_SUFFIXES,
    encode_picture,
    read_file,
    read_picture,
    written_suffix,
)
from cyclevar.core.data.sources import FolderSource
from cyclevar.core.errors import ConfigError, DataError, PictureError
from cyclevar.core.pipelines.translate_files import (
    Job,
    Outcome,
    check_request,
    output_name,
    plan_jobs,
    require_folder,
    translate_fitted,
)
from cyclevar.core.pipelines.translator import Target, Translator
from cyclevar.core.runtime.files import inside, write_atomically

ARCHIVES = (".tar", ".tar.gz", ".tgz")
"""What names of archives end in."""

KIND = "wds"
"""What is asked for instead of a picture format where archives are to be made of files."""

PER_ARCHIVE = 1000
"""Pictures in an archive made of files."""


@dataclass(frozen=True)
class ArchiveJob:
    """An archive to make: of another one, or of pictures, whose ``output`` is then their name in it."""

    source: Path | tuple[Job, ...]
    output: Path


def is_archive(path: Path) -> bool:
    """Whether it is called as one."""
    return path.name.lower().endswith(ARCHIVES)


def find_archives(source: Path) -> list[Path]:
    """``source`` itself if it is an archive, or those in the folder, sorted."""
    if source.is_dir():
        return sorted(path for path in source.iterdir() if is_archive(path) and path.is_file())
    return [source] if source.is_file() and is_archive(source) else []


def plan_archives(
    source: Path, out: Path, *, kind: str | None = None, per_archive: int = PER_ARCHIVE
) -> list[ArchiveJob] | None:
    """The archives to make of ``source``; None where neither it holds archives nor ``kind`` asks for them.

    Archives keep their names. Of a folder of pictures, consecutive ``per_archive`` of them go into ``00000.tar``,
    ``00001.tar``, ..., each under its path with dots replaced, since the first dot of a name has a meaning.

    Raises:
        DataError: ``source`` is missing or holds no pictures.
        ConfigError: an output would overwrite its source, or ``out`` does not suit.
    """
    archives = find_archives(source)
    if not archives and kind != KIND:
        return None
    if is_archive(out) and len(archives) != 1:
        raise ConfigError(f"{out} is one archive", expected="a folder for what may become several")
    if not is_archive(out) or out.is_dir():
        require_folder(out)
    if archives:
        if source.is_dir() and FolderSource(source).names():
            raise ConfigError(f"{source} holds both archives and pictures", expected="one or the other")
        jobs = [ArchiveJob(path, out if is_archive(out) and not out.is_dir() else out / path.name) for path in archives]
        if any(path.resolve() == job.output.resolve() for path, job in zip(archives, jobs, strict=True)):
            raise ConfigError(f"the translation would overwrite {archives[0]}", hint="choose another folder")
        return jobs
    if per_archive < 1:
        raise ConfigError(f"an archive would hold {per_archive} pictures", expected="1 or more")
    pictures, taken = list[Job](), set[str]()
    root = source if source.is_dir() else source.parent
    for job in plan_jobs(source, out):
        name = job.source.relative_to(root)
        stem = plain = "/".join((*name.parts[:-1], name.stem.replace(".", "_")))
        for number in itertools.count(2):
            if plain not in taken:
                break
            plain = f"{stem}_{number}"
        taken.add(plain)
        pictures.append(Job(job.source, Path(plain + job.output.suffix)))
    return [
        ArchiveJob(tuple(pictures[begin : begin + per_archive]), out / f"{number:05d}.tar")
        for number, begin in enumerate(range(0, len(pictures), per_archive))
    ]


def translate_archives(
    translator: Translator,
    jobs: Iterable[ArchiveJob],
    target: Target,
    *,
    batch_size: int = 8,
    size: int | None = None,
    kind: str | None = None,
    overwrite: bool = False,
    workers: int = 4,
) -> Iterator[Outcome]:
    """Make archives of translated pictures, and yield what became of each picture once its archive is there.

    An archive is whole or absent, and skipped where it is newer than what it is made of, unless ``overwrite``; then
    there is one outcome for it. One that is damaged has failed as a whole, and the others go on. ``kind``: the format
    of all pictures; as they come where it is None or `KIND`. Memory holds a batch of samples.

    Raises:
        UnknownNameError: no such domain or format; at once.
        CheckpointError: an archive cannot be written.
    """
    check_request(translator, target, batch_size, size)
    suffix = None if kind in (None, KIND) else written_suffix(str(kind))

    def translate() -> Iterator[Outcome]:
        with ThreadPoolExecutor(workers, thread_name_prefix="pictures") as pool:
            work = _Work(translator, target, batch_size, size, suffix, pool)
            for job in jobs:
                whole = Job(_source(job), job.output)
                if not overwrite and _is_done(job):
                    yield Outcome(whole, "already there")
                    continue
                try:
                    yield from _make(work, job)
                except DataError as error:
                    yield Outcome(whole, "failed", error.problem)

    return translate()


def _source(job: ArchiveJob) -> Path:
    return job.source if isinstance(job.source, Path) else job.source[0].source


def _is_done(job: ArchiveJob) -> bool:
    sources = [job.source] if isinstance(job.source, Path) else [one.source for one in job.source]
    return job.output.is_file() and all(
        path.stat().st_mtime <= job.output.stat().st_mtime for path in sources if path.exists()
    )


@dataclass(frozen=True, eq=False)
class _Member:
    """A file of a sample; of a picture that could not be read, the reason instead of the content."""

    source: Path
    name: str
    content: bytes
    problem: str = ""

    @property
    def picture(self) -> bool:
        return self.name.lower().endswith(PICTURE_SUFFIXES)


class _Work(NamedTuple):
    """How to translate."""

    translator: Translator
    target: Target
    batch_size: int
    size: int | None
    suffix: str | None
    pool: ThreadPoolExecutor


def _make(work: _Work, job: ArchiveJob) -> list[Outcome]:
    outcomes = list[Outcome]()

    def write(partial: Path) -> None:
        mode = "w" if job.output.suffix == ".tar" else "w:gz"
        with tarfile.open(partial, mode) as tar:  # type: ignore[call-overload]
            for samples in _batches(_samples(job), work.batch_size):
                members, found = _translate(work, samples, job.output)
                outcomes.extend(found)
                for member in members:
                    info = tarfile.TarInfo(member.name)
                    info.size, info.mode = len(member.content), 0o644
                    tar.addfile(info, io.BytesIO(member.content))

    write_atomically(job.output, write)
    return outcomes


def _samples(job: ArchiveJob) -> Iterator[list[_Member]]:
    for _, members in itertools.groupby(_members(job), key=lambda member: sample_key(member.name)):
        yield list(members)


def sample_key(name: str) -> str:
    """What the members of one sample share: the name up to the first dot of the file name."""
    path = PurePosixPath(name)
    return str(path.with_name(path.name.split(".", 1)[0] or path.name)) if path.name else name


def _members(job: ArchiveJob) -> Iterator[_Member]:
    """The files of an archive, or the pictures that go into one. Raises `DataError` where an archive is damaged."""
    if not isinstance(job.source, Path):
        for one in job.source:
            name = one.output.as_posix()
            try:
                yield _Member(one.source, name, read_file(one.source))
            except (OSError, ValueError) as error:
                reason = getattr(error, "strerror", None) or error
                yield _Member(one.source, name, b"", f"cannot read the picture {one.source}: {reason}")
        return
    try:
        with tarfile.open(job.source) as tar:
            for info in tar:
                where = job.source / info.name
                if info.isdir():
                    continue
                if not info.isreg():
                    yield _Member(where, info.name, b"", f"{where} is no file but a link or a device")
                elif inside(job.output.parent, info.name) is None or not PurePosixPath(info.name).name:
                    yield _Member(where, info.name, b"", f"{info.name!r} in {job.source} leads out of its folder")
                elif info.size > LARGEST_FILE:
                    yield _Member(where, info.name, b"", f"{where} has {info.size} bytes, more than any picture")
                else:
                    content = tar.extractfile(info)
                    assert content is not None
                    yield _Member(where, info.name, content.read())
    except (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise DataError(f"{job.source} is damaged ({error}): nothing was made of it") from error


def _batches(samples: Iterable[list[_Member]], size: int) -> Iterator[list[list[_Member]]]:
    """Samples in groups of about ``size`` pictures."""
    group, count = list[list[_Member]](), 0
    for sample in samples:
        group.append(sample)
        count += sum(member.picture for member in sample)
        if count >= size:
            yield group
            group, count = [], 0
    if group:
        yield group


def _translate(work: _Work, samples: Sequence[Sequence[_Member]], output: Path) -> tuple[list[_Member], list[Outcome]]:
    """The members that the samples become, and what became of each picture."""
    pictures = [member for sample in samples for member in sample if member.picture and not member.problem]
    load = functools.partial(_load, canvas=work.translator.model.image_size)
    fitted = dict(zip(pictures, work.pool.map(load, pictures), strict=True))
    good = [(member, one) for member, one in fitted.items() if isinstance(one, Fitted)]
    made: dict[_Member, bytes | str] = {member: one for member, one in fitted.items() if isinstance(one, str)}
    for begin in range(0, len(good), work.batch_size):
        part = good[begin : begin + work.batch_size]
        images = translate_fitted(work.translator, [one for _, one in part], work.target)
        encode = functools.partial(_encode, suffix=work.suffix)
        results = [unfit(image, one, work.size) for image, (_, one) in zip(images, part, strict=True)]
        made |= zip([member for member, _ in part], work.pool.map(encode, results, [m for m, _ in part]), strict=True)
    members, outcomes = list[_Member](), list[Outcome]()
    for sample in samples:
        kept, problems = list[_Member](), list[str]()
        for member in sample:
            content = member.problem or made.get(member, member.content)
            name = _name(member, work.suffix, {one.name for one in kept}) if member.picture else member.name
            problem = content if isinstance(content, str) else ""
            kept.append(replace(member, name=name, content=content if isinstance(content, bytes) else b""))
            problems.append(problem)
            if member.picture or problem:
                outcomes.append(
                    Outcome(Job(member.source, output / name), "failed" if problem else "translated", problem)
                )
        if not any(problems):
            members += kept
    return members, outcomes


def _name(member: _Member, suffix: str | None, taken: set[str]) -> str:
    """What a translated picture is called; where another of its sample is called so, it keeps its suffix too."""
    name = longer = output_name(Path(member.name), suffix)
    while name.as_posix() in taken:
        name = longer = longer.with_name(Path(member.name).name + longer.suffix)
    return name.as_posix()


def _load(member: _Member, canvas: tuple[int, int]) -> Fitted | str:
    try:
        return fit(read_picture(member.content, name=str(member.source)), canvas)
    except PictureError as error:
        return error.problem


def _encode(picture: Image.Image, member: _Member, suffix: str | None) -> bytes | str:
    try:
        return encode_picture(picture, output_name(Path(member.name), suffix))
    except PictureError as error:
        return error.problem
