//! A firewall on a cgroup, as systemd makes one of `IPAddressDeny=any` and `IPAddressAllow=`: programs that let pass
//! what goes to, and comes from, the addresses that are allowed.

use std::{fs::File, io, net::Ipv4Addr, os::fd::AsRawFd as _, path::Path};

/// An instruction (`struct bpf_insn`, include/uapi/linux/bpf.h).
#[derive(Clone, Copy)]
#[repr(C)]
struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

const fn instruction(code: u8, registers: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction { code, registers, offset, immediate }
}

/// Attaches the programs, which stay for as long as the cgroup. `allowed` are addresses with their masks.
pub fn allow_only(cgroup: &Path, allowed: &[(Ipv4Addr, u32)]) {
    const INGRESS: u32 = 0;
    const EGRESS: u32 = 1;
    let directory = File::open(cgroup).expect("the cgroup is there");
    // The source's place in the header of a packet that comes in, the target's in one that goes out.
    for (kind, address) in [(INGRESS, 12), (EGRESS, 16)] {
        let program = load(&instructions(address, allowed)).expect("the program loads");
        attach(program, directory.as_raw_fd(), kind).expect("the cgroup takes it");
        // SAFETY: ours; the cgroup holds the program from here on.
        unsafe { libc::close(program) };
    }
}

fn instructions(address: i32, allowed: &[(Ipv4Addr, u32)]) -> Vec<Instruction> {
    let mut program = vec![
        // r0 = bpf_skb_load_bytes(r1, address, r10 - 4, 4)
        instruction(0xb7, 0x02, 0, address),
        instruction(0xbf, 0xa3, 0, 0),
        instruction(0x07, 0x03, 0, -4),
        instruction(0xb7, 0x04, 0, 4),
        instruction(0x85, 0, 0, 26),
        // r0 = the address, in network byte order
        instruction(0x61, 0xa0, -4, 0),
    ];
    for (addr, mask) in allowed {
        let (addr, mask) = (u32::from_ne_bytes(addr.octets()), mask.to_be());
        program.extend([
            // r1 = r0 & mask, in 32 bits; if it is not the network, go on with the next
            instruction(0xbc, 0x01, 0, 0),
            instruction(0x54, 0x01, 0, mask.cast_signed()),
            instruction(0x56, 0x01, 2, addr.cast_signed()),
            // return 1: pass
            instruction(0xb7, 0, 0, 1),
            instruction(0x95, 0, 0, 0),
        ]);
    }
    program.extend([instruction(0xb7, 0, 0, 0), instruction(0x95, 0, 0, 0)]);
    program
}

fn load(program: &[Instruction]) -> io::Result<i32> {
    const BPF_PROG_LOAD: i64 = 5;
    const CGROUP_SKB: u32 = 8;
    let mut attr = [0_u64; 16];
    attr[0] = u64::from(CGROUP_SKB) | (program.len() as u64) << 32;
    attr[1] = program.as_ptr() as u64;
    attr[2] = c"GPL".as_ptr() as u64;
    bpf(BPF_PROG_LOAD, &attr)
}

fn attach(program: i32, cgroup: i32, kind: u32) -> io::Result<i32> {
    const BPF_PROG_ATTACH: i64 = 8;
    const BPF_F_ALLOW_MULTI: u64 = 2;
    let mut attr = [0_u64; 16];
    attr[0] = cgroup as u64 | (program as u64) << 32;
    attr[1] = u64::from(kind) | BPF_F_ALLOW_MULTI << 32;
    bpf(BPF_PROG_ATTACH, &attr)
}

fn bpf(command: i64, attr: &[u64; 16]) -> io::Result<i32> {
    // SAFETY: the kernel reads the attributes, and memory of the caller's that they name.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attr.as_ptr(), size_of_val(attr)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(i32::try_from(result).expect("descriptors are small")) }
}
