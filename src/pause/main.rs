//! `pause`, the anchor: a process that only sleeps, to keep the namespaces it lives in alive.
//!
//! On SIGTERM and SIGINT it exits at once with status 0. It ignores every other signal that can be
//! ignored, and leaves no zombies, neither its own children nor orphans that it inherits as PID 1. It does
//! nothing else: no supervision, no network, no configuration.
//!
//! There is one per pod, so it is small: no standard library, no libc, no allocation. It makes three
//! system calls and sleeps in the fourth.
#![no_std]
#![no_main]
// Otherwise the optimiser turns plain loops into calls of libc's strlen and similar, which are not linked.
#![no_builtins]

const VERSION: &str = concat!("pause ", env!("CARGO_PKG_VERSION"), "\n");
const HELP: &str = "\
Usage: pause [-v | --version | -h | --help]

Keeps the namespaces it was started in alive until SIGTERM or SIGINT, and reaps
zombies if it is PID 1. It ignores all other signals.
";

/// Returns the exit status. Only the first argument counts; without one, as runtimes start it, the
/// process sleeps.
fn run(first_argument: Option<&[u8]>) -> i32 {
    match first_argument {
        None => sleep_until_terminated(),
        Some(b"-v" | b"--version") => print(sys::STDOUT, VERSION.as_bytes()),
        Some(b"-h" | b"--help") => print(sys::STDOUT, HELP.as_bytes()),
        Some(other) => {
            print(sys::STDERR, b"pause: unknown argument '");
            print(sys::STDERR, other);
            print(sys::STDERR, b"', see pause --help\n");
            2
        }
    }
}

/// Does not warn when it is not PID 1, unlike Kubernetes' pause: `pausectl pod create` starts it without a
/// PID namespace on purpose.
fn sleep_until_terminated() -> i32 {
    // A blocked signal stays queued until it is fetched, even if the parent left it ignored, and even for
    // PID 1, whose unhandled signals the kernel drops otherwise.
    sys::block_all_signals();
    // From here on the kernel reaps every child and orphan: none of them wakes this process or delays
    // SIGTERM. What is left to reap are children that died earlier, before this program was exec'd.
    sys::ignore_sigchld();
    while sys::reap_one() {}

    loop {
        match sys::next_signal() {
            sys::SIGTERM | sys::SIGINT => return 0,
            sys::INTERRUPTED => {} // by stop and continue, or by a tracer
            error if error < 0 => return 1, // seccomp forbids the call: better to exit than to spin
            _ => {}                // fetched, and ignored
        }
    }
}

/// Returns the exit status: 1 if not everything was written.
fn print(fd: usize, text: &[u8]) -> i32 {
    i32::from(sys::write(fd, text) != text.len() as isize)
}

/// # Safety
/// `stack` must be the initial stack pointer from the kernel: argc, argv, NULL.
unsafe extern "C" fn start(stack: *const usize) -> ! {
    // SAFETY: argv has argc strings, each ends in NUL, and all of them stay valid until exit.
    let first_argument = unsafe {
        let argv = stack.add(1).cast::<*const u8>();
        (*stack > 1).then(|| until_nul(*argv.add(1)))
    };
    sys::exit(run(first_argument))
}

/// # Safety
/// `text` must end in NUL and stay valid forever. (`CStr::from_ptr` would need libc's strlen.)
unsafe fn until_nul(text: *const u8) -> &'static [u8] {
    let mut length = 0;
    // SAFETY: no byte after the NUL is read.
    unsafe {
        while *text.add(length) != 0 {
            length += 1;
        }
        core::slice::from_raw_parts(text, length)
    }
}

/// Nothing here panics, but a `no_std` program must define a handler.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    sys::exit(101)
}

/// Never called, because a panic does not unwind; but the unwind tables of the prebuilt `core` refer to it.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

/// The few system calls used above.
mod sys {
    use core::arch::{asm, naked_asm};

    pub(super) const STDOUT: usize = 1;
    pub(super) const STDERR: usize = 2;
    pub(super) const SIGINT: isize = 2;
    pub(super) const SIGTERM: isize = 15;
    pub(super) const INTERRUPTED: isize = -4;

