"""Every number of a table knows the record it was read from; the paper's own numbers have none."""

from bench.records.results import RunRecord
from bench.tables import TABLES
from reports.claims.table import claims_table
from reports.paired_differences import differences_table, seeds_table
from reports.paper import paper_against_measured
from reports.rows import rows_of
from reports.table import Cell, Table
from reports.tables import make_table
from tests.reports.conftest import MakeRecord, Measured, Sampled


def line(table: Table, label: str) -> tuple[Cell, ...]:
    return next(row for group in table.groups for row in group.rows if row[0].text == label)


def test_values_and_gaps_lead_to_their_record(hps_records: tuple[RunRecord, ...]) -> None:
    table = make_table("table1", TABLES["table1"], rows_of(hps_records))
    keys = ["hps.anime", "hps.concept-art", "hps.paintings", "hps.photo", "hps.averaged", "latency.median_ms"]
    for label, variant in (("FastFLUX-10%", "fastflux-10"), ("FLUX-Pruning-27%", "l1-27")):
        model, *values = line(table, label)
        assert model.origin is None
        assert [cell.origin for cell in values] == [(variant, key) for key in keys]


def test_the_papers_numbers_lead_to_no_record_of_ours(hps_records: tuple[RunRecord, ...]) -> None:
    printed, ours = paper_against_measured("table1", TABLES["table1"], rows_of(hps_records))
    assert all(cell.origin is None for group in printed.groups for row in group.rows for cell in row)
    assert line(ours, "FastFLUX-10%")[5].origin == ("fastflux-10", "hps.averaged")


def test_what_was_worked_out_leads_to_all_its_records(
    make_record: MakeRecord, measured: Measured, sampled: Sampled
) -> None:
    rows = rows_of(
        [
            make_record("dense", "D", sampled("hps.averaged", 60.0)),
            make_record("fastflux-10", "F", sampled("hps.averaged", 59.0, "f")),
            make_record("seed1-10", "S", measured("hps", "no weights")),
        ]
    )
    changed = line(differences_table(rows), "F")[1]
    assert (changed.origin, changed.others) == (("fastflux-10", "hps.averaged"), ("dense",))
    spread = line(seeds_table(rows), "F")
    assert spread[1].origin is None
    assert (spread[2].origin, spread[2].others) == (("fastflux-10", "hps.averaged"), ("seed1-10",))


def test_a_verdict_leads_to_the_records_it_rests_on(make_record: MakeRecord, sampled: Sampled) -> None:
    rows = rows_of(
        [
            make_record("dense", "D", sampled("hps.averaged", 60.0)),
            *(
                make_record(f"fastflux-{ratio}", f"F{ratio}", sampled("hps.averaged", 60.0, "f"))
                for ratio in ("05", "10")
            ),
            make_record("fastflux-15", "F15", sampled("hps.averaged", 50.0, "ff")),
        ]
    )
    lines = [row for group in claims_table(rows).groups for row in group.rows]
    measured = {(row[0].text or "").split(". ")[1]: row[3] for row in lines}
    higher = measured["FastFLUX-10% outperforms the dense model on HPS"]
    assert (higher.origin, higher.others) == (("fastflux-10", "hps.averaged"), ("dense",))
    stable = measured["HPS stays stable up to 15%: it is not lower by 0.5% at 5, 10 and 15%"]
    assert (stable.origin, stable.others) == (("fastflux-05", "hps.averaged"), ("dense", "fastflux-10", "fastflux-15"))
    assert measured["Sandwich Training is better than linear layers alone"].origin is None
