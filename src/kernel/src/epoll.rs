//! epoll(7) behind a small safe face, for the shim's one loop.
