//! `pause`, the anchor: a process that does nothing, so that the namespaces it lives in stay.
//!
//! It leaves on SIGTERM and SIGINT at once with status 0, ignores every other signal that can be
//! ignored, and lets no child stay a zombie, its own or an orphan that the kernel hands it as
//! PID 1. It isn't for anything else: no supervision, no network, no configuration.
//!
//! There is one per pod, so it is small: no standard library, no libc, no allocation; three system
//! calls, then it sleeps in the fourth.
#![no_std]
#![no_main]
// Or the optimiser turns plain loops into calls of libc's strlen and its like, which aren't here.
#![no_builtins]

const VERSION: &str = concat!("pause ", env!("CARGO_PKG_VERSION"), "\n");
const HELP: &str = "\
Usage: pause [-v | --version | -h | --help]

Holds the namespaces it was started in, and reaps zombies there if it is PID 1,
until SIGTERM or SIGINT. Other signals are ignored.
";

/// The first argument decides; without one, which is how runtimes start it, it sleeps.
/// Returns the exit status.
fn run(first_argument: Option<&[u8]>) -> i32 {
    match first_argument {
        None => sleep_until_told_to_leave(),
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

/// Kubernetes' pause warns when it isn't PID 1; this one doesn't: `pausectl pod create` starts it
/// as an ordinary process on purpose, to hold a network and no PID namespace.
fn sleep_until_told_to_leave() -> i32 {
    // A blocked signal stays queued until it is asked for, even if the parent left it ignored, and
    // even if we are PID 1, whose unhandled signals the kernel otherwise drops.
    sys::block_all_signals();
    // Now the kernel reaps every child and orphan itself: none wakes us, and SIGTERM never waits
    // behind a crowd of them. The exception is who died before, as child of what exec'd us.
    sys::ignore_sigchld();
    while sys::reap_one() {}

    loop {
        match sys::next_signal() {
            sys::SIGTERM | sys::SIGINT => return 0,
            sys::INTERRUPTED => {} // by a stop and continue, or a tracer
            error if error < 0 => return 1, // a sandbox forbids the call: gone is better than spinning
            _ => {}                         // off the queue, and dropped
        }
    }
}

/// Returns the exit status: 1 if not all could be written.
fn print(fd: usize, text: &[u8]) -> i32 {
    i32::from(sys::write(fd, text) != text.len() as isize)
}

/// # Safety
/// `stack` must be as the kernel left it for `_start`: argc, argv, a null.
unsafe extern "C" fn start(stack: *const usize) -> ! {
    // SAFETY: argv has argc strings, each ends in NUL, and all of them stay until we exit.
    let first_argument = unsafe {
        let argv = stack.add(1).cast::<*const u8>();
        (*stack > 1).then(|| until_nul(*argv.add(1)))
    };
    sys::exit(run(first_argument))
}

/// # Safety
/// `text` must end in NUL and stay forever. (`CStr::from_ptr` would need libc's strlen.)
unsafe fn until_nul(text: *const u8) -> &'static [u8] {
    let mut length = 0;
    // SAFETY: no byte behind the NUL is read.
    unsafe {
        while *text.add(length) != 0 {
            length += 1;
        }
        core::slice::from_raw_parts(text, length)
    }
}

/// Nothing here panics, but a `no_std` program must say what would happen.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    sys::exit(101)
}

/// Never called, as a panic doesn't unwind; but the unwind tables of the prebuilt `core` name it.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

/// The kernel's door: the few calls used above, in its own numbers.
mod sys {
    use core::arch::{asm, naked_asm};

    pub const STDOUT: usize = 1;
    pub const STDERR: usize = 2;
    pub const SIGINT: isize = 2;
    pub const SIGTERM: isize = 15;
    pub const INTERRUPTED: isize = -4;

    const SIGCHLD: usize = 17;
    const SIG_BLOCK: usize = 0;
    const ANY_CHILD: usize = usize::MAX;
    const WNOHANG: usize = 1;

    /// But the kernel lets nobody block SIGKILL and SIGSTOP.
    static ALL_SIGNALS: u64 = u64::MAX;
    const SET_SIZE: usize = size_of::<u64>();

    /// The kernel's `struct sigaction`: SIG_IGN as handler; no flags, no restorer, an empty mask.
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

    pub fn block_all_signals() {
        let set = &raw const ALL_SIGNALS as usize;
        // SAFETY: the kernel reads one signal set of that size, and has nowhere to write.
        unsafe { call(RT_SIGPROCMASK, [SIG_BLOCK, set, 0, SET_SIZE]) };
    }

    pub fn ignore_sigchld() {
        let action = &raw const IGNORE as usize;
        // SAFETY: the kernel reads one `struct sigaction`, and has nowhere to write.
        unsafe { call(RT_SIGACTION, [SIGCHLD, action, 0, SET_SIZE]) };
    }

    /// Whether there was a dead child.
    pub fn reap_one() -> bool {
        // SAFETY: without a place for status and usage, the kernel has nowhere to write.
        unsafe { call(WAIT4, [ANY_CHILD, 0, WNOHANG, 0]) > 0 }
    }

    /// Sleeps without a time limit until there is a signal: its number, or a negative error.
    pub fn next_signal() -> isize {
        let set = &raw const ALL_SIGNALS as usize;
        // SAFETY: the kernel reads one signal set of that size, and has nowhere to write.
        unsafe { call(RT_SIGTIMEDWAIT, [set, 0, 0, SET_SIZE]) }
    }

    /// How many bytes were written, or a negative error.
    pub fn write(fd: usize, text: &[u8]) -> isize {
        // SAFETY: the kernel reads a slice that lives through the call.
        unsafe { call(WRITE, [fd, text.as_ptr() as usize, text.len(), 0]) }
    }

    pub fn exit(status: i32) -> ! {
        loop {
            // SAFETY: it ends the process.
            unsafe { call(EXIT_GROUP, [status as usize, 0, 0, 0]) };
        }
    }

    /// # Safety
    /// The arguments must be what the call of that number expects, pointers included.
    unsafe fn call(number: usize, [a, b, c, d]: [usize; 4]) -> isize {
        let result;
        // SAFETY: every register that the kernel changes is named; the rest is the caller's promise.
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

    /// The program's first instructions: no frame to return to, argc at the stack pointer.
    #[unsafe(naked)]
    #[unsafe(no_mangle)]
    extern "C" fn _start() -> ! {
        #[cfg(target_arch = "x86_64")]
        naked_asm!("xor ebp, ebp", "mov rdi, rsp", "call {}", sym super::start);
        #[cfg(target_arch = "aarch64")]
        naked_asm!("mov x29, xzr", "mov x0, sp", "bl {}", sym super::start);
    }
}
