//! The machine that figures are from.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Context as _, Result};
use serde::Serialize;

/// What of a machine bears on figures.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    pub(crate) cpu: String,
    /// That this process may use.
    pub(crate) cores: usize,
    pub(crate) memory_gib: f64,
    pub(crate) kernel: String,
    /// The file system that stores are kept on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) disk: Option<String>,
}

static AT_START: OnceLock<Times> = OnceLock::new();

/// Begins to watch what a host takes away; for the start of the program.
pub(crate) fn watch() -> Result<()> {
    let times = Times::read()?;
    AT_START.get_or_init(|| times);
    Ok(())
}

/// Of the processor time while this process ran, what a host took away from this machine, in percent:
/// figures from a machine that had little of its own tell little.
pub(crate) fn stolen_percent() -> Result<f64> {
    let start = AT_START.get().context("the program begins to watch")?;
    Ok(Times::read()?.stolen_percent_since(*start))
}

/// Processor time since the machine started, in ticks.
#[derive(Clone, Copy, Debug)]
struct Times {
    all: u64,
    stolen: u64,
}

impl Times {
    fn read() -> Result<Self> {
        Self::parse(&std::fs::read_to_string("/proc/stat")?).context("the kernel reports times")
    }

    /// From the first line of proc_stat(5): user, nice, system, idle, iowait, irq, softirq, steal.
    fn parse(stat: &str) -> Option<Self> {
        let line = stat.lines().next()?.strip_prefix("cpu ")?;
        let times: Vec<u64> = line
            .split_whitespace()
            .take(8)
            .map(str::parse)
            .collect::<Result<_, _>>()
            .ok()?;
        Some(Self {
            all: times.iter().sum(),
            stolen: *times.get(7)?,
        })
    }

    fn stolen_percent_since(self, start: Self) -> f64 {
        let all = (self.all - start.all).max(1);
        ((self.stolen - start.stolen) as f64 / all as f64 * 1e3).round() / 10.0
    }
}

impl Machine {
    /// This machine, as Linux tells.
    pub(crate) fn describe() -> Result<Self> {
        let cpus = std::fs::read_to_string("/proc/cpuinfo")?;
        let memory = std::fs::read_to_string("/proc/meminfo")?;
        let kib: u64 = field(&memory, "MemTotal")
            .and_then(|value| value.strip_suffix("kB"))
            .context("the kernel reports MemTotal")?
            .trim()
            .parse()?;
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
        let mounts = std::fs::read_to_string("/proc/self/mounts")?;
        Ok(Self {
            cpu: field(&cpus, "model name").unwrap_or("unknown").to_owned(),
            cores: std::thread::available_parallelism()?.get(),
            memory_gib: (kib as f64 / f64::from(1 << 20) * 10.0).round() / 10.0,
            kernel: format!("Linux {}", release.trim()),
            disk: file_system(&mounts, &std::env::temp_dir()),
        })
    }
}

/// The value of the first `name: value` line.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim())
    })
}

/// The type of the file system that holds a path.
fn file_system(mounts: &str, path: &Path) -> Option<String> {
    mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            Some((PathBuf::from(fields.next()?), fields.next()?))
        })
        .filter(|(mounted, _)| path.starts_with(mounted))
        // Of two mounts on one place the later one hides the earlier.
        .max_by_key(|(mounted, _)| mounted.components().count())
        .map(|(_, kind)| kind.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_system_is_that_of_the_nearest_mount() {
        let mounts = "overlay / overlay rw 0 0\ntmpfs /tmp tmpfs rw 0 0\n";
        let kind = |path| file_system(mounts, Path::new(path));
        assert_eq!(kind("/tmp/x").as_deref(), Some("tmpfs"));
        assert_eq!(kind("/tmpx").as_deref(), Some("overlay"));
    }

    #[test]
    fn what_the_host_took() {
        let times = |stat| Times::parse(stat).unwrap();
        let start = times("cpu  10 0 10 70 0 0 5 5 0 0\ncpu0 1 1\n");
        let end = times("cpu  60 0 30 190 0 0 5 15 0 0\n");
        assert_eq!(end.stolen_percent_since(start), 5.0);
        assert!(Times::parse("intr 1 2").is_none());
    }

    #[test]
    fn a_field_of_the_kernel() {
        let text = "processor\t: 0\nmodel name\t: Some CPU: fast\n";
        assert_eq!(field(text, "model name"), Some("Some CPU: fast"));
        assert_eq!(field(text, "flags"), None);
    }
}
