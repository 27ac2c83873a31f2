//! System calls that no crate wraps, or only as unsafe functions: all of the workspace's unsafe
//! code except that of `pause`.
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
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// CLONE_NEWNET: what [`namespace_kind`] returns for a network namespace.
pub(super) const NETWORK: i32 = 0x4000_0000;

/// NS_GET_NSTYPE (linux/nsfs.h, Linux 4.11): the kind of namespace that an nsfs file is.
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

/// The kind of namespace that a file is: one of the kernel's CLONE_NEW… flags.
///
/// The file must be on nsfs: elsewhere the ioctl number may mean another request.
pub(super) fn namespace_kind(file: impl AsFd) -> rustix::io::Result<i32> {
    // SAFETY: see the implementation of `Ioctl` above.
    unsafe { ioctl(file, GetNamespaceType) }
}

/// SIOCGSKNS (linux/sockios.h, Linux 4.10): the network namespace of a socket.
struct GetSocketNamespace;

// SAFETY: the request takes no argument and writes no memory: what it returns is a new file
// descriptor that nothing else owns.
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
pub(super) fn namespace_of_socket(socket: impl AsFd) -> rustix::io::Result<OwnedFd> {
    // SAFETY: see the implementation of `Ioctl` above. All sockets take this request.
    unsafe { ioctl(socket, GetSocketNamespace) }
}

/// Moves the calling thread into a new, empty network namespace.
///
/// # Errors
/// The kernel's: EPERM without CAP_SYS_ADMIN, ENOSPC at the limit of namespaces.
pub fn enter_new_network_namespace() -> rustix::io::Result<()> {
    // SAFETY: only the flag CLONE_FILES is unsafe: it would give the thread its own file descriptor
    // table, which OwnedFd values do not expect. CLONE_NEWNET does not affect descriptors.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }
}

/// Starts a command as the leader of a new session: without a terminal and its signals.
///
/// # Errors
/// The kernel's, of fork, setsid and exec.
pub fn spawn_in_own_session(command: &mut Command) -> io::Result<Child> {
    let become_leader = || Ok(rustix::process::setsid().map(drop)?);
    // SAFETY: it runs between fork and exec and makes one system call: no lock, no allocation.
    unsafe { command.pre_exec(become_leader) }.spawn()
}

/// Sends bytes on a socket in a child, which is in a session of its own, holds no other file, and ends after it.
/// Returns a file that is readable when the child has ended.
///
/// # Errors
/// The kernel's: EAGAIN at the limit of processes, ENOMEM, EMFILE, ENOSYS before Linux 5.3.
pub(super) fn send_in_child(socket: impl AsFd, bytes: &[u8]) -> io::Result<OwnedFd> {
    let socket = socket.as_fd().as_raw_fd();
    // SAFETY: the child makes system calls only: it takes no lock, does not allocate, and does not return.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            // Standard input, output, and what else may be open, locks among it.
            // SAFETY: nothing in the child uses the files that are closed here.
            let is_alone = unsafe {
                libc::dup2(socket, 0) == 0
                    && libc::syscall(libc::SYS_close_range, 1, libc::c_uint::MAX, 0) == 0
            };
            if is_alone {
                let _ = rustix::process::setsid();
                // SAFETY: it is the socket.
                let _ = rustix::io::write(unsafe { BorrowedFd::borrow_raw(0) }, bytes);
            }
            // SAFETY: it ends the child without running what the parent will run at its end.
            unsafe { libc::_exit(0) }
        }
        child => {
            let child = Pid::from_raw(child).ok_or(io::ErrorKind::InvalidData)?;
            Ok(pidfd_open(child, PidfdFlags::empty())?)
        }
    }
}

/// Prevents programs started from now on from inheriting files other than stdin, stdout and stderr.
/// (Files that this process opened itself are not inherited anyway; those it was started with might
/// be.) Call it while there is only one thread.
///
/// # Errors
/// When /proc cannot be read.
pub fn set_cloexec_on_all() -> io::Result<()> {
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let name = entry?.file_name();
        let Some(number) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        if number > 2 {
            // SAFETY: it was open a moment ago, and no other thread can have closed it.
            let file = unsafe { BorrowedFd::borrow_raw(number) };
            fcntl_setfd(file, FdFlags::CLOEXEC)?;
        }
    }
    Ok(())
}

/// Lets a socket receive only what begins with two values, each as the bytes at an offset, and drops the rest in the
/// kernel.
///
/// # Errors
/// The kernel's: ENOMEM.
pub(super) fn receive_only(
    socket: impl AsFd,
    (short_at, short): (u32, [u8; 2]),
    (long_at, long): (u32, [u8; 4]),
) -> io::Result<()> {
    let instruction = |code, jf, k| libc::sock_filter { code, jt: 0, jf, k };
    // A filter reads numbers in network order.
    let mut program = [
        instruction(0x28, 0, short_at), // load two bytes
        instruction(0x15, 3, u16::from_be_bytes(short).into()), // unlike: to the end
        instruction(0x20, 0, long_at),  // load four
        instruction(0x15, 1, u32::from_be_bytes(long)),
        instruction(0x06, 0, u32::MAX), // accept, whole
        instruction(0x06, 0, 0),
    ];
    let program = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    let length = size_of::<libc::sock_fprog>() as libc::socklen_t;
    // SAFETY: the kernel reads the program, and the instructions that it points to, during the call.
    let set = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            length,
        )
    };
    match set {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Reads a socket option into `answer` and returns its length in bytes. For options that take an
/// argument, `answer` contains it before the call.
pub(super) fn socket_option(
    socket: impl AsFd,
    level: i32,
    option: i32,
    answer: &mut [u8],
) -> io::Result<usize> {
    let mut length = libc::socklen_t::try_from(answer.len()).map_err(io::Error::other)?;
    let descriptor = socket.as_fd().as_raw_fd();
    let into = answer.as_mut_ptr().cast();
    // SAFETY: `into` points to `length` bytes that are borrowed exclusively during the call, any
    // value of them is valid, and the kernel writes at most `length`.
    match unsafe { libc::getsockopt(descriptor, level, option, into, &mut length) } {
        0 => Ok(length as usize),
        _ => Err(io::Error::last_os_error()),
    }
}
