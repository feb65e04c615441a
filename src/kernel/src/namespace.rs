//! Namespaces made, pinned to a path (bind mount), entered by a scratch thread, and let go.
