//! Files below a directory that nothing can lead out of: openat2(2) with RESOLVE_BENEATH, for extraction.
