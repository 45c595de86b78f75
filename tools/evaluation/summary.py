"""An evaluation in five lines, the same words on the screen, in every file and on every page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tools.evaluation.aspects import Aspect, Tone
from tools.evaluation.evaluation_report import EvaluationReport
from tools.evaluation.rows import Row
from tools.evaluation.verdict import Sentence, write_verdict

_MOST_FAULTS = 3  # that a line names
_GRAVEST_FIRST = (Tone.FAILS, Tone.CAUTION, Tone.UNKNOWN, Tone.HOLDS, Tone.STUDIED)


@dataclass(frozen=True)
class SummaryLine:
    """What an evaluation says of one aspect, in a sentence."""

    aspect: Aspect
    tone: Tone
    text: str

    def to_dict(self) -> dict[str, str]:
        """The line under the keys of evaluation.json."""
        return {"aspect": self.aspect.value, "tone": self.tone.value, "text": self.text}


def summarise(rows: Sequence[Row], *, study: Sequence[str] = ()) -> list[SummaryLine]:
    """A line for each aspect, in their order: the gravest sentence of the verdict, the first of equals, and the faults that
    direct checks name."""
    sentences = write_verdict(rows, study=study)
    return [_sum_up([one for one in sentences if one.aspect is aspect]) for aspect in Aspect]


def summarise_report(report: EvaluationReport) -> list[SummaryLine]:
    """The lines of a report with the augmentation study that it quotes."""
    return summarise(report.rows, study=report.details.study)


def read_study(evaluation: Mapping[str, object]) -> list[str]:
    """The sentence of an augmentation study that an evaluation.json quotes in its summary, for `summarise`; none where it
    quotes none or was written before there were summaries."""
    lines = evaluation.get("summary", [])
    return [str(line["text"]) for line in lines if line["tone"] == Tone.STUDIED.value] if isinstance(lines, list) else []


def format_summary(lines: Sequence[SummaryLine]) -> str:
    """The lines for the screen."""
    aspect, tone = (max(len(value) for value in values) + 2 for values in
                    ([line.aspect.value for line in lines], [line.tone.value for line in lines]))
    return "\n".join(f"{line.aspect.value:<{aspect}}{line.tone.value:<{tone}}{line.text}" for line in lines)


def _sum_up(sentences: Sequence[Sentence]) -> SummaryLine:
    gravest = min(sentences, key=lambda one: _GRAVEST_FIRST.index(one.tone))
    faults = [one for one in sentences if one.is_fault and one is not gravest]
    parts = [gravest.brief, *(one.text for one in faults[:_MOST_FAULTS])]
    left = len(faults) - _MOST_FAULTS
    text = "; ".join(part.removesuffix(".") if number == 0 else _lower(part.removesuffix("."))
                     for number, part in enumerate(parts))
    return SummaryLine(gravest.aspect, gravest.tone, f"{text}; and {left} more." if left > 0 else f"{text}.")


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]
