"""What a request to the served model may take, all in one place; the reasons are what was measured.

A request beyond a limit is answered with a 4xx before it costs memory or time.
"""

from sa2net.config import ValidateConfig

LARGEST_BODY = 8 * 2**20
"""Bytes of a request. A scan of 640 x 2574 px is a PNG of 0.55 MB, 0.73 MB in base64; one of 4000 x 8000 px takes 6.5 MB."""

LARGEST_PIXELS = 32_000_000
"""Pixels of a scan (4000 x 8000), judged from its header. The probabilities of one take 1.8 GB for a moment."""

LARGEST_WORKING_PIXELS = 3_000_000
"""Pixels that the network may see: a wrong spacing asks for hundreds of millions, at 1.3 GB a million."""

SMALLEST_SIDE: int = ValidateConfig.model_fields["min_side"].default
"""Shortest side of a scan, px: as in `validate`."""

ROWS = 8
"""Scans in one request."""

REQUESTS_AT_ONCE = 100
"""Requests that are read, wait or are worked on; together their bodies take up to 0.8 GB."""

LARGEST_DISCARDED = 64 * 2**20
"""Bytes that are read and thrown away, so that a client that sends too much can still read why it is refused."""

SHOWN = 40
"""Characters of a request that a message repeats."""
