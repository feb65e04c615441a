//! Mounts through the new mount API (fsopen(2), fsconfig(2), move_mount(2)), and the mount table.
