"""Timeouts, retries and sizes, in one place."""

from __future__ import annotations

#: Longest wait for a connection, seconds.
CONNECT_TIMEOUT_S = 10.0
#: Longest silence inside a stream (the server sends a comment every 15 s), seconds.
STREAM_IDLE_TIMEOUT_S = 60.0
#: How often a call that may be repeated is, after a passing failure.
RETRIES_MAX = 4
#: First wait between repeated calls, seconds; doubles each time.
RETRY_DELAY_S = 0.25
#: Longest wait that a server may ask for; a longer one is reported to the caller at once, seconds.
RETRY_AFTER_MAX_S = 30.0
#: Longest wait before a stream or a wait is taken up again, seconds.
RECONNECT_DELAY_MAX_S = 5.0
#: Longest outage that a wait or a stream lives through, seconds: longer than a server's restart.
OUTAGE_MAX_S = 600.0
#: First and longest pause between two looks at a task that is waited for, seconds.
POLL_DELAY_S = (0.05, 1.0)
#: Tasks of one page of a list.
PAGE_TASKS = 100
#: Largest single event of a stream, bytes.
SSE_EVENT_BYTES_MAX = 8 << 20
#: Part of a file that is written at once, bytes.
DOWNLOAD_CHUNK_BYTES = 1 << 18
