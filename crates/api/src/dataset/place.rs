//! Where a task may see a data set.

use crate::limits;

/// Directories of the system at or below which nothing may be mounted.
const SYSTEM_DIRS: [&str; 16] = [
    "bin", "boot", "dev", "etc", "lib", "lib32", "lib64", "libx32", "opt", "proc", "root", "run", "sbin", "sys", "tmp",
    "usr",
];

/// Checks the place where a task is to see a data set.
///
/// # Errors
/// Says in words what is wrong and what to do.
pub fn check_mount_path(path: &str) -> Result<(), String> {
    let Some(below) = path.strip_prefix('/') else {
        return Err("must be absolute, such as /data/digits; leave it out for $FETCHML_DATASET_DIR/<name>".into());
    };
    if path.len() > limits::PATH_BYTES {
        return Err(format!("is {} bytes long; at most {} are allowed", path.len(), limits::PATH_BYTES));
    }
    if path.chars().any(char::is_control) {
        return Err("contains a control character".into());
    }
    if below.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err("must be plain: no /, . or .. alone, no //, no / at the end".into());
    }
    let top = below.split('/').next().unwrap_or_default();
    if SYSTEM_DIRS.contains(&top) || top == "var" {
        return Err(format!("lies in /{top}, which belongs to the system; use another place, such as /data"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_that_belong_to_the_system_are_refused() {
        for bad in [
            "",
            "/",
            "data",
            "./data",
            "../x",
            "/..",
            "/data/..",
            "/data/../etc",
            "//data",
            "/data/",
            "/data//x",
            "/proc",
            "/proc/self",
            "/usr",
            "/usr/lib/x",
            "/etc/passwd",
            "/dev/null",
            "/sys",
            "/lib64",
            "/tmp/x",
            "/var/lib",
            "/a\u{1}",
        ] {
            assert!(check_mount_path(bad).is_err(), "{bad:?}");
        }
        for good in ["/data", "/data/x", "/mnt/sets/imagenet", "/home/ada/data", "/procedures"] {
            assert_eq!(check_mount_path(good), Ok(()), "{good:?}");
        }
    }
}
