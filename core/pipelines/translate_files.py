"""Translate files: which pictures there are, where each goes, and the way through the model."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from cyclevar.core.data.fitting import Fitted, fit, unfit
from cyclevar.core.data.image_formats import PICTURE_SUFFIXES, describe_unread, unread_hint
from cyclevar.core.data.images import (
    FORMATS,
    PLAIN,
    Extras,
    Writing,
    read_with_extras,
    save_picture,
    written_suffix,
)
from cyclevar.core.data.sources import FolderSource
from cyclevar.core.data.transforms import from_array
from cyclevar.core.errors import CheckpointError, ConfigError, DataError, PictureError
from cyclevar.core.pipelines.output_record import OutputRecord, is_newer
from cyclevar.core.pipelines.translator import Target, Translator
from cyclevar.core.runtime.files import concerns_one_file, remove_abandoned

_log = logging.getLogger(__name__)

VISIBLE = 8
"""Range of 8-bit values from which on an image has more than one color."""

LARGEST = 16384
"""The longest side that can be asked for, in pixels."""


@dataclass(frozen=True)
class Job:
    """A picture to translate and where to put it; ``always``: whatever is there already."""

    source: Path
    output: Path
    always: bool = False


@dataclass(frozen=True)
class Outcome:
    """What became of a job; ``problem`` says why it failed."""

    job: Job
    status: Literal["translated", "already there", "failed"]
    problem: str = ""


def plan_jobs(source: str | Path, out: str | Path, *, kind: str | None = None) -> list[Job]:
    """Where the translation of each picture of ``source`` goes; nothing is read or written yet.

    A folder's tree is kept below the folder ``out``. A single picture goes to the file ``out``, or into it where it is
    a folder or has no suffix. Names stay; so do suffixes that can be written, others become .png, and with ``kind``
    (png, jpg, webp, ...) all do. Where that would give two pictures one name, the later keeps its suffix too:
    ``a.gif.png``.

    Raises:
        DataError: ``source`` is missing or holds no pictures.
        ConfigError: an output would overwrite or join the sources, ``out`` is a file for many pictures, or a format
            that cannot be written.
    """
    source, out = Path(source), Path(out)
    suffix = None if kind is None else written_suffix(kind)
    if source.is_dir():
        return _jobs_of_tree(source, out, suffix)
    if not source.is_file():
        raise DataError(f"{source} does not exist", expected="a picture or a folder of pictures", hint="check the path")
    if out.is_dir() or not out.suffix:
        require_folder(out)
        output = out / output_name(Path(source.name), suffix)
    else:
        ending = written_suffix(out.suffix, hint="a folder with a dot in its name must be there already")
        if suffix is not None and FORMATS[ending] != FORMATS[suffix]:
            raise ConfigError(f"{out} does not end in {suffix}", hint="leave out the format or the name of the file")
        output = out
    if output.resolve() == source.resolve():
        raise ConfigError(f"the translation would overwrite {source}", hint="choose another file or folder")
    return [Job(source, output, always=output == out)]


def _jobs_of_tree(source: Path, out: Path, suffix: str | None) -> list[Job]:
    require_folder(out)
    names = [Path(name) for name in FolderSource(source).names() if not (source / name).is_dir()]
    if not names:
        unread = FolderSource(source).unread()
        raise DataError(
            f"no pictures in {source}" + (f", but {describe_unread(unread)}" if unread else ""),
            expected="files ending in " + ", ".join(PICTURE_SUFFIXES) + ", nested folders allowed",
            hint=unread_hint(unread) if unread else "",
        )
    root, below = source.resolve(), out.resolve()
    taken, jobs = set[Path](), list[Job]()
    for name in sorted(
        names, key=lambda name: (output_name(name, suffix) != name, name)
    ):  # who keeps a name comes first
        renamed, longer = output_name(name, suffix), name
        while renamed in taken:
            renamed = longer = longer.with_name(longer.name + renamed.suffix)
        taken.add(renamed)
        if (below / renamed).is_relative_to(root):
            raise ConfigError(
                f"the translations would lie inside {source}, among the pictures to translate",
                hint="choose a folder outside of it",
            )
        jobs.append(Job(source / name, out / renamed))
    return sorted(jobs, key=lambda job: job.source)


def require_folder(out: Path) -> None:
    """Raise `ConfigError` where ``out`` cannot become a folder."""
    for path in (out, *out.parents):
        if path.is_file():
            raise ConfigError(f"{path} is a file", expected="a folder to write to", hint="choose another name")


def output_name(name: Path, suffix: str | None) -> Path:
    """``name`` with the suffix that its translation gets."""
    if suffix is None:
        return name if name.suffix.lower() in FORMATS else name.with_suffix(".png")
    same = FORMATS.get(name.suffix.lower()) == FORMATS[suffix]
    return name if same else name.with_suffix(suffix)


def translate_files(
    translator: Translator,
    jobs: Iterable[Job],
    target: Target,
    *,
    batch_size: int = 8,
    size: int | None = None,
    overwrite: bool = False,
    workers: int = 4,
    writing: Writing = PLAIN,
    record: OutputRecord | None = None,
) -> Iterator[Outcome]:
    """Translate pictures to ``target``, a batch at a time, and yield what became of each (the skipped ones come early).

    A job is skipped where its output is newer than its source, or is what ``record`` says that this translation makes,
    unless ``overwrite`` or the job is to be done always. The result has the size of its
    source, or ``size`` pixels along its longer side. It is whole or absent: nothing half written is left behind. A
    picture that cannot be read or written in its format has failed and the others go on. ``workers`` threads read and
    write; memory holds one batch at the model's size and as many whole pictures as there are workers.

    Raises:
        UnknownNameError: no such domain; at once, before any picture is touched.
        CheckpointError: an output cannot be saved, because the disk is full for instance.
        ConfigError: the batch is too large for the GPU.
    """
    check_request(translator, target, batch_size, size)

    def translate() -> Iterator[Outcome]:
        todo, folders, blank = list[Job](), set[Path](), list[Path]()
        with ThreadPoolExecutor(workers, thread_name_prefix="pictures") as pool:
            work = _Work(translator, target, size, writing, record, pool)
            for job in jobs:
                if job.output.parent not in folders:
                    folders.add(job.output.parent)
                    remove_abandoned(job.output.parent)
                if not (overwrite or job.always) and _is_done(job, record):
                    yield Outcome(job, "already there")
                    continue
                todo.append(job)
                if len(todo) == batch_size:
                    yield from _translate_batch(work, todo, blank)
                    todo = []
            if todo:
                yield from _translate_batch(work, todo, blank)
        if blank:
            _log.warning(
                "%d translations are of one color although their sources are not, the first is %s: check the model",
                len(blank),
                blank[0],
            )

    return translate()


def is_blank(fitted: Fitted, output: Tensor) -> bool:
    """Return whether an output ``[3,H,W]`` in [-1,1] has one color, or no numbers, and its source more than one."""
    source = fitted.pixels.reshape(-1, 3)
    ranges = output.amax((1, 2)) - output.amin((1, 2))
    return bool((source.max(0) - source.min(0)).max() >= VISIBLE) and not bool((ranges >= 2 / 255).any())


def check_request(translator: Translator, target: Target, batch_size: int, size: int | None) -> None:
    """Raise `UnknownNameError` or `ConfigError` for what cannot be asked of a translator."""
    if batch_size < 1:
        raise ConfigError(f"the batch is {batch_size}", expected="1 or more")
    if size is not None and not 1 <= size <= LARGEST:
        raise ConfigError(f"the size is {size}", expected=f"1 to {LARGEST}")
    translator.condition(target, 1)


def _is_done(job: Job, record: OutputRecord | None) -> bool:
    return is_newer(job.output, [job.source]) if record is None else record.is_done(job.output, [job.source])


class _Work(NamedTuple):
    """How to translate."""

    translator: Translator
    target: Target
    size: int | None
    writing: Writing
    record: OutputRecord | None
    pool: ThreadPoolExecutor


class _Loaded(NamedTuple):
    fitted: Fitted
    extras: Extras


def _translate_batch(work: _Work, jobs: Sequence[Job], blank: list[Path]) -> Iterator[Outcome]:
    """Translate one batch; outputs of a single color are added to ``blank``."""
    load = functools.partial(_load, canvas=work.translator.model.image_size, writing=work.writing)
    found = list(work.pool.map(load, jobs))
    loaded = {job: one for job, one in zip(jobs, found, strict=True) if isinstance(one, _Loaded)}
    problems = {job: one for job, one in zip(jobs, found, strict=True) if isinstance(one, str)}
    if loaded:
        outputs = translate_fitted(work.translator, [one.fitted for one in loaded.values()], work.target)
        blank += [
            job.output
            for (job, one), output in zip(loaded.items(), outputs, strict=True)
            if is_blank(one.fitted, output)
        ]
        save = functools.partial(_save, size=work.size, writing=work.writing)
        problems |= zip(loaded, work.pool.map(save, loaded, loaded.values(), outputs), strict=True)
    for job in jobs:
        if work.record is not None and not problems[job] and not job.always:
            work.record.note(job.output, [job.source])
        yield Outcome(job, "failed" if problems[job] else "translated", problems[job])


def translate_fitted(translator: Translator, pictures: Sequence[Fitted], target: Target) -> Tensor:
    """Pictures through the model: ``[N,3,H,W]`` in [-1,1], on the CPU.

    Raises `ConfigError` where the GPU has too little memory.
    """
    images = torch.stack([from_array(one.pixels) for one in pictures])
    try:
        return translator(images, target).cpu()
    except torch.OutOfMemoryError as error:
        raise ConfigError(
            f"the GPU has too little memory for a batch of {len(images)}", hint="use a smaller --batch"
        ) from error


def _load(job: Job, canvas: tuple[int, int], writing: Writing) -> _Loaded | str:
    """The picture on the model's canvas, or why it cannot be read."""
    try:
        picture, extras = read_with_extras(job.source, writing)
        return _Loaded(fit(picture, canvas), extras)
    except PictureError as error:
        return error.problem


def _save(job: Job, loaded: _Loaded, output: Tensor, size: int | None, writing: Writing) -> str:
    """Write a translation; returns why this one cannot be written, or nothing."""
    try:
        save_picture(unfit(output, loaded.fitted, size), job.output, writing, loaded.extras)
    except PictureError as error:
        return error.problem
    except CheckpointError as error:
        if not concerns_one_file(error):
            raise
        return error.problem
    return ""
