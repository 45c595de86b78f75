"""Compare evaluations of the same real images: any number of systems in one table and one figure.

    python -m tools.compare demo/run gan=runs/gan/evaluation stylegan/evaluation.json --output page.html
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from config.errors import UserError
from config.paths import as_path
from dataset.storage import write_bytes, write_json, write_text
from dataset.tables import write_table
from tools.compare.comparison import REAL, compare
from tools.compare.evaluation_files import EVALUATION_NAME, locate, read_system
from tools.compare.figure import draw_comparison
from tools.compare.page import csv_lines, describe_differences, format_table, render_page
from tools.runtime.command import run_command


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.compare", description=__doc__.splitlines()[0])
    parser.add_argument("evaluations", nargs="+", metavar="RUN_OR_EVALUATION",
                        help="an evaluation.json, a folder that holds one, or a run; NAME=PATH gives it another name")
    parser.add_argument("--output", required=True, type=as_path, metavar="PAGE.html",
                        help="the page; the same numbers go beside it as .json, .csv and .png")
    parser.add_argument("--against", metavar="NAME",
                        help=f"which system the others are subtracted from: a name or '{REAL}'; default the first")
    arguments = parser.parse_args(argv)
    output = arguments.output
    if output.suffix.lower() != ".html":
        raise UserError(f"--output: expected a name that ends in .html, found {output}; for example page.html")
    located = [locate(argument) for argument in arguments.evaluations]
    _keep_evaluations(output, [file for _, file in located])
    comparison = compare([read_system(name, file) for name, file in located], against=arguments.against)
    figure = draw_comparison(comparison)
    write_json(output.with_suffix(".json"), comparison.to_dict())
    write_table(output.with_suffix(".csv"), csv_lines(comparison))
    write_bytes(output.with_suffix(".png"), figure)
    write_text(output, render_page(comparison, figure))
    print(format_table(comparison))
    print(f"\n{describe_differences(comparison)}")
    for reason in comparison.left_out:
        print(f"not compared: {reason}")
    print(f"written to {output}, with the same numbers as .json, .csv and .png")


def _keep_evaluations(output: Path, files: Sequence[Path]) -> None:
    """Refuse a name of the page whose JSON file would replace an evaluation."""
    written = output.with_suffix(".json")
    if written.name == EVALUATION_NAME or written.resolve() in [file.resolve() for file in files]:
        raise UserError(f"--output: expected a name that no evaluation has, found {output}, beside which {written.name} "
                        "would be written; give another name, such as page.html")


if __name__ == "__main__":
    run_command(main, on_device=False)
