"""Write the table without the rows that findings name, and beside it a log of why each was removed."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from config.errors import UserError, name_some
from config.schema import TableParams
from dataset.annotations import name_tables
from dataset.patient_note import warn_where_git_takes
from dataset.tables import defuse_cell, read_body, write_table
from tools.check_dataset.problems import Finding


def write_clean_table(params: TableParams, findings: Sequence[Finding], path: Path) -> list[str]:
    """Write the remaining rows, with all columns, and `<path>.removed.csv`; returns lines that say what was written.

    With a table per split there is a clean table per split: the name of the split is added to the name of `path`.

    Raises:
        UserError: there is no table, or a table that was read would be overwritten.
    """
    if params.csv_file is None:
        raise UserError(f"--write-clean: csv_file is null, so there is no table to clean; move the files that "
                        f"{path.name}'s log would name out of {params.root_dir} instead")
    by_split = isinstance(params.csv_file, Mapping)
    sources = {split: Path(table) for split, table in params.csv_file.items()} if by_split else {"": Path(params.csv_file)}
    targets = {split: path.with_name(f"{path.stem}_{split}{path.suffix}") if by_split else path for split in sources}
    taken = [str(target) for target in targets.values() if target.exists()
             and any(target.samefile(source) for source in sources.values())]  # in upper or lower case, or through a link
    if taken:
        raise UserError(f"--write-clean: would overwrite the table that was read, {name_some(taken)}; choose another name")
    for target in targets.values():
        warn_where_git_takes(target.parent, target.name)
    reasons = defaultdict(list)
    for finding in findings:
        for place in finding.leaves:
            reasons[place].append(finding)
    if "" in reasons:
        raise UserError("--write-clean: the records of dataset_params.target do not say which rows they come from (place); "
                        "use dataset.Embryo_loader.Embryo_loader, or remove the rows by hand")
    said, log = [], [["row", "image", "kind", "why"]]
    names = name_tables(sources.values()) if by_split else [""]
    wanted = [getattr(params, f"{column}_column") for column in ("image", "label", "group", "split")]
    for (split, source), name in zip(sources.items(), names, strict=True):
        body = read_body(source, [column for column in wanted if column is not None])
        shown = {column: dict(zip(body.rows, body.cells_as_shown(column), strict=True))
                 for column in map(body.find_column, filter(None, (params.image_column, params.group_column)))
                 if column is not None}
        kept = [body.header]
        for number, row in body.rows.items():
            cells = [shown[column][number] if column in shown else cell for column, cell in enumerate(row)]
            place = f"{name} row {number}".strip()
            if place in reasons:
                image = cells[body.find_column(params.image_column) or 0]
                log += [[place, image, finding.kind, f"{finding.title}: {finding.text}"] for finding in reasons[place]]
            else:
                kept.append(cells)
        write_table(targets[split], kept)
        hidden = f"; {body.grid.num_hidden_rows:,} hidden rows were left out" if body.grid.num_hidden_rows else ""
        said.append(f"{targets[split]}: {len(kept) - 1:,} of {len(body.rows):,} rows{hidden}")
    log_path = path.with_name(f"{path.name}.removed.csv")
    write_table(log_path, [[defuse_cell(cell) for cell in line] for line in log])
    return [*said, f"{log_path}: why {len(reasons):,} rows left"]
