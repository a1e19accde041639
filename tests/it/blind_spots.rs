//! What inotify, clocks and boots can hide from the daemon, and that no verdict is wrong for it.