    const SIGCHLD: usize = 17;
    const SIG_BLOCK: usize = 0;
    const ANY_CHILD: usize = usize::MAX;
    const WNOHANG: usize = 1;

    /// The kernel ignores SIGKILL and SIGSTOP in it.
    static ALL_SIGNALS: u64 = u64::MAX;
    const SET_SIZE: usize = size_of::<u64>();

    /// The kernel's `struct sigaction`: SIG_IGN as the handler; no flags, no restorer, an empty mask.
    static IGNORE: [usize; 4] = [1, 0, 0, 0];

    const WRITE: usize = number(1, 64);
    const RT_SIGACTION: usize = number(13, 134);
    const RT_SIGPROCMASK: usize = number(14, 135);
    const WAIT4: usize = number(61, 260);
    const RT_SIGTIMEDWAIT: usize = number(128, 137);
    const EXIT_GROUP: usize = number(231, 94);

    const fn number(x86_64: usize, aarch64: usize) -> usize {
        if cfg!(target_arch = "x86_64") {
            x86_64
        } else {
            aarch64
        }
    }

    pub(super) fn block_all_signals() {
        let set = &raw const ALL_SIGNALS as usize;
        // SAFETY: the kernel reads one signal set of that size, and writes nothing.
        unsafe { call(RT_SIGPROCMASK, [SIG_BLOCK, set, 0, SET_SIZE]) };
    }

    pub(super) fn ignore_sigchld() {
        let action = &raw const IGNORE as usize;
        // SAFETY: the kernel reads one `struct sigaction`, and writes nothing.
        unsafe { call(RT_SIGACTION, [SIGCHLD, action, 0, SET_SIZE]) };
    }

    /// Reaps a dead child, if there is one. True if there was.
    pub(super) fn reap_one() -> bool {
        // SAFETY: the pointers for status and usage are null, so the kernel writes nothing.
        unsafe { call(WAIT4, [ANY_CHILD, 0, WNOHANG, 0]) > 0 }
    }

    /// Sleeps until there is a signal. Returns its number, or a negative errno.
    pub(super) fn next_signal() -> isize {
        let set = &raw const ALL_SIGNALS as usize;
        // SAFETY: the kernel reads one signal set of that size, and writes nothing.
        unsafe { call(RT_SIGTIMEDWAIT, [set, 0, 0, SET_SIZE]) }
    }

    /// Returns the number of bytes written, or a negative errno.
    pub(super) fn write(fd: usize, text: &[u8]) -> isize {
        // SAFETY: the kernel reads a slice that outlives the call.
        unsafe { call(WRITE, [fd, text.as_ptr() as usize, text.len(), 0]) }
    }

    pub(super) fn exit(status: i32) -> ! {
        loop {
            // SAFETY: it ends the process.
            unsafe { call(EXIT_GROUP, [status as usize, 0, 0, 0]) };
        }
    }

    /// # Safety
    /// The arguments must be valid for the system call of that number, pointers included.
    unsafe fn call(number: usize, [a, b, c, d]: [usize; 4]) -> isize {
        let result;
        // SAFETY: every register that the kernel changes is declared; the caller vouches for the arguments.
        unsafe {
            #[cfg(target_arch = "x86_64")]
            asm!("syscall", inlateout("rax") number => result, in("rdi") a, in("rsi") b,
                in("rdx") c, in("r10") d, out("rcx") _, out("r11") _, options(nostack));
            #[cfg(target_arch = "aarch64")]
            asm!("svc 0", in("x8") number, inlateout("x0") a => result, in("x1") b,
                in("x2") c, in("x3") d, options(nostack));
        }
        result
    }

    /// The entry point: there is no frame to return to, and argc is at the stack pointer.
    #[unsafe(naked)]
    #[unsafe(no_mangle)]
    extern "C" fn _start() -> ! {
        #[cfg(target_arch = "x86_64")]
        naked_asm!("xor ebp, ebp", "mov rdi, rsp", "call {}", sym super::start);
        #[cfg(target_arch = "aarch64")]
        naked_asm!("mov x29, xzr", "mov x0, sp", "bl {}", sym super::start);
    }
}
