//! Pseudo-terminals (pty(7)): the console socket of OCI runtimes, window sizes.
