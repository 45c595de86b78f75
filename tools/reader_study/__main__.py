"""A blinded study with human readers: make the pack, score the answers, plan the number of readers and images."""

import argparse
import secrets
from collections.abc import Sequence

from config.errors import UserError
from config.load import load_config
from config.paths import as_path
from tools.diffusion.project import Project
from tools.evaluation.reader_size import (
    CORRELATION,
    MOST_CASES,
    READER_SD,
    StudyDesign,
    fewest_cases,
    interval_width,
    power,
)
from tools.reader_study import page as reader_report
from tools.reader_study.answers import read_answers, read_key
from tools.reader_study.pack import KEY_NAME, PAGE_NAME, PackRequest, write_pack
from tools.reader_study.scores import score
from tools.runtime.command import add_config, run_command
from tools.runtime.machine import choose_device


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.reader_study", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    _add_pack(commands.add_parser("pack", help="write the readers' page, and the key in another folder"))
    _add_score(commands.add_parser("score", help="compute numbers from the key and the readers' answers"))
    _add_size(commands.add_parser("size", help="how many readers and images are needed"))
    arguments = parser.parse_args(argv)
    arguments.run(arguments)


def _add_pack(parser: argparse.ArgumentParser) -> None:
    add_config(parser, "YAML config: the real images and how they are prepared")
    parser.add_argument("--synthetic", required=True, type=as_path, metavar="DIR",
                        help="a folder with manifest.csv and images/, or one folder per class named like the class")
    parser.add_argument("--output", required=True, type=as_path, metavar="DIR",
                        help="folder for the page; readers may see all of it")
    parser.add_argument("--key", type=as_path, metavar="DIR", help="folder for the key; default OUTPUT_key beside it")
    parser.add_argument("--num-real", required=True, type=int, metavar="N", help="held-out real images")
    parser.add_argument("--num-synthetic", required=True, type=int, metavar="N", help="synthetic images")
    parser.add_argument("--num-round-trip", type=int, default=0, metavar="N",
                        help="other real images, through the VAE and back")
    parser.add_argument("--repeats", type=float, default=PackRequest.repeats, metavar="SHARE",
                        help="fraction of the images that are shown twice; default %(default)s")
    parser.add_argument("--seed", type=int,
                        help="default: random, stored in the key; anyone who knows it can reproduce the key")
    parser.add_argument("--task", default=PackRequest.task, help="realism, outcome or both; default %(default)s")
    parser.add_argument("--readers", nargs="+", default=list(PackRequest.readers), metavar="NAME",
                        help="who may answer, best as codes; default R1 R2 R3")
    parser.add_argument("--defect", action="append", metavar="TEXT",
                        help="an entry of the checklist, replacing the default ones")
    parser.set_defaults(run=_pack)


def _pack(arguments: argparse.Namespace) -> None:
    config = load_config(arguments.config, arguments.set)
    key_folder = arguments.key or arguments.output.with_name(f"{arguments.output.name}_key")
    request = PackRequest(
        num_real=arguments.num_real, num_synthetic=arguments.num_synthetic, num_round_trip=arguments.num_round_trip,
        repeats=arguments.repeats, seed=secrets.randbits(128) if arguments.seed is None else arguments.seed,
        task=arguments.task, readers=tuple(arguments.readers), defects=tuple(arguments.defect or PackRequest.defects),
    )
    device = choose_device()
    pack, key_sha256 = write_pack(Project.open(config), config.evaluation_params.real_split, arguments.synthetic,
                                  arguments.output, key_folder, request, device=device)
    page = arguments.output / PAGE_NAME
    again = sum(item["showing"] == 2 for item in pack.key["items"])
    print(f"{page}: {len(pack.key['items'])} showings, {again} of them repeats; {page.stat().st_size / 1e6:.1f} MB")
    print("It shows patients' images: give it to the named readers only.")
    if pack.opening is not None:
        print(f"opening {pack.opening} of this test set")
    for note in pack.notes:
        print(f"note: {note}")
    print(f"key: {key_folder / KEY_NAME}; do not show it to readers, and write its sha256 into the study's protocol:")
    print(key_sha256)


