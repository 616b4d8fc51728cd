"""Records of a full-size run: one for each variant, put together from its finished pieces."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from bench.records.results import JSON, Measurement, RunRecord
from bench.studies.full_size.calibrating import PART
from bench.studies.full_size.replacement import VARIANT as REPLACEMENT
from bench.studies.full_size.scorers import VARIANT as SCORERS
from bench.studies.full_size.stages import COUNTED
from bench.studies.full_size.variants import BASE, plan_for
from bench.studies.full_size.workbench import Workbench

RECORDS = "records"
_LABELS = {REPLACEMENT: "A replaced block", SCORERS: "Scorers, random weights"}


def write_records(bench: Workbench, stages: Sequence[str], device: str) -> Path | None:
    """Write the records beside the pieces and give their folder; None where there is none yet."""
    found: dict[str, list[Measurement]] = {}
    environments: dict[str, dict[str, JSON]] = {}
    created: dict[str, str] = {}
    # FLOPs last: they may have been counted elsewhere, and the record is of the machine that measured.
    for variant, measurement, done in bench.store.measurements(sorted(stages, key=COUNTED.__eq__)):
        if measurement.info.name != PART.name:
            found.setdefault(variant, []).append(measurement)
        environments.setdefault(variant, dict(done.environment))
        created[variant] = max(created.get(variant, ""), done.created)
    if not found:
        return None
    folder = bench.store.folder / RECORDS
    for variant, measurements in found.items():
        label, plan = _identity(bench, variant)
        record = RunRecord(
            profile=bench.profile.name,
            variant=variant,
            label=label,
            plan=plan,
            base_model=BASE,
            base_revision=f"seed {bench.sizes.seed}",
            environment=environments[variant],
            sampling={},
            measurements=tuple(measurements),
            created=datetime.fromisoformat(created[variant]).isoformat(timespec="seconds"),
            inputs={"device": device.partition(":")[0], "place": bench.store.folder.name},
        )
        record.write(folder / f"{variant}.json")
    for path in folder.glob("*.json"):
        if path.stem not in found:  # of variants that were measured once
            path.unlink()
    return folder


def _identity(bench: Workbench, name: str) -> tuple[str, dict[str, JSON] | None]:
    """A variant's label and plan."""
    if name in _LABELS:
        return _LABELS[name], None
    variant = bench.variants.get(name)
    if variant is None:
        return name, None
    plan = plan_for(variant, bench.sizes)
    return variant.label, None if plan is None else dict(plan.to_json())
