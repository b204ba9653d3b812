"""Batches for people."""

from __future__ import annotations

from typing import Any, Final

from serving.cli.output import ago

HEADERS: Final = ("ID", "STATUS", "REQUESTS", "FAILED", "ENDPOINT", "CREATED", "METADATA")
_FAULTS: Final = 20


def row(batch: dict[str, Any], now_s: float) -> tuple[object, ...]:
    """One line of the table of batches."""
    counts = batch["request_counts"]
    done = counts["completed"] + counts["failed"]
    return (
        batch["id"],
        batch["status"],
        f"{done}/{counts['total']}" if counts["total"] else "-",
        counts["failed"],
        batch["endpoint"],
        ago(batch["created_at"], now_s),
        _pairs(batch["metadata"]),
    )


def one_batch(batch: dict[str, Any], now_s: float) -> str:
    """Everything known of a batch."""
    counts, usage = batch["request_counts"], batch["usage"]
    done = f"{counts['completed']:,} of {counts['total']:,} have an answer, {counts['failed']:,} failed"
    facts = (
        ("endpoint", batch["endpoint"]),
        ("model", batch["model"] or ""),
        ("requests", done if counts["total"] else "not counted yet"),
        ("tokens", f"{usage['input_tokens']:,} in, {usage['output_tokens']:,} out" if usage["total_tokens"] else ""),
        ("created", ago(batch["created_at"], now_s)),
        ("window", _window(batch, now_s)),
        ("attempts", _attempts(batch)),
        ("input", batch["input_file_id"]),
        ("output", batch["output_file_id"] or ""),
        ("errors", batch["error_file_id"] or ""),
        ("mode", batch.get("mode", "")),
        ("runs in", batch.get("application") or ""),
        ("waits", batch.get("message") or ""),
        ("metadata", _pairs(batch["metadata"]) if batch["metadata"] else ""),
    )
    lines = [f"{batch['id']}  {batch['status']}", *(f"  {name:<10}{value}" for name, value in facts if value)]
    faults = (batch["errors"] or {"data": []})["data"]
    for one in faults[:_FAULTS]:
        where = f"line {one['line']}: " if one["line"] else ""
        lines.append(f"  {where}{one['message']}")
    if len(faults) > _FAULTS:
        lines.append(f"  and {len(faults) - _FAULTS} more")
    return "\n".join(lines)


def _attempts(batch: dict[str, Any]) -> str:
    """Gateways of an earlier version tell nothing of them."""
    broken = batch.get("attempts") or 0
    reason = f", the last one: {batch['last_failure']}" if batch.get("last_failure") else ""
    return f"{broken} broke without progress{reason}" if broken else ""


def _window(batch: dict[str, Any], now_s: float) -> str:
    for word in ("completed_at", "failed_at", "expired_at", "cancelled_at"):
        if batch[word]:
            return f"{batch['completion_window']}, ended {ago(batch[word], now_s)}"
    left_s = max(0, round(batch["expires_at"] - now_s))
    hours, minutes = divmod(left_s // 60, 60)
    return f"{batch['completion_window']}, {hours} h {minutes:02d} min left"


def _pairs(metadata: dict[str, str] | None) -> str:
    return ", ".join(f"{name}={value}" for name, value in sorted((metadata or {}).items())) or "-"
