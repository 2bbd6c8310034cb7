"""Translate files: which pictures there are, where each goes, and the way through the model."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from cyclevar.core.data.fitting import Fitted, fit, unfit
from cyclevar.core.data.images import FORMATS, PICTURE_SUFFIXES, read_picture, save_picture, written_suffix
from cyclevar.core.data.sources import FolderSource
from cyclevar.core.data.transforms import from_array
from cyclevar.core.errors import ConfigError, DataError, PictureError
from cyclevar.core.pipelines.translator import Target, Translator

_log = logging.getLogger(__name__)

VISIBLE = 8
"""Range of 8-bit values from which on an image has more than one color."""

LARGEST = 16384
"""The longest side that can be asked for, in pixels."""


@dataclass(frozen=True)
class Job:
    """A picture to translate and where to put it."""

    source: Path
    output: Path


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
    return [Job(source, output)]


def _jobs_of_tree(source: Path, out: Path, suffix: str | None) -> list[Job]:
    require_folder(out)
    names = [Path(name) for name in FolderSource(source).names() if not (source / name).is_dir()]
    if not names:
        raise DataError(
            f"no pictures in {source}",
            expected="files ending in " + ", ".join(PICTURE_SUFFIXES) + ", nested folders allowed",
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
) -> Iterator[Outcome]:
    """Translate pictures to ``target``, a batch at a time, and yield what became of each (the skipped ones come early).

    A job is skipped where its output is newer than its source, unless ``overwrite``. The result has the size of its
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
        todo, blank = list[Job](), list[Path]()
        with ThreadPoolExecutor(workers, thread_name_prefix="pictures") as pool:
            for job in jobs:
                if not overwrite and _is_done(job):
                    yield Outcome(job, "already there")
                    continue
                todo.append(job)
                if len(todo) == batch_size:
                    yield from _translate_batch(translator, todo, target, size, pool, blank)
                    todo = []
            if todo:
                yield from _translate_batch(translator, todo, target, size, pool, blank)
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


def _is_done(job: Job) -> bool:
    return job.output.is_file() and job.output.stat().st_mtime >= job.source.stat().st_mtime


def _translate_batch(
    translator: Translator,
    jobs: Sequence[Job],
    target: Target,
    size: int | None,
    pool: ThreadPoolExecutor,
    blank: list[Path],
) -> Iterator[Outcome]:
    """Translate one batch; outputs of a single color are added to ``blank``."""
    found = list(pool.map(functools.partial(_load, canvas=translator.model.image_size), jobs))
    fitted = {job: one for job, one in zip(jobs, found, strict=True) if isinstance(one, Fitted)}
    problems = {job: one for job, one in zip(jobs, found, strict=True) if isinstance(one, str)}
    if fitted:
        outputs = translate_fitted(translator, list(fitted.values()), target)
        blank += [
            job.output for (job, one), output in zip(fitted.items(), outputs, strict=True) if is_blank(one, output)
        ]
        saved = pool.map(functools.partial(_save, size=size), fitted, fitted.values(), outputs)
        problems |= zip(fitted, saved, strict=True)
    for job in jobs:
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


def _load(job: Job, canvas: tuple[int, int]) -> Fitted | str:
    """The picture on the model's canvas, or why it cannot be read."""
    try:
        return fit(read_picture(job.source), canvas)
    except PictureError as error:
        return error.problem


def _save(job: Job, fitted: Fitted, output: Tensor, size: int | None) -> str:
    """Write a translation; returns why its format cannot hold it, or nothing."""
    try:
        save_picture(unfit(output, fitted, size), job.output)
    except PictureError as error:
        return error.problem
    return ""
