"""What was measured where: numbers that hang on the machine stand in one table only when one machine gave them all."""

from collections.abc import Iterable, Sequence

from bench.metrics.catalogue import on_machine
from fastflux.errors import FastFluxError
from reports.rows import Row

_MOST_NAMED = 3
_CONDITIONS = ("batch", "height", "width", "dtype", "threads", "compiled")


def machine_dependent(key: str) -> bool:
    """Whether a value such as "latency.median_ms" is another one on another machine."""
    metric, _, value = key.partition(".")
    return on_machine(metric, value)


def device_of(row: Row) -> str:
    """The device a row's record names: the model of the GPU or CPU, else its type."""
    environment = {} if row.record is None else row.record.environment
    return next((str(environment[key]) for key in ("device", "device_type", "cpu") if environment.get(key)), "unknown")


def device_notes(rows: Iterable[Row], keys: Iterable[str], where: str, *, mix: bool = False) -> tuple[str, ...]:
    """The note that names the devices behind the rows' values of `keys`, none when it is one device.

    Raises FastFluxError when a value that hangs on the machine comes from several and `mix` does not allow it; `where`
    names the table.
    """
    measured = [row for row in rows if row.record is not None]
    keys = list(keys)
    for key in filter(machine_dependent, keys):
        shown = [row for row in measured if row.number(key) is not None]
        found = _by_device(shown)
        if len(found) == 1:
            _require_like(shown, key, where)
        if len(found) > 1 and not mix:
            raise FastFluxError(
                f"{where} would mix {key} of {len(found)} devices: {_named(found)}; keep one device's records in the "
                "folder, or allow it with --mix-devices."
            )
    found = _by_device(row for row in measured if any(row.number(key) is not None for key in keys))
    if len(found) < 2:
        return ()
    limit = (
        " Latency, memory and seconds can be compared within one device only."
        if any(map(machine_dependent, keys))
        else ""
    )
    return (f"Measured on {len(found)} devices: {_named(found)}.{limit}",)


def _require_like(rows: Sequence[Row], key: str, where: str) -> None:
    """Times of one device compare when batch, size, format and threads are the same; no option allows others."""
    found: dict[str, str] = {}
    for row in rows:
        measurement = row.measurements.get(key.partition(".")[0])
        settings = {} if measurement is None else measurement.settings
        found.setdefault(", ".join(f"{name} {settings[name]}" for name in _CONDITIONS if name in settings), row.variant)
    if len(found) > 1:
        (first, one), (second, other) = list(found.items())[:2]
        raise FastFluxError(
            f"{where} would mix {key} measured under different conditions: {first} ({one}) and {second} ({other}); "
            "measure them in one run."
        )


def _by_device(rows: Iterable[Row]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for row in rows:
        found.setdefault(device_of(row), []).append(row.variant)
    return found


def _named(devices: dict[str, list[str]]) -> str:
    return "; ".join(f"{device} ({_few(variants)})" for device, variants in sorted(devices.items()))


def _few(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
