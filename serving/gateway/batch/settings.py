"""What clients may keep and order at a gateway. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """`max_file_bytes` of any uploaded file, `max_input_bytes` of a batch's input.

    Of one tenant: `max_files` and `max_stored_bytes` of files that are kept, `max_unfinished` batches that have not
    ended with inputs of `max_enqueued_tokens` (one for each four bytes), `max_uploads` at the same time at one gateway;
    `max_all_uploads` of all tenants. Batches that have ended are kept for `keep_ended_s` seconds, at most `max_ended`
    of a tenant. Inputs and outputs for which no expiry is asked expire after `input_expires_after_s` and
    `output_expires_after_s`.
    """

    max_file_bytes: int = 512 << 20
    max_input_bytes: int = 200 << 20
    max_files: int = 10_000
    max_stored_bytes: int = 100 << 30
    max_unfinished: int = 100
    max_enqueued_tokens: int = 1_000_000_000
    max_uploads: int = 16
    max_all_uploads: int = 64
    keep_ended_s: float = 30 * 24 * 3600.0
    max_ended: int = 1000
    input_expires_after_s: int = 30 * 24 * 3600
    output_expires_after_s: int = 30 * 24 * 3600
