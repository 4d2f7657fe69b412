//! The memory that a process holds.

use std::fs;
use std::process;

/// Bytes of memory that this process has resident, where the system says so.
pub(crate) fn resident_bytes() -> Option<u64> {
    resident_bytes_of(process::id())
}

/// Bytes of memory that a process has resident, where the system says so.
pub(crate) fn resident_bytes_of(pid: u32) -> Option<u64> {
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok()??;
    let statm = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages = statm.split(' ').nth(1)?.parse::<u64>().ok()?;
    Some(u64::try_from(page).ok()? * pages)
}

#[cfg(test)]
mod tests {
    #[cfg(target_os = "linux")]
    #[test]
    fn is_more_than_a_page_and_less_than_a_terabyte() {
        let bytes = super::resident_bytes().unwrap();
        assert!((4096..1 << 40).contains(&bytes), "{bytes}");
    }
}
