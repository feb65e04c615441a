//! Unix sockets of type SOCK_SEQPACKET that carry frames and file descriptors (unix(7), SCM_RIGHTS).
