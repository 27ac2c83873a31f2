//! Bad luck, at every point where it can strike: killed before each system call that changes
//! something, and each of them refused. strace does both (`inject=...:signal=`, `:error=`).
//!
//! A kill before a call is a kill after the one before it, so every state in which a process can
//! die is seen. The kernel looks at signals between system calls only: a batch of netlink
//! messages is worked through or not begun.

mod chained;
mod error;
mod index;
mod kill;
mod pods;
mod reboot;
mod strace;
