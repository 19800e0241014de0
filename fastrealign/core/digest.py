"""SHA-256 of little data. `hashlib` loads OpenSSL first: 4 MB of memory, and more time than a run spends on digests."""

from __future__ import annotations

try:
    from _sha2 import sha256 as sha256  # type: ignore[import-not-found]
except ImportError:  # Python before 3.12
    try:
        from _sha256 import sha256 as sha256  # type: ignore[import-not-found]
    except ImportError:  # built without it
        from hashlib import sha256 as sha256
