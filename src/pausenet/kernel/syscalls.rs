//! System calls that no crate wraps, or that it wraps as unsafe: all unsafe code of the workspace
//! but for `pause`, and no more than the calls themselves.
#![expect(
    unsafe_code,
    reason = "the one place for calls that have no safe wrapper"
)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, ioctl, opcode};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// CLONE_NEWNET, the answer of [`namespace_kind`] for a network namespace.
pub const NETWORK: i32 = 0x4000_0000;

/// NS_GET_NSTYPE (linux/nsfs.h, Linux 4.11): which kind of namespace a file of nsfs is.
struct GetNamespaceType;

// SAFETY: the request takes no argument and writes no memory: the kind is its return value.
unsafe impl Ioctl for GetNamespaceType {
    type Output = i32;
    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        opcode::none(0xb7, 3)
    }

    fn as_ptr(&mut self) -> *mut std::ffi::c_void {
        std::ptr::null_mut()
    }

    unsafe fn output_from_ptr(
        kind: IoctlOutput,
        _: *mut std::ffi::c_void,
    ) -> rustix::io::Result<i32> {
        Ok(kind)
    }
}

/// Asks which kind of namespace a file is: one of the kernel's CLONE_NEW… flags.
///
/// The file has to be on nsfs: elsewhere the number may mean another request.
pub fn namespace_kind(file: impl AsFd) -> rustix::io::Result<i32> {
    // SAFETY: see the implementation of `Ioctl` above.
    unsafe { ioctl(file, GetNamespaceType) }
}

/// SIOCGSKNS (linux/sockios.h, Linux 4.10): the network namespace of a socket.
struct GetSocketNamespace;

// SAFETY: the request takes no argument and writes no memory: what it returns is a new file
// descriptor, which nobody else has.
unsafe impl Ioctl for GetSocketNamespace {
    type Output = OwnedFd;
    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        0x894c
    }

    fn as_ptr(&mut self) -> *mut std::ffi::c_void {
        std::ptr::null_mut()
    }

    unsafe fn output_from_ptr(
        descriptor: IoctlOutput,
        _: *mut std::ffi::c_void,
    ) -> rustix::io::Result<OwnedFd> {
        // SAFETY: see above; it is called only when the request has succeeded.
        Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
    }
}

/// Opens the network namespace that a socket belongs to.
///
/// # Errors
/// The kernel's: EPERM without CAP_NET_ADMIN there.
pub fn namespace_of_socket(socket: impl AsFd) -> rustix::io::Result<OwnedFd> {
    // SAFETY: see the implementation of `Ioctl` above. All sockets take this request.
    unsafe { ioctl(socket, GetSocketNamespace) }
}

/// Moves the calling thread into a new, empty network namespace.
///
/// # Errors
/// The kernel's: EPERM without CAP_SYS_ADMIN, ENOSPC at the limit of namespaces.
pub fn enter_new_network_namespace() -> rustix::io::Result<()> {
    // SAFETY: of all flags only CLONE_FILES is unsafe: it gives the thread other file
    // descriptors than its values of type OwnedFd speak of. This one leaves them alone.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }
}

/// Starts a command as the leader of a session of its own: no terminal, and none of the
/// signals that a terminal sends.
///
/// # Errors
/// The kernel's, of fork, setsid and exec.
pub fn spawn_in_own_session(command: &mut Command) -> io::Result<Child> {
    let become_leader = || Ok(rustix::process::setsid().map(drop)?);
    // SAFETY: it runs between fork and exec and is one system call: no lock, no allocation.
    unsafe { command.pre_exec(become_leader) }.spawn()
}

/// Lets no program that is started from here on inherit a file of ours, but for stdin, stdout
/// and stderr. (Files that this process opens itself are not inherited anyway; those that it
/// was started with may be.) For a time when there is one thread.
///
/// # Errors
/// When /proc cannot be read.
pub fn bequeath_no_files() -> io::Result<()> {
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let name = entry?.file_name();
        let Some(number) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        if number > 2 {
            // SAFETY: it was open a moment ago, and there is nobody else to close it.
            let file = unsafe { BorrowedFd::borrow_raw(number) };
            fcntl_setfd(file, FdFlags::CLOEXEC)?;
        }
    }
    Ok(())
}

/// Reads a socket option of any shape into `answer`, and says how many bytes came. What stands
/// in `answer` before is the question, for options that take one.
pub fn socket_option(
    socket: impl AsFd,
    level: i32,
    option: i32,
    answer: &mut [u8],
) -> io::Result<usize> {
    let mut length = libc::socklen_t::try_from(answer.len()).map_err(io::Error::other)?;
    let descriptor = socket.as_fd().as_raw_fd();
    let into = answer.as_mut_ptr().cast();
    // SAFETY: `into` points to `length` bytes that are ours alone while the call lasts, any
    // value of them is valid, and the kernel writes no more than `length`.
    match unsafe { libc::getsockopt(descriptor, level, option, into, &mut length) } {
        0 => Ok(length as usize),
        _ => Err(io::Error::last_os_error()),
    }
}
