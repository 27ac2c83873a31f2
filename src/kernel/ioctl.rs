//! The only unsafe code of the plugin: system calls that no crate wraps.
#![allow(unsafe_code)]

use std::os::fd::AsFd;

use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, ioctl, opcode};

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
///
/// # Errors
/// The kernel's.
pub fn namespace_kind(file: impl AsFd) -> rustix::io::Result<i32> {
    // SAFETY: see the implementation of `Ioctl` above.
    unsafe { ioctl(file, GetNamespaceType) }
}
