//! cgroup v1 and v2: which are mounted, and groups made, limited, read, killed and removed.
