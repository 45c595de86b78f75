"""Published weights that an evaluation takes from torch's hub cache: which are missing, and fetching them."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from config.errors import UserError
from config.schema import EvaluationParams
from dataset.ranks import ALONE, Ranks
from tools.evaluation.encoders.downloads import (
    PATIENT,
    PROMPT,
    SOURCES,
    DownloadError,
    MissingWeights,
    Source,
    fetch,
    offline_switch,
)
from tools.evaluation.encoders.inception import find_inception
from tools.evaluation.encoders.trunks import find_net, find_trunk
from tools.runtime.progress import Progress

_SKIP = "evaluation_params.allow_download: false skips this"


def find_published(
    evaluation: EvaluationParams, lpips_path: str | None, encoders: Sequence[str] | None = None
) -> tuple[list[Path], list[MissingWeights]]:
    """(files in torch's hub cache that an evaluation takes, errors for those that it wants and that are missing).

    `encoders` None are those of the config. Faulty files are in neither list: whoever opens them says so.
    """
    encoders = evaluation.encoders if encoders is None else encoders
    wanted: list[tuple[str | None, Callable[[], Path]]] = []
    if "inception" in encoders:
        wanted.append((evaluation.inception_path, partial(find_inception, evaluation.inception_path)))
    squeezenet_path = evaluation.squeezenet_path
    wanted.append((lpips_path, partial(_find_trunk_file, lpips_path)))
    if "squeezenet1_1" in encoders:
        wanted.append((squeezenet_path, partial(_find_trunk_file, squeezenet_path, net="squeeze")))
    files: dict[Path, None] = {}
    missing: dict[str, MissingWeights] = {}
    for path, find in wanted:
        try:
            files |= {file: None for file in [find()] if path is None}
        except MissingWeights as error:
            missing.setdefault(error.source, error)
        except UserError:
            continue
    return list(files), list(missing.values())


def fetch_published(
    evaluation: EvaluationParams, lpips_path: str | None, *, progress_bar: bool, encoders: Sequence[str] | None = None,
    ranks: Ranks = ALONE,
) -> dict[str, str]:
    """Fetch the published weights that an evaluation wants and that are not here, where `allow_download` has it so.

    Says before and after what is done. With "auto" it gives up after seconds, and after the first address that does not
    answer, so that a machine without a network loses no time; with True it is patient. `encoders` None are those of the
    config. Processes that share work all call this: the first one fetches, then those whose machine still lacks a file.

    Returns:
        Why a file is still missing, by its name in `SOURCES`; empty where nothing was to be fetched.
    """
    if not evaluation.allow_download:
        return {}
    fetch_missing = partial(_fetch_missing, evaluation, lpips_path, encoders, progress_bar=progress_bar)
    failures = fetch_missing(quiet=False) if ranks.is_first else {}
    if ranks.count > 1 and ranks.agree(not failures) and not ranks.is_first:
        failures = fetch_missing(quiet=True)
    return failures


def list_downloads(evaluation: EvaluationParams, lpips_path: str | None) -> list[str]:
    """What an evaluation with these weights will fetch, a line each."""
    if not evaluation.allow_download or offline_switch():
        return []
    return [f"download: the evaluation fetches {_describe(source)}; {_SKIP}"
            for source, _ in _list_fetchable(evaluation, lpips_path).values()]


def explain_missing(error: UserError, failures: dict[str, str]) -> str:
    """The error, and why its file was not fetched where that was tried."""
    failure = failures.get(error.source) if isinstance(error, MissingWeights) else None
    return str(error) if failure is None else f"{error}. It was not fetched: {failure}"


def _fetch_missing(
    evaluation: EvaluationParams, lpips_path: str | None, encoders: Sequence[str] | None, *, progress_bar: bool, quiet: bool
) -> dict[str, str]:
    """`fetch_published` in one process."""
    limits = PROMPT if evaluation.allow_download == "auto" else PATIENT
    say = (lambda _: None) if quiet else partial(print, flush=True)
    switch = offline_switch()
    given_up = None if switch is None else f"{switch} is set"
    failures: dict[str, str] = {}
    for name, (source, path) in _list_fetchable(evaluation, lpips_path, encoders).items():
        if given_up is not None:
            failures[name] = given_up
            continue
        say(f"fetching {_describe(source)} into {path.parent}; {_SKIP}")
        started = time.monotonic()
        try:
            with Progress("fetching", source.megabytes, unit="MB", enabled=progress_bar and not quiet) as bar:
                fetch(source, path, limits=limits, report=lambda count, bar=bar: bar.update(round(count / 1e6)))
            say(f"fetched in {time.monotonic() - started:.0f} s, sha256 verified")
        except DownloadError as error:
            failures[name] = str(error)
            given_up = "not tried, since the address before it did not answer" if error.unreachable else None
    if failures:
        told = "; ".join(f"{SOURCES[name].file_name}: {reason}" for name, reason in failures.items())
        say(f"not fetched: {told}. Rows that need these files say \"not computed\"")
    return failures


def _list_fetchable(
    evaluation: EvaluationParams, lpips_path: str | None, encoders: Sequence[str] | None = None
) -> dict[str, tuple[Source, Path]]:
    """(what is missing, where it goes), by name in `SOURCES`.

    "auto" fills torch's cache only; True, as ever, also a path of the user's where nothing is.
    """
    found = {}
    for missing in find_published(evaluation, lpips_path, encoders)[1]:
        source = SOURCES[missing.source]
        if missing.path is None or evaluation.allow_download is True:
            found[missing.source] = source, missing.path or source.cached
    return found


def _describe(source: Source) -> str:
    return f"{source.file_name} ({source.megabytes} MB) from {source.address}"


def _find_trunk_file(path: str | None, *, net: str | None = None) -> Path:
    place = None if path is None else Path(path)
    return find_trunk(place, net or find_net(place), key="").path
