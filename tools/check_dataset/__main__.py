"""Find every fault of a table and its images at once: a list on the screen, a workbook and a page. Changes nothing.

    python -m tools.check_dataset --config config/my.yaml [--output DIR] [--write-clean TABLE]

Errors would stop a training or make it wrong (exit code 2). Look at the warnings. `--write-clean` writes the table
without the faulty rows, and beside it a log of why each was removed.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from config.errors import UserError
from config.load import load_config
from config.paths import as_path
from dataset.patient_note import write_patient_note
from tools.check_dataset.clean_table import write_clean_table
from tools.check_dataset.inspection import inspect_dataset
from tools.check_dataset.page import format_screen, write_page, write_workbook
from tools.runtime.command import add_config, run_command


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.check_dataset", description=__doc__.splitlines()[0])
    add_config(parser)
    parser.add_argument("--output", type=as_path, metavar="DIR",
                        help="folder of the report; default <task_name>/dataset_check")
    parser.add_argument("--write-clean", type=as_path, metavar="TABLE",
                        help="table without the faulty rows: .csv or .xlsx")
    arguments = parser.parse_args(argv)
    config = load_config(arguments.config, arguments.set)
    params = config.dataset_params.params
    inspection = inspect_dataset(config.dataset_params, progress_bar=config.logging_params.progress_bar)
    print(format_screen(inspection, params))
    output = arguments.output or Path(config.train_params.task_name) / "dataset_check"
    write_patient_note(output, "The images and the names in this folder")
    write_workbook(inspection, params, output / "check.xlsx")
    write_page(inspection, params, output / "check.html")
    print(f"\n{output / 'check.xlsx'}: every finding\n{output / 'check.html'}: with the images; it shows patients' images")
    if arguments.write_clean is not None:
        print("\n".join(write_clean_table(params, inspection.findings, arguments.write_clean)))
    if inspection.num_errors:
        raise UserError(f"{arguments.config}: expected a data set without errors, found {inspection.num_errors:,} in "
                        f"{output / 'check.xlsx'}; fix them, or write a table without these rows with --write-clean TABLE")


if __name__ == "__main__":
    run_command(main, on_device=False)
