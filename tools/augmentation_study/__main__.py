"""Does it help: train classifiers with and without synthetic images, test them on patients that nothing was trained on.

Everything is refitted in each of K outer folds of whole groups. Running the same command again goes on where it stopped.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from config.errors import UserError
from config.load import load_config
from config.paths import as_path
from dataset.storage import hash_file
from tools.augmentation_study import page as utility_report
from tools.augmentation_study.arms import describe_arms, name_with_synthetic
from tools.augmentation_study.folds import REFIT_CHOICES, StudyRequest, UtilityStudy, plan_study
from tools.augmentation_study.plan import describe_plan
from tools.augmentation_study.runs import STUDY_NAME, run_utility_study
from tools.augmentation_study.utility import CONTROL, ROUND_TRIP, SHUFFLED, UtilityReport, score_arms
from tools.diffusion.trained_images import shorten_hashes
from tools.runtime.command import add_config, run_command
from tools.runtime.run_directory import owned

_LIMIT = "Each fold has one generator: the noise of training it again is not in the intervals."


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.augmentation_study", description=__doc__)
    add_config(parser)
    parser.add_argument("--output", required=True, type=as_path, metavar="DIR", help="folder of the study")
    parser.add_argument("--folds", type=int, default=StudyRequest.num_folds, metavar="K", help="default %(default)s")
    parser.add_argument("--seeds", type=int, default=StudyRequest.num_seeds, metavar="S",
                        help="classifiers of each arm and fold; more can be added later; default %(default)s")
    parser.add_argument("--synthetic-ratio", type=float, nargs="+", default=list(StudyRequest.ratios), metavar="R",
                        help="synthetic images for each real one; the first is the headline, others explored; default 1")
    parser.add_argument("--epochs", type=int, default=StudyRequest.epochs, metavar="N",
                        help="passes of the control over its images; every arm takes as many steps; default %(default)s")
    parser.add_argument("--refit-vae", choices=REFIT_CHOICES, default=StudyRequest.refit_vae,
                        help="train the VAE in each fold; auto: where the config's VAE is the one that train_vae writes")
    parser.add_argument("--expected-auc", type=float, default=0.7, metavar="A",
                        help="of the control, for the smallest detectable gain of --dry-run; default %(default)s")
    parser.add_argument("--bootstrap-repeats", type=int, default=2000, metavar="N", help="default %(default)s")
    parser.add_argument("--dry-run", action="store_true", help="print the folds, what can be shown and what it takes")
    arguments = parser.parse_args(argv)
    if arguments.bootstrap_repeats < 100:
        raise UserError(f"--bootstrap-repeats: expected 100 or more, found {arguments.bootstrap_repeats}; 2000 is usual")
    request = StudyRequest(num_folds=arguments.folds, num_seeds=arguments.seeds, ratios=tuple(arguments.synthetic_ratio),
                           epochs=arguments.epochs, refit_vae=arguments.refit_vae)
    study = plan_study(load_config(arguments.config, arguments.set), request)
    if arguments.dry_run:
        print(describe_plan(study, auc=arguments.expected_auc))
        return
    with owned(arguments.output, "tools.augmentation_study"):
        report = _study(study, arguments.output, repeats=arguments.bootstrap_repeats)
        utility_report.write(report, arguments.output)
    print(utility_report.format_table(report))
    print(f"written to {arguments.output}: {utility_report.NAME}.json, .xlsx and .png")


def _study(study: UtilityStudy, folder: Path, *, repeats: int) -> UtilityReport:
    """Run what is missing, then score it."""
    request, headline = study.request, name_with_synthetic(study.request.ratios[0])
    predictions = run_utility_study(study, folder)
    pairs = [(arm, CONTROL) for arm in request.arms if arm != CONTROL]
    pairs += [(headline, SHUFFLED), (headline, ROUND_TRIP)]
    scores, differences = score_arms(study.labels, study.groups, study.folds, predictions, pairs=pairs, repeats=repeats,
                                     seed=study.config.train_params.seed)
    warnings = [study.vae_use, _LIMIT, *study.warnings]
    if request.num_seeds < 5:
        warnings.append(f"{request.num_seeds} classifier seeds: expected 5 or more for a claim; the noise of training is "
                        "known from few trainings.")
    if len(request.ratios) > 1:
        warnings.append("Ratios after the first are explored: the interval of the best of them overstates it.")
    return UtilityReport(headline, scores, differences, warnings, {
        "study_sha256": hash_file(folder / STUDY_NAME), "images": len(study.records),
        "groups": len(set(study.groups)), "folds": request.num_folds, "classifier_seeds": request.num_seeds,
        "epochs": request.epochs, "synthetic_ratio": list(request.ratios),
        "bootstrap_repeats": repeats, "classes": list(study.config.dataset_params.params.class_names),
        "vae": study.vae_use, "arms": describe_arms(request.ratios),
    }, images=shorten_hashes(study.sha256))


if __name__ == "__main__":
    run_command(main)
