//! Check for a null buffer in `getsockopt(2)`.
//!
//! The kernel hands hooks a buffer of its own and never shows the caller's pointer. With a null
//! pointer and a length it skips the copy (`__cgroup_bpf_run_filter_getsockopt`,
//! kernel/bpf/cgroup.c, v6.12), so that the call would succeed and give nothing. The pointer is still
//! in the registers that the system call has saved, at the top of the task's kernel stack.
//!
//! Best effort: what does not look like those registers (32-bit programs, io_uring) counts as a good
//! pointer, for which the kernel's own behaviour holds.

use aya_ebpf::{Global, helpers::generated::bpf_probe_read_kernel};
use ssa_common::{socket::Socket, uapi::IPPROTO_TLS};

/// 1 if the registers of this machine are as below and may be read. Written by the loader.
#[unsafe(no_mangle)]
static READ_REGISTERS: Global<u32> = Global::new(0);

/// Registers saved at a system call (`struct pt_regs`, arch/x86/include/asm/ptrace.h, v6.12).
#[repr(C)]
struct Registers {
    /// Registers r15 to r11.
    _r15_to_r11: [u64; 7],
    /// Fourth argument: the buffer.
    r10: u64,
    /// Registers r9, r8, ax, cx.
    _r9_to_cx: [u64; 4],
    /// Third argument: the option.
    dx: u64,
    /// Second argument: the level.
    si: u64,
    /// First argument: the descriptor.
    _di: u64,
    /// Number of the system call.
    orig_ax: u64,
    /// Registers ip, cs, flags, sp, ss.
    _ip_to_ss: [u64; 5],
}

/// Size of a task's kernel stack, to which it is aligned (`THREAD_SIZE`, arch/x86/include/asm/page_64_types.h, v6.12).
const STACK_BYTES: u64 = 16 * 1024;
/// Number of the system call getsockopt (arch/x86/entry/syscalls/syscall_64.tbl).
const SYS_GETSOCKOPT: u64 = 55;
/// Free bytes at the top of the stack, to be tried in turn: kernels built for FRED leave 16 bytes free there.
const PADDINGS: [u64; 2] = [0, 16];

/// True if the buffer of the call that runs is a null pointer.
#[inline(always)]
pub(crate) fn is_null(socket: &mut Socket, option: i32) -> bool {
    if READ_REGISTERS.load() == 0 {
        return false;
    }
    let top = (stack_address(socket) | (STACK_BYTES - 1)) + 1;
    let mut registers = core::mem::MaybeUninit::<Registers>::uninit();
    let size = size_of::<Registers>() as u64;
    for padding in PADDINGS {
        let from = top - padding - size;
        // SAFETY: the helper writes `size` bytes, or fails; it can read any address.
        let found = unsafe {
            if bpf_probe_read_kernel(registers.as_mut_ptr().cast(), size as u32, from as *const core::ffi::c_void) != 0
            {
                return false;
            }
            registers.assume_init_ref()
        };
        let ours = found.orig_ax == SYS_GETSOCKOPT
            && found.si as u32 == IPPROTO_TLS as u32
            && found.dx as u32 == option as u32;
        if ours {
            return found.r10 == 0;
        }
    }
    false
}

/// Address on the kernel stack: that of a variable of this function.
///
/// VERIFIER: it refuses arithmetic on a pointer to the stack; what comes back from a map is a number.
#[inline(always)]
fn stack_address(socket: &mut Socket) -> u64 {
    let variable = 0_u64;
    // SAFETY: the field is the hook's own; it is cleared again, so that no address stays behind.
    unsafe {
        let scratch = &raw mut socket.scratch;
        scratch.cast::<*const u64>().write_volatile(&raw const variable);
        let address = scratch.read_volatile();
        scratch.write_volatile(0);
        address
    }
}
