//! How full the disk is.

use fetchml_api::GcDisk;
use std::{io, path::Path};

/// Measures the file system that `dir` is on.
pub(super) fn measure(dir: &Path) -> io::Result<GcDisk> {
    let stat = rustix::fs::statvfs(dir)?;
    let used = stat.f_blocks.saturating_sub(stat.f_bfree);
    // What only root may take counts neither as used nor as free, as `df` has it.
    let usable = used.saturating_add(stat.f_bavail);
    let used_percent = (u128::from(used) * 100).div_ceil(u128::from(usable.max(1)));
    Ok(GcDisk {
        total_bytes: usable.saturating_mul(stat.f_frsize),
        free_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
        used_percent: u32::try_from(used_percent).unwrap_or(100),
    })
}

/// Bytes that must go before the disk is at most `percent` full.
pub(super) fn excess(disk: &GcDisk, percent: u32) -> u64 {
    let allowed = u128::from(disk.total_bytes) * u128::from(percent) / 100;
    let used = disk.total_bytes - disk.free_bytes.min(disk.total_bytes);
    used.saturating_sub(u64::try_from(allowed).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_must_go_is_what_is_used_above_the_mark() {
        let disk = GcDisk { total_bytes: 1_000, free_bytes: 50, used_percent: 95 };
        assert_eq!(excess(&disk, 80), 150);
        assert_eq!(excess(&disk, 95), 0);
        assert_eq!(excess(&disk, 100), 0);
        assert_eq!(excess(&disk, 0), 950);
        let here = measure(Path::new("/")).unwrap();
        assert!(here.total_bytes > 0 && here.free_bytes <= here.total_bytes && here.used_percent <= 100);
    }
}
