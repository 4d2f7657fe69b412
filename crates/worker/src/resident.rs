//! The memory that this process holds.

use std::fs;

/// Bytes of memory that this process has resident; 0 where the system does not say.
pub(crate) fn resident_bytes() -> u64 {
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)
        .ok()
        .flatten();
    let pages = fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|statm| statm.split(' ').nth(1)?.parse::<u64>().ok());
    match (page.and_then(|page| u64::try_from(page).ok()), pages) {
        (Some(page), Some(pages)) => page * pages,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_os = "linux")]
    #[test]
    fn is_more_than_a_page_and_less_than_a_terabyte() {
        let bytes = super::resident_bytes();
        assert!((4096..1 << 40).contains(&bytes), "{bytes}");
    }
}
