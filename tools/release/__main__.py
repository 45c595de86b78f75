"""Make the folder of a run that can be shared: synthetic images, their table, numbers and a model card, never more."""

import argparse
from collections.abc import Sequence

from config.paths import as_path
from tools.release.release import ReleaseRequest, build_release
from tools.runtime.command import run_command


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.release", description=__doc__)
    parser.add_argument("run", type=as_path, metavar="RUN", help="folder of the run, <task_name>")
    parser.add_argument("--output", required=True, type=as_path, metavar="DIR", help="folder to make")
    parser.add_argument("--samples", type=as_path, metavar="DIR", help="folder of the synthetic images; default RUN/samples")
    parser.add_argument("--without-data", action="store_true",
                        help="release although the data set cannot be read here: nothing is then compared with it")
    parser.add_argument("--force", action="store_true", help="replace an earlier release in DIR")
    arguments = parser.parse_args(argv)
    record = build_release(ReleaseRequest(run=arguments.run, output=arguments.output, samples=arguments.samples,
                                          without_data=arguments.without_data, replace=arguments.force))
    compared = ("compared with the data set" if record["compared_with_data_set"] else
                "NOT compared with the data set, which was not read")
    print(f"{record['images']} synthetic images and {len(record['sha256']) - record['images']} other files in "
          f"{arguments.output}, {compared}; {record['names_searched']} names searched in every text, "
          f"{record['names_too_common_to_search']} too common to search; read README.md and choose a licence before sharing")


if __name__ == "__main__":
    run_command(main, on_device=False)