def _add_score(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--key", required=True, type=as_path, metavar="FILE", help="the key.json that pack wrote")
    parser.add_argument("--answers", required=True, nargs="+", type=as_path, metavar="FILE", help="one file per reader")
    parser.add_argument("--output", required=True, type=as_path, metavar="DIR", help="folder for the numbers")
    parser.add_argument("--commitment", metavar="SHA256", help="the value that pack printed: another key is refused")
    parser.add_argument("--bootstrap-repeats", type=int, default=2000, metavar="N", help="default %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="seed of the intervals; default %(default)s")
    parser.set_defaults(run=_score)


def _score(arguments: argparse.Namespace) -> None:
    if arguments.bootstrap_repeats < 100:
        raise UserError(f"--bootstrap-repeats: expected 100 or more, found {arguments.bootstrap_repeats}; 2000 is usual")
    key = read_key(arguments.key, commitment=arguments.commitment)
    readings = read_answers(arguments.answers, key)
    report = score(key, readings, repeats=arguments.bootstrap_repeats, seed=arguments.seed)
    reader_report.write(report, key, readings, arguments.output)
    print(reader_report.format_table(report))
    print(f"written to {arguments.output}: {reader_report.NAME}.json, {reader_report.NAME}.xlsx and answers.csv")


def _add_size(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--auc", type=float, default=0.7,
                        help="the expected AUC, or the AUC to detect; default %(default)s")
    parser.add_argument("--width", type=float, help="wanted full width of its 95%% interval, such as 0.2")
    parser.add_argument("--power", type=float, help="wanted power to distinguish that AUC from 0.5, such as 0.8")
    parser.add_argument("--readers", nargs="+", type=int, default=[1, 2, 3, 4, 5, 6, 8, 10], metavar="N",
                        help="numbers of readers to tabulate")
    parser.add_argument("--reader-sd", type=float, default=READER_SD, help="SD of AUCs; default %(default)s")
    parser.add_argument("--correlation", type=float, default=CORRELATION,
                        help="of two readers' errors on the same images; default %(default)s")
    parser.set_defaults(run=_size)


def _size(arguments: argparse.Namespace) -> None:
    _check_size(arguments)
    design = StudyDesign(auc=arguments.auc, reader_sd=arguments.reader_sd, correlation=arguments.correlation)
    wanted = [f"a 95% interval of width {arguments.width:g} or less"] if arguments.width is not None else []
    wanted += [f"power {arguments.power:g} to distinguish it from 0.5"] if arguments.power is not None else []
    print(f"AUC {design.auc:g}, {' and '.join(wanted)}; assumed: AUC of readers differs by a standard deviation of "
          f"{design.reader_sd:g}, errors correlate by {design.correlation:g}")
    print(f"{'readers':>7}{'images of each arm':>20}{'width':>8}{'power':>8}")
    for num_readers in arguments.readers:
        cases = fewest_cases(design, num_readers, width=arguments.width, wanted_power=arguments.power)
        if cases is None:
            print(f"{num_readers:>7}{f'not with {MOST_CASES}':>20}")
        else:
            print(f"{num_readers:>7}{cases:>20}{interval_width(design, num_readers, cases):>8.3f}"
                  f"{power(design, num_readers, cases):>8.3f}")
    print("Images of different patients or embryos, as many real as synthetic; one reader represents only himself. Model: "
          "Obuchowski-Rockette with Hanley and McNeil's case variance; replace the assumed values by a pilot study's.")


def _check_size(arguments: argparse.Namespace) -> None:
    if arguments.width is None and arguments.power is None:
        raise UserError("size: expected --width, --power or both, found neither; give the goal of the study")
    for name, value, low, high in (("auc", arguments.auc, 0.5, 1.0), ("width", arguments.width, 0.0, 1.0),
                                   ("power", arguments.power, 0.05, 1.0)):
        if value is not None and not low < value < high:
            raise UserError(f"--{name}: expected a number above {low:g} and below {high:g}, found {value:g}; choose another")
    if not 0 <= arguments.reader_sd < 0.5 or not 0 <= arguments.correlation < 1:
        raise UserError("--reader-sd, --correlation: expected 0 to below 0.5 and 0 to below 1, found "
                        f"{arguments.reader_sd:g} and {arguments.correlation:g}; the defaults are {READER_SD} and "
                        f"{CORRELATION}")
    if min(arguments.readers) < 1:
        raise UserError(f"--readers: expected 1 or more, found {min(arguments.readers)}; try 5")


if __name__ == "__main__":
    run_command(main, on_device=False)
